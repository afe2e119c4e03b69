//! One disk on its way to a guest: judged, planned, judged again, handed over, looked for.

pub mod advice;
pub mod detachment;
pub mod disk_lock;
pub mod domain_handle;
pub mod element;
pub mod guest_disk;
pub mod item;
pub mod target;
pub mod undefined_disk;

use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::{Context as _, State};
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use virt::sys;

use crate::attach::disk_lock::Lock;
use crate::attach::domain_handle::Subject;
use crate::attach::element::Wanted;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::item::AttachItem;
use crate::attach::target::{Bus, ScsiPlace};
use crate::availability;
use crate::availability::guests::Guest;
use crate::availability::machine::Machine;
use crate::availability::processes::Processes;
use crate::availability::{Question, finding};
use crate::block::devices::Blocks;
use crate::block::disk::Disk;
use crate::block::named_device;
use crate::block::named_device::Named;

/// What the user asks for.
#[derive(Debug)]
pub struct AttachRequest {
    /// The domain.
    pub domain: String,
    /// The serial number that the guest sees; none for the disk's own.
    pub serial: Option<String>,
    /// The guest target; none for the next free one.
    pub target: Option<String>,
    /// How the guest reaches the disk.
    pub bus: Bus,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the disk also goes into the persistent definition.
    pub persistent: bool,
    /// The codes that the disk is attached in spite of.
    pub force: Vec<Code>,
    /// Whether nothing is changed.
    pub dry_run: bool,
}

/// One disk on its way to a guest.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// The machine.
    pub host: &'a Host,
    /// What is asked for.
    pub request: &'a AttachRequest,
    /// The disk as it was named.
    pub named: &'a Named,
}

/// What is going to be done with it.
struct Plan {
    item: AttachItem,
    /// In the order in which they go to libvirt.
    elements: Vec<String>,
    flags: u32,
}

