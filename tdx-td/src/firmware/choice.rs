//! Predicts which firmware build libvirt chooses.
//!
//! Source: libvirt `src/qemu/qemu_firmware.c`, `qemuFirmwareMatchDomain` and `qemuFirmwareEnableFeatures`
//! of 9.0.0 and 11.3.0; for 12.8.0 its behaviour in `tests/td/firmware.rs` and `tests/td/tdx_rig.rs`.

use common::libvirt::Libvirt;
use common::xml::Document;

use crate::firmware::descriptor::{Descriptor, Device, Mode};
use crate::firmware::directory::{Descriptors, SYSTEM};
use crate::firmware::query::FirmwareQuery;

/// The rules by which a libvirt chooses firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// libvirt's version.
    version: u32,
    /// The full machine type that libvirt resolves the requested one to.
    machine: Option<String>,
    /// The error by which libvirt refuses to choose any firmware.
    refuses: Option<String>,
}

impl Rules {
    /// Returns the rules of a libvirt of this version.
    pub fn for_version(version: u32) -> Self {
        Self { version, machine: None, refuses: None }
    }

    /// Returns the rules of the newest libvirt, for hosts whose libvirt cannot be asked.
    pub fn newest() -> Self {
        Self::for_version(u32::MAX)
    }

    /// Asks a libvirt for its version and machine type, and returns its rules.
    ///
    /// If libvirt fails, the rules say so, and no firmware is chosen.
    pub fn ask(libvirt: &Libvirt, wanted: &FirmwareQuery) -> Self {
        let connect = libvirt.connect();
        let (architecture, machine) = wanted.platform();
        let answer = connect.lib_version().map(|version| {
            let text = connect.domain_capabilities(None, Some(architecture), machine, None, 0);
            (version, text)
        });
        match answer {
            Err(error) => Self { refuses: Some(error.message().to_owned()), ..Self::newest() },
            // Old versions read every descriptor for this call, and fail as they do for a guest.
            Ok((version, Err(error))) => {
                Self { refuses: Some(error.message().to_owned()), ..Self::for_version(version) }
            }
            Ok((version, Ok(text))) => {
                let capabilities = Document::parse(text).ok();
                let machine = capabilities.and_then(|found| found.root().text_at("machine"));
                Self { machine, ..Self::for_version(version) }
            }
        }
    }

    /// Whether a guest that does not state `stateless` gets builds of every mode, not only split ones.
    fn takes_every_mode(&self) -> bool {
        self.version >= 12_001_000
    }

    /// Whether libvirt skips builds that the guest cannot use. Older versions choose such a build, and fail.
    fn is_careful(&self) -> bool {
        self.version >= 9_002_000
    }

    /// Returns why this libvirt skips a build that otherwise matches the query.
    fn objection(&self, wanted: &FirmwareQuery, build: &Descriptor) -> Option<String> {
        match build.device {
            Device::Flash => self.flash_objection(wanted, build),
            Device::Memory => self.memory_objection(wanted, build),
            Device::Kernel if self.is_careful() => {
                Some("libvirt does not choose builds that are loaded as a kernel".to_owned())
            }
            Device::Kernel => None,
            Device::Igvm => Some("libvirt does not support builds of device igvm".to_owned()),
        }
        .or_else(|| {
            let off = wanted.smm == Some(false) && build.has("requires-smm");
            (off && self.is_careful())
                .then(|| "the build needs system management mode (smm), which is off".to_owned())
        })
    }

    fn flash_objection(&self, wanted: &FirmwareQuery, build: &Descriptor) -> Option<String> {
        let mode = build.mode.unwrap_or(Mode::Split);
        let fits = match wanted.stateless {
            Some(true) => mode == Mode::Stateless,
            Some(false) if self.takes_every_mode() => mode != Mode::Stateless,
            None if self.takes_every_mode() => true,
            None | Some(false) => mode == Mode::Split,
        };
        if !fits {
            return Some(match wanted.stateless {
                Some(stateless) => mode_is(mode, stateless),
                None => {
                    format!("libvirt uses mode {} only if the guest requests it", mode.as_str())
                }
            });
        }
        let odd = unusable_format(build, &["raw", "qcow2"]).filter(|_| self.is_careful())?;
        Some(format!("libvirt does not support firmware of format {odd}"))
    }

