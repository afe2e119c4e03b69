//! What it takes to have a pool.

use std::path::{Path, PathBuf};

use common::cli::config::Config;
use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::{Context, Libvirt};
use common::xml::Element;
use common::{Error, ErrorKind, Result, text};
use rustix::fs::{Access, access};
use virt::error::Error as VirtError;
use virt::storage_pool::StoragePool;

use crate::pool::wanted::{PoolArgs, Wanted};
use crate::pool::{Pool, PoolItem, PoolState, owner, reach, truncated};
use common::image::canonical;

/// What it takes to have the pool.
#[derive(Debug)]
pub struct Plan {
    name: String,
    path: PathBuf,
    found: Option<Pool>,
    /// The folder of the pool that was found is not there.
    folder_lost: bool,
    /// What the user should know: another pool is used, a link was followed.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Looks at what is there. `path` is the flag's; without it an existing pool's own path is right.
    ///
    /// A pool of another name that owns the folder is used instead: libvirt lets no two pools share one,
    /// and virt-manager's `default` has the usual one on most hosts.
    ///
    /// Errors: `conflict` when the pool exists elsewhere, or when the path is no folder; `permission`
    /// when the folder cannot be written; `usage` for a path that is not UTF-8, or relative on a remote
    /// host.
    pub fn new(
        libvirt: &Libvirt,
        config: &Config,
        args: &PoolArgs,
        path: Option<&Path>,
    ) -> Result<Self> {
        let wanted = Wanted::new(config, args);
        if let Some(pool) = Pool::by_name(libvirt, &wanted.name)? {
            let own = pool.path.clone().unwrap_or_default();
            if let Some(path) = path {
                check_same(libvirt, &pool, path)?;
            }
            let folder_lost = is_folder_lost(libvirt, &pool);
            let (name, path, warnings) = (wanted.name, own, Vec::new());
            return Ok(Self { name, path, found: Some(pool), folder_lost, warnings });
        }
        let (folder, mut warnings) = folder(libvirt, path.unwrap_or(&wanted.path))?;
        let found = Pool::by_path(libvirt, &folder)?;
        let mut folder_lost = false;
        if let Some(owner) = &found {
            warnings.push(format!(
                "pool '{}' owns {}: it is used instead of '{}'",
                owner.name,
                folder.display(),
                wanted.name
            ));
            folder_lost = is_folder_lost(libvirt, owner);
        } else if libvirt.is_local() {
            check_folder(&folder)?;
        }
        Ok(Self { name: wanted.name, path: folder, found, folder_lost, warnings })
    }

    /// The pool, if it is there already.
    pub fn found(&self) -> Option<&Pool> {
        self.found.as_ref()
    }

    /// The name the pool has, or will have.
    pub fn pool_name(&self) -> &str {
        self.found.as_ref().map_or(&self.name, |pool| &pool.name)
    }

    /// The folder the pool has, or will have.
    ///
    /// Errors: `unsupported` for a pool of a kind that has none.
    pub fn folder(&self) -> Result<&Path> {
        self.found.as_ref().map_or(Ok(&self.path), Pool::folder)
    }

    /// Says which directory QEMU's user cannot enter on the way to the pool's, if there is one.
    ///
    /// Errors: those of [`owner::of_qemu`].
    pub fn closed_to_qemu(&self, libvirt: &Libvirt) -> Result<Option<String>> {
        let (Ok(folder), true) = (self.folder(), libvirt.is_local()) else {
            return Ok(None);
        };
        Ok(owner::of_qemu(libvirt)?.and_then(|qemu| reach::warning(folder, qemu)))
    }

    /// What [`Plan::apply`] would do.
    pub fn action(&self) -> Result<Action> {
        let Some(pool) = &self.found else {
            return Ok(Action::Create);
        };
        Ok(match (pool.is_active() && !self.folder_lost, wants_autostart(&pool.handle)?) {
            (false, _) => Action::Start,
            (true, true) => Action::Update,
            (true, false) => Action::None,
        })
    }

