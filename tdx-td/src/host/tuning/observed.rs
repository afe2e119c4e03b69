//! What a host is like, as far as a scenario asks for something of it.

use std::collections::{BTreeMap, BTreeSet};

use common::Result;
use common::system::sysfs::names;
use common::system::sysroot::Host;

use crate::host::tuning::boot::BootFiles;
use crate::host::tuning::disks::Disks;
use crate::host::tuning::kernel_files::{HUGEPAGES, KSM_MERGER, KSM_TUNER, SWAPPINESS, THP};
use crate::host::tuning::ksm::Ksm;
use crate::host::tuning::persist::{FILES, Persisted};
use crate::host::tuning::tunable::{Unit, has_systemd, is_module_loaded, module_option};
use crate::scenario::profile;

/// A loaded module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// How many use it, guests for one; none for one that is built in.
    pub users: Option<u32>,
    /// The options asked for that it has, a boolean being 1 or 0.
    pub options: BTreeMap<String, String>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedHost {
    /// What [`THP`] says.
    pub transparent_hugepages: Option<String>,
    /// Merging of pages.
    pub ksm: Option<Ksm>,
    /// Units that have to do with that.
    pub units: Vec<Unit>,
    /// Whether systemd could be asked for them.
    pub has_systemd: bool,
    /// What [`SWAPPINESS`] says.
    pub swappiness: Option<String>,
    /// Where reserved huge pages are told, and how many they are.
    pub hugepages: Option<(&'static str, String)>,
    /// The disks of the guests' images.
    pub disks: Disks,
    /// Schedulers that the kernel has as a module that is not loaded, with that module.
    pub loadable: BTreeMap<String, String>,
    /// Loaded modules of those asked for.
    pub modules: BTreeMap<String, Module>,
    /// Words of the kernel command line.
    pub arguments: BTreeSet<String>,
    /// Files of [`FILES`] that are there.
    pub files: Persisted,
    /// What else is read at boot.
    pub boot: BootFiles,
}

impl ObservedHost {
    /// Looks at what `wanted` asks for.
    ///
    /// Errors: `permission`, `io`; whatever systemctl says.
    pub fn read(host: &Host, wanted: &profile::Host, disks: Disks) -> Result<Self> {
        let trimmed =
            |path: &str| host.read(path).map(|text| text.map(|text| text.trim().to_owned()));
        let mut observed = Self {
            transparent_hugepages: trimmed(THP)?,
            ksm: Ksm::read(host)?,
            has_systemd: has_systemd(host),
            boot: BootFiles::read(host)?,
            swappiness: trimmed(SWAPPINESS)?,
            disks,
            ..Self::default()
        };
        if wanted.ksm.is_some() {
            for name in [KSM_MERGER, KSM_TUNER] {
                observed.units.extend(Unit::find(host, name)?);
            }
        }
        for path in HUGEPAGES {
            if observed.hugepages.is_none() {
                observed.hugepages = trimmed(path)?.map(|pages| (path, pages));
            }
        }
        // Modules are loaded on this machine alone.
        if let Some(scheduler) = wanted.io_scheduler.as_ref().filter(|_| host.is_this_machine()) {
            let module = scheduler_module(host, scheduler)?;
            observed.loadable.extend(module.map(|module| (scheduler.clone(), module)));
        }
        for (module, options) in &wanted.modules {
            if !is_module_loaded(host, module) {
                continue;
            }
            let users = trimmed(&format!("/sys/module/{}/refcnt", module.replace('-', "_")))?;
            let mut found =
                Module { users: users.and_then(|users| users.parse().ok()), ..Module::default() };
            for name in options.keys() {
                let value = module_option(host, module, name)?;
                found.options.extend(value.map(|value| (name.clone(), value)));
            }
            observed.modules.insert(module.clone(), found);
        }
        let command_line = host.read("/proc/cmdline")?.unwrap_or_default();
        observed.arguments = command_line.split_whitespace().map(str::to_owned).collect();
        for path in FILES {
            observed.files.extend(host.read(path)?.map(|text| (path, text)));
        }
        Ok(observed)
    }
}

/// The module that a scheduler is in, where it is one and not loaded.
///
/// Source: Linux `block/elevator.c`, whose schedulers are asked for as `NAME-iosched`.
fn scheduler_module(host: &Host, scheduler: &str) -> Result<Option<String>> {
    let Some(release) = host.read("/proc/sys/kernel/osrelease")? else { return Ok(None) };
    // Where /lib is a link, in a tree, it may lead out of it.
    let folders = ["/usr/lib/modules", "/lib/modules"];
    let folder = folders.iter().map(|folder| format!("{folder}/{}", release.trim()));
    let Some(folder) = folder.into_iter().find(|folder| !names(host, folder).is_empty()) else {
        return Ok(None);
    };
    let list = host.read(&format!("{folder}/modules.dep"))?.unwrap_or_default();
    let files = list.lines().filter_map(|line| line.split(':').next()?.rsplit('/').next());
    let modules: BTreeSet<&str> =
        files.filter_map(|file| file.split_once(".ko")).map(|(m, _)| m).collect();
    let candidates = [scheduler.to_owned(), format!("{scheduler}-iosched")];
    let found = candidates.into_iter().find(|name| modules.contains(name.as_str()));
    Ok(found.filter(|module| !is_module_loaded(host, module)))
}
