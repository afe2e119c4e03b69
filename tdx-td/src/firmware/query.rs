//! Which firmware fits what is wanted.
//!
//! Source: QEMU `docs/interop/firmware.json`; libvirt's `formatdomain.html`, "Operating system booting", for
//! what its `firmware='efi'` takes.

use super::descriptor::{Descriptor, Mode};

macro_rules! features {
    ($($name:literal)*) => {
        /// The features that QEMU's specification names, each as what is to be there and, after `no-`,
        /// what is not.
        pub const FEATURES: &[&str] = &[$($name, concat!("no-", $name)),*];
    };
}

features! {
    "acpi-s3" "acpi-s4" "amd-sev" "amd-sev-es" "amd-sev-snp" "enrolled-keys" "host-uefi-vars"
    "intel-tdx" "requires-smm" "secure-boot" "verbose-dynamic" "verbose-static"
}

/// A feature that the firmware is to have, or not to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is to be there.
    pub present: bool,
}

impl Feature {
    /// One that is to be there.
    pub fn with(name: &str) -> Self {
        Self { name: name.to_owned(), present: true }
    }

    /// One that is not to be there.
    pub fn without(name: &str) -> Self {
        Self { name: name.to_owned(), present: false }
    }

    /// One of [`FEATURES`].
    pub fn parse(text: &str) -> Self {
        text.strip_prefix("no-").map_or_else(|| Self::with(text), Self::without)
    }
}

/// What is wanted of firmware. What is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirmwareQuery {
    /// `uefi` or `bios`.
    pub interface: Option<String>,
    /// As QEMU names it: `x86_64`.
    pub architecture: Option<String>,
    /// A machine type, versioned or not: `pc-q35-10.1`, `q35`.
    pub machine: Option<String>,
    /// Features to have and not to have.
    pub features: Vec<Feature>,
    /// Whether the guest asks for a build that keeps no variables; none when it leaves that open.
    pub stateless: Option<bool>,
    /// Whether the guest has system management mode; none when libvirt is to decide.
    pub smm: Option<bool>,
}

impl FirmwareQuery {
    /// UEFI for the ordinary machine of this processor.
    pub fn uefi() -> Self {
        let text = |text: &str| Some(text.to_owned());
        Self {
            interface: text("uefi"),
            architecture: text("x86_64"),
            machine: text("q35"),
            ..Self::default()
        }
    }

    /// Adds a feature.
    #[must_use]
    pub fn feature(mut self, feature: Feature) -> Self {
        self.features.push(feature);
        self
    }

    /// Whether a feature has to be there.
    pub fn wants(&self, feature: &str) -> bool {
        self.features.iter().any(|wanted| wanted.present && wanted.name == feature)
    }

    /// The interface; UEFI where none is asked for.
    pub fn interface(&self) -> &str {
        self.interface.as_deref().unwrap_or("uefi")
    }

    /// The architecture and machine type of the guest that this is about, which are x86_64 and q35 where
    /// none are asked for.
    pub fn platform(&self) -> (&str, Option<&str>) {
        let architecture = self.architecture.as_deref().unwrap_or("x86_64");
        let usual = match architecture {
            "x86_64" | "i386" | "i686" => Some("q35"),
            "aarch64" | "arm" | "riscv64" | "loongarch64" => Some("virt"),
            _ => None,
        };
        (architecture, self.machine.as_deref().or(usual))
    }

    /// Whether a descriptor is of such firmware.
    pub fn fits(&self, descriptor: &Descriptor) -> bool {
        let interface = |wanted: &String| descriptor.interface_types.contains(wanted);
        self.interface.as_ref().is_none_or(interface)
            && self.runs(descriptor)
            && self.feature_misfit(descriptor).is_none()
            && self.stateless.is_none_or(|stateless| {
                descriptor.mode.is_none_or(|mode| (mode == Mode::Stateless) == stateless)
            })
    }

    /// Whether one target has both the architecture and the machine.
    fn runs(&self, descriptor: &Descriptor) -> bool {
        descriptor.targets.iter().any(|target| {
            self.architecture.as_ref().is_none_or(|wanted| target.architecture == *wanted)
                && self.machine.as_ref().is_none_or(|wanted| {
                    target.machines.iter().any(|pattern| is_machine(pattern, wanted))
                })
        })
    }

