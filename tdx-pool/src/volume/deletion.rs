//! Deletes volumes of one pool. The volumes are checked before the question, and again before each deletion.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::document::{Action, Item};
use common::image::keys;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::shell::quote_path;
use common::system::sysroot::Host;
use common::{Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::pool::Pool;
use crate::references::dependents::Dependents;
use crate::references::inflight::RemovalLock;
use crate::references::open_files::HeldFiles;
use crate::references::{dependents, inflight};
use crate::volume::identity::VolumeIdentity;
use crate::volume::secret;

/// How many volumes are locked at the same time, because each lock is an open file.
const LOCKS: usize = 64;

/// A volume in a document of `tdx-pool delete`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// The name of the volume in the pool.
    pub(crate) name: String,
    /// The name of the pool.
    pool: String,
    /// The UUID of the pool.
    pool_uuid: Option<String>,
    /// The path of the volume; null when the volume did not exist.
    path: Option<String>,
    /// `delete`, or `none` for a volume that did not exist.
    pub(crate) action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "PATH"];
    const DROPPED: &'static [&'static str] = &["PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let path = self.path.clone().unwrap_or_default();
        vec![self.name.clone(), self.action.to_string(), path]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// The result for the volumes of a batch.
pub(crate) struct BatchOutcome {
    /// For each volume an item, or the error because of which it was kept.
    pub(crate) items: Vec<Result<DeleteItem>>,
    /// Warnings about checks that were not possible.
    pub(crate) warnings: Vec<String>,
}

/// The volumes of one pool to delete.
pub(crate) struct Batch<'a> {
    host: &'a Host,
    libvirt: &'a Libvirt,
    pool: Pool,
    /// The identity of each volume before the question, by name.
    asked: BTreeMap<String, Option<VolumeIdentity>>,
    observation: Observation,
}

/// All uses of volumes, read at one moment.
struct Observation {
    needs: Dependents,
    held: HeldFiles,
    taken: Instant,
    took: Duration,
}

impl Observation {
    fn take(host: &Host, libvirt: &Libvirt, pool: &Pool) -> Result<Self> {
        let start = Instant::now();
        let needs = Dependents::take(libvirt, pool)?;
        let held =
            if libvirt.is_local() { HeldFiles::visible(host)? } else { HeldFiles::default() };
        Ok(Self { needs, held, taken: Instant::now(), took: start.elapsed() })
    }

    /// Whether the observation is older than the time that it took. Reading everything again costs time for all volumes
    /// and domains, so one observation serves for all deletions within the time that it took.
    fn is_old(&self) -> bool {
        self.taken.elapsed() > self.took
    }
}

impl<'a> Batch<'a> {
    /// Makes the plan: reads which of the volumes exist, and what uses them.
    ///
    /// Errors: those of libvirt.
    pub(crate) fn plan(
        host: &'a Host,
        libvirt: &'a Libvirt,
        pool: Pool,
        names: BTreeSet<String>,
    ) -> Result<Self> {
        let observation = Observation::take(host, libvirt, &pool)?;
        let identity = |name: &str| {
            let volume = observation.needs.volume(name)?;
            Some(VolumeIdentity::read(volume, libvirt.is_local()))
        };
        let asked = names.into_iter().map(|name| (identity(&name), name));
        let asked = asked.map(|(identity, name)| (name, identity)).collect();
        Ok(Self { host, libvirt, pool, asked, observation })
    }

    /// The names of the volumes that exist.
    pub(crate) fn found(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().filter(|(_, found)| found.is_some()).map(|(name, _)| name.as_str())
    }

    /// The result that [`Batch::delete`] would have.
    pub(crate) fn preview(mut self) -> BatchOutcome {
        let items = self.ordered().into_iter().map(|name| {
            if is_in_flight(self.host, self.libvirt, &name)? {
                return Err(being_made(&name));
            }
            let item = self.check(&name)?;
            self.forget(&item);
            Ok(item)
        });
        let items = items.collect();
        let warnings = self.unseen();
        BatchOutcome { items, warnings }
    }

    /// Deletes each volume that nothing needs.
    pub(crate) fn delete(mut self) -> BatchOutcome {
        let is_any_found = self.found().next().is_some();
        if !is_any_found {
            let absent = self.asked.keys().map(|name| Ok(self.absent(name)));
            return BatchOutcome { items: absent.collect(), warnings: Vec::new() };
        }
        let mut items = Vec::new();
        for names in self.ordered().chunks(LOCKS) {
            // From here on, other commands of these tools wait before they use one of the volumes. Uses that they have
            // already created are found by the observation that follows.
            let locks: Vec<Result<Option<RemovalLock>>> =
                names.iter().map(|name| self.lock(name)).collect();
            match self.look_again() {
                Err(error) => items.push(Err(error)),
                Ok(()) => {
                    let locked = names.iter().zip(locks);
                    items.extend(
                        locked.map(|(name, lock)| lock.and_then(|_lock| self.delete_one(name))),
                    );
                }
            }
        }
        let warnings = self.unseen();
        BatchOutcome { items, warnings }
    }

