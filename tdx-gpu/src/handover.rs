//! Devices handed over to one domain: taken with their modes set, and given back together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::bound::{self, Lease, Record};
use common::host::Host;
use common::lease;
use common::pci::Bdf;
use common::{Error, Result, interrupt};
use tdx_iommu::inventory::Inventory;

use crate::binding::{self, Bound, Going};
use crate::gpu_tools::GpuTools;
use crate::held;
use crate::plan::{Plan, identity};
use crate::setting::{self, Former, Modified, Step};

/// How long a guest that has just ended may take to let go of its devices.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// How devices are handed over.
#[derive(Debug)]
pub struct Handover {
    /// Their way to VFIO.
    pub binding: Plan,
    /// How many mappings the kernel is to allow; none where there is no bound.
    pub limit: Option<u64>,
    /// The modes they are to have, and what sets them.
    pub modes: Option<(GpuTools, Vec<Step>)>,
    /// The domain's UUID.
    pub domain: String,
}

/// Devices that a domain has, until [`Taken::commit`] only as long as its creation lasts.
#[derive(Debug)]
#[must_use = "the records say that it is unfinished until it is committed"]
pub struct Taken<'h> {
    bound: Bound<'h>,
    modes: Option<Modified<'h>>,
}

impl Handover {
    /// Takes the devices and sets their modes.
    ///
    /// Errors: those of [`Plan::apply`] and [`setting::apply`]; then all is as before, or named as left.
    pub fn apply<'h>(&'h mut self, host: &'h Host) -> Result<Taken<'h>> {
        let bound = std::mem::take(&mut self.binding).apply(host, self.limit)?;
        let modes = match &mut self.modes {
            None => Ok(None),
            Some((tools, steps)) => {
                setting::apply(host, tools, std::mem::take(steps), Some(&self.domain)).map(Some)
            }
        };
        match modes {
            Ok(modes) => Ok(Taken { bound, modes }),
            Err(error) => Err(bound.undo_after(error)),
        }
    }
}

impl Taken<'_> {
    /// The domain is there and keeps them.
    pub fn commit(self) -> Result<()> {
        self.modes.map_or(Ok(()), Modified::commit)?;
        self.bound.commit()
    }

    /// Gives everything back after a failure, which then says what is left.
    pub fn undo_after(self, error: Error) -> Error {
        let error = match self.modes {
            Some(modes) => modes.undo_after(error),
            None => error,
        };
        self.bound.undo_after(error)
    }
}

/// What is recorded for one domain.
#[derive(Debug, Default)]
pub struct Handed {
    bound: Vec<Record>,
    modes: Vec<Former>,
}

impl Handed {
    /// Looks for the records of a domain, by its UUID.
    ///
    /// Errors: `permission` where only root can see them; `io`.
    pub fn to(host: &Host, domain: &str) -> Result<Self> {
        // What cannot be read is nobody's: tdx-gpu unbind --all names it.
        let bound = bound::all(host)?.into_iter().flatten().map(|found| found.record);
        let modes = lease::all::<Former>(host)?.into_iter().flatten().map(|found| found.record);
        Ok(Self {
            bound: bound.filter(|record| record.domain.as_deref() == Some(domain)).collect(),
            modes: modes.filter(|former| former.domain.as_deref() == Some(domain)).collect(),
        })
    }

    /// The devices.
    pub fn devices(&self) -> BTreeSet<Bdf> {
        let bound = self.bound.iter().map(|record| record.bdf);
        bound.chain(self.modes.iter().map(|former| former.bdf)).collect()
    }

    /// Says that what a command that died had begun is finished: the domain runs with it.
    pub fn commit(self, host: &Host) -> Result<()> {
        for record in self.bound.into_iter().filter(|record| !record.committed) {
            Lease::resume(host, record)?.commit()?;
        }
        for former in self.modes.into_iter().filter(|former| !lease::Record::is_committed(former)) {
            lease::Lease::resume(host, former)?.commit()?;
        }
        Ok(())
    }

    /// Puts modes and drivers back as they were. Returns the devices that went back.
    ///
    /// Errors: `conflict` with code `IN_USE_BY_VM` while a process has one open; whatever the kernel and
    /// NVIDIA's program say, with what is left.
    pub fn give_back(self, host: &Host) -> Result<Vec<Bdf>> {
        let devices = self.devices();
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let inventory = Inventory::read(host)?;
        let there = devices.iter().copied().filter(|bdf| inventory.devices.contains_key(bdf));
        let end = Instant::now() + PATIENCE;
        while let Err(error) = held::refuse(host, &inventory, there.clone()) {
            if Instant::now() >= end {
                return Err(error);
            }
            interrupt::sleep(POLL)?;
        }
        let unset = setting::put_back(host, &inventory, self.modes);
        let stays: BTreeSet<Bdf> = unset.iter().map(|(bdf, _)| *bdf).collect();
        let mut failures: Vec<(String, Error)> =
            unset.into_iter().map(|(bdf, error)| (format!("the mode of {bdf}"), error)).collect();
        let mut going = Vec::new();
        for record in self.bound.into_iter().filter(|record| !stays.contains(&record.bdf)) {
            let there = inventory.devices.get(&record.bdf).map(identity);
            let is_other = there.is_some_and(|there| there != record.identity);
            let lease = Lease::resume(host, record)?;
            match is_other {
                true => lease.forget()?,
                false => going.push(Going { lease, to_any: false }),
            }
        }
        let (_, left) = binding::give_back(host, going);
        failures.extend(left);
        let done: Vec<Bdf> = devices.into_iter().filter(|bdf| !stays.contains(bdf)).collect();
        binding::settle_failures(
            failures,
            done.iter().map(|bdf| format!("gave back {bdf}")).collect(),
        )?;
        Ok(done)
    }
}
