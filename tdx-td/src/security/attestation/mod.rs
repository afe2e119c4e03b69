//! Attestation of AMD SEV and SEV-ES launches: a guest runs only if its launch measurement is the expected one.
//!
//! The domain is started paused. The firmware of the host's processor measures the launch, and authenticates the
//! measurement with a key that only the guest's owner shares. If the measurement is the expected one, the guest
//! is resumed; otherwise it is forced off. Trust domains and SEV-SNP guests work differently: a program in the
//! guest requests the evidence while it runs.
//!
//! Source: <https://libvirt.org/kbase/launch_security_sev.html>; virt-qemu-sev-validate(1).

use common::cli::{interrupt, log};
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use measure::Expected;
use virt::domain::Domain;

use crate::capability::Security;
use crate::domain::definition::Definition;
use crate::domain::metadata::Metadata;
use crate::domain::{definition, power};
use crate::security::attestation::store::{AttestationStore, CERT, SESSION};

pub mod measure;
pub mod session;
pub mod store;

/// A domain with its session keys and their record.
#[derive(Debug)]
pub struct Attestation<'a> {
    host: &'a Host,
    libvirt: &'a Libvirt,
    name: String,
    keep: AttestationStore,
}

impl<'a> Attestation<'a> {
    /// Finds the attestation of a domain; `None` for a domain without session keys and for other kinds of guests.
    ///
    /// Errors: `invalid_input` for a damaged record; `not_found` for a domain that was created with session keys
    /// that are not stored on this machine.
    pub fn find(
        host: &'a Host,
        libvirt: &'a Libvirt,
        definition: &Definition,
    ) -> Result<Option<Self>> {
        if !matches!(definition.launch_security_name(), Security::Sev | Security::SevEs) {
            return Ok(None);
        }
        let name = definition.name();
        match AttestationStore::find(host, definition)? {
            Some(keep) => Ok(Some(Self { host, libvirt, name, keep })),
            None if definition.metadata.as_ref().is_some_and(Metadata::is_attested) => {
                Err(keys_missing(&name))
            }
            None => Ok(None),
        }
    }

    /// Finds the attestation of a domain that must have one.
    ///
    /// Errors: `conflict` for other kinds of guests, `not_found` for a guest whose keys are not stored on this
    /// machine; those of [`Attestation::find`].
    pub fn require(host: &'a Host, libvirt: &'a Libvirt, definition: &Definition) -> Result<Self> {
        let (name, security) = (definition.name(), definition.launch_security_name());
        let instead = match security {
            Security::Sev | Security::SevEs => {
                return Self::find(host, libvirt, definition)?.ok_or_else(|| keys_missing(&name));
            }
            Security::None => "the domain has no launch security",
            Security::Tdx => {
                "request a quote inside the trust domain (/sys/kernel/config/tsm/report), and verify it \
                 elsewhere"
            }
            Security::SevSnp => {
                "request a report inside the SEV-SNP guest (snpguest report), and verify it elsewhere"
            }
        };
        Err(Error::conflict(format!(
            "domain '{name}' has no launch attestation: only AMD SEV and SEV-ES guests can have one"
        ))
        .hint(instead))
    }

    /// Checks everything that can be checked before the guest is started.
    ///
    /// Errors: `conflict` for a definition with another session or policy than the stored one, or for keys that
    /// other users can read; `not_found`, `invalid_input` for stored files; `unsupported` without the validator.
    pub fn check(&self, definition: &Definition) -> Result<()> {
        let name = &self.name;
        self.keep.check_keys()?;
        if definition.policy() != Some(u64::from(self.keep.record.policy)) {
            let wanted = self.keep.record.policy;
            return Err(Error::conflict(format!(
                "the policy of domain '{name}' is not {wanted:#x}, the policy of its session"
            ))
            .hint("define the domain with that policy, or delete it and create it again"));
        }
        for (file, what) in [(CERT, "dhCert"), (SESSION, "session")] {
            let defined = definition.launch_text(what).unwrap_or_default();
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            if squeezed(&defined) != squeezed(&self.keep.read(file)?) {
                let shown = self.keep.path(file).display().to_string();
                return Err(Error::conflict(format!(
                    "the {what} in the definition of domain '{name}' differs from {shown}, the {what} of the \
                     stored keys"
                ))
                .hint("delete the domain, then create it again with the keys of its session"));
            }
        }
        Expected::new(self.host, self.libvirt, definition, &self.keep)?;
        measure::check_validator()
    }