    /// The names of the volumes, each image before the images that back it.
    fn ordered(&self) -> Vec<String> {
        let mut names: Vec<String> = self.asked.keys().cloned().collect();
        let needs = &self.observation.needs;
        names.sort_by_cached_key(|name| {
            Reverse(needs.volume(name).map_or(0, |volume| needs.height(&volume.path)))
        });
        names
    }

    /// Locks a volume. None for a volume on a remote host, where locks of this machine have no effect.
    fn lock(&self, name: &str) -> Result<Option<RemovalLock>> {
        let is_local = self.libvirt.is_local() && self.asked.get(name).is_some_and(Option::is_some);
        is_local.then(|| RemovalLock::begin(self.host, name)).transpose()
    }

    fn look_again(&mut self) -> Result<()> {
        let pool = Pool::by_name(self.libvirt, &self.pool.name)?;
        let same = pool.filter(|pool| pool.is_same(&self.pool));
        self.pool = same.ok_or_else(|| {
            Error::conflict(format!("pool '{}' was replaced during this command", self.pool.name))
                .hint("run this command again")
        })?;
        self.observation = Observation::take(self.host, self.libvirt, &self.pool)?;
        Ok(())
    }

    fn delete_one(&mut self, name: &str) -> Result<DeleteItem> {
        interrupt::check()?;
        if self.observation.is_old() {
            self.look_again()?;
        }
        let item = self.check(name)?;
        if let (Some(volume), Some(path)) = (self.observation.needs.volume(name), &item.path) {
            log::step(format_args!("delete volume '{name}'"));
            match volume.handle.delete(0) {
                Err(error) if is_gone(&error) => {}
                done => done.context(format_args!("delete volume '{name}'"))?,
            }
            secret::forget_with(self.libvirt, name, path.as_ref())?;
        }
        self.forget(&item);
        Ok(item)
    }

    /// The item of a volume that may be deleted or does not exist.
    ///
    /// Errors: `conflict` for a volume that is in use, or that differs from the volume in the question.
    fn check(&self, name: &str) -> Result<DeleteItem> {
        let Observation { needs, held, .. } = &self.observation;
        let Some(volume) = needs.volume(name) else {
            return Ok(self.absent(name));
        };
        let path = &volume.path;
        let again = "run this command again";
        match self.asked.get(name).cloned().flatten() {
            Some(asked) if asked == VolumeIdentity::read(volume, self.libvirt.is_local()) => {}
            Some(_) => {
                let message = format!("volume '{name}' was replaced during this command");
                return Err(Error::conflict(message).hint(again));
            }
            None => {
                let message = format!("volume '{name}' was created during this command");
                return Err(Error::conflict(message).hint(again));
            }
        }
        let users = needs.users_of(path);
        if !users.is_empty() {
            let message = format!("volume '{name}' is needed by {}", users.join(", "));
            return Err(Error::conflict(message).hint(
                "delete the users of the volume first; to see all users, run tdx-pool volumes",
            ));
        }
        if held.contains(&keys(path).collect::<Vec<_>>()) {
            let message = format!(
                "volume '{name}' is in use: a process has it open or locked, or a loop device is \
                 backed by it"
            );
            let path = quote_path(path);
            return Err(
                Error::conflict(message).hint(format!("fuser -v {path}; losetup -j {path}"))
            );
        }
        if let Some(unknown) = needs.unknown(path) {
            return Err(dependents::may_need(format!("volume '{name}' may be needed"), unknown));
        }
        Ok(self.item(name, Some(path.display().to_string()), Action::Delete))
    }

    fn absent(&self, name: &str) -> DeleteItem {
        self.item(name, None, Action::None)
    }

    fn item(&self, name: &str, path: Option<String>, action: Action) -> DeleteItem {
        let (pool, pool_uuid) = (self.pool.name.clone(), self.pool.uuid.clone());
        DeleteItem { name: name.to_owned(), pool, pool_uuid, path, action }
    }

    /// Counts a volume as deleted, so that it needs no other volume.
    fn forget(&mut self, item: &DeleteItem) {
        let path = item.path.as_ref().map(PathBuf::from);
        let found = self.asked.get(&item.name).cloned().flatten();
        if let (Some(path), Some(_)) = (path, found) {
            let keys: Vec<_> = keys(&path).collect();
            self.observation.needs.forget(&path, &keys);
        }
    }

    /// A warning about checks that are not possible from this machine or for this user.
    fn unseen(&self) -> Vec<String> {
        if self.found().next().is_none() {
            return Vec::new();
        }
        if !self.libvirt.is_local() {
            return vec![
                "only the users that libvirt knows of were checked: the processes, locks and image headers \
                 of a remote host cannot be read"
                    .to_owned(),
            ];
        }
        let hidden = self.observation.held.hidden_processes;
        let warning = format!(
            "the open files of {hidden} processes were not checked: this user cannot read them; \
             run tdx-pool as root to check them"
        );
        (hidden > 0).then_some(warning).into_iter().collect()
    }
}

fn is_in_flight(host: &Host, libvirt: &Libvirt, name: &str) -> Result<bool> {
    Ok(libvirt.is_local() && inflight::is_in_flight(host, name)?)
}

fn being_made(name: &str) -> Error {
    Error::conflict(format!("another process is creating volume '{name}'"))
}
