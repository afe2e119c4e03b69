//! Importing through libvirt: for members of the group libvirt, who cannot write the pool's folder,
//! and for pools on other hosts.
//!
//! libvirt cannot rename a volume. So the bytes go to a volume under one of our temporary names and
//! are then cloned on libvirt's side to the real one, which is half-made only while libvirtd itself
//! copies it there.
//!
//! libvirt looks into what was uploaded, and would convert a qcow2 image to raw while it clones it. So
//! the start of the image, by which it is known, is held back until the clone is there: without it
//! bytes are bytes. It also tells an image that is not finished, because its maker or libvirtd itself
//! died, from every other volume of that name.

use std::fs::File;
use std::io::Read;

use common::cli::{Context as Cli, interrupt, log};
use common::libvirt::{Context, Libvirt, is_gone};
use common::text::hex;
use common::xml::{Document, Element};
use common::{Error, ErrorKind, IoContext, Result};
use sha2::{Digest, Sha256};
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use crate::commands::import::{Plan, Source};
use crate::image::{self, Format, StatedFormat};
use crate::pool::Pool;
use crate::pool::owner::{Owner, permissions};
use crate::references::inflight::InFlight;
use crate::references::needs::Needs;
use crate::volume::head;
use crate::volume::names::Ours;

const CHUNK: usize = 256 * 1024;

/// Copies the image into the pool; returns the SHA-256 of its bytes.
///
/// Errors: what libvirt says; `invalid_input` when the bytes are not those that were promised;
/// `conflict` when the image changed, or its name was taken, meanwhile.
pub(crate) fn upload(
    context: &Cli,
    libvirt: &Libvirt,
    pool: &Pool,
    plan: &Plan,
    progress: &dyn Fn(u64),
) -> Result<String> {
    let Plan { name, source, owner, .. } = plan;
    let temporary = Ours::Import.new_name()?;
    // Elsewhere only the open file tells that host's cleanup that this is under way.
    let in_flight = libvirt.is_local().then(|| InFlight::begin(&context.host, &temporary));
    let _in_flight = in_flight.transpose()?;
    if let Some(made) = pool.volume(name)? {
        match compare(libvirt, &made, source)? {
            Compared::Headless { head, sha256 } => {
                plan.check_sha256(&sha256)?;
                put_head(libvirt, &made, source, &head)?;
                check_uploaded(libvirt, &made, plan)?;
                return Ok(sha256);
            }
            // A libvirtd that were still at it would not have let it be read. A blank disk of the same
            // size looks like this too, so what anyone needs is not touched.
            Compared::Begun => {
                let users = Needs::take(libvirt, pool)?.of(&plan.target());
                if !users.is_empty() {
                    let users = users.join(", ");
                    return Err(Error::conflict(format!("volume '{name}' is needed by {users}"))
                        .hint("import the image under another name with --name"));
                }
                log::step(format_args!("delete the half-made volume '{name}'"));
                made.delete(0).context(format_args!("delete the half-made volume '{name}'"))?;
            }
            Compared::Same { .. } | Compared::Different => return Err(made_meanwhile(name)),
        }
    }
    log::step(format_args!("upload {} to volume '{temporary}'", source.path.display()));
    let doing = format_args!("create volume '{temporary}'");
    let part = pool.create_volume(&temporary, &xml(&temporary, source, *owner)?, None, 0, doing)?;
    let done = (|| {
        let Sent { head, sha256: digest } = send(libvirt, &part, source, progress)?;
        plan.check_sha256(&digest)?;
        interrupt::check()?;
        log::step(format_args!("clone volume '{temporary}' to '{name}'"));
        let clone = xml(name, source, *owner)?;
        let doing = format_args!("create volume '{name}'");
        let made = match pool.create_volume(name, &clone, Some(&part), 0, doing) {
            Err(_) if matches!(pool.volume(name), Ok(Some(_))) => return Err(made_meanwhile(name)),
            made => made?,
        };
        let whole = put_head(libvirt, &made, source, &head)
            .and_then(|()| check_uploaded(libvirt, &made, plan));
        match whole {
            Ok(()) => Ok(digest),
            Err(error) if made.delete(0).is_ok() => Err(error),
            Err(error) => Err(error.left_behind([format!("volume '{name}', without its start")])),
        }
    })();
    let removed = part.delete(0).or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) });
    match (done, removed) {
        (Ok(digest), Ok(())) => Ok(digest),
        (Ok(_), Err(error)) => Err(error)
            .context(format_args!("delete volume '{temporary}'"))
            .map_err(|error| error.applied([format!("imported '{name}'")]))
            .map_err(|error| error.left_behind([format!("volume '{temporary}'")])),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(_)) => Err(error.left_behind([format!("volume '{temporary}'")])),
    }
}