    fn memory_objection(&self, wanted: &FirmwareQuery, build: &Descriptor) -> Option<String> {
        let mode = build.mode.unwrap_or(Mode::Stateless);
        let stateless = wanted.stateless.filter(|_| self.takes_every_mode())?;
        ((mode == Mode::Stateless) != stateless).then(|| mode_is(mode, stateless))
    }

    /// Returns why this libvirt refuses a guest with the build that it chose.
    fn refusal(&self, wanted: &FirmwareQuery, build: &Descriptor) -> Option<String> {
        let smm = build.has("requires-smm");
        if !self.is_careful() {
            if build.device == Device::Flash
                && let Some(odd) = unusable_format(build, &["raw"])
            {
                return Some(format!(
                    "libvirt before 9.2.0 does not support firmware of format {odd}"
                ));
            }
            return (smm && wanted.smm == Some(false))
                .then(|| "the build needs system management mode (smm), which is off".to_owned());
        }
        let combined = build.device == Device::Flash && build.mode == Some(Mode::Combined);
        if build.has("enrolled-keys") && !build.has("secure-boot") && !combined {
            return Some("the build has enrolled-keys without secure-boot".to_owned());
        }
        // Older versions ignore the variables of a build that is loaded into memory.
        let variables = build.mode == Some(Mode::Split)
            && (build.device == Device::Flash || self.takes_every_mode());
        if wanted.interface() == "bios" && variables {
            return Some("the build has mode split, but a BIOS has no variables".to_owned());
        }
        if smm && self.machine(wanted).is_some_and(|machine| !machine.contains("q35")) {
            return Some(
                "the build needs system management mode (smm), which only machine q35 has"
                    .to_owned(),
            );
        }
        if wanted.wants("intel-tdx") && build.device == Device::Flash {
            return Some("the build needs flash, which a trust domain cannot have".to_owned());
        }
        (wanted.wants("intel-tdx") && smm).then(|| {
            "the build needs system management mode (smm), which a trust domain cannot have"
                .to_owned()
        })
    }

    fn machine<'a>(&'a self, wanted: &'a FirmwareQuery) -> Option<&'a str> {
        self.machine.as_deref().or(wanted.platform().1)
    }
}

fn mode_is(mode: Mode, stateless: bool) -> String {
    let asked = if stateless { "yes" } else { "no" };
    format!("the build has mode {}, but stateless={asked} was requested", mode.as_str())
}

/// Returns the first format of a build's files that is not in `usable`.
fn unusable_format<'a>(build: &'a Descriptor, usable: &[&str]) -> Option<&'a str> {
    let files = [Some(&build.executable), build.nvram_template.as_ref()];
    files.into_iter().flatten().map(|file| &*file.format).find(|format| !usable.contains(format))
}

/// libvirt's choice for a guest that requests firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareChoice {
    /// libvirt uses this build.
    Build(Box<Descriptor>),
    /// libvirt chooses this build, and then refuses the guest for this reason.
    Refused(Box<Descriptor>, String),
    /// libvirt refuses every guest that requests firmware, for this reason.
    Blocked(String),
    /// No build matches. For each descriptor, its name and the reason.
    Nothing(Vec<(String, String)>),
}

