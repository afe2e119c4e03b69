//! Changing the devices of several domains: all are planned before the first is touched, and put back when
//! one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::{Context, Libvirt, UnplugAnswer, failure};
use common::system::pci::Bdf;
use common::system::sysroot;
use common::xml::{Document, host_address};
use common::{Code, Error, ErrorKind, Result, parallel};
use tdx_gpu::vfio::hostdev;
use tdx_gpu::vfio::hostdev::HostdevOptions;
use virt::domain::Domain;
use virt::sys;

mod definition;

use super::change::{Change, addresses, inside, passed_through};
use crate::commands::hostdevs::HostdevsItem;
use crate::commands::names;
use crate::commands::names::Named;
use crate::domain::power;

/// Definitions with their secrets, which would be lost otherwise.
const WHOLE: u32 = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;

/// How often a guest that is to let go of a device is looked at.
const POLL: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    domains: Vec<Planned>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One domain of it.
#[derive(Debug)]
struct Planned {
    name: String,
    uuid: String,
    domain: Domain,
    before: String,
    change: Change,
    diff: String,
    running: bool,
    /// What its running guest is to get.
    plug: BTreeSet<Bdf>,
    /// What its running guest is to lose.
    unplug: BTreeSet<Bdf>,
}

impl Plan {
    /// Plans what it takes for each domain to have just its devices.
    ///
    /// Errors: `not_found` for a domain that is not there; `conflict` for a transient one, for two times
    /// the same, for a domain one of whose devices has an address that cannot be understood, with code
    /// `IN_USE_BY_VM` for a device that is to be plugged into a guest while another one runs with it, and
    /// with code `IDENTITY_CHANGED` for a domain other than the one that an item describes.
    pub fn new(
        libvirt: &Libvirt,
        host_name: Option<&str>,
        wanted: &[(Named, BTreeSet<Bdf>)],
        keep: &BTreeSet<Bdf>,
        way: HostdevOptions,
        live: bool,
    ) -> Result<Self> {
        let mut plan = Self { domains: Vec::new(), warnings: Vec::new() };
        for (named, devices) in wanted {
            let (name, domain) = (&named.name, named.get(libvirt, host_name)?);
            let uuid = names::uuid(&domain)?;
            let doing = format_args!("read domain '{name}'");
            if !domain.is_persistent().context(doing)? {
                return Err(Error::conflict(format!("domain '{name}' is transient"))
                    .hint("it has no definition that could be changed"));
            }
            if plan.domains.iter().any(|planned| planned.name == *name) {
                return Err(Error::conflict(format!("domain '{name}' is there twice")));
            }
            let before = domain.xml_desc(WHOLE).context(doing)?;
            let document = Document::parse(before.as_str())?;
            let change = Change::new(&document, devices, keep, way)
                .map_err(|error| host_address::in_domain(name, error))?;
            let running = power::is_active(&domain, name)?;
            let (mut plug, mut unplug) = (BTreeSet::new(), BTreeSet::new());
            if running && live {
                let (has, inside) = all_devices_of(&domain, name)?;
                plug = devices
                    .iter()
                    .filter(|d| !has.contains(d) && !inside.contains(d) && !keep.contains(d))
                    .copied()
                    .collect();
                unplug =
                    has.into_iter().filter(|d| !devices.contains(d) && !keep.contains(d)).collect();
            } else if running && change.xml != before {
                plan.warnings.push(format!(
                    "domain '{name}' runs: its guest sees the change after its next start"
                ));
            }
            let diff = change.diff(&before, name);
            let name = name.clone();
            plan.domains.push(Planned {
                name,
                uuid,
                domain,
                before,
                change,
                diff,
                running,
                plug,
                unplug,
            });
        }
        plan.check_others(libvirt)?;
        Ok(plan)
    }