    /// The pool as it is, or as it would be.
    pub(crate) fn item(&self) -> Result<PoolItem> {
        match &self.found {
            // Whatever is not so yet is what would be done.
            Some(pool) => Ok(PoolItem {
                state: PoolState::Active,
                autostart: pool.handle.is_persistent().context("ask about a pool")?,
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

    /// Carries the plan out: define, build, start, autostart, refresh. Undone when it fails half way;
    /// whatever another process did of it meanwhile is as good as done here.
    pub fn apply(self, libvirt: &Libvirt) -> Result<Pool> {
        let (handle, made) = match &self.found {
            None => (self.create(libvirt)?, true),
            Some(pool) => match self.prepare(libvirt, pool) {
                // Whoever was making it undid that.
                Err(error) if error.kind() == ErrorKind::NotFound => (self.create(libvirt)?, true),
                prepared => (prepared.map(|()| pool.handle.clone())?, false),
            },
        };
        let read = Pool::read(handle).and_then(|pool| {
            pool.refresh()?;
            Pool::read(pool.handle)
        });
        let made = made.then(|| format!("created pool '{}'", self.name));
        read.map_err(|error| error.applied(made))
    }

    /// The same, but a pool that needs nothing is taken as libvirt last saw it: looking at a thousand
    /// volumes again takes longer than making a domain.
    pub fn apply_unless_ready(self, libvirt: &Libvirt) -> Result<Pool> {
        let ready = self.action()? == Action::None;
        match self {
            Self { found: Some(pool), .. } if ready => Ok(pool),
            plan => plan.apply(libvirt),
        }
    }

    /// Starts a pool that is there, with its folder made again if that was lost.
    fn prepare(&self, libvirt: &Libvirt, pool: &Pool) -> Result<()> {
        let (name, handle) = (&pool.name, &pool.handle);
        // In this order: the folder of one that is being made may come between the two.
        let active = handle.is_active().context(format_args!("ask about pool '{name}'"))?;
        let lost = is_folder_lost(libvirt, pool);
        if active && lost {
            handle.destroy().context(format_args!("stop pool '{name}'"))?;
        }
        if !active || lost {
            self.start(handle, lost)?;
        }
        if wants_autostart(handle)? {
            let doing = format_args!("set pool '{name}' to start on its own");
            log::step(doing);
            handle.set_autostart(true).context(doing)?;
        }
        Ok(())
    }

    /// Starts a pool, unless somebody else is quicker.
    fn start(&self, pool: &StoragePool, build: bool) -> Result<()> {
        let or_active = |done: std::result::Result<(), VirtError>| match done {
            Err(_) if pool.is_active().unwrap_or(false) => Ok(()),
            done => done,
        };
        if build {
            let building = format_args!("make the folder {}", self.path.display());
            log::step(building);
            or_active(pool.build(0)).context(building)?;
        }
        let starting = format_args!("start pool '{}'", self.pool_name());
        log::step(starting);
        or_active(pool.create(0))
            .context(starting)
            .map_err(|error| truncated::explain(error, pool, self.folder().ok()))
    }

    fn create(&self, libvirt: &Libvirt) -> Result<StoragePool> {
        let path = utf8(&self.path)?;
        let xml = Element::new("pool")
            .attr("type", "dir")
            .child(Element::new("name").text(&self.name))
            .child(Element::new("target").child(Element::new("path").text(path)))
            .to_xml()?;
        // libvirt makes all of them.
        let missing = self.path.ancestors().take_while(|path| !path.exists());
        let missing: Vec<&Path> = if libvirt.is_local() { missing.collect() } else { Vec::new() };
        let doing = format_args!("define pool '{}' at {path}", self.name);
        log::step(doing);
        let pool = match libvirt.connect().define_storage_pool_xml(&xml, 0) {
            // Another command has made a pool since this one was planned.
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
        let started = interrupt::check().and_then(|()| {
            self.start(&pool, true)?;
            pool.set_autostart(true).context("set the pool to start on its own")
        });
        if let Err(error) = started {
            let mut left = Vec::new();
            let _ = pool.destroy(); // stops it, if it was started
            if pool.undefine().is_err() {
                left.push(format!("the definition of pool '{}'", self.name));
            }
            for folder in missing {
                if std::fs::remove_dir(folder).is_err() && folder.exists() {
                    left.push(format!("the folder {}", folder.display()));
                }
            }
            return Err(error.left_behind(left));
        }
        Ok(pool)
    }
}

fn wants_autostart(pool: &StoragePool) -> Result<bool> {
    let about = "ask about a pool";
    Ok(pool.is_persistent().context(about)? && !pool.autostart().context(about)?)
}

/// Whether the folder of a pool is certainly not there. One that cannot be seen is not lost.
fn is_folder_lost(libvirt: &Libvirt, pool: &Pool) -> bool {
    let absent = |path: &Path| {
        path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    libvirt.is_local() && pool.kind == "dir" && pool.path.as_deref().is_some_and(absent)
}

fn utf8(path: &Path) -> Result<&str> {
    text::utf8("pool path", path, ErrorKind::Usage)
}

/// Fails when a pool is elsewhere than where it was asked to be.
fn check_same(libvirt: &Libvirt, pool: &Pool, path: &Path) -> Result<()> {
    let (asked, _) = folder(libvirt, path)?;
    let own = pool.path.as_deref();
    let same = own.is_some_and(|own| match libvirt.is_local() {
        true => canonical(own) == asked,
        false => own == asked,
    });
    if same {
        return Ok(());
    }
    let at = own.map_or("no folder".into(), Path::to_string_lossy);
    let asked = asked.display();
    Err(Error::conflict(format!("pool '{}' exists with {at}, not {asked}", pool.name))
        .hint("choose another name with --pool, or leave out --path"))
}

/// The folder in the one spelling that libvirt can compare, and a warning when a link was followed.
fn folder(libvirt: &Libvirt, path: &Path) -> Result<(PathBuf, Vec<String>)> {
    utf8(path)?;
    if !libvirt.is_local() {
        return match path.is_absolute() {
            true => Ok((path.components().collect(), Vec::new())),
            false => Err(Error::usage(format!(
                "pool path {} is relative, but the pool is on another host",
                path.display()
            ))),
        };
    }
    let absolute = std::path::absolute(path).map_err(|error| {
        Error::usage(format!("pool path {} cannot be made absolute", path.display())).because(error)
    })?;
    let folder = canonical(&absolute);
    utf8(&folder)?;
    let followed = (folder != absolute)
        .then(|| format!("{} leads to {}", absolute.display(), folder.display()));
    Ok((folder, followed.into_iter().collect()))
}

/// Whether a pool can be made here.
fn check_folder(path: &Path) -> Result<()> {
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let existing = path.ancestors().find(there).unwrap_or(path);
    if !existing.is_dir() {
        return Err(Error::conflict(format!("{} is not a folder", existing.display()))
            .hint("choose another folder with --path"));
    }
    // An ordinary user asks libvirtd, which is root: only root's own view says anything.
    if rustix::process::geteuid().is_root()
        && let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK)
    {
        return Err(Error::permission(format!("cannot write to {}", existing.display()))
            .because(std::io::Error::from(error))
            .hint("choose another folder with --path"));
    }
    Ok(())
}
