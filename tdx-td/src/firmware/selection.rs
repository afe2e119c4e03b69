//! Which firmware fits what is wanted.
//!
//! Source: QEMU `docs/interop/firmware.json`; libvirt's `formatdomain.html`, "Operating system booting", for
//! what its `firmware='efi'` takes.

use super::descriptor::{Descriptor, Device, Mode};

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
pub struct Wanted {
    /// `uefi` or `bios`.
    pub interface: Option<String>,
    /// As QEMU names it: `x86_64`.
    pub architecture: Option<String>,
    /// A machine type, versioned or not: `pc-q35-10.1`, `q35`.
    pub machine: Option<String>,
    /// Features to have and not to have.
    pub features: Vec<Feature>,
    /// Whether it is to keep no variables.
    pub stateless: Option<bool>,
}

impl Wanted {
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

    /// Whether a descriptor is of such firmware.
    pub fn fits(&self, descriptor: &Descriptor) -> bool {
        let interface = |wanted: &String| descriptor.interface_types.contains(wanted);
        self.interface.as_ref().is_none_or(interface)
            && self.runs(descriptor)
            && self.features.iter().all(|f| descriptor.has(&f.name) == f.present)
            && self.stateless.is_none_or(|wanted| {
                let mode = if wanted { Mode::Stateless } else { Mode::Split };
                descriptor.mode == Some(mode)
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

    /// Whether libvirt would take it when it is asked for no more than this: flash with variables of
    /// the guest's own, else memory; never what has to be given by hand.
    pub fn is_chosen(&self, descriptor: &Descriptor) -> bool {
        let by_itself = match descriptor.device {
            Device::Flash => descriptor.mode == Some(Mode::Split) || self.stateless == Some(true),
            Device::Memory => true,
            Device::Kernel | Device::Igvm => false,
        };
        by_itself && self.fits(descriptor)
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
    let fixed = pattern.split(['*', '?']).next().unwrap_or_default();
    glob(pattern.as_bytes(), machine.as_bytes())
        || fixed.starts_with(family)
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
            ("q35", "q35", true),
            ("pc", "pc", true),
            ("pc", "q35", false),
            ("virt-*", "virt", true),
            ("microvm", "q35", false),
        ] {
            assert_eq!(is_machine(pattern, machine), fits, "{pattern} {machine}");
        }
    }
}