    /// Fails for devices that two guests would run with at the same time, and warns of those that two domains
    /// are defined with: only one of them can run.
    fn check_others(&mut self, libvirt: &Libvirt) -> Result<()> {
        let mut receivers = BTreeMap::<Bdf, &str>::new();
        for planned in &self.domains {
            let name = planned.name.as_str();
            for bdf in planned.change.added.union(&planned.plug) {
                let Some(other) = receivers.insert(*bdf, name) else { continue };
                let both_run = planned.plug.contains(bdf)
                    && self.domains.iter().any(|p| p.name == other && p.plug.contains(bdf));
                if both_run {
                    return Err(Error::conflict(format!(
                        "{other} and {name} would both get {bdf}"
                    ))
                    .hint("leave --live out to change their definitions alone"));
                }
                self.warnings
                    .push(format!("{other} and {name} both get {bdf}: only one of them can run"));
            }
        }
        if receivers.is_empty() {
            return Ok(());
        }
        let look = |domain: Domain| {
            let name = domain.name().context("list domains")?;
            let active = power::is_active(&domain, &name)?;
            let (mut devices, mut inside) = all_devices_of(&domain, &name)?;
            devices.append(&mut inside);
            Ok::<_, Error>((name, active, devices))
        };
        let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
        let mut warnings = Vec::new();
        for other in parallel::map(domains, parallel::DOMAINS, look) {
            let (name, active, devices) = match other {
                // It went away meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            let planned = self.domains.iter().find(|planned| planned.name == name);
            let leaves = planned.map(|p| if active { &p.unplug } else { &p.change.removed });
            let stays = |bdf: &Bdf| {
                receivers.get(bdf).is_some_and(|receiver| *receiver != name)
                    && leaves.is_none_or(|leaves| !leaves.contains(bdf))
            };
            let is_plugged = |bdf: &Bdf| self.domains.iter().any(|p| p.plug.contains(bdf));
            for bdf in devices.into_iter().filter(stays) {
                if active && is_plugged(&bdf) {
                    return Err(Error::conflict(format!("domain '{name}' runs with {bdf}"))
                        .code(Code::InUseByVm)
                        .hint(format!("tdx-td stop {name}")));
                }
                let has = if active { "runs" } else { "is defined" };
                warnings.push(format!(
                    "domain '{name}' {has} with {bdf}, too: only one of them can run"
                ));
            }
        }
        self.warnings.append(&mut warnings);
        Ok(())
    }

    /// The names of the domains that would be changed.
    pub fn changed(&self) -> Vec<String> {
        let changed = self.domains.iter().filter(|planned| planned.changes());
        changed.map(|planned| planned.name.clone()).collect()
    }

    /// What would change in definitions.
    pub fn diffs(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(|planned| planned.diff.as_str())
    }

    /// Writes the definitions as they are to be, with their passwords, each to a new file of its own that only
    /// its owner can read: `debug.xml` becomes `debug_NAME.xml`.
    ///
    /// Errors: `permission`, `io`.
    pub fn write_proposals(&self, path: &Path) -> Result<()> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
        for planned in &self.domains {
            let name =
                format!("{stem}_{}{}", planned.name, extension.as_deref().unwrap_or_default());
            let path = path.with_file_name(name);
            sysroot::replace(&path, &planned.change.xml, 0o600)?;
        }
        Ok(())
    }

    /// The domains in a document, as they will be.
    pub fn items(&self) -> Vec<HostdevsItem> {
        self.domains.iter().map(Planned::item).collect()
    }

    /// Changes the domains, one after another.
    ///
    /// Errors: `conflict` for a definition that somebody changed since it was planned, and for a guest that
    /// keeps a device; whatever libvirt says. All domains are then as before, or named as left.
    pub fn apply(self, libvirt: &Libvirt, timeout: Duration) -> Result<Vec<HostdevsItem>> {
        let mut done: Vec<&Planned> = Vec::new();
        for planned in self.domains.iter().filter(|planned| planned.changes()) {
            let changed = interrupt::check().and_then(|()| planned.apply(libvirt, timeout));
            if let Err(error) = changed {
                let back = |planned: &&&Planned| planned.put_back(libvirt, timeout).is_err();
                let left = done.iter().rev().filter(back);
                let left: Vec<String> =
                    left.map(|planned| format!("domain '{}'", planned.name)).collect();
                return Err(error.left_behind(left));
            }
            done.push(planned);
        }
        Ok(self.items())
    }
}

impl Planned {
    fn changes(&self) -> bool {
        self.change.xml != self.before || !self.plug.is_empty() || !self.unplug.is_empty()
    }

    fn item(&self) -> HostdevsItem {
        let list = |set: &BTreeSet<Bdf>| set.iter().copied().collect::<Vec<Bdf>>();
        HostdevsItem {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            added: list(&self.change.added),
            removed: list(&self.change.removed),
            kept: list(&self.change.kept),
            live: self.plug.union(&self.unplug).copied().collect(),
            running: self.running,
            diff: self.diff.clone(),
            action: if self.changes() { Action::Update } else { Action::None },
        }
    }

    fn apply(&self, libvirt: &Libvirt, timeout: Duration) -> Result<()> {
        if self.read()? != self.before {
            return Err(self.changed_by_others());
        }
        let mut applied = Vec::new();
        let error = match self.edit(&mut applied) {
            Ok(()) if !self.is_as_planned()? => {
                // What another command has done since must stay.
                return Err(self.changed_by_others().applied(applied));
            }
            Ok(()) => match self.replug(&self.unplug, &self.plug, timeout) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            // It was deleted.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => error,
        };
        match self.put_definition_back(libvirt) {
            Ok(()) => Err(error),
            Err(_) => Err(error.left_behind([format!("domain '{}'", self.name)])),
        }
    }

