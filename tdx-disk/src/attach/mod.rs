//! Attaches a disk to a guest: checks the disk, plans the change, checks the disk again, passes the disk to libvirt,
//! and checks that the guest has it.

pub mod advice;
pub mod detachment;
pub mod disk_lock;
pub mod domain_handle;
pub mod element;
pub mod guest_disk;
pub mod item;
mod plan;
pub mod request;
pub mod target;
pub mod undefined_disk;

use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::{Context as _, State};
use common::system::sysroot::Host;
use common::{Code, Error, Result};

use crate::attach::disk_lock::DiskLock;
use crate::attach::domain_handle::DomainHandle;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::item::AttachItem;
use crate::attach::plan::{AttachPlan, Observed};
use crate::attach::request::AttachRequest;
use crate::attach::target::Bus;
use crate::availability::finding;
use crate::availability::judge::Question;
use crate::availability::machine::Machine;
use crate::availability::processes::Processes;
use crate::block::devices::BlockDevices;
use crate::block::disk::Disk;
use crate::block::named_device;
use crate::block::named_device::NamedDevice;

/// A request to attach one disk to a guest.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The options of the user.
    pub request: &'a AttachRequest,
    /// The disk that the user named.
    pub named: &'a NamedDevice,
}

impl Attachment<'_> {
    /// Attaches the disk, unless the domain already has it or this is a dry run. Returns the item and warnings.
    ///
    /// Errors: `conflict` with the code of the blocker; those of libvirt.
    pub fn run(&self, handle: &mut DomainHandle<'_>) -> Result<(AttachItem, Vec<String>)> {
        interrupt::check()?;
        let _lock = if self.request.dry_run { None } else { Some(self.lock()?) };
        let guest = handle.guest()?;
        let blocks = BlockDevices::read(self.host)?;
        let block = named_device::find(self.host, &blocks, &self.named.name)?;
        let disk = Disk::read(self.host, &blocks, block);
        self.named.expect_same(self.host, &disk)?;
        let mut affected = self.request.affected(&guest)?;
        let connect = handle.libvirt().connect();
        let existing = guest_disk::disks_of(self.host, &blocks, &guest, Some(connect));
        let existing = existing.into_iter().find(|existing| existing.number == Some(disk.number));
        if let Some(existing) = &existing {
            self.expect_same(existing)?;
            affected.live &= existing.live.is_none();
            affected.config &= existing.config.is_none();
            if !affected.live && !affected.config {
                return Ok((self.existing_item(existing, &disk), Vec::new()));
            }
        }
        let runs = existing.as_ref().is_some_and(|existing| existing.live.is_some());
        // A disk that the guest already has needs no check.
        let mut warnings = if runs { Vec::new() } else { self.judge(handle, &disk)? };
        let observed = Observed {
            host: self.host,
            guest: &guest,
            blocks: &blocks,
            disk: &disk,
            existing: existing.as_ref(),
        };
        let mut plan = AttachPlan::new(self.request, &observed, affected)?;
        warnings.append(&mut plan.warnings);
        if !self.request.dry_run {
            if !runs {
                self.judge(handle, &disk)?;
            }
            self.apply(handle, &plan, &disk)?;
        }
        if !runs {
            warnings.extend(advice::warnings(&disk, &plan.item.source));
        }
        Ok((plan.item, warnings))
    }

    /// Locks the disk; for a partition, its whole disk.
    fn lock(&self) -> Result<DiskLock> {
        let blocks = BlockDevices::read(self.host)?;
        let block = named_device::find(self.host, &blocks, &self.named.name)?;
        let whole = block.parent.as_deref().and_then(|parent| blocks.named(parent));
        DiskLock::take(self.host, &whole.unwrap_or(block).node())
    }

    /// Refuses a disk that the domain already has with other settings than the requested ones.
    fn expect_same(&self, existing: &GuestDisk) -> Result<()> {
        let differs = |what: &str, is: &str, wanted: &str| {
            let (name, target) = (&self.named.name, &existing.target);
            let domain = &self.request.domain;
            Err(Error::conflict(format!(
                "{name} is already attached to domain '{domain}' as {target}: {what} is {is}, but {wanted} \
                 was requested"
            ))
            .hint(format!("detach the disk first: tdx-disk detach {domain} {target}")))
        };
        if let Some(target) = &self.request.target
            && *target != existing.target
        {
            return differs("the target", &existing.target, target);
        }
        if let Some(serial) = &self.request.serial
            && self.request.serial != existing.serial
        {
            let is = existing.serial.as_deref().unwrap_or("none");
            return differs("the serial number", is, serial);
        }
        let yes_or_no = |readonly| if readonly { "yes" } else { "no" };
        if self.request.readonly == existing.readonly {
            Ok(())
        } else {
            differs("readonly", yes_or_no(existing.readonly), yes_or_no(self.request.readonly))
        }
    }

    fn existing_item(&self, existing: &GuestDisk, disk: &Disk) -> AttachItem {
        AttachItem {
            domain: self.request.domain.clone(),
            device: disk.node(),
            number: disk.number.to_string(),
            wwn: disk.wwn.clone(),
            source: existing.source.clone(),
            target: existing.target.clone(),
            bus: existing.bus.clone(),
            guest_device: existing.guest_path(),
            serial: existing.serial.clone(),
            size_bytes: disk.size,
            readonly: existing.readonly,
            live: existing.live.is_some(),
            config: existing.config.is_some(),
            action: Action::None,
        }
    }

    /// Checks the disk again. Returns the forced findings as warnings.
    fn judge(&self, handle: &DomainHandle<'_>, planned: &Disk) -> Result<Vec<String>> {
        let machine = Machine::read(self.host, Some(handle.libvirt()))?;
        let question =
            Question { domain: Some(&self.request.domain), readonly: self.request.readonly };
        let (disk, judgement) = machine.judge(self.host, &self.named.name, question)?;
        expect_unchanged(planned, &disk)?;
        let mut warnings = finding::refuse(&disk.node(), &judgement.findings, &self.request.force)?;
        warnings.extend(judgement.unseen);
        Ok(warnings)
    }

    /// Passes the disk to libvirt, and checks that the guest has it.
    fn apply(&self, handle: &mut DomainHandle<'_>, plan: &AttachPlan, disk: &Disk) -> Result<()> {
        let (name, item) = (&self.request.domain, &plan.item);
        let doing = format!("attach {} to domain '{name}'", item.device);
        let target_text = format!("{} as {} in domain '{name}'", item.device, item.target);
        let mut added: Vec<&String> = Vec::new();
        for xml in &plan.elements {
            interrupt::check().inspect_err(|_| undo(handle, &added, plan.flags))?;
            log::step(format_args!("{doing}: {xml}"));
            let done = handle.domain().attach_device_flags(xml, plan.flags);
            if let Err(error) = done {
                let error = Err::<(), _>(error).context(&doing);
                // The daemon may have attached the disk before it ended.
                let Ok(lost) = handle.reconnect() else {
                    return error.map_err(|error| error.left_behind([target_text]));
                };
                if lost && self.is_there(handle, disk, plan)? {
                    return Ok(());
                }
                undo(handle, &added, plan.flags);
                let left = if lost { self.open_in_guests(disk)? } else { Vec::new() };
                return error
                    .map_err(|error| self.with_hint(error, handle, plan).left_behind(left));
            }
            added.push(xml);
        }
        if self.is_there(handle, disk, plan).map_err(|error| error.left_behind([target_text]))? {
            Ok(())
        } else {
            Err(Error::failed(format!(
                "cannot {doing}: libvirt reported success, but the disk is not in the definition of the domain"
            )))
        }
    }

    /// Whether the guest has the disk. Connects again if the daemon was restarted.
    fn is_there(
        &self,
        handle: &mut DomainHandle<'_>,
        disk: &Disk,
        plan: &AttachPlan,
    ) -> Result<bool> {
        let guest = match handle.guest() {
            Err(_) if handle.reconnect()? => handle.guest()?,
            guest => guest?,
        };
        let blocks = BlockDevices::read(self.host)?;
        let disks =
            guest_disk::disks_of(self.host, &blocks, &guest, Some(handle.libvirt().connect()));
        let existing = disks.iter().find(|existing| existing.number == Some(disk.number));
        Ok(existing.is_some_and(|existing| {
            (existing.live.is_some() || !plan.item.live)
                && (existing.config.is_some() || !plan.item.config)
        }))
    }

    /// Descriptions of the processes of guests that have the disk open although libvirt does not know of the disk.
    fn open_in_guests(&self, disk: &Disk) -> Result<Vec<String>> {
        let processes = Processes::with_open(self.host, &[disk.number].into())?;
        let guests = processes.all().filter(|process| process.is_guest());
        let told = guests.map(|process| {
            format!("process {} ({}) has {} open", process.pid, process.command, disk.node())
        });
        Ok(told.collect())
    }

    /// Adds a hint to the error of a failed attach, if the state of the guest shows the reason.
    fn with_hint(&self, error: Error, handle: &DomainHandle<'_>, plan: &AttachPlan) -> Error {
        let needs_port = plan.item.bus == Bus::Virtio.as_str() || plan.elements.len() > 1;
        let guest = handle.guest().ok();
        let live = guest.as_ref().and_then(|guest| guest.live.as_ref());
        if needs_port && live.is_some_and(|live| !target::has_free_port(live)) {
            return error.hint(format!(
                "the guest has no free PCI port: use --bus scsi, which needs none, or add \
                 pcie-root-port controllers to domain '{}' while it is shut off",
                handle.name()
            ));
        }
        match handle.domain().state() {
            Ok((state, _)) if State::from_raw(state.to_raw()) == State::Paused => error.hint(
                format!("the guest is paused; to resume it, run: tdx-td start {}", handle.name()),
            ),
            _ => error,
        }
    }
}

/// Removes the elements that were added before the failure.
fn undo(handle: &DomainHandle<'_>, added: &[&String], flags: u32) {
    for xml in added.iter().rev() {
        if let Err(error) = handle.domain().detach_device_flags(xml, flags) {
            log::step(format_args!("cannot remove {xml}: {error}"));
        }
    }
}

/// Fails if another disk has taken the name of the checked disk.
///
/// Errors: `conflict` with code `IDENTITY_CHANGED`.
fn expect_unchanged(planned: &Disk, now: &Disk) -> Result<()> {
    let identity = |disk: &Disk| (disk.number, disk.sequence, disk.serial.clone(), disk.size);
    if identity(planned) == identity(now) {
        Ok(())
    } else {
        Err(Error::conflict(format!(
            "{} is not the same disk as at the start of this command",
            planned.node()
        ))
        .code(Code::IdentityChanged)
        .hint("run this command again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expect_unchanged_refuses_another_disk() {
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
            let blocks = BlockDevices::read(&host).unwrap();
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
