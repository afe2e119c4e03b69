//! Verifies the launch measurement of a guest against firmware, policy and keys.
//!
//! libvirt's own `virt-qemu-sev-validate` does this. All its input is in arguments, the keys as paths of files.
//! Only its exit status counts.

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

/// The validator's exit status for a measurement that is not the expected one.
///
/// Source: virt-qemu-sev-validate(1), EXIT STATUS.
const NOT_TRUSTWORTHY: i32 = 1;

/// The expected launch of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The firmware file; `None` while libvirt has not chosen one.
    pub firmware: Option<PathBuf>,
    /// The guest policy.
    pub policy: u32,
    /// The processors of an SEV-ES guest, whose registers are measured as well.
    pub processors: Option<Processors>,
}

/// The processors of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// Number of processors.
    pub count: u32,
    /// Family of the processor, as CPUID reports it.
    pub family: u32,
    /// Model of the processor.
    pub model: u32,
    /// Stepping of the processor.
    pub stepping: u32,
}

impl Expected {
    /// Returns the expected launch of a domain with this definition.
    ///
    /// Errors: `unsupported` for firmware that only a remote host has, and for definitions that the validator
    /// does not support; `not_found` and `permission` for firmware that cannot be read.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        definition: &Definition,
        keep: &AttestationStore,
    ) -> Result<Self> {
        let name = definition.name();
        if definition.boots_kernel() {
            return Err(Error::unsupported(format!(
                "cannot measure domain '{name}': it boots a kernel file of the host, and the measurement of \
                 kernel files is not supported"
            ))
            .hint("change the definition so that the domain boots from its disk"));
        }
        let firmware = match &keep.record.firmware {
            Some(firmware) => Some(firmware.clone()),
            None if libvirt.is_local() => definition.loader().map(|file| host.path(file)),
            None => {
                return Err(Error::unsupported(format!(
                    "the firmware of domain '{name}' is on a remote host and cannot be read from here"
                ))
                .hint("create the domain with --sev-firmware FILE, a copy that you trust"));
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

    /// Whether the measurement that the host reports is the expected one.
    ///
    /// Errors: `unsupported` without the validator or firmware, `command_failed` if the validator fails.
    pub fn is_met_by(&self, measured: &LaunchMeasurement, keep: &AttestationStore) -> Result<bool> {
        let Some(firmware) = &self.firmware else {
            let name = &keep.record.name;
            return Err(Error::unsupported(format!(
                "the definition of domain '{name}' has no firmware to measure"
            ))
            .hint("AMD SEV guests need UEFI: add <loader> or firmware='efi' to the definition"));
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
    /// Returns the processors of a domain.
    ///
    /// Errors: `unsupported` for a guest with another processor model than the host's, and if libvirt does not
    /// report the signature of the host's processor.
    fn for_domain(libvirt: &Libvirt, definition: &Definition) -> Result<Self> {
        if !definition.has_host_cpu() {
            let name = definition.name();
            return Err(Error::unsupported(format!(
                "domain '{name}' does not use the processor model of the host, so its SEV-ES measurement \
                 cannot be computed"
            ))
            .hint("write <cpu mode='host-passthrough'/> into the definition"));
        }
        let text = libvirt.connect().capabilities().context("read libvirt's capabilities")?;
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
                "libvirt does not report the signature of the host's processor, which the SEV-ES measurement \
                 needs",
            )),
        }
    }
}

/// Fails unless the validator is installed and works.
///
/// Errors: `unsupported` (exit 6).
pub fn check_validator() -> Result<()> {
    validator().args(["--help"]).run().map(drop).map_err(|error| match error.kind() {
        common::ErrorKind::CommandFailed => Error::unsupported(format!("cannot run {VALIDATOR}"))
            .because(error)
            .hint(format!("install the packages {PACKAGE}")),
        _ => error,
    })
}

fn validator() -> Runner {
    Runner::new(VALIDATOR, PACKAGE)
}
