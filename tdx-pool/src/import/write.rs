//! Writing an image beside its place, and putting it there whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use common::cli::Context;
use common::exec::Runner;
use common::libvirt::Libvirt;
use common::{Error, ErrorKind, IoContext, Result, interrupt, log};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Plan;
use crate::copy::{self, Watch};
use crate::image::{self, Format};
use crate::inflight::{InFlight, Removal};
use crate::names::Ours;
use crate::pool::Pool;
use crate::record::{Record, Stamp};

impl Plan {
    /// Copies the image into the pool's folder. Returns the SHA-256 if it was computed.
    pub(super) fn write_file(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        pool: &Pool,
        progress: &dyn Fn(u64),
    ) -> Result<Option<String>> {
        let part_name = Ours::Import.new_name()?;
        let _in_flight = InFlight::begin(&context.host, &part_name)?;
        let part = Part { path: self.folder.join(part_name) };
        log::step(format_args!("copy {} to {}", self.source.path.display(), part.path.display()));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&part.path).at("create", &part.path)?;
        let sha256 = self.fill(&part.path, &file, progress)?;
        if let Some(sha256) = &sha256 {
            self.check_sha256(sha256)?;
        }
        copy::sync(&file).map_err(|error| self.cannot_copy(error))?;
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(0), Some(self.owner.map_or(0, |owner| owner.gid)))
                .at("change the owner of", &part.path)?;
        }
        file.set_permissions(Permissions::from_mode(0o640)).at("change the mode of", &part.path)?;
        self.source.check_unchanged()?;
        self.record(&file, sha256.clone())?;
        // Nothing can begin to use the volume from here on, and what has begun is seen.
        let removal = self.replaces().then(|| Removal::begin(&context.host, &self.name));
        let _removal = removal.transpose()?;
        if self.replaces() {
            self.check_replace(libvirt, Some(pool))?;
        }
        interrupt::check()?;
        part.rename(&self.target(), self.replaces())?;
        Ok(sha256)
    }

    fn fill(&self, path: &Path, file: &File, progress: &dyn Fn(u64)) -> Result<Option<String>> {
        if self.options.compress {
            let sha256 = self.source.sha256()?;
            self.check_sha256(&sha256)?;
            let from = self.source.image.format.as_str();
            qemu_img(["convert", "-c", "-f", from, "-O", Format::Qcow2.as_str(), "--"])
                .args([&self.source.path, path])
                .run()
                .map_err(|error| self.cannot_copy(error))?;
            return Ok(Some(sha256));
        }
        let mut progress = |done, _| progress(done);
        let mut watch = Watch { progress: &mut progress, interrupt: &interrupt::check };
        let wanted = self.options.sha256.is_some();
        let copied = copy::copy(&self.source.file, file, wanted, &mut watch);
        Ok(copied.map_err(|error| self.cannot_copy(error))?.sha256)
    }

    fn cannot_copy(&self, cause: Error) -> Error {
        let kind = cause.kind();
        if kind == ErrorKind::Interrupted || kind == ErrorKind::Unsupported {
            return cause;
        }
        let (from, to) = (self.source.path.display(), self.folder.display());
        Error::new(kind, format!("cannot copy {from} to {to}")).because(cause)
    }

    /// Whether the guest would see the same disk in the image at `target`, whatever its bytes.
    pub(super) fn is_same_disk(&self, target: &Path) -> Result<bool> {
        let theirs = image::probe(&image::open(target)?, target)?;
        let ours = &self.source.image;
        if theirs.backing.is_some() || theirs.virtual_size_bytes != ours.virtual_size_bytes {
            return Ok(false);
        }
        let formats = ["-f", ours.format.as_str(), "-F", theirs.format.as_str()];
        let compare = qemu_img(["compare", "-s", "-q"]).args(formats).args(["--"]);
        match compare.args([&self.source.path, target]).run() {
            Err(error) if error.kind() == ErrorKind::CommandFailed => Ok(false),
            done => done.map(|_| true),
        }
    }

    /// Remembers where the image came from, so that the next import need not read it.
    fn record(&self, file: &File, sha256: Option<String>) -> Result<()> {
        let metadata = file.metadata().at("look at", self.target())?;
        let record = Record {
            source: self.source.identity.clone(),
            volume: Stamp::from(&metadata),
            sha256,
            compressed: self.options.compress,
        };
        if !record.write(file) {
            log::step("the file system keeps no attributes: the next import will compare contents");
        }
        Ok(())
    }

    /// Notes that an image of ours equals this source, too. Only saves the next import work.
    pub(super) fn renew(&self, record: Record) {
        if let Ok(file) = image::open(&self.target()) {
            Record { source: self.source.identity.clone(), ..record }.write(&file);
        }
    }
}

fn qemu_img<const N: usize>(arguments: [&str; N]) -> Runner {
    Runner::new("qemu-img", "qemu-utils").args(arguments)
}

/// A half-made image, deleted unless it is renamed.
struct Part {
    path: PathBuf,
}

impl Part {
    fn rename(self, target: &Path, replace: bool) -> Result<()> {
        log::step(format_args!("rename it to {}", target.display()));
        let renamed = match replace {
            true => fs::rename(&self.path, target),
            false => self.rename_to_new(target),
        };
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::conflict(format!("{} was made meanwhile", target.display()))
                    .hint("run the same command again: it compares the two"));
            }
            done => done.at("rename the copy to", target)?,
        }
        let folder = target.parent().unwrap_or(target);
        let flushed = File::open(folder).and_then(|folder| folder.sync_all()).at("flush", folder);
        flushed.map_err(|error| error.applied([format!("imported {}", target.display())]))
    }

    fn rename_to_new(&self, target: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            // A network file system may not know the flag; a second name is as safe. The first one
            // goes when this is dropped.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, target),
            done => Ok(done?),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
