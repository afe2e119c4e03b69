//! The plan to bind devices to VFIO. The plan is computed from the inventory and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use common::code::Level;
use common::device_state::bound_devices::{BoundRecord, Record};
use common::device_state::device_lock;
use common::system::pci::Bdf;
use common::{Code, Error, Result};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;
use tdx_iommu::judge::{Finding, Request};

/// A step of a plan: binds one device to a VFIO driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindStep {
    /// The record that is written before the device is changed.
    pub record: Record,
    /// Whether the device is already bound to a VFIO driver.
    pub already_bound: bool,
}

impl BindStep {
    /// The step that binds a device to the VFIO driver `bound_to`.
    ///
    /// Errors: `conflict` with code `RESERVED` for a device that another command works on, or that is bound for another
    /// domain.
    fn new(
        device: &Device,
        stored: Option<&BoundRecord>,
        options: BindOptions<'_>,
        bound_to: String,
    ) -> Result<Self> {
        let owner = stored.and_then(|stored| stored.record.domain.as_deref());
        if let Some(stored) = stored.filter(|stored| stored.live || stored.is_stale()) {
            // The work of a killed command for the same domain is continued.
            return if stored.is_stale() && owner.is_some() && owner == options.domain {
                Ok(Self { record: stored.record.clone(), already_bound: false })
            } else {
                Err(device_lock::reserved_error(stored))
            };
        }
        if let (Some(domain), Some(owner)) = (options.domain, owner)
            && domain != owner
        {
            let message =
                format!("{} was bound to VFIO for use by the domain with UUID {owner}", device.bdf);
            return Err(Error::conflict(message).code(Code::Reserved).hint(
                "delete that domain with tdx-td delete, or release the device with tdx-gpu unbind",
            ));
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

    /// Whether this step continues the recorded work of a killed command.
    fn continues(&self, stored: Option<&BoundRecord>) -> bool {
        stored.is_some_and(|stored| stored.is_stale() && stored.record == self.record)
    }
}

/// The options of binding.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindOptions<'a> {
    /// Whether to bind the other devices of the IOMMU groups as well.
    pub whole_group: bool,
    /// The codes of the blockers to ignore.
    pub force: &'a [Code],
    /// The UUID of the domain that the devices are for.
    pub domain: Option<&'a str>,
}

/// The steps that bind devices to VFIO drivers, of which all or none are applied.
#[derive(Debug, Default)]
pub struct BindPlan {
    /// The steps, sorted by PCI address.
    pub steps: Vec<BindStep>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The named devices, and with `whole_group` also the other devices of their IOMMU groups.
///
/// Errors: `not_found` for a device that does not exist.
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
    /// Plans to bind the requested devices, if `findings` and the options allow that.
    ///
    /// `driver` returns the VFIO driver for a device. `records` are the existing records.
    /// Errors: `conflict` with the code of the first blocker; the other blockers are causes.
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
                    "{bdf} had the driver override {other}, which tdx-gpu unbind will restore"
                ));
            }
            steps.push(step);
        }
        Ok(Self { steps, warnings })
    }
}

/// Fails for findings that block and are not forced. Forced findings become warnings.
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
    // A finding that cannot be forced is reported first.
    stops.sort_by_key(|finding| finding.code.level());
    let Some(first) = stops.first() else {
        return Ok(warnings);
    };
    let all = stops.iter().map(|f| format!("{}: {} ({})", f.bdf, f.message, f.code.as_str()));
    let message = format!("{} cannot be given to a guest: {}", first.bdf, first.message);
    let hint = match first.code {
        Code::HostDriver => "name the other device as well, or add --whole-group".to_owned(),
        Code::OpenFds => "end the process first, or add --force OPEN_FDS --yes".to_owned(),
        code if code.level() == Level::Forceable => {
            format!("to bind the device nevertheless, add --force {} --yes", code.as_str())
        }
        _ => format!("to see all blockers and warnings, run tdx-gpu check {}", first.bdf),
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
    fn refuse_ignores_a_forced_code_only_if_it_can_be_forced() {
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