impl Attachment<'_> {
    /// Does it, unless it is there already or this is a dry run. Returns what was done, and warnings.
    ///
    /// Errors: `conflict` with the code of what stands in the way; what libvirt says.
    pub fn run(&self, subject: &mut Subject<'_>) -> Result<(AttachItem, Vec<String>)> {
        interrupt::check()?;
        let _lock = if self.request.dry_run { None } else { Some(self.lock()?) };
        let guest = subject.guest()?;
        let blocks = Blocks::read(self.host)?;
        let block = named_device::find(self.host, &blocks, &self.named.name)?;
        let disk = Disk::read(self.host, &blocks, block);
        self.named.expect_same(self.host, &disk)?;
        let (live, config) = self.wanted(&guest)?;
        let connect = subject.libvirt().connect();
        let known = guest_disk::all(self.host, &blocks, &guest, Some(connect));
        let known = known.into_iter().find(|known| known.number == Some(disk.number));
        if let Some(known) = &known {
            self.expect_same(known)?;
            if (known.live.is_some() || !live) && (known.config.is_some() || !config) {
                return Ok((self.present(known, &disk), Vec::new()));
            }
        }
        let runs = known.as_ref().is_some_and(|known| known.live.is_some());
        // What the guest has already is in nobody's way but its own.
        let mut warnings = if runs { Vec::new() } else { self.judge(subject, &disk)? };
        let (plan, told) =
            self.plan(&guest, &blocks, &disk, known.as_ref(), (live && !runs, config))?;
        warnings.extend(told);
        if !self.request.dry_run {
            if !runs {
                self.judge(subject, &disk)?;
            }
            self.apply(subject, &plan, &disk)?;
        }
        if !runs {
            warnings.extend(advice::warnings(&disk, &plan.item.source));
        }
        Ok((plan.item, warnings))
    }

    /// The lock of the disk, or of that which it is a part of.
    fn lock(&self) -> Result<Lock> {
        let blocks = Blocks::read(self.host)?;
        let block = named_device::find(self.host, &blocks, &self.named.name)?;
        let whole = block.parent.as_deref().and_then(|parent| blocks.named(parent));
        Lock::take(self.host, &whole.unwrap_or(block).node())
    }

    /// Whether it goes to the running guest, and into the definition that stays.
    fn wanted(&self, guest: &Guest) -> Result<(bool, bool)> {
        let name = &guest.name;
        match (guest.live.is_some(), self.request.persistent) {
            (false, false) => Err(Error::conflict(format!("domain '{name}' is not running"))
                .hint(format!("tdx-td start {name}; or --persistent, for its next start"))),
            (_, true) if guest.config.is_none() => {
                Err(Error::conflict(format!("domain '{name}' has no definition that stays"))
                    .hint("without --persistent it gets the disk for as long as it runs"))
            }
            wanted => Ok(wanted),
        }
    }

    /// Refuses to take a disk that is there in another way for the one that was asked for.
    fn expect_same(&self, known: &GuestDisk) -> Result<()> {
        let differs = |what: &str, is: &str| {
            let (name, target) = (&self.named.name, &known.target);
            let domain = &self.request.domain;
            Err(Error::conflict(format!(
                "domain '{domain}' has {name} as {target} with {what} {is}"
            ))
            .hint(format!("tdx-disk detach {domain} {target} comes first")))
        };
        if self.request.target.as_ref().is_some_and(|target| *target != known.target) {
            return differs("the target", &known.target);
        }
        if self.request.serial.is_some() && self.request.serial != known.serial {
            return differs("the serial number", known.serial.as_deref().unwrap_or("none"));
        }
        match self.request.readonly == known.readonly {
            true => Ok(()),
            false => differs("readonly", if known.readonly { "yes" } else { "no" }),
        }
    }

    fn present(&self, known: &GuestDisk, disk: &Disk) -> AttachItem {
        AttachItem {
            domain: self.request.domain.clone(),
            device: disk.node(),
            number: disk.number.to_string(),
            wwn: disk.wwn.clone(),
            source: known.source.clone(),
            target: known.target.clone(),
            bus: known.bus.clone(),
            guest_device: known.guest_path(),
            serial: known.serial.clone(),
            size_bytes: disk.size,
            readonly: known.readonly,
            live: known.live.is_some(),
            config: known.config.is_some(),
            action: Action::None,
        }
    }

    /// Everything that speaks against it, anew; what is forced comes back as warnings.
    fn judge(&self, subject: &Subject<'_>, planned: &Disk) -> Result<Vec<String>> {
        let machine = Machine::read(self.host, Some(subject.libvirt()))?;
        let question =
            Question { domain: Some(&self.request.domain), readonly: self.request.readonly };
        let (disk, judgement) = machine.judge(self.host, &self.named.name, question)?;
        expect_unchanged(planned, &disk)?;
        let mut warnings = finding::refuse(&disk.node(), &judgement.findings, &self.request.force)?;
        warnings.extend(judgement.unseen);
        Ok(warnings)
    }

    fn plan(
        &self,
        guest: &Guest,
        blocks: &Blocks,
        disk: &Disk,
        known: Option<&GuestDisk>,
        (live, config): (bool, bool),
    ) -> Result<(Plan, Vec<String>)> {
        let request = self.request;
        let mut warnings = Vec::new();
        let config = config && known.is_none_or(|known| known.config.is_none());
        let taken = guest_disk::targets(guest);
        let target = match (known, &request.target) {
            (Some(known), _) => known.target.clone(),
            (None, Some(target)) if taken.contains(target) => {
                let domain = &request.domain;
                return Err(Error::conflict(format!(
                    "domain '{domain}' has a disk {target} already"
                ))
                .hint(format!("{} is free", request.bus.next_free(&taken))));
            }
            (None, Some(target)) => target.clone(),
            (None, None) => request.bus.next_free(&taken),
        };
        let source = match known {
            Some(known) => known.source.clone(),
            None => self.source(blocks, disk, &mut warnings),
        };
        let serial = match known {
            Some(known) => known.serial.clone(),
            None => request.serial.clone().or_else(|| element::own_serial(disk, request.bus)),
        };
        // A disk that is half there is on the bus that it is on.
        let bus = known.map_or(Some(request.bus), |known| Bus::named(&known.bus));
        let definitions: Vec<_> = [(live, &guest.live), (config, &guest.config)]
            .into_iter()
            .filter_map(|(wanted, definition)| definition.as_ref().filter(|_| wanted))
            .collect();
        // What the definition says of it holds for the guest that runs; not the reverse, whose
        // addresses may be another device's at the next start.
        let same = known.and_then(|known| {
            known.config.clone().or_else(|| known.live.clone().filter(|_| bus.is_none()))
        });
        let mut elements = Vec::new();
        match (same, bus.unwrap_or(request.bus)) {
            (Some(same), _) => elements.push(same),
            (None, bus) => {
                let place = (bus == Bus::Scsi).then(|| ScsiPlace::find(&definitions));
                let controller = place.as_ref().and_then(ScsiPlace::new_controller);
                elements.extend(controller.map(|new| new.to_xml()).transpose()?);
                let wanted = Wanted {
                    disk,
                    source: &source,
                    target: &target,
                    bus,
                    serial: serial.as_deref(),
                    readonly: request.readonly,
                    place: place.as_ref(),
                };
                elements.push(element::disk(&wanted).to_xml()?);
            }
        }
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        let flags =
            flag(live, sys::VIR_DOMAIN_AFFECT_LIVE) | flag(config, sys::VIR_DOMAIN_AFFECT_CONFIG);
        let guest_device = bus.zip(serial.as_deref()).map(|(bus, serial)| bus.guest_path(serial));
        let has = |element: fn(&GuestDisk) -> &Option<String>| {
            known.is_some_and(|known| element(known).is_some())
        };
        let item = AttachItem {
            domain: request.domain.clone(),
            device: disk.node(),
            number: disk.number.to_string(),
            wwn: disk.wwn.clone(),
            source: source.clone(),
            target: target.clone(),
            bus: known.map_or_else(|| request.bus.as_str().to_owned(), |known| known.bus.clone()),
            guest_device,
            serial,
            size_bytes: disk.size,
            readonly: request.readonly,
            live: live || has(|known| &known.live),
            config: config || has(|known| &known.config),
            action: Action::Attach,
        };
        Ok((Plan { item, elements, flags }, warnings))
    }

    /// The path that will still lead to this disk after a reboot, as far as there is one.
    fn source(&self, blocks: &Blocks, disk: &Disk, warnings: &mut Vec<String>) -> String {
        let twins = availability::twins(self.host, blocks, disk);
        let by_id = disk.by_id().filter(|_| twins.is_empty());
        if let Some(path) = by_id.or_else(|| disk.by_path()) {
            return path.to_owned();
        }
        warnings.push(format!(
            "{} has no name that stays the same: after a reboot another disk may be called so",
            disk.node()
        ));
        disk.node()
    }

    /// Hands it to libvirt, and looks whether the guest has it.
    fn apply(&self, subject: &mut Subject<'_>, plan: &Plan, disk: &Disk) -> Result<()> {
        let (name, item) = (&self.request.domain, &plan.item);
        let doing = format!("attach {} to domain '{name}'", item.device);
        let there = format!("{} as {} in '{name}'", item.device, item.target);
        let mut added: Vec<&String> = Vec::new();
        for xml in &plan.elements {
            interrupt::check().inspect_err(|_| undo(subject, &added, plan.flags))?;
            log::step(format_args!("{doing}: {xml}"));
            let done = subject.domain().attach_device_flags(xml, plan.flags);
            if let Err(error) = done {
                let error = Err::<(), _>(error).context(&doing);
                // The daemon may have done it before it went.
                let Ok(lost) = subject.reconnect() else {
                    return error.map_err(|error| error.left_behind([there]));
                };
                if lost && self.is_there(subject, disk, plan)? {
                    return Ok(());
                }
                undo(subject, &added, plan.flags);
                let left = if lost { self.holders(disk)? } else { Vec::new() };
                return error
                    .map_err(|error| self.explained(error, subject, plan).left_behind(left));
            }
            added.push(xml);
        }
        match self.is_there(subject, disk, plan).map_err(|error| error.left_behind([there]))? {
            true => Ok(()),
            false => {
                Err(Error::failed(format!("libvirt says it could {doing}, but it is not there")))
            }
        }
    }

    /// Whether the guest has it, by a daemon that may have been restarted meanwhile.
    fn is_there(&self, subject: &mut Subject<'_>, disk: &Disk, plan: &Plan) -> Result<bool> {
        let guest = match subject.guest() {
            Err(_) if subject.reconnect()? => subject.guest()?,
            guest => guest?,
        };
        let blocks = Blocks::read(self.host)?;
        let disks = guest_disk::all(self.host, &blocks, &guest, Some(subject.libvirt().connect()));
        let known = disks.iter().find(|known| known.number == Some(disk.number));
        Ok(known.is_some_and(|known| {
            (known.live.is_some() || !plan.item.live)
                && (known.config.is_some() || !plan.item.config)
        }))
    }

    /// The guests that have the disk open although no daemon knows of it.
    fn holders(&self, disk: &Disk) -> Result<Vec<String>> {
        let processes = Processes::with_open(self.host, &[disk.number].into())?;
        let guests = processes.all().filter(|process| process.is_guest());
        let told = guests.map(|process| {
            format!("{} (process {}) has {} open", process.command, process.pid, disk.node())
        });
        Ok(told.collect())
    }

    /// Says what to do about an attach that failed, as far as the guest tells why.
    fn explained(&self, error: Error, subject: &Subject<'_>, plan: &Plan) -> Error {
        let needs_port = plan.item.bus == Bus::Virtio.as_str() || plan.elements.len() > 1;
        let guest = subject.guest().ok();
        let live = guest.as_ref().and_then(|guest| guest.live.as_ref());
        if needs_port && live.is_some_and(|live| !target::has_free_port(live)) {
            return error.hint(format!(
                "the guest has no free PCI port: --bus scsi needs none, or give '{}' more \
                 pcie-root-port controllers while it is off",
                subject.name()
            ));
        }
        match subject.domain().state() {
            Ok((state, _)) if State::from_raw(state.to_raw()) == State::Paused => {
                error.hint("the guest is paused: tdx-td start resumes it")
            }
            _ => error,
        }
    }
}