    /// Whether the launch measurement of the running or paused guest is the expected one.
    ///
    /// Errors: `unsupported` if the host does not report a measurement; those of [`Expected`].
    pub fn is_launch_verified(&self, domain: &Domain) -> Result<bool> {
        let name = &self.name;
        log::step(format_args!("verify the launch measurement of domain '{name}'"));
        // The live definition names the firmware that libvirt chose.
        let definition = definition::active(domain, name)?;
        let expected = Expected::new(self.host, self.libvirt, &definition, &self.keep)?;
        let measured = self.libvirt.launch_measurement(domain)?.ok_or_else(|| {
            Error::unsupported(format!(
                "libvirt does not report the launch measurement of domain '{name}'"
            ))
            .hint("install libvirt 8.0 or newer on the host of the domain")
        })?;
        expected.is_met_by(&measured, &self.keep)
    }

    /// Starts or resumes the guest if its launch measurement is the expected one. Otherwise the guest is forced off;
    /// also if this call started it and the measurement could not be verified. A paused guest is measured again.
    ///
    /// Errors: `failed` with code `NOT_ATTESTED`; those of [`Attestation::is_launch_verified`]; `interrupted`.
    pub fn start_or_resume(&self, domain: &Domain) -> Result<Action> {
        let name = &self.name;
        let action = power::action_to_run(domain, name)?;
        let started = action == Action::Start;
        match action {
            Action::None => return Ok(action),
            _ if started => power::start_paused(domain, name)?,
            _ => {}
        }
        let good = interrupt::check().and_then(|()| self.is_launch_verified(domain));
        let error = match good.and_then(|good| interrupt::check().map(|()| good)) {
            // The guest is only resumed: a guest that is started again would not be measured.
            Ok(true) => match power::resume(domain, name, action == Action::Wake) {
                Ok(()) => return Ok(action),
                Err(error) if !started => return Err(error),
                Err(error) => error,
            },
            Ok(false) => self.not_attested(),
            Err(error) if !started => return Err(error),
            Err(error) => error,
        };
        match power::destroy(domain, name) {
            Ok(()) => Err(error),
            Err(_) => Err(error.left_behind([format!("domain '{name}', paused")])),
        }
    }

    /// Returns the error for a guest whose launch measurement is not the expected one.
    pub fn not_attested(&self) -> Error {
        Error::failed(format!(
            "the launch measurement of domain '{}' is not the expected one",
            self.name
        ))
        .code(Code::NotAttested)
        .hint(
            "do not trust the guest: firmware, policy, number of processors, keys or the host differ from the \
             expected ones",
        )
    }

    /// Returns warnings about the limits of the attestation.
    pub fn caveats(&self, definition: &Definition) -> Vec<String> {
        let name = &self.name;
        let mut caveats = Vec::new();
        if self.keep.record.firmware.is_none() {
            caveats.push(format!(
                "domain '{name}' was verified with a firmware file of its own host; create the domain with \
                 --sev-firmware to use a copy that the host cannot change"
            ));
        }
        if definition.nvram().is_some() {
            caveats.push(format!("the firmware variables of domain '{name}' are not measured"));
        }
        caveats
    }
}

fn keys_missing(name: &str) -> Error {
    Error::not_found(format!("the session keys of domain '{name}' are not stored on this machine"))
        .hint(
            "use the machine and the user that created the domain with --sev-attest, or with --sev-tik and \
             --sev-tek",
        )
}

/// Starts or resumes a domain; with session keys, only if its launch measurement is the expected one. Returns the
/// action.
pub fn start_or_resume(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    definition: &Definition,
) -> Result<Action> {
    let name = definition.name();
    match Attestation::find(host, libvirt, definition)? {
        None => power::start_or_resume(domain, &name),
        Some(attestation) => {
            if power::action_to_run(domain, &name)? != Action::None {
                attestation.check(definition)?;
            }
            attestation.start_or_resume(domain)
        }
    }
}
