//! The plan that creates and starts a pool, and its execution.

use std::path::{Path, PathBuf};

use common::cli::config::Config;
use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::{Context, Libvirt};
use common::xml::Element;
use common::{Error, ErrorKind, Result, path, undo};
use rustix::fs::{Access, access};
use virt::error::Error as VirtError;
use virt::storage_pool::StoragePool;

use crate::pool::item::{PoolItem, PoolState};
use crate::pool::spec::PoolSpec;
use crate::pool::{Pool, qemu_access, qemu_user, truncated_image};
use common::image::canonical;

/// The steps that make a pool exist and be active.
#[derive(Debug)]
pub struct PoolPlan {
    name: String,
    path: PathBuf,
    existing: Option<Pool>,
    /// Whether the directory of the existing pool is absent.
    is_folder_lost: bool,
    /// Warnings for the user: another pool is used, or a link was followed.
    pub warnings: Vec<String>,
}

impl PoolPlan {
    /// Reads the current state and makes the plan. `path` is the value of `--path`; without it, an existing pool keeps
    /// its path.
    ///
    /// If a pool with another name has the directory, the plan uses that pool, because libvirt does not allow two pools
    /// with the same directory. On most hosts, virt-manager's `default` has the usual directory.
    ///
    /// Errors: `conflict` when the pool exists with another directory, or when the path is not a directory;
    /// `permission` when the directory cannot be written; `usage` for a path that is not UTF-8, or that is relative
    /// on a remote host.
    pub fn new(
        libvirt: &Libvirt,
        config: &Config,
        name: Option<&str>,
        path: Option<&Path>,
    ) -> Result<Self> {
        let spec = PoolSpec::new(config, name);
        if let Some(pool) = Pool::by_name(libvirt, &spec.name)? {
            let own = pool.path.clone().unwrap_or_default();
            if let Some(path) = path {
                check_same(libvirt, &pool, path)?;
            }
            let is_folder_lost = has_lost_folder(libvirt, &pool);
            let (name, path, warnings) = (spec.name, own, Vec::new());
            return Ok(Self { name, path, existing: Some(pool), is_folder_lost, warnings });
        }
        let (folder, mut warnings) = folder(libvirt, path.unwrap_or(&spec.path))?;
        let found = Pool::by_path(libvirt, &folder)?;
        let mut is_folder_lost = false;
        if let Some(owner) = &found {
            warnings.push(format!(
                "pool '{}' already has the directory {} and is used instead of '{}'",
                owner.name,
                folder.display(),
                spec.name
            ));
            is_folder_lost = has_lost_folder(libvirt, owner);
        } else if libvirt.is_local() {
            check_folder(&folder)?;
        }
        Ok(Self { name: spec.name, path: folder, existing: found, is_folder_lost, warnings })
    }

    /// The existing pool, if any.
    pub fn existing(&self) -> Option<&Pool> {
        self.existing.as_ref()
    }

    /// The name of the pool, which may not exist yet.
    pub fn pool_name(&self) -> &str {
        self.existing.as_ref().map_or(&self.name, |pool| &pool.name)
    }

    /// The directory of the pool, which may not exist yet.
    ///
    /// Errors: `unsupported` for a type of pool without a directory.
    pub fn folder(&self) -> Result<&Path> {
        self.existing.as_ref().map_or(Ok(&self.path), Pool::folder)
    }

    /// A warning if the user that QEMU runs as cannot enter the pool's directory or one of its parents.
    ///
    /// Errors: those of [`qemu_user::qemu_user`].
    pub fn closed_to_qemu(&self, libvirt: &Libvirt) -> Result<Option<String>> {
        let (Ok(folder), true) = (self.folder(), libvirt.is_local()) else {
            return Ok(None);
        };
        Ok(qemu_user::qemu_user(libvirt)?.and_then(|qemu| qemu_access::warning(folder, qemu)))
    }

    /// The action that [`PoolPlan::apply`] would take.
    pub fn action(&self) -> Result<Action> {
        let Some(pool) = &self.existing else {
            return Ok(Action::Create);
        };
        Ok(match (pool.is_active() && !self.is_folder_lost, wants_autostart(&pool.handle)?) {
            (false, _) => Action::Start,
            (true, true) => Action::Update,
            (true, false) => Action::None,
        })
    }

