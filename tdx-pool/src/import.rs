//! `tdx-pool import`: a disk image becomes a base image.
//!
//! Planned first: the header is checked, the name judged, what is there compared. Then written under
//! a temporary name in the pool's folder, flushed, and renamed, so that the real name only ever holds
//! a whole image. Where the folder cannot be written the bytes go through libvirt ([`upload`]).

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::exec::Runner;
use common::libvirt::Libvirt;
use common::output::Outcome;
use common::units::Size;
use common::{Error, ErrorKind, IoContext, Result, input, interrupt, log};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Access, CWD, OFlags, RenameFlags, access, renameat_with};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cli::PoolArgs;
use crate::copy::Watch;
use crate::image::{self, Format, Image};
use crate::inflight::InFlight;
use crate::names::{Ours, check_volume_name};
use crate::overlay::Base;
use crate::owner::{self, Owner};
use crate::pool::Pool;
use crate::record::{Record, Stamp};
use crate::volume::Survey;
use crate::{copy, ensure, upload};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The disk image, or - for items with a path on standard input
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The volume's name [default: the image's file name]
    #[arg(long, value_name = "VOLUME")]
    name: Option<String>,
    /// Fail unless the image has this SHA-256
    #[arg(long, value_name = "HEX", value_parser = sha256_hex)]
    sha256: Option<String>,
    /// Replace a different image of that name, unless something needs it
    #[arg(long)]
    replace: bool,
    /// Recompress the image with qemu-img
    #[arg(long)]
    compress: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

fn sha256_hex(text: &str) -> Result<String, String> {
    let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| text.to_ascii_lowercase()).ok_or_else(|| "not 64 hexadecimal digits".to_owned())
}

/// A base image and what was done to have it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImportItem {
    /// Volume name.
    name: String,
    /// The pool's name.
    pool: String,
    /// Where it is, on libvirt's host.
    path: String,
    /// Its format.
    format: Format,
    /// Size the guest sees, bytes.
    capacity_bytes: u64,
    /// The file it was read from.
    source: String,
    /// SHA-256 of the source's bytes; null where nothing asked for it.
    sha256: Option<String>,
    /// `import`, `replace`, or `none` for an equal image that was there.
    action: Action,
}

impl Item for ImportItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORMAT", "CAPACITY", "PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.action.0.to_owned(),
            self.format.to_string(),
            Size(self.capacity_bytes).to_string(),
            self.path.clone(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Copies images into the pool, which is made if there is none.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: ImportArgs,
) -> Result<Outcome> {
    let images = images(&args)?;
    let change = args.change;
    interrupt::guard();
    let libvirt = connect()?;
    let pool = ensure::Plan::new(&libvirt, config, &args.pool, None)?;
    let mut plans = Vec::new();
    for image in images {
        let options = Options {
            name: args.name.clone(),
            sha256: args.sha256.clone(),
            replace: args.replace,
            compress: args.compress,
            dry_run: change.dry_run,
        };
        plans.push(Plan::new(&libvirt, &pool, &image, options)?);
    }
    for plan in plans.iter().filter(|plan| plan.action == REPLACE) {
        context.confirm(change, &format!("replace volume '{}'?", plan.name))?;
    }
    let warnings = pool.warnings.clone();
    let name = pool.pool_name().to_owned();
    let items = match change.dry_run {
        true => plans.into_iter().map(|plan| plan.item(&name)).collect(),
        false => {
            let pool = pool.apply(&libvirt)?;
            apply_all(context, &libvirt, &pool, plans)?
        }
    };
    let document = Document::new("tdx.pool.import", items);
    Ok(document.dry_run(change.dry_run).warnings(warnings).into())
}

#[derive(Deserialize)]
struct HasPath {
    path: PathBuf,
}

fn images(args: &ImportArgs) -> Result<Vec<PathBuf>> {
    if args.image.as_os_str() != input::STDIN {
        return Ok(vec![args.image.clone()]);
    }
    let items: Vec<HasPath> = input::items(&["tdx.pool."], "images with a path")?;
    if items.len() != 1 && (args.name.is_some() || args.sha256.is_some()) {
        let message = format!("--name and --sha256 are for one image, {} came", items.len());
        return Err(Error::usage(message));
    }
    Ok(items.into_iter().map(|item| item.path).collect())
}

