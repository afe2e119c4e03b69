//! The state of a host, as far as a scenario has settings for it.

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

/// A loaded kernel module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Number of users of the module, such as guests; `None` for a built-in module.
    pub users: Option<u32>,
    /// Values of the requested options that the module has. A boolean is 1 or 0.
    pub options: BTreeMap<String, String>,
}

/// The state of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedHost {
    /// Text of [`THP`].
    pub transparent_hugepages: Option<String>,
    /// State of KSM.
    pub ksm: Option<Ksm>,
    /// Systemd units that control KSM.
    pub units: Vec<Unit>,
    /// Whether systemd runs, so that units can be read.
    pub has_systemd: bool,
    /// Value of [`SWAPPINESS`].
    pub swappiness: Option<String>,
    /// File and number of reserved huge pages.
    pub hugepages: Option<(&'static str, String)>,
    /// The disks of the guests' images.
    pub disks: Disks,
    /// Schedulers in modules that are not loaded, with the name of the module.
    pub loadable: BTreeMap<String, String>,
    /// The requested modules that are loaded.
    pub modules: BTreeMap<String, Module>,
    /// Arguments of the kernel command line.
    pub arguments: BTreeSet<String>,
    /// Files of [`FILES`] that exist.
    pub files: Persisted,
    /// Other boot configuration files.
    pub boot: BootFiles,
}

impl ObservedHost {
    /// Reads the state of everything that `wanted` has a setting for.
    ///
    /// Errors: `permission`, `io`; those of systemctl.
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
        // Modules can be loaded only on this machine, not below --sysroot.
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

/// Returns the module of a scheduler, if the scheduler is in a module that is not loaded.
///
/// Source: Linux `block/elevator.c`, which requests the module `NAME-iosched`.
fn scheduler_module(host: &Host, scheduler: &str) -> Result<Option<String>> {
    let Some(release) = host.read("/proc/sys/kernel/osrelease")? else { return Ok(None) };
    // In a captured tree, /lib may be a symbolic link that leads out of the tree.
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