    /// The pool as an item: as it is, or as it would be.
    pub(crate) fn item(&self) -> Result<PoolItem> {
        match &self.existing {
            // The state after the plan.
            Some(pool) => Ok(PoolItem {
                state: PoolState::Active,
                autostart: pool.handle.is_persistent().context("read the state of a pool")?,
                ..pool.item()?
            }),
            None => Ok(PoolItem {
                name: self.name.clone(),
                uuid: None,
                r#type: "dir".to_owned(),
                path: Some(self.path.display().to_string()),
                state: PoolState::Active,
                persistent: true,
                autostart: true,
                capacity_bytes: None,
                allocation_bytes: None,
                available_bytes: None,
                volumes: None,
            }),
        }
    }

    /// Executes the plan: define, build, start, autostart, refresh. A failure undoes the steps. Steps that another
    /// process did at the same time count as done.
    pub fn apply(self, libvirt: &Libvirt) -> Result<Pool> {
        undo::on_failure(|undo| {
            let prepared = self.existing.as_ref().map(|pool| (pool, self.prepare(libvirt, pool)));
            let handle = match prepared {
                Some((pool, Ok(()))) => pool.handle.clone(),
                Some((_, Err(error))) if error.kind() != ErrorKind::NotFound => return Err(error),
                // The pool does not exist, or the command that was creating the pool has removed it again.
                _ => {
                    let handle = self.create(libvirt)?;
                    undo.applied(format!("created pool '{}'", self.name));
                    handle
                }
            };
            let pool = Pool::read(handle)?;
            pool.refresh()?;
            Pool::read(pool.handle)
        })
    }

    /// Executes the plan, but does not refresh a pool that needs no change. Reading a thousand volumes again takes
    /// longer than creating a domain.
    pub fn apply_unless_ready(self, libvirt: &Libvirt) -> Result<Pool> {
        let ready = self.action()? == Action::None;
        match self {
            Self { existing: Some(pool), .. } if ready => Ok(pool),
            plan => plan.apply(libvirt),
        }
    }

    /// Starts an existing pool. Creates its directory again if the directory is absent.
    fn prepare(&self, libvirt: &Libvirt, pool: &Pool) -> Result<()> {
        let (name, handle) = (&pool.name, &pool.handle);
        // The order matters: another process may create the directory between the two checks.
        let active = handle.is_active().context(format_args!("read the state of pool '{name}'"))?;
        let lost = has_lost_folder(libvirt, pool);
        if active && lost {
            handle.destroy().context(format_args!("stop pool '{name}'"))?;
        }
        if !active || lost {
            self.start(handle, lost)?;
        }
        if wants_autostart(handle)? {
            let doing = format_args!("set the autostart of pool '{name}'");
            log::step(doing);
            handle.set_autostart(true).context(doing)?;
        }
        Ok(())
    }

    /// Starts a pool, unless another process has started it.
    fn start(&self, pool: &StoragePool, build: bool) -> Result<()> {
        let or_active = |done: std::result::Result<(), VirtError>| match done {
            Err(_) if pool.is_active().unwrap_or(false) => Ok(()),
            done => done,
        };
        if build {
            let building = format_args!("create the directory {}", self.path.display());
            log::step(building);
            or_active(pool.build(0)).context(building)?;
        }
        let starting = format_args!("start pool '{}'", self.pool_name());
        log::step(starting);
        or_active(pool.create(0))
            .context(starting)
            .map_err(|error| truncated_image::explain(error, pool, self.folder().ok()))
    }