fn apply_all(
    context: &Context,
    libvirt: &Libvirt,
    pool: &Pool,
    plans: Vec<Plan>,
) -> Result<Vec<ImportItem>> {
    let mut items: Vec<ImportItem> = Vec::new();
    for plan in plans {
        match plan.apply(context, libvirt, pool) {
            Ok((item, _)) => items.push(item),
            Err(error) => {
                let done = items.iter().filter(|item| item.action != Action::NONE);
                return Err(error.applied(done.map(|item| format!("imported '{}'", item.name))));
            }
        }
    }
    Ok(items)
}

/// How to import.
#[derive(Debug, Default)]
pub struct Options {
    /// The volume's name; the file's without it.
    pub name: Option<String>,
    /// What the source's bytes must hash to, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Whether a different image of that name may go.
    pub replace: bool,
    /// Whether to recompress.
    pub compress: bool,
    /// Whether this plan is only looked at: then the digest is checked while planning.
    pub dry_run: bool,
}

const IMPORT: Action = Action("import");
const REPLACE: Action = Action("replace");

/// An opened, checked image file.
#[derive(Debug)]
pub struct Source {
    /// As the user named it, made absolute.
    pub path: PathBuf,
    file: File,
    /// What its header says.
    pub image: Image,
}

impl Source {
    /// Opens an image and checks that it can be a base.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for what is no image or not a whole one.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).at("name", path)?;
        // Without O_NONBLOCK a FIFO would hang here; the header check then refuses it by name.
        let mut options = OpenOptions::new();
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = options.read(true).custom_flags(flags).open(&path).at("open", &path)?;
        let image = image::check_base(&file, &path)?;
        Ok(Self { path, file, image })
    }

    /// The same file read from its start.
    pub fn reopen(&self) -> Result<File> {
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))
            .at("open", &self.path)
    }

    fn sha256(&self) -> Result<String> {
        let mut watch = Watch { progress: &mut |_, _| {}, interrupt: &interrupt::check };
        copy::sha256(&self.file, &mut watch)
    }
}

/// What it takes to have the image in the pool.
#[derive(Debug)]
pub struct Plan {
    /// The volume's name.
    pub name: String,
    folder: PathBuf,
    source: Source,
    options: Options,
    action: Action,
    direct: bool,
    known_sha256: Option<String>,
}

impl Plan {
    /// Checks the image and what the pool has under its name.
    ///
    /// Errors: those of [`Source::open`]; `usage` for a name that cannot be; `conflict` when another
    /// image has the name, naming its users where it was to be replaced.
    pub fn new(
        libvirt: &Libvirt,
        pool: &ensure::Plan,
        image: &Path,
        options: Options,
    ) -> Result<Self> {
        let source = Source::open(image)?;
        let name = match &options.name {
            Some(name) => name.clone(),
            None => file_name(image)?,
        };
        check_volume_name(&name)?;
        let folder = pool.folder()?.to_owned();
        let direct = libvirt.is_local() && writable(&folder);
        let mut plan =
            Self { name, folder, source, options, action: IMPORT, direct, known_sha256: None };
        if !direct && (plan.options.compress || plan.options.replace) {
            return Err(Error::unsupported(
                "--compress and --replace need to write the pool's folder",
            )
            .hint("be root on the host that has the pool"));
        }
        let existing = match direct {
            true => plan.compare_file()?,
            false => plan.compare_volume(libvirt, pool.found())?,
        };
        match existing {
            None => {}
            Some(true) => plan.action = Action::NONE,
            Some(false) => plan.check_replace(libvirt, pool.found())?,
        }
        if plan.options.sha256.is_some() && (plan.options.dry_run || plan.action == Action::NONE) {
            let found = match plan.known_sha256.take() {
                Some(known) => known,
                None => plan.source.sha256()?,
            };
            plan.check_sha256(&found)?;
            plan.known_sha256 = Some(found);
        }
        Ok(plan)
    }

