//! Compares an image with a volume whose file only libvirtd can read, through a stream of libvirt.

use std::fs::File;
use std::io::Read;

use common::cli::interrupt;
use common::libvirt::{Context, Libvirt};
use common::text::hex;
use common::xml::Document;
use common::{Error, ErrorKind, IoContext, Result};
use sha2::{Digest, Sha256};
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use crate::import::source::Source;

/// How much is sent or received at once. Unit: bytes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The result of a comparison of a volume with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The volume has exactly the bytes of the image.
    Same {
        /// The digest of the bytes.
        sha256: String,
    },
    /// The volume lacks only the bytes that an upload holds back: the upload was killed right before its end.
    Headless {
        /// The bytes that the volume lacks.
        head: Vec<u8>,
        /// The digest of all bytes of the image.
        sha256: String,
    },
    /// The volume lacks these bytes and more, and has no other bytes: libvirtd ended during the copy.
    Begun,
    /// The volume has other bytes.
    Different,
}

/// Compares a volume with the source byte for byte, while the volume is downloaded.
///
/// Errors: those of libvirt; `conflict` for a source that changes during the comparison; `io`.
pub(crate) fn compare(
    libvirt: &Libvirt,
    volume: &StorageVol,
    source: &Source,
) -> Result<Comparison> {
    let name = volume.name().context("read the name of a volume")?;
    let path = source.path.display();
    let comparing = format_args!("download volume '{name}' to compare the volume with {path}");
    let text = volume.xml_desc(0).context(comparing)?;
    let physical = Document::parse(text)?.root().text_at("physical");
    let length = source.image.file_size_bytes;
    match physical.and_then(|size| size.parse::<u64>().ok()) {
        Some(0) => return Ok(Comparison::Begun),
        Some(size) if size != length => return Ok(Comparison::Different),
        _ => {}
    }
    let stream = Stream::new(libvirt.connect(), 0)
        .context("open a libvirt stream for the data of the volume")?;
    volume.download(&stream, 0, 0, 0).context(comparing)?;
    match compare_stream(&stream, source, &name) {
        Ok(same) if same != Comparison::Different => {
            stream.finish().context(comparing)?;
            source.check_unchanged().map(|()| same)
        }
        other => {
            let _ = stream.abort();
            other
        }
    }
}

/// Whether all bytes that are not zero equal those of the image.
fn is_part(bytes: &[u8], image: &[u8]) -> bool {
    bytes.iter().zip(image).all(|(byte, wanted)| *byte == 0 || byte == wanted)
}

/// The parts of an image that a volume lacks, so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Head,
    More,
}

fn compare_stream(stream: &Stream, source: &Source, name: &str) -> Result<Comparison> {
    let comparing = format_args!("compare volume '{name}' with {}", source.path.display());
    let mut file: File = source.reopen()?;
    let mut hasher = Sha256::new();
    let mut head = Vec::new();
    let mut theirs = vec![0; CHUNK];
    let mut ours = vec![0; CHUNK];
    let mut lacks = Lacks::Nothing;
    loop {
        interrupt::check()?;
        let got = stream.recv(&mut theirs).context(comparing)?;
        let got = usize::try_from(got).map_err(|_| {
            Error::new(ErrorKind::Failed, "libvirt sent no data for the download of the volume")
        })?;
        if got == 0 {
            if file.read(&mut ours[..1]).at("read", &source.path)? > 0 {
                return Ok(Comparison::Different);
            }
            let sha256 = hex(hasher.finalize());
            return Ok(match lacks {
                Lacks::Nothing => Comparison::Same { sha256 },
                Lacks::Head => Comparison::Headless { head, sha256 },
                Lacks::More => Comparison::Begun,
            });
        }
        match file.read_exact(&mut ours[..got]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(Comparison::Different);
            }
            Err(error) => return Err(error).at("read", &source.path),
        }
        hasher.update(&ours[..got]);
        let length = (source.head_length() - head.len()).min(got);
        let (ours, theirs) = (&ours[..got], &theirs[..got]);
        head.extend_from_slice(&ours[..length]);
        if ours[..length] != theirs[..length] {
            if theirs[..length].iter().any(|byte| *byte != 0) {
                return Ok(Comparison::Different);
            }
            lacks = Lacks::Head;
        }
        if ours[length..] != theirs[length..] {
            if lacks == Lacks::Nothing || !is_part(theirs, ours) {
                return Ok(Comparison::Different);
            }
            lacks = Lacks::More;
        }
    }
}
