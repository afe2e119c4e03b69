//! Taking a disk from a guest: the guest is asked, again where it does not answer, until it has let go.

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

/// How often the definition of the running guest is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How long until a guest is asked again: one that boots does not hear the first time.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A disk on its way from a guest back to the host.
#[derive(Debug)]
pub struct Detachment<'a> {
    /// The machine.
    pub host: &'a Host,
    /// What the user calls the disk: a device or a guest target.
    pub word: &'a str,
    /// `word` as a path.
    pub path: String,
}

impl Detachment<'_> {
    /// The disk, where the domain has it, and what it is called on the host. What runs and what stays
    /// may have it under two targets.
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

    /// Takes the disk out of the definition that stays. Returns what was done.
    fn undefine(&self, handle: &DomainHandle<'_>, disk: &GuestDisk) -> Result<Option<String>> {
        let Some(xml) = &disk.config else { return Ok(None) };
        let (name, target) = (handle.name(), &disk.target);
        let doing = format!("take {target} from the definition of '{name}'");
        log::step(&doing);
        let done = handle.domain().detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG);
        match done {
            // Another command took it out since it was found.
            Err(error) if error.code().to_raw() == sys::VIR_ERR_DEVICE_MISSING => return Ok(None),
            done => done.context(doing)?,
        };
        Ok(Some(format!("took {target} from the definition of '{name}'")))
    }

    /// Fails when the word is a target of the domain behind which there is no device of the host.
    pub fn expect_none(&self, handle: &DomainHandle<'_>) -> Result<()> {
        if !guest_disk::targets(&handle.guest()?).contains(self.word) {
            return Ok(());
        }
        let (word, name) = (self.word, handle.name());
        Err(Error::conflict(format!("{word} of domain '{name}' is no block device of the host")))
    }

    /// Whether the running guest still has the disk. A guest that does not run has none.
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

    /// Asks the guest, again where it does not answer, and waits until the disk is gone from it.
    fn detach_live(
        &self,
        handle: &mut DomainHandle<'_>,
        disk: &GuestDisk,
        timeout: Duration,
    ) -> Result<()> {
        let Some(xml) = &disk.live else { return Ok(()) };
        let (name, target) = (handle.name().to_owned(), &disk.target);
        let doing = format!("detach {target} from domain '{name}'");
        let asked_for = || [format!("{target} in '{name}', asked to let go of it")];
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

    /// Takes disks out of the definition that stays and from the running guest, and checks that QEMU has closed
    /// them. Returns warnings.
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

    /// The numbers of the device that was asked for and of all that is made of it; none when the host has no
    /// such device.
    pub fn requested_numbers(&self, device: &str) -> Result<Option<BTreeSet<DevT>>> {
        let blocks = BlockDevices::read(self.host)?;
        let Some(block) = blocks.at_path(self.host, device) else { return Ok(None) };
        Ok(Some(blocks.stack(&block.name).into_iter().map(|block| block.number).collect()))
    }
}

fn refused(name: &str, disk: &GuestDisk) -> Error {
    Error::conflict(format!("the guest '{name}' does not let go of {}", disk.target))
        .code(Code::GuestRefused)
        .hint("the disk is still attached: unmount it in the guest first, or shut the guest off")
}

fn still_attached(name: &str, disk: &GuestDisk, waited: Duration) -> Error {
    let target = &disk.target;
    let message =
        format!("{target} is still attached to '{name}': no answer in {} s", waited.as_secs());
    Error::conflict(message).code(Code::StillAttached).hint(format!(
        "the guest was asked and may yet let go: tdx-disk detach {name} {target} waits again"
    ))
}
