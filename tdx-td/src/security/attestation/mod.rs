//! AMD SEV and SEV-ES: a guest runs only after its launch was measured and found to be what it was to be.
//!
//! The domain is started with its processors stopped, and the firmware of the host's processor signs, by a
//! key that only the guest's owner shares, what it was started with. When that is right the guest goes on;
//! otherwise it is ended. Trust domains and SEV-SNP guests have nothing of the kind: they ask for their
//! evidence themselves, while they run.
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

/// A domain with what it is attested by.
#[derive(Debug)]
pub struct Attestation<'a> {
    host: &'a Host,
    libvirt: &'a Libvirt,
    name: String,
    keep: AttestationStore,
}

impl<'a> Attestation<'a> {
    /// The attestation of a domain; none when it was made without, and for other kinds of guests.
    ///
    /// Errors: `invalid_input` for a record that cannot be read; `not_found` for a domain that was made to
    /// be attested and whose keys are not kept here.
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

    /// The attestation of a domain that is asked to have one.
    ///
    /// Errors: `conflict` for a guest that is not attested like this, `not_found` for one whose keys are
    /// not kept here; those of [`Attestation::find`].
    pub fn require(host: &'a Host, libvirt: &'a Libvirt, definition: &Definition) -> Result<Self> {
        let (name, security) = (definition.name(), definition.launch_security_name());
        let instead = match security {
            Security::Sev | Security::SevEs => {
                return Self::find(host, libvirt, definition)?.ok_or_else(|| keys_missing(&name));
            }
            Security::None => "it has no launch security",
            Security::Tdx => {
                "it is a trust domain: a program in it asks for a quote \
                (/sys/kernel/config/tsm/report), which its owner verifies"
            }
            Security::SevSnp => {
                "it is an SEV-SNP guest: a program in it asks for a report (snpguest report), which its \
                owner verifies"
            }
        };
        Err(Error::conflict(format!("domain '{name}' is not measured before it runs"))
            .hint(instead))
    }

    /// Fails for everything that can be told before the guest is started.
    ///
    /// Errors: `conflict` for a definition with another session or policy than was kept, or keys that
    /// others can read; `not_found`, `invalid_input` for what is kept; `unsupported` without the validator.
    pub fn check(&self, definition: &Definition) -> Result<()> {
        let name = &self.name;
        self.keep.check_keys()?;
        if definition.policy() != Some(u64::from(self.keep.record.policy)) {
            let wanted = self.keep.record.policy;
            return Err(Error::conflict(format!(
                "domain '{name}' is defined with another policy than {wanted:#x}, which its session is for"
            ))
            .hint("define it with that policy, or make it anew"));
        }
        for (file, what) in [(CERT, "dhCert"), (SESSION, "session")] {
            let defined = definition.launch_text(what).unwrap_or_default();
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            if squeezed(&defined) != squeezed(&self.keep.read(file)?) {
                let shown = self.keep.path(file).display().to_string();
                return Err(Error::conflict(format!(
                    "the {what} of domain '{name}' is not the one in {shown}, whose keys are kept"
                ))
                .hint("make the domain anew with the keys of its session"));
            }
        }
        Expected::new(self.host, self.libvirt, definition, &self.keep)?;
        measure::check_validator()
    }

    /// Judges how the guest that runs, or waits to run, was launched.
    ///
    /// Errors: `unsupported` when the host does not tell; those of [`Expected`].
    pub fn is_launch_verified(&self, domain: &Domain) -> Result<bool> {
        let name = &self.name;
        log::step(format_args!("measure domain '{name}'"));
        // The running definition names the firmware that was chosen.
        let definition = definition::active(domain, name)?;
        let expected = Expected::new(self.host, self.libvirt, &definition, &self.keep)?;
        let measured = self.libvirt.launch_measurement(domain)?.ok_or_else(|| {
            Error::unsupported(format!("the host does not tell how domain '{name}' was launched"))
                .hint("libvirt 8.0 and newer tell it of AMD SEV and SEV-ES guests")
        })?;
        expected.is_met_by(&measured, &self.keep)
    }

    /// Has the guest running if its launch was good. One that was not is ended, and so is one that this has
    /// started and could not judge. One that was found paused is measured again.
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
            // Not started again: that guest would not have been measured.
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

    /// The error for a guest whose launch was not good.
    pub fn not_attested(&self) -> Error {
        Error::failed(format!("domain '{}' is not what was to be launched", self.name))
            .code(Code::NotAttested)
            .hint("firmware, policy, processors, keys or the host itself are not what they should be: docs/attestation.md")
    }

    /// What the user should know.
    pub fn caveats(&self, definition: &Definition) -> Vec<String> {
        let name = &self.name;
        let mut caveats = Vec::new();
        if self.keep.record.firmware.is_none() {
            caveats.push(format!(
                "domain '{name}' was measured against a file of the host it runs on: \
                --sev-firmware names a copy that the host cannot change"
            ));
        }
        if definition.nvram().is_some() {
            caveats
                .push(format!("the variables of the firmware of domain '{name}' are not measured"));
        }
        caveats
    }
}

fn keys_missing(name: &str) -> Error {
    Error::not_found(format!("no keys of domain '{name}' are kept here"))
        .hint("tdx-td new --sev-attest, or --sev-tik and --sev-tek, keeps them where it runs and under that name")
}

/// Has a domain running, attested where its keys are kept. Returns what it took.
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