fn made_meanwhile(name: &str) -> Error {
    Error::conflict(format!("volume '{name}' was made meanwhile"))
        .hint("run the same command again: it compares the two")
}

/// Fails unless the volume's header is the one that was planned with: what was sent is what counts, and
/// the source may have been another image when its header was read.
///
/// Errors: `conflict`; those of [`image::check_stated`].
fn check_uploaded(libvirt: &Libvirt, volume: &StorageVol, plan: &Plan) -> Result<()> {
    let planned = &plan.source.image;
    let header = head::download(libvirt, volume, &plan.target())?;
    let stated = StatedFormat::by_record(image::probe(&header, &plan.target())?.format);
    match image::check_stated(&header, &plan.source.path, stated)? == *planned {
        true => Ok(()),
        false => Err(plan.source.changed()),
    }
}

/// How many bytes at an image's start are held back: the magic number, or the boot record.
fn head_length(source: &Source) -> usize {
    match source.image.format {
        Format::Qcow2 => 4,
        Format::Raw => 512,
    }
}

/// Writes what was held back, as it was read when the rest was sent.
fn put_head(libvirt: &Libvirt, volume: &StorageVol, source: &Source, bytes: &[u8]) -> Result<()> {
    let uploading = format_args!("upload {}", source.path.display());
    let stream = Stream::new(libvirt.connect(), 0).context("open a stream")?;
    volume.upload(&stream, 0, bytes.len() as u64, 0).context(uploading)?;
    let sent = stream.send(bytes).context(uploading)?;
    if usize::try_from(sent).ok() != Some(bytes.len()) {
        let _ = stream.abort();
        return Err(Error::failed(format!("cannot {uploading}")));
    }
    stream.finish().context(uploading)
}

/// The image's bytes as they are: `raw` here means "do not look inside".
fn xml(name: &str, source: &Source, owner: Option<Owner>) -> Result<String> {
    let permissions = permissions("0640", owner.map(|owner| Owner { uid: 0, ..owner }));
    let size = source.image.file_size_bytes.to_string();
    Element::new("volume")
        .child(Element::new("name").text(name))
        .child(Element::new("capacity").attr("unit", "bytes").text(size))
        .child(Element::new("allocation").text("0"))
        .child(
            Element::new("target")
                .child(Element::new("format").attr("type", "raw"))
                .child(permissions),
        )
        .to_xml()
}

/// What was read of an image while it was sent.
struct Sent {
    /// Its start, which was held back.
    head: Vec<u8>,
    /// The digest of all its bytes.
    sha256: String,
}

fn send(
    libvirt: &Libvirt,
    volume: &StorageVol,
    source: &Source,
    progress: &dyn Fn(u64),
) -> Result<Sent> {
    let uploading = format_args!("upload {}", source.path.display());
    let length = source.image.file_size_bytes;
    let stream = Stream::new(libvirt.connect(), 0).context("open a stream")?;
    volume.upload(&stream, 0, length, 0).context(uploading)?;
    match feed(&stream, source, progress) {
        Ok(sent) => stream.finish().context(uploading).map(|()| sent),
        Err(error) => {
            // Else the volume stays in use and cannot be deleted.
            let _ = stream.abort();
            Err(error)
        }
    }
}