impl FirmwareChoice {
    /// Predicts libvirt's choice.
    pub fn new(descriptors: &Descriptors, wanted: &FirmwareQuery, rules: &Rules) -> Self {
        if let Some(fatal) = descriptors.damaged.iter().find(|damaged| damaged.is_fatal) {
            return Self::Blocked(fatal.to_string());
        }
        if let Some(why) = &rules.refuses {
            return Self::Blocked(why.clone());
        }
        let mut near = Vec::new();
        for build in &descriptors.found {
            let misfit = wanted.misfit(build, rules.machine.as_deref());
            match misfit.or_else(|| rules.objection(wanted, build)) {
                Some(why) => near.push((build.name(), why)),
                None => {
                    let build = Box::new(build.clone());
                    return match rules.refusal(wanted, &build) {
                        Some(why) => Self::Refused(build, why),
                        None => Self::Build(build),
                    };
                }
            }
        }
        Self::Nothing(near)
    }

    /// Whether a guest gets firmware only if it requests a stateless build.
    pub fn needs_stateless(
        descriptors: &Descriptors,
        wanted: &FirmwareQuery,
        rules: &Rules,
    ) -> bool {
        let stateless = FirmwareQuery { stateless: Some(true), ..wanted.clone() };
        let gets = |wanted| Self::new(descriptors, wanted, rules).build().is_some();
        !gets(wanted) && gets(&stateless)
    }

    /// Returns the build that a guest gets; `None` if it gets none.
    pub fn build(&self) -> Option<&Descriptor> {
        match self {
            Self::Build(build) => Some(build),
            _ => None,
        }
    }

    /// Returns why a guest with this query gets no firmware; `None` if it gets some.
    pub fn complaint(&self, wanted: &FirmwareQuery) -> Option<String> {
        match self {
            Self::Build(_) => None,
            Self::Refused(build, why) => Some(format!(
                "libvirt chooses {}, then refuses this build: {why}",
                build.path.display()
            )),
            Self::Blocked(why) => Some(format!("libvirt refuses to choose firmware: {why}")),
            Self::Nothing(near) => {
                let directories = SYSTEM.join(" and ");
                let near = near.iter().map(|(name, why)| format!("; {name}: {why}"));
                let near: String = near.collect();
                Some(format!("{directories} have no descriptor of {wanted}{near}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::query::Feature;
    use super::*;

    fn flash(mode: &str) -> Descriptors {
        let text = format!(
            r#"{{"interface-types":["uefi"],"features":["amd-sev"],"mapping":{{"device":"flash",
            "mode":"{mode}","executable":{{"filename":"/code","format":"raw"}},
            "nvram-template":{{"filename":"/vars","format":"raw"}}}},
            "targets":[{{"architecture":"x86_64","machines":["pc-q35-*"]}}]}}"#
        );
        let build = Descriptor::parse(Path::new("/x/50-a.json"), text).unwrap();
        Descriptors { found: vec![build], ..Descriptors::default() }
    }

    #[test]
    fn stateless_build_is_chosen_before_12_1_only_on_request() {
        let wanted = FirmwareQuery::uefi().feature(Feature::with("amd-sev"));
        for (version, mode, needed) in [
            (9_000_000, "stateless", true),
            (11_003_000, "stateless", true),
            (12_001_000, "stateless", false),
            (11_003_000, "split", false),
            (11_003_000, "combined", false),
        ] {
            let needs = FirmwareChoice::needs_stateless(
                &flash(mode),
                &wanted,
                &Rules::for_version(version),
            );
            assert_eq!(needs, needed, "{version} {mode}");
        }
    }

    #[test]
    fn flash_build_is_refused_for_a_trust_domain() {
        let mut descriptors = flash("split");
        descriptors.found[0].features.push("intel-tdx".to_owned());
        let wanted = FirmwareQuery::uefi().feature(Feature::with("intel-tdx"));
        let choice = FirmwareChoice::new(&descriptors, &wanted, &Rules::newest());
        assert!(matches!(choice, FirmwareChoice::Refused(..)), "{choice:?}");
        assert!(choice.complaint(&wanted).unwrap().contains("50-a.json"));
    }
}