/// Takes back what was added before the disk itself could be.
fn undo(subject: &Subject<'_>, added: &[&String], flags: u32) {
    for xml in added.iter().rev() {
        if let Err(error) = subject.domain().detach_device_flags(xml, flags) {
            log::step(format_args!("cannot take back {xml}: {error}"));
        }
    }
}

/// Refuses a disk that came under the name of the one that was judged.
///
/// Errors: `conflict` with code `IDENTITY_CHANGED`.
fn expect_unchanged(planned: &Disk, now: &Disk) -> Result<()> {
    let identity = |disk: &Disk| (disk.number, disk.sequence, disk.serial.clone(), disk.size);
    match identity(planned) == identity(now) {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "{} is another disk than the one that was judged",
            planned.node()
        ))
        .code(Code::IdentityChanged)
        .hint("run it again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_came_meanwhile_is_another() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let sys = root.path().join("sys");
        std::fs::create_dir_all(sys.join("devices/sdb")).unwrap();
        std::fs::create_dir_all(sys.join("class/block")).unwrap();
        std::os::unix::fs::symlink("../../devices/sdb", sys.join("class/block/sdb")).unwrap();
        let look = |attributes: [(&str, &str); 3]| {
            for (name, text) in attributes {
                std::fs::write(sys.join("devices/sdb").join(name), text).unwrap();
            }
            let blocks = Blocks::read(&host).unwrap();
            Disk::read(&host, &blocks, blocks.named("sdb").unwrap())
        };
        let planned = look([("dev", "8:16"), ("diskseq", "7"), ("size", "2048")]);
        expect_unchanged(&planned, &planned).unwrap();
        for other in [
            [("dev", "8:16"), ("diskseq", "8"), ("size", "2048")],
            [("dev", "8:32"), ("diskseq", "7"), ("size", "2048")],
            [("dev", "8:16"), ("diskseq", "7"), ("size", "0")],
        ] {
            let error = expect_unchanged(&planned, &look(other)).unwrap_err().to_document().error;
            assert_eq!((error.code, error.exit_code), (Some(Code::IdentityChanged), 5));
        }
    }
}