fn feed(stream: &Stream, source: &Source, progress: &dyn Fn(u64)) -> Result<Sent> {
    let length = source.image.file_size_bytes;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut reader = source.reopen()?.take(length);
    let mut head = Vec::new();
    let mut sent = 0;
    loop {
        interrupt::check()?;
        let read = reader.read(&mut buffer).at("read", &source.path)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        let missing = (head_length(source) - head.len()).min(read);
        head.extend_from_slice(&buffer[..missing]);
        buffer[..missing].fill(0);
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let taken = stream.send(rest).context(format_args!("upload {}", source.path.display()));
            rest = &rest[usize::try_from(taken?).unwrap_or(0).min(rest.len())..];
        }
        sent += read as u64;
        progress(sent);
    }
    source.check_unchanged()?;
    Ok(Sent { head, sha256: hex(hasher.finalize()) })
}

/// How a volume compares with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It holds exactly the image's bytes.
    Same {
        /// Their digest.
        sha256: String,
    },
    /// It lacks but the bytes that an upload holds back: that was killed right before its end.
    Headless {
        /// Those bytes.
        head: Vec<u8>,
        /// The digest of all of the image's bytes.
        sha256: String,
    },
    /// It lacks those and more, and holds nothing else: libvirtd died while it copied the image there.
    Begun,
    /// It holds something else.
    Different,
}

/// Compares a volume with the source, byte for byte as they come down libvirt's stream.
///
/// Errors: what libvirt says; `conflict` for a source that changes meanwhile; `io`.
pub(crate) fn compare(libvirt: &Libvirt, volume: &StorageVol, source: &Source) -> Result<Compared> {
    let comparing = format_args!("download a volume to compare it with {}", source.path.display());
    let text = volume.xml_desc(0).context(comparing)?;
    let physical = Document::parse(text)?.root().text_at("physical");
    let length = source.image.file_size_bytes;
    match physical.and_then(|size| size.parse::<u64>().ok()) {
        Some(0) => return Ok(Compared::Begun),
        Some(size) if size != length => return Ok(Compared::Different),
        _ => {}
    }
    let stream = Stream::new(libvirt.connect(), 0).context("open a stream")?;
    volume.download(&stream, 0, 0, 0).context(comparing)?;
    match compare_stream(&stream, source) {
        Ok(same) if same != Compared::Different => {
            stream.finish().context(comparing)?;
            source.check_unchanged().map(|()| same)
        }
        other => {
            let _ = stream.abort();
            other
        }
    }
}

/// Whether bytes are those of the image as far as they are not zero.
fn is_part(bytes: &[u8], image: &[u8]) -> bool {
    bytes.iter().zip(image).all(|(byte, wanted)| *byte == 0 || byte == wanted)
}

/// What a volume lacks of an image, so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Head,
    More,
}

fn compare_stream(stream: &Stream, source: &Source) -> Result<Compared> {
    let comparing = format_args!("compare a volume with {}", source.path.display());
    let mut file: File = source.reopen()?;
    let mut hasher = Sha256::new();
    let mut head = Vec::new();
    let mut theirs = vec![0; CHUNK];
    let mut ours = vec![0; CHUNK];
    let mut lacks = Lacks::Nothing;
    loop {
        interrupt::check()?;
        let got = stream.recv(&mut theirs).context(comparing)?;
        let got = usize::try_from(got)
            .map_err(|_| Error::new(ErrorKind::Failed, "the download would block"))?;
        if got == 0 {
            if file.read(&mut ours[..1]).at("read", &source.path)? > 0 {
                return Ok(Compared::Different);
            }
            let sha256 = hex(hasher.finalize());
            return Ok(match lacks {
                Lacks::Nothing => Compared::Same { sha256 },
                Lacks::Head => Compared::Headless { head, sha256 },
                Lacks::More => Compared::Begun,
            });
        }
        match file.read_exact(&mut ours[..got]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(Compared::Different);
            }
            Err(error) => return Err(error).at("read", &source.path),
        }
        hasher.update(&ours[..got]);
        let length = (head_length(source) - head.len()).min(got);
        let (ours, theirs) = (&ours[..got], &theirs[..got]);
        head.extend_from_slice(&ours[..length]);
        if ours[..length] != theirs[..length] {
            if theirs[..length].iter().any(|byte| *byte != 0) {
                return Ok(Compared::Different);
            }
            lacks = Lacks::Head;
        }
        if ours[length..] != theirs[length..] {
            if lacks == Lacks::Nothing || !is_part(theirs, ours) {
                return Ok(Compared::Different);
            }
            lacks = Lacks::More;
        }
    }
}
