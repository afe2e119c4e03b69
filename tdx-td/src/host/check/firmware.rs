//! Check of the firmware for the kinds of guests.

use crate::firmware::choice::FirmwareChoice;
use crate::host::check::code::HostCode;
use crate::host::check::facts::Facts;
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Checks the firmware for all requested kinds of guests. Reports the first that is missing.
pub fn judge(facts: &Facts, kinds: &[GuestKind]) -> CheckItem {
    let code = HostCode::Firmware;
    let captured = facts.this_machine || facts.has("/usr/share/qemu") || facts.has("/etc/qemu");
    if !captured {
        return code.unknown("the --sysroot directory does not contain firmware descriptors");
    }
    let mut found = Vec::new();
    let secure = kinds.iter().any(|kind| kind.is_secure());
    for firmware in &facts.firmware {
        if !kinds.contains(&firmware.kind) && (secure || firmware.kind != GuestKind::None) {
            continue;
        }
        let package = match firmware.kind {
            GuestKind::Tdx => "install the package ovmf-inteltdx, or a newer ovmf or edk2-ovmf",
            _ => "install the package ovmf or edk2-ovmf",
        };
        let result = match &firmware.found {
            Err(why) => return code.unknown(why),
            Ok(result) => result,
        };
        if let Some(why) = result.choice.complaint(&result.wanted) {
            let fix = match &result.choice {
                FirmwareChoice::Blocked(_) => {
                    "to see the damaged files, run tdx-td firmware; then correct or remove them"
                }
                _ => package,
            };
            return code.fail(why, fix);
        }
        if let Some(build) = result.choice.build() {
            if !result.usable {
                let path = build.path.display();
                return code.fail(format!("{path} names files that do not exist"), package);
            }
            found.push(build.executable.path.display().to_string());
        }
    }
    code.ok(found.join(", "))
}
