//! Attaching devices to a running guest, and detaching them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::libvirt::{Context, UnplugAnswer, failure};
use common::system::pci::Bdf;
use common::xml::Document;
use common::{Code, Error, Result};
use tdx_gpu::vfio::hostdev;
use virt::sys;

use crate::passthrough::change::pci_hostdevs;
use crate::passthrough::plan::domain_plan::{DomainPlan, devices_of};

/// Interval between two checks whether a guest has released a device.
const POLL: Duration = Duration::from_millis(100);

impl DomainPlan {
    /// Detaches devices from the running guest and attaches others. If one fails, all changes are undone.
    pub(super) fn replug(
        &self,
        unplug: &BTreeSet<Bdf>,
        plug: &BTreeSet<Bdf>,
        timeout: Duration,
    ) -> Result<()> {
        let mut undo = Vec::new();
        let steps =
            unplug.iter().map(|bdf| (*bdf, false)).chain(plug.iter().map(|bdf| (*bdf, true)));
        for (bdf, gets) in steps {
            let done =
                interrupt::check().and_then(|()| self.plug_or_unplug(bdf, gets, timeout, true));
            if let Err(error) = done {
                let failed = |(bdf, gets): &(Bdf, bool)| {
                    self.plug_or_unplug(*bdf, !gets, timeout, false).is_err()
                };
                let left = undo.into_iter().rev().filter(failed);
                return Err(error
                    .left_behind(left.map(|(bdf, _)| format!("{bdf} in domain '{}'", self.name))));
            }
            undo.push((bdf, gets));
        }
        Ok(())
    }

    /// Attaches one device to the guest, or detaches it. A signal ends the wait only if `may_stop` is true.
    pub(super) fn plug_or_unplug(
        &self,
        bdf: Bdf,
        gets: bool,
        timeout: Duration,
        may_stop: bool,
    ) -> Result<()> {
        let live = sys::VIR_DOMAIN_AFFECT_LIVE;
        let name = &self.name;
        if gets {
            let doing = format_args!("attach {bdf} to domain '{name}'");
            log::step(doing);
            let xml = hostdev::element(bdf, self.change.way).to_xml()?;
            return self.domain.attach_device_flags(&xml, live).context(doing);
        }
        let doing = format_args!("detach {bdf} from domain '{name}'");
        log::step(doing);
        let text = self.domain.xml_desc(0).context(doing)?;
        let document = Document::parse(text)?;
        let found = pci_hostdevs(document.root())?.into_iter().find(|(there, _)| *there == bdf);
        let Some((_, node)) = found else { return Ok(()) };
        let mut answer = None;
        if let Err(error) = self.domain.detach_device_flags(node.source(), live) {
            match UnplugAnswer::from_error(&error) {
                // An earlier detach request is pending: the guest may still release the device.
                UnplugAnswer::NotNow => answer = Some(failure(error, doing)),
                UnplugAnswer::Refused => {
                    return Err(
                        still_has(name, bdf, Code::GuestRefused).because(failure(error, doing))
                    );
                }
                UnplugAnswer::Failed => return Err(failure(error, doing)),
            }
        }
        // libvirt reports success after five seconds, even if the guest has not released the device.
        let end = Instant::now() + timeout;
        while devices_of(&self.domain, name, 0)?.contains(&bdf) {
            if Instant::now() >= end {
                let error = still_has(name, bdf, Code::StillAttached);
                return Err(match answer {
                    Some(answer) => error.because(answer),
                    None => error,
                });
            }
            if may_stop { interrupt::sleep(POLL)? } else { std::thread::sleep(POLL) }
        }
        Ok(())
    }
}

/// Returns the error for a device that a guest did not release.
fn still_has(name: &str, bdf: Bdf, code: Code) -> Error {
    Error::conflict(format!("domain '{name}' still has {bdf}"))
        .code(code)
        .hint("the guest has not released the device: stop the programs in the guest that use it")
}