    /// Why a descriptor is not of firmware for the one guest that this is about, whatever libvirt's
    /// version; `exact` is the machine type by its full name, where that is known.
    pub fn misfit(&self, descriptor: &Descriptor, exact: Option<&str>) -> Option<String> {
        let interface = self.interface();
        if !descriptor.interface_types.iter().any(|has| has == interface) {
            return Some(format!("it is not {interface}"));
        }
        let (architecture, machine) = self.platform();
        let runs = descriptor.targets.iter().any(|target| {
            target.architecture == architecture
                && target.machines.iter().any(|pattern| match exact {
                    Some(machine) => glob(pattern.as_bytes(), machine.as_bytes()),
                    None => machine.is_none_or(|machine| is_machine(pattern, machine)),
                })
        });
        if !runs {
            let machine = exact.or(machine).unwrap_or("guests");
            return Some(format!("it is not for {architecture} {machine}"));
        }
        self.feature_misfit(descriptor)
    }

    fn feature_misfit(&self, descriptor: &Descriptor) -> Option<String> {
        let wrong = self.features.iter().find(|f| descriptor.has(&f.name) != f.present)?;
        let has = if wrong.present { "lacks" } else { "has" };
        Some(format!("it {has} {}", wrong.name))
    }
}

impl std::fmt::Display for FirmwareQuery {
    /// `uefi firmware for x86_64 q35 with intel-tdx and without secure-boot`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (architecture, machine) = self.platform();
        write!(f, "{} firmware for {architecture}", self.interface())?;
        machine.map_or(Ok(()), |machine| write!(f, " {machine}"))?;
        let named = |present| {
            let features = self.features.iter().filter(move |feature| feature.present == present);
            features.map(|feature| &*feature.name).collect::<Vec<_>>().join(", ")
        };
        for (word, names) in [(" with ", named(true)), (" without ", named(false))] {
            if !names.is_empty() {
                write!(f, "{word}{names}")?;
            }
        }
        match self.stateless {
            Some(true) => f.write_str(" that keeps no variables"),
            Some(false) => f.write_str(" that keeps variables"),
            None => Ok(()),
        }
    }
}

/// Whether a pattern of descriptors means a machine type; `q35`, `pc` and `virt` stand for each version.
fn is_machine(pattern: &str, machine: &str) -> bool {
    let family = match machine {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        "virt" => "virt-",
        _ => return glob(pattern.as_bytes(), machine.as_bytes()),
    };
    // libvirt holds patterns against versions, never against the short name of a PC. Some
    // architectures have a machine whose whole name is virt.
    let fixed = pattern.split(['*', '?']).next().unwrap_or_default();
    fixed.starts_with(family)
        || (machine == "virt" && pattern == machine)
        || (fixed.len() < pattern.len() && family.starts_with(fixed))
}

/// Whether a text fits a pattern of `*` (any text) and `?` (one letter), which are all that libvirt knows.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    (p, t) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a pattern means, told slowly.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| slowly(rest, &text[taken..])),
            ([wanted, rest @ ..], [letter, more @ ..]) => {
                (*wanted == b'?' || wanted == letter) && slowly(rest, more)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_are_matched_fast_as_they_are_slowly(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob(pattern, text), slowly(pattern, text));
        }
    }

    #[test]
    fn patterns_mean_what_libvirt_takes_them_for() {
        for (pattern, text, fits) in [
            ("pc-q35-*", "pc-q35-10.1", true),
            ("pc-q35-*", "pc-i440fx-10.1", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("pc-?35-*", "pc-q35-", true),
            ("virt", "virt", true),
            ("[a-z]", "a", false),
            ("***", "x", true),
            ("*é", "caé", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_family_stands_for_its_versions() {
        for (pattern, machine, fits) in [
            ("pc-q35-*", "q35", true),
            ("pc-q35-1?.*", "q35", true),
            ("pc-q35-6.2", "q35", true),
            ("pc-*", "q35", true),
            ("*", "pc", true),
            ("pc-i440fx-*", "q35", false),
            ("pc-q35-*", "pc", false),
            ("q35", "q35", false),
            ("pc", "pc", false),
            ("virt", "virt", true),
            ("pc", "q35", false),
            ("virt-*", "virt", true),
            ("microvm", "q35", false),
        ] {
            assert_eq!(is_machine(pattern, machine), fits, "{pattern} {machine}");
        }
    }
}
