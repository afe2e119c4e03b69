//! The volumes of one pool that are to be deleted: what was found before the question, and what is
//! found again before each deletion.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::document::Action;
use common::image::keys;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::shell::quote_path;
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::commands::delete::DeleteItem;
use crate::pool::Pool;
use crate::references::inflight::Removal;
use crate::references::needs::Needs;
use crate::references::open_files::HeldFiles;
use crate::references::{inflight, needs};
use crate::volume::identity::VolumeIdentity;
use crate::volume::secret;

/// How many volumes are locked at a time: each lock is an open file.
const LOCKS: usize = 64;

/// The volumes of one pool that are to be deleted.
pub(crate) struct Batch<'a> {
    host: &'a Host,
    libvirt: &'a Libvirt,
    pool: Pool,
    /// By name: what was there when the user was asked.
    asked: BTreeMap<String, Option<VolumeIdentity>>,
    observation: Observation,
}

/// Everything that speaks against deleting a volume, as it was at one moment.
struct Observation {
    needs: Needs,
    held: HeldFiles,
    taken: Instant,
    took: Duration,
}

impl Observation {
    fn take(host: &Host, libvirt: &Libvirt, pool: &Pool) -> Result<Self> {
        let start = Instant::now();
        let needs = Needs::take(libvirt, pool)?;
        let held = match libvirt.is_local() {
            true => HeldFiles::visible(host)?,
            false => HeldFiles::default(),
        };
        Ok(Self { needs, held, taken: Instant::now(), took: start.elapsed() })
    }

    /// Whether it is older than it was when it was complete. Taking it anew costs what all volumes and
    /// domains cost, so it serves for as many deletions as fit into the time that it took.
    fn is_old(&self) -> bool {
        self.taken.elapsed() > self.took
    }
}

impl<'a> Batch<'a> {
    /// Looks at what there is.
    ///
    /// Errors: what libvirt says.
    pub(crate) fn plan(
        host: &'a Host,
        libvirt: &'a Libvirt,
        pool: Pool,
        names: BTreeSet<String>,
    ) -> Result<Self> {
        let observation = Observation::take(host, libvirt, &pool)?;
        let identity = |name: &str| {
            let volume = observation.needs.volume(name)?;
            Some(VolumeIdentity::of(volume, libvirt.is_local()))
        };
        let asked = names.into_iter().map(|name| (identity(&name), name));
        let asked = asked.map(|(identity, name)| (name, identity)).collect();
        Ok(Self { host, libvirt, pool, asked, observation })
    }

    /// The names of those that are there.
    pub(crate) fn found(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().filter(|(_, found)| found.is_some()).map(|(name, _)| name.as_str())
    }

    /// What [`Batch::delete`] would do, and warnings about what cannot be seen.
    pub(crate) fn preview(mut self) -> (Vec<Result<DeleteItem>>, Vec<String>) {
        let items = self.ordered().into_iter().map(|name| {
            if inflight_here(self.host, self.libvirt, &name)? {
                return Err(being_made(&name));
            }
            let item = self.check(&name)?;
            self.forget(&item);
            Ok(item)
        });
        let items = items.collect();
        let warnings = self.unseen();
        (items, warnings)
    }

    /// Deletes each volume that may go, and returns warnings about what could not be seen.
    pub(crate) fn delete(mut self) -> (Vec<Result<DeleteItem>>, Vec<String>) {
        let is_any_found = self.found().next().is_some();
        if !is_any_found {
            let absent = self.asked.keys().map(|name| Ok(self.absent(name)));
            return (absent.collect(), Vec::new());
        }
        let mut items = Vec::new();
        for names in self.ordered().chunks(LOCKS) {
            // Whatever these tools put on one of the volumes from here on waits; what they have put on
            // one before is seen by the look that comes after.
            let locks: Vec<Result<Option<Removal>>> =
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
        (items, warnings)
    }

    /// The names, images before those below them.
    fn ordered(&self) -> Vec<String> {
        let mut names: Vec<String> = self.asked.keys().cloned().collect();
        let needs = &self.observation.needs;
        names.sort_by_cached_key(|name| {
            Reverse(needs.volume(name).map_or(0, |volume| needs.height(&volume.path)))
        });
        names
    }

    /// Locks a volume; none on a remote host, where no lock of this machine tells anyone.
    fn lock(&self, name: &str) -> Result<Option<Removal>> {
        let is_local = self.libvirt.is_local() && self.asked.get(name).is_some_and(Option::is_some);
        is_local.then(|| Removal::begin(self.host, name)).transpose()
    }

    fn look_again(&mut self) -> Result<()> {
        let pool = Pool::by_name(self.libvirt, &self.pool.name)?;
        let same = pool.filter(|pool| pool.is_same(&self.pool));
        self.pool = same.ok_or_else(|| {
            Error::conflict(format!("pool '{}' was replaced meanwhile", self.pool.name))
                .hint("run the same command again")
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

    /// The item of a volume that may be deleted, or is not there.
    ///
    /// Errors: `conflict` for one that is in use, or not the one that was asked about.
    fn check(&self, name: &str) -> Result<DeleteItem> {
        let Observation { needs, held, .. } = &self.observation;
        let Some(volume) = needs.volume(name) else {
            return Ok(self.absent(name));
        };
        let path = &volume.path;
        let again = "run the same command again";
        match self.asked.get(name).cloned().flatten() {
            Some(asked) if asked == VolumeIdentity::of(volume, self.libvirt.is_local()) => {}
            Some(_) => {
                let message = format!("volume '{name}' was replaced meanwhile");
                return Err(Error::conflict(message).hint(again));
            }
            None => {
                let message = format!("volume '{name}' was made meanwhile");
                return Err(Error::conflict(message).hint(again));
            }
        }
        let users = needs.of(path);
        if !users.is_empty() {
            let message = format!("volume '{name}' is needed by {}", users.join(", "));
            return Err(Error::conflict(message)
                .hint("delete those first; tdx-pool volumes shows what needs what"));
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
            return Err(needs::may_need(format!("volume '{name}' may be needed"), unknown));
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

    /// Counts a volume as gone: it needs others no more.
    fn forget(&mut self, item: &DeleteItem) {
        let path = item.path.as_ref().map(PathBuf::from);
        let found = self.asked.get(&item.name).cloned().flatten();
        if let (Some(path), Some(_)) = (path, found) {
            let keys: Vec<_> = keys(&path).collect();
            self.observation.needs.forget(&path, &keys);
        }
    }

    /// A warning for what cannot be seen from here, or by this user.
    fn unseen(&self) -> Vec<String> {
        if self.found().next().is_none() {
            return Vec::new();
        }
        if !self.libvirt.is_local() {
            return vec![
                "the processes, the locks and the headers of images on the remote host cannot be \
                 seen from here: only what libvirt knows was checked"
                    .to_owned(),
            ];
        }
        let hidden = self.observation.held.hidden_processes;
        let warning = format!(
            "{hidden} processes do not show their open files to this user: run tdx-pool as root \
             to check them too"
        );
        (hidden > 0).then_some(warning).into_iter().collect()
    }
}

fn inflight_here(host: &Host, libvirt: &Libvirt, name: &str) -> Result<bool> {
    Ok(libvirt.is_local() && inflight::is_in_flight(host, name)?)
}

fn being_made(name: &str) -> Error {
    Error::conflict(format!("volume '{name}' is being made by another process"))
}
