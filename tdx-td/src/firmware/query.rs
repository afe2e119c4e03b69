//! Queries for firmware, and whether a descriptor matches.
//!
//! Source: QEMU `docs/interop/firmware.json`; libvirt's `formatdomain.html`, "Operating system booting", for
//! `firmware='efi'`.

use super::descriptor::{Descriptor, Mode};

macro_rules! features {
    ($($name:literal)*) => {
        /// The features that QEMU's specification names, each also with `no-` in front, for builds without
        /// the feature.
        pub const FEATURES: &[&str] = &[$($name, concat!("no-", $name)),*];
    };
}

features! {
    "acpi-s3" "acpi-s4" "amd-sev" "amd-sev-es" "amd-sev-snp" "enrolled-keys" "host-uefi-vars"
    "intel-tdx" "requires-smm" "secure-boot" "verbose-dynamic" "verbose-static"
}

/// A feature that the firmware must have, or must not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Name of the feature.
    pub name: String,
    /// Whether the firmware must have the feature.
    pub present: bool,
}

impl Feature {
    /// Returns a feature that the firmware must have.
    pub fn with(name: &str) -> Self {
        Self { name: name.to_owned(), present: true }
    }

    /// Returns a feature that the firmware must not have.
    pub fn without(name: &str) -> Self {
        Self { name: name.to_owned(), present: false }
    }

    /// Parses one of [`FEATURES`].
    pub fn parse(text: &str) -> Self {
        text.strip_prefix("no-").map_or_else(|| Self::with(text), Self::without)
    }
}

/// The properties that firmware must have. `None` matches any value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirmwareQuery {
    /// Interface, such as `uefi` or `bios`.
    pub interface: Option<String>,
    /// Architecture, as QEMU names it, such as `x86_64`.
    pub architecture: Option<String>,
    /// Machine type, versioned or not, such as `pc-q35-10.1` or `q35`.
    pub machine: Option<String>,
    /// Features that the firmware must have or must not have.
    pub features: Vec<Feature>,
    /// Whether the guest requests a build that stores no variables; `None` for any.
    pub stateless: Option<bool>,
    /// Whether the guest has system management mode; `None` if libvirt decides.
    pub smm: Option<bool>,
}

impl FirmwareQuery {
    /// Returns the query for UEFI on x86_64 and machine type q35.
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

    /// Whether the firmware must have a feature.
    pub fn wants(&self, feature: &str) -> bool {
        self.features.iter().any(|wanted| wanted.present && wanted.name == feature)
    }

    /// Returns the interface; `uefi` if the query has none.
    pub fn interface(&self) -> &str {
        self.interface.as_deref().unwrap_or("uefi")
    }

    /// Returns architecture and machine type of the guest; x86_64 and q35 if the query has none.
    pub fn platform(&self) -> (&str, Option<&str>) {
        let architecture = self.architecture.as_deref().unwrap_or("x86_64");
        let usual = match architecture {
            "x86_64" | "i386" | "i686" => Some("q35"),
            "aarch64" | "arm" | "riscv64" | "loongarch64" => Some("virt"),
            _ => None,
        };
        (architecture, self.machine.as_deref().or(usual))
    }

    /// Whether a descriptor matches the query.
    pub fn fits(&self, descriptor: &Descriptor) -> bool {
        let interface = |wanted: &String| descriptor.interface_types.contains(wanted);
        self.interface.as_ref().is_none_or(interface)
            && self.runs(descriptor)
            && self.feature_misfit(descriptor).is_none()
            && self.stateless.is_none_or(|stateless| {
                descriptor.mode.is_none_or(|mode| (mode == Mode::Stateless) == stateless)
            })
    }

    /// Whether one target of a descriptor has both the architecture and the machine type.
    fn runs(&self, descriptor: &Descriptor) -> bool {
        descriptor.targets.iter().any(|target| {
            self.architecture.as_ref().is_none_or(|wanted| target.architecture == *wanted)
                && self.machine.as_ref().is_none_or(|wanted| {
                    target.machines.iter().any(|pattern| is_machine(pattern, wanted))
                })
        })
    }

    /// Returns why a descriptor does not match a guest with this query, for any version of libvirt. `exact` is
    /// the full name of the machine type, if known.
    pub fn misfit(&self, descriptor: &Descriptor, exact: Option<&str>) -> Option<String> {
        let interface = self.interface();
        if !descriptor.interface_types.iter().any(|has| has == interface) {
            return Some(format!("the build does not offer {interface}"));
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
            return Some(format!("the build is not for {architecture} {machine}"));
        }
        self.feature_misfit(descriptor)
    }

    fn feature_misfit(&self, descriptor: &Descriptor) -> Option<String> {
        let wrong = self.features.iter().find(|f| descriptor.has(&f.name) != f.present)?;
        let has = if wrong.present { "lacks" } else { "has" };
        Some(format!("the build {has} {}", wrong.name))
    }
}

impl std::fmt::Display for FirmwareQuery {
    /// Writes a description, such as `uefi firmware for x86_64 q35 with intel-tdx without secure-boot`.
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
            Some(true) => f.write_str(" that stores no variables"),
            Some(false) => f.write_str(" that stores variables"),
            None => Ok(()),
        }
    }
}

/// Whether a descriptor's pattern matches a machine type. `q35`, `pc` and `virt` match every version.
fn is_machine(pattern: &str, machine: &str) -> bool {
    let family = match machine {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        "virt" => "virt-",
        _ => return glob(pattern.as_bytes(), machine.as_bytes()),
    };
    // libvirt compares patterns with versioned names, never with the short name of a PC. Some
    // architectures have a machine whose full name is virt.
    let fixed = pattern.split(['*', '?']).next().unwrap_or_default();
    fixed.starts_with(family)
        || (machine == "virt" && pattern == machine)
        || (fixed.len() < pattern.len() && family.starts_with(fixed))
}

/// Whether a text matches a pattern of `*` (any text) and `?` (one character), the only ones that libvirt knows.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to continue if the rest after the last star does not match.
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
        fn glob_agrees_with_a_slow_reference(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob(pattern, text), slowly(pattern, text));
        }
    }

    #[test]
    fn is_machine_agrees_with_libvirt() {
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
    fn is_machine_matches_all_versions_of_a_family() {
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
