//! Whether a guest was launched as it was to be: its measurement against firmware, policy and keys.
//!
//! The judge is libvirt's own `virt-qemu-sev-validate`, with everything it needs in its arguments; the
//! keys are named to it as files. Its exit status counts, never its words.

use std::path::PathBuf;

use common::libvirt::{Context as _, LaunchMeasurement, Libvirt};
use common::system::exec::Runner;
use common::system::sysroot::Host;
use common::xml::Document;
use common::{Error, IoContext, Result};

use crate::capability::Security;
use crate::domain::definition::Definition;
use crate::security::attestation::store::{AttestationStore, TEK, TIK};

const VALIDATOR: &str = "virt-qemu-sev-validate";
const PACKAGE: &str = "libvirt-clients-qemu, with python3-lxml and python3-cryptography";

/// The validator's exit status for a guest that is not trustworthy.
///
/// Source: virt-qemu-sev-validate(1), EXIT STATUS.
const NOT_TRUSTWORTHY: i32 = 1;

/// What a guest is to have been launched with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The file of its firmware; none while libvirt has not chosen one.
    pub firmware: Option<PathBuf>,
    /// The policy.
    pub policy: u32,
    /// Of SEV-ES, whose processors' registers are measured too.
    pub processors: Option<Processors>,
}

/// The processors of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// How many.
    pub count: u32,
    /// The family of the host's, as CPUID counts.
    pub family: u32,
    /// Its model.
    pub model: u32,
    /// Its stepping.
    pub stepping: u32,
}

impl Expected {
    /// What a domain that is defined like this is to have been launched with.
    ///
    /// Errors: `unsupported` for a firmware that only a remote host has, and for what the validator does
    /// not know of; `not_found` and `permission` for firmware that cannot be read.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        definition: &Definition,
        keep: &AttestationStore,
    ) -> Result<Self> {
        let name = definition.name();
        if definition.boots_kernel() {
            return Err(Error::unsupported(format!(
                "domain '{name}' boots a kernel of the host's, which is not measured here"
            ))
            .hint("have it boot from its disk"));
        }
        let firmware = match &keep.record.firmware {
            Some(firmware) => Some(firmware.clone()),
            None if libvirt.is_local() => definition.loader().map(|file| host.path(file)),
            None => {
                return Err(Error::unsupported(format!(
                    "the firmware of domain '{name}' is on a remote host and cannot be measured from here"
                ))
                .hint("make the domain with --sev-firmware, a copy that you trust"));
            }
        };
        if let Some(firmware) = &firmware {
            std::fs::File::open(firmware).at("read", firmware)?;
        }
        let processors = match definition.launch_security_name() {
            Security::SevEs => Some(Processors::for_domain(libvirt, definition)?),
            _ => None,
        };
        Ok(Self { firmware, policy: keep.record.policy, processors })
    }

    /// Judges what the host tells of a launch.
    ///
    /// Errors: `unsupported` without the validator or firmware, `command_failed` when it cannot judge.
    pub fn is_met_by(&self, measured: &LaunchMeasurement, keep: &AttestationStore) -> Result<bool> {
        let Some(firmware) = &self.firmware else {
            let name = &keep.record.name;
            return Err(Error::unsupported(format!(
                "the definition of domain '{name}' names no firmware to measure"
            ))
            .hint("an AMD SEV guest boots by UEFI"));
        };
        let numbers = [
            ("--api-major", measured.api_major),
            ("--api-minor", measured.api_minor),
            ("--build-id", measured.build_id),
            ("--policy", self.policy),
        ];
        let processors = self.processors.iter().flat_map(|cpu| {
            [
                ("--num-cpus", cpu.count),
                ("--cpu-family", cpu.family),
                ("--cpu-model", cpu.model),
                ("--cpu-stepping", cpu.stepping),
            ]
        });
        let numbers = numbers.into_iter().chain(processors);
        validator()
            .args(["--measurement", &measured.measurement])
            .args(numbers.flat_map(|(flag, number)| [flag.to_owned(), number.to_string()]))
            .args(["--firmware".as_ref(), firmware.as_os_str()])
            .args(["--tik".as_ref(), keep.path(TIK).as_os_str()])
            .args(["--tek".as_ref(), keep.path(TEK).as_os_str()])
            .judge(NOT_TRUSTWORTHY)
    }
}

impl Processors {
    /// Errors: `unsupported` for a guest whose processor is not the host's own, of which libvirt tells the
    /// signature, and where it does not.
    fn for_domain(libvirt: &Libvirt, definition: &Definition) -> Result<Self> {
        if !definition.has_host_cpu() {
            let name = definition.name();
            return Err(Error::unsupported(format!(
                "the registers of the processor of domain '{name}' are not known"
            ))
            .hint("SEV-ES measures them: give it the host's own, <cpu mode='host-passthrough'/>"));
        }
        let text = libvirt.connect().capabilities().context("read the host's capabilities")?;
        let capabilities = Document::parse(text)?;
        let signature = |name: &str| {
            capabilities.root().attr_at("host/cpu/signature", name)?.parse::<u32>().ok()
        };
        let parts = (signature("family"), signature("model"), signature("stepping"));
        match (parts, definition.vcpus()) {
            ((Some(family), Some(model), Some(stepping)), Some(count)) => {
                Ok(Self { count, family, model, stepping })
            }
            _ => Err(Error::unsupported(
                "libvirt does not tell the host's processor, which SEV-ES measures with the guest's",
            )),
        }
    }
}

/// Fails unless the validator is there and works.
///
/// Errors: `unsupported` (exit 6).
pub fn check_validator() -> Result<()> {
    validator().args(["--help"]).run().map(drop).map_err(|error| match error.kind() {
        common::ErrorKind::CommandFailed => {
            Error::unsupported(format!("{VALIDATOR} does not work"))
                .because(error)
                .hint(format!("install the packages {PACKAGE}"))
        }
        _ => error,
    })
}

fn validator() -> Runner {
    Runner::new(VALIDATOR, PACKAGE)
}
