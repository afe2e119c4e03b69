//! Importing through libvirt: for members of the group libvirt, who cannot write to the pool's directory,
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

use std::io::Read;

use common::cli::{Context as Cli, interrupt, log};
use common::libvirt::{Context, Libvirt, is_gone};
use common::text::hex;
use common::xml::Element;
use common::{Error, IoContext, Result, undo};
use sha2::{Digest, Sha256};
use virt::error::Error as VirtError;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use crate::image::{self, StatedFormat};
use crate::import::request::ImportRequest;
use crate::import::source::Source;
use crate::import::volume_comparison::{CHUNK, Comparison, compare};
use crate::pool::Pool;
use crate::pool::qemu_user::{QemuUser, permissions};
use crate::references::dependents::Dependents;
use crate::references::inflight::InFlight;
use crate::volume::header;
use crate::volume::names::ToolFile;

/// Copies the image into the pool; returns the SHA-256 of its bytes.
///
/// Errors: what libvirt says; `invalid_input` when the bytes are not those that were promised;
/// `conflict` when the image changed, or its name was taken, meanwhile.
pub(crate) fn upload(
    context: &Cli,
    libvirt: &Libvirt,
    pool: &Pool,
    request: &ImportRequest,
    owner: Option<QemuUser>,
    progress: &dyn Fn(u64),
) -> Result<String> {
    let ImportRequest { name, source, .. } = request;
    let temporary = ToolFile::Import.new_name()?;
    // Elsewhere only the open file tells that host's cleanup that this is under way.
    let in_flight = libvirt.is_local().then(|| InFlight::begin(&context.host, &temporary));
    let _in_flight = in_flight.transpose()?;
    if let Some(sha256) = resume(libvirt, pool, request)? {
        return Ok(sha256);
    }
    log::step(format_args!("upload {} to volume '{temporary}'", source.path.display()));
    let doing = format_args!("create volume '{temporary}'");
    let part = pool.create_volume(&temporary, &xml(&temporary, source, owner)?, None, 0, doing)?;
    let sha256 = undo::on_failure(|undo| {
        undo.push(format!("volume '{temporary}'"), || delete(&part));
        let Sent { head, sha256 } = send(libvirt, &part, source, progress)?;
        request.check_sha256(&sha256)?;
        interrupt::check()?;
        log::step(format_args!("clone volume '{temporary}' to '{name}'"));
        let clone = xml(name, source, owner)?;
        let doing = format_args!("create volume '{name}'");
        let made = match pool.create_volume(name, &clone, Some(&part), 0, doing) {
            Err(_) if matches!(pool.volume(name), Ok(Some(_))) => return Err(made_meanwhile(name)),
            made => made?,
        };
        let undone = made.clone();
        undo.push(format!("volume '{name}', without its start"), move || undone.delete(0));
        put_head(libvirt, &made, source, &head)?;
        check_uploaded(libvirt, &made, request)?;
        Ok(sha256)
    })?;
    let deleted = delete(&part).context(format_args!("delete volume '{temporary}'"));
    deleted.map(|()| sha256).map_err(|error| {
        error.applied([format!("imported '{name}'")]).left_behind([format!("volume '{temporary}'")])
    })
}

/// Deletes a volume, if it is there.
fn delete(volume: &StorageVol) -> std::result::Result<(), VirtError> {
    match volume.delete(0) {
        Err(error) if is_gone(&error) => Ok(()),
        deleted => deleted,
    }
}

/// Finishes an upload of this image that was killed, if the volume is what such an upload left. Returns the
/// SHA-256 of the image, or none when all of the image is to be uploaded.
///
/// Errors: `conflict` for a volume that is anything else, or that anything needs; those of libvirt.
fn resume(libvirt: &Libvirt, pool: &Pool, request: &ImportRequest) -> Result<Option<String>> {
    let ImportRequest { name, source, .. } = request;
    let Some(made) = pool.volume(name)? else { return Ok(None) };
    match compare(libvirt, &made, source)? {
        Comparison::Headless { head, sha256 } => {
            request.check_sha256(&sha256)?;
            put_head(libvirt, &made, source, &head)?;
            check_uploaded(libvirt, &made, request)?;
            Ok(Some(sha256))
        }
        // A libvirtd that were still at it would not have let it be read. A blank disk of the same
        // size looks like this too, so what anyone needs is not touched.
        Comparison::Begun => {
            let users = Dependents::take(libvirt, pool)?.users_of(&request.target());
            if !users.is_empty() {
                let users = users.join(", ");
                return Err(Error::conflict(format!("volume '{name}' is needed by {users}"))
                    .hint("import the image under another name with --name"));
            }
            log::step(format_args!("delete the half-made volume '{name}'"));
            made.delete(0).context(format_args!("delete the half-made volume '{name}'"))?;
            Ok(None)
        }
        Comparison::Same { .. } | Comparison::Different => Err(made_meanwhile(name)),
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
fn check_uploaded(libvirt: &Libvirt, volume: &StorageVol, request: &ImportRequest) -> Result<()> {
    let planned = &request.source.image;
    let header = header::download(libvirt, volume, &request.target())?;
    let stated = StatedFormat::by_record(image::probe(&header, &request.target())?.format);
    if image::check_stated(&header, &request.source.path, stated)? == *planned {
        Ok(())
    } else {
        Err(request.source.changed())
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
fn xml(name: &str, source: &Source, owner: Option<QemuUser>) -> Result<String> {
    let permissions = permissions("0640", owner.map(|owner| QemuUser { uid: 0, ..owner }));
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
        let missing = (source.head_length() - head.len()).min(read);
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
