//! `tdx-pool ensure`: the pool is there, started, and comes back after a reboot.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use common::cli::Change;
use common::config::Config;
use common::document::{Action, Document, Item};
use common::libvirt::{Context, Libvirt};
use common::output::Outcome;
use common::xml::Element;
use common::{Error, Result, interrupt, log};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::PoolArgs;
use crate::pool::{Pool, PoolItem, PoolState, Wanted, canonical};

/// Arguments of `ensure`.
#[derive(Debug, Args)]
pub struct EnsureArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// The pool's folder [default: /var/lib/libvirt/images]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The kind of pool
    #[arg(long, value_enum, default_value = "dir")]
    r#type: Kind,
    #[command(flatten)]
    change: Change,
}

/// The kinds of pool that can be made here; any other can be used once it exists.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A folder
    Dir,
}

/// A pool and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnsureItem {
    #[serde(flatten)]
    pool: PoolItem,
    /// `create`, `start` (autostart included), `update` (autostart alone) or `none`.
    action: Action,
}

impl Item for EnsureItem {
    const COLUMNS: &'static [&'static str] = PoolItem::COLUMNS;

    fn key(&self) -> Cow<'_, str> {
        self.pool.key()
    }

    fn row(&self) -> Vec<String> {
        self.pool.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Makes and starts the pool.
pub fn run(libvirt: &Libvirt, config: &Config, args: EnsureArgs) -> Result<Outcome> {
    let Kind::Dir = args.r#type;
    interrupt::guard();
    let plan = Plan::new(libvirt, config, &args.pool, args.path.as_deref())?;
    let action = plan.action()?;
    let dry_run = args.change.dry_run;
    let warnings: Vec<String> = plan.warnings.clone();
    let item = match &plan.found {
        None if dry_run => plan.imagined(),
        Some(pool) if dry_run => pool.item()?,
        _ => plan.apply(libvirt)?.item()?,
    };
    let document = Document::new("tdx.pool.ensure", vec![EnsureItem { pool: item, action }]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}

/// What it takes to have the pool.
#[derive(Debug)]
pub struct Plan {
    name: String,
    path: PathBuf,
    found: Option<Pool>,
    /// What the user should know: another pool is used, a link was followed.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Looks at what is there. `path` is the flag's; without it an existing pool's own path is right.
    ///
    /// Errors: `conflict` when the pool exists elsewhere or the path is no folder; `permission` when
    /// the folder cannot be written; `usage` for a relative path on a remote host.
    pub fn new(
        libvirt: &Libvirt,
        config: &Config,
        args: &PoolArgs,
        path: Option<&Path>,
    ) -> Result<Self> {
        let wanted = Wanted::new(config, args);
        let mut warnings = Vec::new();
        let asked = path.unwrap_or(&wanted.path);
        let folder = folder(libvirt, asked)?;
        if folder != asked {
            warnings.push(format!("the pool's folder is {}", folder.display()));
        }
        let by_name = Pool::by_name(libvirt, &wanted.name)?;
        if let (Some(pool), Some(_)) = (&by_name, path)
            && pool.path.as_deref().map(|path| canonical_here(libvirt, path))
                != Some(folder.clone())
        {
            let at = pool.path.as_ref().map_or("no folder".into(), |path| path.to_string_lossy());
            return Err(Error::conflict(format!(
                "pool '{}' exists with {at}, not {}",
                pool.name,
                folder.display()
            ))
            .hint("choose another name with --pool, or leave out --path"));
        }
        let found = match by_name {
            Some(pool) => Some(pool),
            None => Pool::by_path(libvirt, &folder)?,
        };
        match &found {
            Some(pool) if pool.name != wanted.name => warnings.push(format!(
                "pool '{}' already owns {}: it is used instead of '{}'",
                pool.name,
                folder.display(),
                wanted.name
            )),
            None if libvirt.is_local() => check_folder(&folder)?,
            _ => {}
        }
        Ok(Self { name: wanted.name, path: folder, found, warnings })
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

    /// What [`Plan::apply`] would do.
    pub fn action(&self) -> Result<Action> {
        let Some(pool) = &self.found else {
            return Ok(Action("create"));
        };
        Ok(match (pool.is_active(), self.wants_autostart(pool)?) {
            (false, _) => Action("start"),
            (true, true) => Action("update"),
            (true, false) => Action::NONE,
        })
    }

    fn wants_autostart(&self, pool: &Pool) -> Result<bool> {
        let about = format_args!("ask about pool '{}'", pool.name);
        Ok(pool.handle.is_persistent().context(about)?
            && !pool.handle.autostart().context(about)?)
    }

    /// Carries the plan out: define, build, start, autostart, refresh. Undone when it fails half way.
    pub fn apply(self, libvirt: &Libvirt) -> Result<Pool> {
        let pool = match self.found {
            Some(ref pool) => {
                if !pool.is_active() {
                    log::step(format_args!("start pool '{}'", pool.name));
                    let doing = format_args!("start pool '{}'", pool.name);
                    pool.handle.create(0).context(doing)?;
                }
                if self.wants_autostart(pool)? {
                    let doing = format_args!("set pool '{}' to start on its own", pool.name);
                    pool.handle.set_autostart(true).context(doing)?;
                }
                Pool::by_name(libvirt, &pool.name)?
            }
            None => Some(self.create(libvirt)?),
        };
        let pool = pool.ok_or_else(|| Error::failed("the pool went away while it was prepared"))?;
        pool.refresh()?;
        Ok(pool)
    }

    fn create(&self, libvirt: &Libvirt) -> Result<Pool> {
        let path = self.path.to_str().ok_or_else(|| {
            Error::usage(format!("pool path {} is not UTF-8", self.path.display()))
        })?;
        let xml = Element::new("pool")
            .attr("type", "dir")
            .child(Element::new("name").text(&self.name))
            .child(Element::new("target").child(Element::new("path").text(path)))
            .to_xml()?;
        let made_folder = libvirt.is_local() && !self.path.exists();
        let doing = format_args!("define pool '{}' at {path}", self.name);
        log::step(doing);
        let handle = libvirt.connect().define_storage_pool_xml(&xml, 0).context(doing)?;
        let started = (|| {
            interrupt::check()?;
            handle.build(0).context(format_args!("make the folder {path}"))?;
            handle.create(0).context(format_args!("start pool '{}'", self.name))?;
            interrupt::check()?;
            handle.set_autostart(true).context("set the pool to start on its own")
        })();
        if let Err(error) = started {
            let _ = handle.destroy();
            let undone = handle.undefine().is_ok();
            if made_folder {
                let _ = std::fs::remove_dir(&self.path);
            }
            let left = (!undone).then(|| format!("the definition of pool '{}'", self.name));
            return Err(error.left_behind(left));
        }
        Pool::read(handle)
    }

    /// The pool as it would be.
    fn imagined(&self) -> PoolItem {
        PoolItem {
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
        }
    }
}

fn canonical_here(libvirt: &Libvirt, path: &Path) -> PathBuf {
    if libvirt.is_local() { canonical(path) } else { path.to_owned() }
}

/// The folder in the one spelling that libvirt can compare.
fn folder(libvirt: &Libvirt, path: &Path) -> Result<PathBuf> {
    if !libvirt.is_local() {
        return match path.is_absolute() {
            true => Ok(path.to_owned()),
            false => Err(Error::usage(format!(
                "pool path {} is relative, but the pool is on another host",
                path.display()
            ))),
        };
    }
    let absolute = std::path::absolute(path).map_err(|error| {
        Error::usage(format!("pool path {} cannot be made absolute", path.display())).because(error)
    })?;
    Ok(canonical(&absolute))
}

/// Whether a pool can be made here.
fn check_folder(path: &Path) -> Result<()> {
    use rustix::fs::{Access, access};
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if !existing.is_dir() {
        return Err(Error::conflict(format!("{} is not a folder", existing.display()))
            .hint("choose another with --path"));
    }
    // An ordinary user asks libvirtd, which is root: only root's own view says anything.
    if rustix::process::geteuid().is_root()
        && let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK)
    {
        return Err(Error::permission(format!("cannot write to {}", existing.display()))
            .because(error)
            .hint("choose another folder with --path"));
    }
    Ok(())
}
