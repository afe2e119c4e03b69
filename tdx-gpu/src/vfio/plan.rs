//! What it takes to give devices to VFIO. Pure: the machine was read before.

use std::collections::{BTreeMap, BTreeSet};

use common::code::Level;
use common::device_state::bound_devices::{BoundRecord, Record};
use common::device_state::device_lock;
use common::system::pci::Bdf;
use common::{Code, Error, Result};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;
use tdx_iommu::judge::{Finding, Request};

/// A step that binds one device to a VFIO driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindStep {
    /// What is recorded of the device before it is changed.
    pub record: Record,
    /// Whether a VFIO driver has the device already.
    pub already_bound: bool,
}

impl BindStep {
    /// What it takes to give one device, as it is now, to the VFIO driver `bound_to`.
    ///
    /// Errors: `conflict` with code `RESERVED` for a device that another command, or another domain, has.
    fn new(
        device: &Device,
        stored: Option<&BoundRecord>,
        options: BindOptions<'_>,
        bound_to: String,
    ) -> Result<Self> {
        let owner = stored.and_then(|stored| stored.record.domain.as_deref());
        if let Some(stored) = stored.filter(|stored| stored.live || stored.is_stale()) {
            // What a command that died had begun for the same domain is finished.
            return if stored.is_stale() && owner.is_some() && owner == options.domain {
                Ok(Self { record: stored.record.clone(), already_bound: false })
            } else {
                Err(device_lock::reserved_error(stored))
            };
        }
        if let (Some(domain), Some(owner)) = (options.domain, owner)
            && domain != owner
        {
            let message = format!("{} was taken for the domain {owner}", device.bdf);
            return Err(Error::conflict(message)
                .code(Code::Reserved)
                .hint("tdx-td delete gives it back with that domain, tdx-gpu unbind by itself"));
        }
        let record = Record {
            bdf: device.bdf,
            identity: device.identity(),
            driver: device.driver.clone(),
            driver_override: device.driver_override.clone(),
            bound_to,
            domain: options.domain.map(str::to_owned),
            committed: false,
        };
        Ok(Self { record, already_bound: device.on_vfio() })
    }

    /// Whether this step goes on with what a command that died had recorded.
    fn continues(&self, stored: Option<&BoundRecord>) -> bool {
        stored.is_some_and(|stored| stored.is_stale() && stored.record == self.record)
    }
}

/// How devices are bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindOptions<'a> {
    /// Whether the other devices of the IOMMU groups are bound as well.
    pub whole_group: bool,
    /// The codes that devices are bound in spite of.
    pub force: &'a [Code],
    /// The UUID of the domain that the devices are for.
    pub domain: Option<&'a str>,
}

/// The steps that bind devices to VFIO drivers, all or none.
#[derive(Debug, Default)]
pub struct BindPlan {
    /// Sorted by address.
    pub steps: Vec<BindStep>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The devices that were named, and with `whole_group` the others of their IOMMU groups.
///
/// Errors: `not_found` for a device that is not there.
pub fn with_group_members(
    inventory: &Inventory,
    named: &BTreeSet<Bdf>,
    whole_group: bool,
) -> Result<BTreeSet<Bdf>> {
    let mut all = named.clone();
    for &bdf in named {
        let group = inventory.group(inventory.device(bdf)?).filter(|_| whole_group);
        let members = group.into_iter().flat_map(|group| group.members.iter().copied());
        all.extend(members.filter(|bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge)));
    }
    Ok(all)
}

impl BindPlan {
    /// Plans to give what is asked for to VFIO, where `findings` and the options allow.
    ///
    /// `driver` names the VFIO driver of a device, `records` are those that are there.
    /// Errors: `conflict` with the code of what stands in the way; all else that does is a cause.
    pub fn new(
        inventory: &Inventory,
        request: &Request<'_>,
        findings: &[Finding],
        options: BindOptions<'_>,
        records: &BTreeMap<Bdf, BoundRecord>,
        driver: impl Fn(Bdf) -> String,
    ) -> Result<Self> {
        let mut warnings = refuse(findings, options.force)?;
        let mut steps = Vec::new();
        for device in request.devices().iter().filter_map(|bdf| inventory.devices.get(bdf)) {
            let stored = records.get(&device.bdf);
            let step = BindStep::new(device, stored, options, driver(device.bdf))?;
            if let (Some(other), false) =
                (&step.record.driver_override, step.already_bound || step.continues(stored))
            {
                let bdf = device.bdf;
                warnings.push(format!(
                    "{bdf} was reserved for {other} by its driver_override, which unbind restores"
                ));
            }
            steps.push(step);
        }
        Ok(Self { steps, warnings })
    }
}

/// Fails for what stands in the way and is not forced; what is forced becomes a warning.
pub fn refuse(findings: &[Finding], forced: &[Code]) -> Result<Vec<String>> {
    let (mut stops, mut warnings) = (Vec::new(), Vec::new());
    for finding in findings {
        match finding.code.level() {
            Level::Note => {}
            Level::Forceable if forced.contains(&finding.code) => {
                warnings.push(format!(
                    "{}: {} ({})",
                    finding.bdf,
                    finding.message,
                    finding.code.as_str()
                ));
            }
            _ => stops.push(finding),
        }
    }
    // What cannot be forced is the better reason.
    stops.sort_by_key(|finding| finding.code.level());
    let Some(first) = stops.first() else {
        return Ok(warnings);
    };
    let all = stops.iter().map(|f| format!("{}: {} ({})", f.bdf, f.message, f.code.as_str()));
    let message = format!("{} cannot be given to a guest: {}", first.bdf, first.message);
    let hint = match first.code {
        Code::HostDriver => "name the other device too, or add --whole-group".to_owned(),
        Code::OpenFds => "end that process first, or add --force OPEN_FDS --yes".to_owned(),
        code if code.level() == Level::Forceable => {
            format!("--force {} --yes does it all the same", code.as_str())
        }
        _ => "tdx-gpu check shows all there is to say".to_owned(),
    };
    let error = Error::conflict(message).code(first.code).hint(hint);
    let rest: Vec<String> = all.skip(1).collect();
    Err(if rest.is_empty() { error } else { error.because(rest.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: Code) -> Finding {
        let bdf = "0000:17:00.0".parse().unwrap();
        Finding { bdf, code, message: "seen".to_owned() }
    }

    #[test]
    fn only_what_may_be_forced_is() {
        let note = finding(Code::NoReset);
        let forceable = finding(Code::ConsoleGpu);
        let refused = finding(Code::HostDiskRoot);
        assert_eq!(refuse(std::slice::from_ref(&note), &[]).unwrap(), Vec::<String>::new());
        assert!(refuse(std::slice::from_ref(&forceable), &[]).is_err());
        let forced = refuse(&[note, forceable.clone()], &[Code::ConsoleGpu]).unwrap();
        assert_eq!(forced, ["0000:17:00.0: seen (CONSOLE_GPU)"]);
        let error = refuse(&[forceable, refused], &[Code::HostDiskRoot]).unwrap_err();
        let body = error.to_document().error;
        assert_eq!((body.code, body.exit_code), (Some(Code::HostDiskRoot), 5));
        assert_eq!(body.causes, ["0000:17:00.0: seen (CONSOLE_GPU)"]);
    }
}