    fn target(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether an equal file is there; none when there is no file at all.
    fn compare_file(&mut self) -> Result<Option<bool>> {
        let target = self.target();
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let existing = match OpenOptions::new().read(true).custom_flags(flags).open(&target) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.at("open", &target)?,
        };
        let (ours, theirs) = (
            self.source.file.metadata().at("look at", &self.source.path)?,
            existing.metadata().at("look at", &target)?,
        );
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(Some(true)); // the image that was named lies in the pool
        }
        if !theirs.is_file() {
            return Ok(Some(false));
        }
        let record = Record::read(&existing);
        if let Some(record) = &record {
            self.known_sha256.clone_from(&record.sha256);
            if record.source == (&ours).into() {
                log::detail(format_args!("{} was imported from this very file", self.name));
                return Ok(Some(true));
            }
        }
        match record {
            Some(Record { compressed: true, sha256: Some(recorded), .. }) => {
                let found = self.source.sha256()?;
                Ok(Some(found == recorded))
            }
            _ => copy::same_content(&self.source.file, &existing, &interrupt::check).map(Some),
        }
    }

    fn compare_volume(&self, libvirt: &Libvirt, pool: Option<&Pool>) -> Result<Option<bool>> {
        let Some(pool) = pool.filter(|pool| pool.is_active()) else {
            return Ok(None);
        };
        match pool.volume(&self.name)? {
            None => Ok(None),
            Some(volume) => upload::same_content(libvirt, &volume, &self.source).map(Some),
        }
    }

    fn check_replace(&mut self, libvirt: &Libvirt, pool: Option<&Pool>) -> Result<()> {
        let differs = format!(
            "volume '{}' exists and differs from {}",
            self.name,
            self.source.path.display()
        );
        if !self.options.replace {
            return Err(
                Error::conflict(differs).hint("choose another name with --name, or --replace it")
            );
        }
        if let Some(pool) = pool {
            let users = Survey::take(libvirt, pool)?.needed_by(&self.target())?;
            if !users.is_empty() {
                return Err(Error::conflict(format!(
                    "{differs}, and is needed by {}",
                    users.join(", ")
                ))
                .hint("import it under another name with --name"));
            }
        }
        self.action = REPLACE;
        Ok(())
    }

    fn check_sha256(&self, found: &str) -> Result<()> {
        match &self.options.sha256 {
            Some(wanted) if wanted != found => Err(Error::invalid_input(format!(
                "{} has SHA-256 {found}, not {wanted}",
                self.source.path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// The base image as it will be.
    pub fn base(&self) -> Base {
        Base {
            name: self.name.clone(),
            path: self.target(),
            format: self.format(),
            capacity_bytes: self.source.image.virtual_size_bytes,
        }
    }

    fn format(&self) -> Format {
        if self.options.compress { Format::Qcow2 } else { self.source.image.format }
    }

    /// The item of a document about this plan.
    pub fn item(self, pool: &str) -> ImportItem {
        ImportItem {
            pool: pool.to_owned(),
            path: self.target().display().to_string(),
            format: self.format(),
            capacity_bytes: self.source.image.virtual_size_bytes,
            source: self.source.path.display().to_string(),
            sha256: self.known_sha256,
            action: self.action,
            name: self.name,
        }
    }

    /// Carries the plan out.
    ///
    /// Errors: whatever reading, writing and libvirt can fail with; nothing is left of the attempt.
    pub fn apply(
        mut self,
        context: &Context,
        libvirt: &Libvirt,
        pool: &Pool,
    ) -> Result<(ImportItem, Base)> {
        let base = self.base();
        if self.action == Action::NONE {
            return Ok((self.item(&pool.name), base));
        }
        let owner = owner::of_qemu(libvirt)?;
        let bar = progress_bar(context, self.source.image.file_size_bytes);
        let written = if self.direct {
            self.write_file(context, owner, &bar)
        } else {
            let progress = |done| bar.set_position(done);
            let check = |digest: &str| self.check_sha256(digest);
            let name = &self.name;
            upload::upload(libvirt, pool, name, &self.source, owner, check, &progress).map(Some)
        };
        bar.finish_and_clear();
        self.known_sha256 = written?;
        pool.refresh()?;
        Ok((self.item(&pool.name), base))
    }

    /// Writes the image beside its place and renames it there. Returns the SHA-256 if it was computed.
    fn write_file(
        &self,
        context: &Context,
        owner: Option<Owner>,
        bar: &ProgressBar,
    ) -> Result<Option<String>> {
        let part_name = Ours::Import.new_name()?;
        let _in_flight = InFlight::begin(&context.host, &part_name)?;
        let part = Part { path: self.folder.join(part_name) };
        log::step(format_args!("copy {} to {}", self.source.path.display(), part.path.display()));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&part.path).at("create", &part.path)?;
        let sha256 = if self.options.compress {
            let digest = self.source.sha256()?;
            self.check_sha256(&digest)?;
            self.compress(&part.path)?;
            Some(digest)
        } else {
            let mut progress = |done, _| bar.set_position(done);
            let mut watch = Watch { progress: &mut progress, interrupt: &interrupt::check };
            let wanted = self.options.sha256.is_some();
            let copied = copy::copy(&self.source.file, &file, wanted, &mut watch);
            let copied = copied.map_err(|error| self.cannot_copy(error))?;
            copied.sha256
        };
        if let Some(digest) = &sha256 {
            self.check_sha256(digest)?;
        }
        copy::sync(&file).map_err(|error| self.cannot_copy(error))?;
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(0), Some(owner.map_or(0, |owner| owner.gid)))
                .at("change the owner of", &part.path)?;
        }
        file.set_permissions(Permissions::from_mode(0o640)).at("change the mode of", &part.path)?;
        self.record(&file, sha256.clone())?;
        interrupt::check()?;
        part.rename(&self.target(), self.action == REPLACE)?;
        Ok(sha256)
    }

    fn cannot_copy(&self, cause: Error) -> Error {
        let kind = cause.kind();
        if kind == ErrorKind::Interrupted {
            return cause;
        }
        let (from, to) = (self.source.path.display(), self.folder.display());
        Error::new(kind, format!("cannot copy {from} to {to}")).because(cause)
    }

    fn compress(&self, target: &Path) -> Result<()> {
        let from = self.source.image.format.as_str();
        Runner::new("qemu-img", "qemu-utils")
            .args(["convert", "-c", "-f", from, "-O", Format::Qcow2.as_str(), "--"])
            .args([&self.source.path, target])
            .run()
            .map(drop)
    }

    /// Remembers where the image came from, so that the next import need not read it.
    fn record(&self, file: &File, sha256: Option<String>) -> Result<()> {
        let (source, volume) = (
            self.source.file.metadata().at("look at", &self.source.path)?,
            file.metadata().at("look at", self.target())?,
        );
        let record = Record {
            source: (&source).into(),
            volume: Stamp::from(&volume),
            sha256,
            compressed: self.options.compress,
        };
        if !record.write(file) {
            log::step("the file system keeps no attributes: the next import will compare contents");
        }
        Ok(())
    }
}

/// A half-made image, deleted unless it is renamed.
struct Part {
    path: PathBuf,
}

impl Part {
    fn rename(self, target: &Path, replace: bool) -> Result<()> {
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        log::step(format_args!("rename it to {}", target.display()));
        match renameat_with(CWD, &self.path, CWD, target, flags) {
            Err(rustix::io::Errno::EXIST) => {
                return Err(Error::conflict(format!("{} was made meanwhile", target.display()))
                    .hint("run the same command again: it compares the two"));
            }
            done => done.at("rename the copy to", target)?,
        }
        let folder = target.parent().unwrap_or(target);
        File::open(folder).and_then(|folder| folder.sync_all()).at("flush", folder)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn file_name(image: &Path) -> Result<String> {
    let name = image.file_name().unwrap_or_default();
    name.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the file name of {} is not UTF-8", image.display()))
            .hint("choose the volume's name with --name")
    })
}

/// Whether files can be made in the folder, or in the one it will be made in.
fn writable(folder: &Path) -> bool {
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
    access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn progress_bar(context: &Context, total: u64) -> ProgressBar {
    if !context.progress {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
