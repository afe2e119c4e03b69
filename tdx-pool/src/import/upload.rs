//! Imports an image through libvirt: for members of the group libvirt, who cannot write to the pool's directory, and
//! for pools on other hosts.
//!
//! libvirt cannot rename a volume. The bytes are therefore uploaded to a volume with a temporary name, which libvirtd
//! then clones to the final name. The volume with the final name is incomplete only while libvirtd copies it.
//!
//! libvirt detects the format of the uploaded volume, and would convert a qcow2 image to raw while it clones it. The
//! start of the image, which identifies the format, is therefore sent only after the clone is complete. A volume
//! without its start is also recognized as an import that was killed, or during which libvirtd ended.

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

/// Copies the image into the pool. Returns the SHA-256 digest of its bytes.
///
/// Errors: those of libvirt; `invalid_input` when the digest differs from the expected one; `conflict` when the image
/// changed, or its name was taken, during the upload.
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
    // On a remote host, cleanup recognizes the upload only by the open file.
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
        undo.push(format!("incomplete volume '{name}'"), move || undone.delete(0));
        put_head(libvirt, &made, source, &head)?;
        check_uploaded(libvirt, &made, request)?;
        Ok(sha256)
    })?;
    let deleted = delete(&part).context(format_args!("delete volume '{temporary}'"));
    deleted.map(|()| sha256).map_err(|error| {
        error.applied([format!("imported '{name}'")]).left_behind([format!("volume '{temporary}'")])
    })
}

/// Deletes a volume, if it exists.
fn delete(volume: &StorageVol) -> std::result::Result<(), VirtError> {
    match volume.delete(0) {
        Err(error) if is_gone(&error) => Ok(()),
        deleted => deleted,
    }
}

/// Completes an upload of this image that was killed, if the volume was left by such an upload. Returns the SHA-256
/// digest of the image, or none when the whole image has to be uploaded.
///
/// Errors: `conflict` for any other volume, and for a volume that something needs; those of libvirt.
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
        // libvirtd does not allow the read while it still copies. A blank disk of the same size looks like an
        // incomplete upload, so a volume that something needs is not changed.
        Comparison::Begun => {
            let users = Dependents::take(libvirt, pool)?.users_of(&request.target());
            if !users.is_empty() {
                let users = users.join(", ");
                return Err(Error::conflict(format!("volume '{name}' is needed by {users}"))
                    .hint("import the image under another name with --name"));
            }
            log::step(format_args!("delete the incomplete volume '{name}'"));
            made.delete(0).context(format_args!("delete the incomplete volume '{name}'"))?;
            Ok(None)
        }
        Comparison::Same { .. } | Comparison::Different => Err(made_meanwhile(name)),
    }
}

fn made_meanwhile(name: &str) -> Error {
    Error::conflict(format!("another process created volume '{name}' during this command"))
        .hint("run this command again to compare the image with the new volume")
}

/// Fails unless the header that was sent is the header that was planned with. The source may have changed after its
/// header was read.
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

/// Sends the start of the image, which was read with the rest and held back.
fn put_head(libvirt: &Libvirt, volume: &StorageVol, source: &Source, bytes: &[u8]) -> Result<()> {
    let uploading = format_args!("upload {}", source.path.display());
    let stream = Stream::new(libvirt.connect(), 0)
        .context("open a libvirt stream for the data of the volume")?;
    volume.upload(&stream, 0, bytes.len() as u64, 0).context(uploading)?;
    let sent = stream.send(bytes).context(uploading)?;
    if usize::try_from(sent).ok() != Some(bytes.len()) {
        let _ = stream.abort();
        return Err(Error::failed(format!("cannot {uploading}")));
    }
    stream.finish().context(uploading)
}

/// The XML of the volume. Its format is `raw`, so that libvirt does not interpret the bytes.
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

/// What was read from an image while it was sent.
struct Sent {
    /// The start of the image, which was held back.
    head: Vec<u8>,
    /// The digest of all bytes of the image.
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
    let stream = Stream::new(libvirt.connect(), 0)
        .context("open a libvirt stream for the data of the volume")?;
    volume.upload(&stream, 0, length, 0).context(uploading)?;
    match feed(&stream, source, progress) {
        Ok(sent) => stream.finish().context(uploading).map(|()| sent),
        Err(error) => {
            // Without the abort, the volume stays in use and cannot be deleted.
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