    fn changed_by_others(&self) -> Error {
        Error::conflict(format!("domain '{}' was changed by somebody else meanwhile", self.name))
            .hint("run the same command again")
    }

    fn put_back(&self, libvirt: &Libvirt, timeout: Duration) -> Result<()> {
        self.put_definition_back(libvirt)?;
        let steps = self.plug.iter().map(|bdf| (*bdf, false));
        let steps = steps.chain(self.unplug.iter().map(|bdf| (*bdf, true)));
        // All of them, and also after a signal.
        let turned = steps.map(|(bdf, gets)| self.turn(bdf, gets, timeout, false));
        turned.fold(Ok(()), Result::and)
    }

    /// Takes devices from the running guest and gives it others, or leaves it as it was.
    fn replug(
        &self,
        unplug: &BTreeSet<Bdf>,
        plug: &BTreeSet<Bdf>,
        timeout: Duration,
    ) -> Result<()> {
        let mut undo = Vec::new();
        let steps =
            unplug.iter().map(|bdf| (*bdf, false)).chain(plug.iter().map(|bdf| (*bdf, true)));
        for (bdf, gets) in steps {
            let done = interrupt::check().and_then(|()| self.turn(bdf, gets, timeout, true));
            if let Err(error) = done {
                let failed =
                    |(bdf, gets): &(Bdf, bool)| self.turn(*bdf, !gets, timeout, false).is_err();
                let left = undo.into_iter().rev().filter(failed);
                return Err(
                    error.left_behind(left.map(|(bdf, _)| format!("{bdf} in '{}'", self.name)))
                );
            }
            undo.push((bdf, gets));
        }
        Ok(())
    }

    /// Plugs one device into the guest, or out of it; a signal ends the wait only where it may.
    fn turn(&self, bdf: Bdf, gets: bool, timeout: Duration, may_stop: bool) -> Result<()> {
        let live = sys::VIR_DOMAIN_AFFECT_LIVE;
        let name = &self.name;
        if gets {
            let doing = format_args!("plug {bdf} into domain '{name}'");
            log::step(doing);
            let xml = hostdev::element(bdf, self.change.way).to_xml()?;
            return self.domain.attach_device_flags(&xml, live).context(doing);
        }
        let doing = format_args!("unplug {bdf} from domain '{name}'");
        log::step(doing);
        let text = self.domain.xml_desc(0).context(doing)?;
        let document = Document::parse(text)?;
        let found = passed_through(document.root())?.into_iter().find(|(there, _)| *there == bdf);
        let Some((_, node)) = found else { return Ok(()) };
        let mut answer = None;
        if let Err(error) = self.domain.detach_device_flags(node.source(), live) {
            match UnplugAnswer::of(&error) {
                // Asked before, by whomever: the guest may yet let go.
                UnplugAnswer::NotNow => answer = Some(failure(error, doing)),
                UnplugAnswer::Refused => {
                    return Err(
                        still_has(name, bdf, Code::GuestRefused).because(failure(error, doing))
                    );
                }
                UnplugAnswer::Failed => return Err(failure(error, doing)),
            }
        }
        // libvirt says that it is done when it has waited for five seconds, done or not.
        let end = Instant::now() + timeout;
        while devices_of(&self.domain, name, 0)?.contains(&bdf) {
            if Instant::now() >= end {
                let error = still_has(name, bdf, Code::StillAttached);
                return Err(match answer {
                    Some(answer) => error.because(answer),
                    None => error,
                });
            }
            match may_stop {
                true => interrupt::sleep(POLL)?,
                false => std::thread::sleep(POLL),
            }
        }
        Ok(())
    }
}

/// The error for a device that a guest was to let go of.
fn still_has(name: &str, bdf: Bdf, code: Code) -> Error {
    Error::conflict(format!("domain '{name}' still has {bdf}"))
        .code(code)
        .hint("its guest does not let go: stop what uses the device in there")
}

/// The PCI devices of the host that a domain has.
fn devices_of(domain: &Domain, name: &str, flags: u32) -> Result<BTreeSet<Bdf>> {
    let text = domain.xml_desc(flags).context(format_args!("read domain '{name}'"))?;
    addresses(Document::parse(text)?.root()).map_err(|error| host_address::in_domain(name, error))
}

/// The same of what it runs with, if it does, and those that are its network cards and disks.
fn all_devices_of(domain: &Domain, name: &str) -> Result<(BTreeSet<Bdf>, BTreeSet<Bdf>)> {
    let text = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    let document = Document::parse(text)?;
    let root = document.root();
    let unclear = |error| host_address::in_domain(name, error);
    Ok((addresses(root).map_err(unclear)?, inside(root).map_err(unclear)?))
}