    fn create(&self, libvirt: &Libvirt) -> Result<StoragePool> {
        let path = utf8(&self.path)?;
        let xml = Element::new("pool")
            .attr("type", "dir")
            .child(Element::new("name").text(&self.name))
            .child(Element::new("target").child(Element::new("path").text(path)))
            .to_xml()?;
        // libvirt creates all absent parents.
        let missing = self.path.ancestors().take_while(|path| !path.exists());
        let missing: Vec<&Path> = if libvirt.is_local() { missing.collect() } else { Vec::new() };
        let doing = format_args!("define pool '{}' at {path}", self.name);
        log::step(doing);
        let pool = match libvirt.connect().define_storage_pool_xml(&xml, 0) {
            // Another command has created a pool after this plan was made.
            Err(error) => {
                let made = match Pool::by_path(libvirt, &self.path)? {
                    None => Pool::by_name(libvirt, &self.name)?,
                    made => made,
                };
                let Some(made) = made else { return Err(error).context(doing) };
                check_same(libvirt, &made, &self.path)?;
                self.prepare(libvirt, &made)?;
                return Ok(made.handle);
            }
            Ok(pool) => pool,
        };
        undo::on_failure(|undo| {
            for folder in missing.iter().rev() {
                undo.push(format!("directory {}", folder.display()), || remove_directory(folder));
            }
            undo.push(format!("the definition of pool '{}'", self.name), || {
                let _ = pool.destroy(); // stops the pool, if it was started
                pool.undefine()
            });
            interrupt::check()?;
            self.start(&pool, true)?;
            pool.set_autostart(true)
                .context(format_args!("set the autostart of pool '{}'", self.name))
        })?;
        Ok(pool)
    }
}

/// Removes a directory, if it exists.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(_) if !path.exists() => Ok(()),
        removed => removed,
    }
}

fn wants_autostart(pool: &StoragePool) -> Result<bool> {
    let about = "read the state of a pool";
    Ok(pool.is_persistent().context(about)? && !pool.autostart().context(about)?)
}

/// Whether the directory of a pool is certainly absent. A directory that cannot be examined counts as existing.
fn has_lost_folder(libvirt: &Libvirt, pool: &Pool) -> bool {
    let absent = |path: &Path| {
        path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    libvirt.is_local() && pool.kind == "dir" && pool.path.as_deref().is_some_and(absent)
}

fn utf8(path: &Path) -> Result<&str> {
    path::utf8("pool path", path, ErrorKind::Usage)
}

/// Fails if a pool has another directory than the given one.
fn check_same(libvirt: &Libvirt, pool: &Pool, path: &Path) -> Result<()> {
    let (asked, _) = folder(libvirt, path)?;
    let own = pool.path.as_deref();
    let same = own
        .is_some_and(|own| if libvirt.is_local() { canonical(own) == asked } else { own == asked });
    if same {
        return Ok(());
    }
    let at = own
        .map_or("it has no directory".into(), |own| format!("its directory is {}", own.display()));
    let asked = asked.display();
    Err(Error::conflict(format!("pool '{}' exists, but {at}, expected {asked}", pool.name))
        .hint("choose another name with --pool, or remove --path"))
}

/// The path of the directory without links, which libvirt can compare, and a warning if a link was followed.
fn folder(libvirt: &Libvirt, path: &Path) -> Result<(PathBuf, Vec<String>)> {
    utf8(path)?;
    if !libvirt.is_local() {
        return if path.is_absolute() {
            Ok((path.components().collect(), Vec::new()))
        } else {
            Err(Error::usage(format!(
                "pool path {} is relative, but a pool on another host needs an absolute path",
                path.display()
            )))
        };
    }
    let absolute = std::path::absolute(path).map_err(|error| {
        Error::usage(format!("pool path {} cannot be made absolute", path.display())).because(error)
    })?;
    let folder = canonical(&absolute);
    utf8(&folder)?;
    let followed = (folder != absolute).then(|| {
        format!(
            "pool path {} resolves to {}, which libvirt shows instead",
            absolute.display(),
            folder.display()
        )
    });
    Ok((folder, followed.into_iter().collect()))
}

/// Fails if no pool can be created in a directory.
fn check_folder(path: &Path) -> Result<()> {
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let existing = path.ancestors().find(there).unwrap_or(path);
    if !existing.is_dir() {
        return Err(Error::conflict(format!("{} is not a directory", existing.display()))
            .hint("choose another directory with --path"));
    }
    // libvirtd creates the directory as root. The check is therefore only meaningful for root.
    if rustix::process::geteuid().is_root()
        && let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK)
    {
        return Err(Error::permission(format!("cannot write to {}", existing.display()))
            .because(std::io::Error::from(error))
            .hint("choose another directory with --path"));
    }
    Ok(())
}
