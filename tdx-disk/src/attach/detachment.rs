//! Detaches a disk from a guest: asks the guest, repeatedly if it does not answer, until the guest has released the
//! disk.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::libvirt::{Context as _, UnplugAnswer, failure, is_gone};
use common::system::sysroot::Host;
use common::{Code, Error, ErrorKind, Result};
use virt::sys;

use crate::attach::domain_handle::DomainHandle;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::{guest_disk, undefined_disk};
use crate::block::devices::BlockDevices;
use common::system::devt::DevT;

/// The time between two reads of the running definition.
const POLL: Duration = Duration::from_millis(100);

/// The time until a guest is asked again, because a guest that is booting ignores the first request.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A request to detach a disk from a guest.
#[derive(Debug)]
pub struct Detachment<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The name of the disk in the command: a device or a guest target.
    pub word: &'a str,
    /// `word` as a path.
    pub path: String,
}

impl Detachment<'_> {
    /// The guest disks that the request means, and the name of the device on the host. The running and the persistent
    /// definition may have the disk under two targets.
    pub fn find(&self, handle: &DomainHandle<'_>) -> Result<(Vec<GuestDisk>, String)> {
        let guest = handle.guest()?;
        let blocks = BlockDevices::read(self.host)?;
        let disks =
            guest_disk::disks_of(self.host, &blocks, &guest, Some(handle.libvirt().connect()));
        let block = blocks.at_path(self.host, &self.path);
        let number = block.map(|block| block.number);
        let disks = guest_disk::matching_disks(disks, self.word, &self.path, number);
        let there = disks.iter().find_map(|disk| blocks.named(disk.block.as_deref()?)).or(block);
        let device = match (there, disks.first()) {
            (Some(block), _) => block.node(),
            (None, Some(disk)) => disk.source.clone(),
            (None, None) => self.path.clone(),
        };
        Ok((disks, device))
    }

    /// Removes the disk from the persistent definition. Returns a description of the change.
    fn undefine(&self, handle: &DomainHandle<'_>, disk: &GuestDisk) -> Result<Option<String>> {
        let Some(xml) = &disk.config else { return Ok(None) };
        let (name, target) = (handle.name(), &disk.target);
        let doing = format!("remove {target} from the persistent definition of domain '{name}'");
        log::step(&doing);
        let done = handle.domain().detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG);
        match done {
            // Another command has removed the disk.
            Err(error) if error.code().to_raw() == sys::VIR_ERR_DEVICE_MISSING => return Ok(None),
            done => done.context(doing)?,
        };
        Ok(Some(format!("removed {target} from the persistent definition of domain '{name}'")))
    }

    /// Fails if the name is a guest target of the domain that is not a block device of the host.
    pub fn expect_none(&self, handle: &DomainHandle<'_>) -> Result<()> {
        if !guest_disk::targets(&handle.guest()?).contains(self.word) {
            return Ok(());
        }
        let (word, name) = (self.word, handle.name());
        Err(Error::conflict(format!(
            "disk {word} of domain '{name}' is not a block device of the host"
        )))
    }

    /// Whether the running guest still has the disk; false for a guest that does not run.
    fn is_attached(&self, handle: &DomainHandle<'_>, target: &str) -> Result<bool> {
        let xml = match handle.domain().is_active() {
            Ok(false) => return Ok(false),
            Err(error) if is_gone(&error) => return Ok(false),
            _ => handle.guest(),
        };
        match xml {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            guest => {
                let live = guest?.live;
                let disks = live.iter().flat_map(|live| live.root().find_all("devices/disk"));
                let mut targets = disks.filter_map(|disk| disk.attr_at("target", "dev"));
                Ok(targets.any(|other| other == target))
            }
        }
    }

    /// Asks the guest to release the disk, repeatedly if it does not answer, and waits until the disk is detached.
    fn detach_live(
        &self,
        handle: &mut DomainHandle<'_>,
        disk: &GuestDisk,
        timeout: Duration,
    ) -> Result<()> {
        let Some(xml) = &disk.live else { return Ok(()) };
        let (name, target) = (handle.name().to_owned(), &disk.target);
        let doing = format!("detach {target} from domain '{name}'");
        let asked_for = || {
            [format!(
                "disk {target}: the guest of domain '{name}' was asked to release the disk and may still \
                 release it"
            )]
        };
        let end = Instant::now() + timeout;
        let mut last = None;
        loop {
            interrupt::check()?;
            log::step(&doing);
            let asked = handle.domain().detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE);
            if let Err(error) = asked {
                let answer = UnplugAnswer::from_error(&error);
                let error = failure(error, &doing);
                let lost = handle.reconnect().map_err(|error| error.left_behind(asked_for()))?;
                if !self.is_attached(handle, target)? {
                    return Ok(());
                }
                match answer {
                    UnplugAnswer::NotNow => last = Some(error),
                    UnplugAnswer::Refused => return Err(refused(&name, disk).because(error)),
                    UnplugAnswer::Failed if lost => {}
                    UnplugAnswer::Failed => return Err(error),
                }
            }
            let ask_again = Instant::now() + ASK_AGAIN;
            while Instant::now() < ask_again {
                if !self.is_attached(handle, target)? {
                    return Ok(());
                }
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let error = still_attached(&name, disk, timeout);
                    return Err(match last {
                        Some(last) => error.because(last),
                        None => error,
                    });
                }
                interrupt::sleep(left.min(POLL)).map_err(|error| error.left_behind(asked_for()))?;
            }
        }
    }

    /// Removes disks from the persistent definition and from the running guest, and checks that QEMU has closed them.
    /// Returns warnings.
    pub fn carry_out(
        &self,
        handle: &mut DomainHandle<'_>,
        disks: &[GuestDisk],
        timeout: Duration,
    ) -> Result<Vec<String>> {
        let mut applied = Vec::new();
        for disk in disks {
            applied.extend(self.undefine(handle, disk)?);
        }
        for disk in disks {
            let done = self.detach_live(handle, disk, timeout);
            done.map_err(|error| error.applied(applied.clone()))?;
        }
        let numbers: BTreeSet<DevT> = disks.iter().filter_map(|disk| disk.number).collect();
        let closed = undefined_disk::expect_closed(self.host, handle, Some(&numbers));
        closed.map_err(|error| error.applied(applied))
    }

    /// The numbers of the requested device and of all devices that it backs; none when the host does not have the
    /// device.
    pub fn requested_numbers(&self, device: &str) -> Result<Option<BTreeSet<DevT>>> {
        let blocks = BlockDevices::read(self.host)?;
        let Some(block) = blocks.at_path(self.host, device) else { return Ok(None) };
        Ok(Some(blocks.stack(&block.name).into_iter().map(|block| block.number).collect()))
    }
}

fn refused(name: &str, disk: &GuestDisk) -> Error {
    Error::conflict(format!("the guest of domain '{name}' refused to release disk {}", disk.target))
        .code(Code::GuestRefused)
        .hint("unmount the disk in the guest, then run this command again; or shut the guest off")
}

fn still_attached(name: &str, disk: &GuestDisk, waited: Duration) -> Error {
    let target = &disk.target;
    let message = format!(
        "disk {target} is still attached to domain '{name}': the guest has not answered in {} s",
        waited.as_secs()
    );
    Error::conflict(message).code(Code::StillAttached).hint(format!(
        "the guest may still release the disk; to wait again, run: tdx-disk detach {name} {target}"
    ))
}
