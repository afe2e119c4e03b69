//! The launch session of a new domain: given in files, or created by `sevctl`.

use std::fs;
use std::path::{Path, PathBuf};

use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::{Hosts, Libvirt};
use common::system::exec::Runner;
use common::system::sysroot::remove;
use common::xml::{Document, Element, Node};
use common::{Error, IoContext, Result};

use crate::capability::Security;
use crate::domain::definition::Definition;
use crate::domain::lookup;
use crate::security::attestation::store::{
    AttestationStore, CERT, CHAIN, DOMAIN, MADE, Record, SESSION, TEK, TIK,
};
use crate::security::attestation::{measure, store};
use crate::security::launch::fixed_bytes::read_file;
use crate::security::launch::sev::SevOptions;

const PACKAGE: &str = "sevctl (crates.io has it: cargo install sevctl)";

/// The request to attest a new domain.
#[derive(Debug)]
pub struct AttestationRequest {
    keys: Keys,
    policy: u32,
    firmware: Option<PathBuf>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The origin of the session keys.
#[derive(Debug)]
enum Keys {
    /// The user gives the keys; the definition has the session.
    Given { tik: PathBuf, tek: PathBuf },
    /// sevctl creates the keys, for the host with this certificate chain.
    ForChain(PathBuf),
    /// sevctl creates the keys, for the certificate chain that this host exports.
    ForThisHost,
}

impl AttestationRequest {
    /// Checks everything that can fail; `None` for a domain without attestation.
    ///
    /// Errors: `usage` for another kind of guest, and without a session or a certificate chain;
    /// `unsupported` without the programs; `not_found`, `invalid_input` for the files.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        options: &SevOptions,
        definition: &Definition,
    ) -> Result<Option<Self>> {
        if !options.sev_attest && options.sev_tik.is_none() {
            return Ok(None);
        }
        let policy = definition.policy().and_then(|policy| u32::try_from(policy).ok());
        let (Security::Sev | Security::SevEs, Some(policy)) =
            (definition.launch_security_name(), policy)
        else {
            return Err(Error::usage("--sev-attest and --sev-tik need an AMD SEV or SEV-ES guest")
                .hint("add --security sev or --security sev-es"));
        };
        let has = |what| definition.launch_text(what).is_some();
        let has_session = has("dhCert") && has("session");
        let keys = match (&options.sev_tik, &options.sev_tek) {
            (Some(tik), Some(tek)) if has_session => {
                store::check_key(tik)?;
                store::check_key(tek)?;
                Keys::Given { tik: tik.clone(), tek: tek.clone() }
            }
            (None, None) if !has_session => Keys::for_host(context, libvirt, config, options)?,
            (None, None) => {
                return Err(Error::usage(
                    "the definition has a session already, for which --sev-attest cannot create keys",
                )
                .hint(
                    "pass the keys of the session with --sev-tik FILE --sev-tek FILE instead of \
                     --sev-attest",
                ));
            }
            _ => {
                return Err(Error::usage("--sev-tik and --sev-tek need the session of the keys")
                    .hint("add --sev-session FILE --sev-dh-cert FILE"));
            }
        };
        let name = definition.name();
        // A domain that --overwrite deletes is deleted with its keys.
        if lookup::find(libvirt, &name)?.is_none() {
            AttestationStore::check_free(&context.host, libvirt, &name)?;
        }
        measure::check_validator()?;
        let firmware = options.sev_firmware.as_ref();
        let firmware = firmware.map(|file| file.canonicalize().at("find", file)).transpose()?;
        if firmware.is_none() && !libvirt.is_local() {
            return Err(Error::usage(
                "the attestation of a guest on a remote host needs a firmware file on this machine",
            )
            .hint("add --sev-firmware FILE, a copy of the guest's firmware that you trust"));
        }
        let warnings = match keys {
            Keys::ForThisHost => vec![
                "--sev-export-cert trusts the certificates that this host exports: use it only for \
                 demonstrations"
                    .to_owned(),
            ],
            _ => Vec::new(),
        };
        Ok(Some(Self { keys, policy, firmware, warnings }))
    }

    /// Creates the session if there is none, and stores keys and record. Returns the store and the
    /// definition with the session.
    pub fn prepare(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        name: &str,
        xml: &str,
    ) -> Result<(AttestationStore, String)> {
        let record = Record {
            name: name.to_owned(),
            uuid: Definition::parse(xml.to_owned())?.uuid(),
            host: store::connection_name(libvirt),
            attestation: true,
            policy: self.policy,
            firmware: self.firmware.clone(),
        };
        let keep = AttestationStore::create(&context.host, libvirt, record)?;
        match self.fill(&keep, xml) {
            Ok(xml) => Ok((keep, xml)),
            Err(error) => Err(keep.undo_after(error)),
        }
    }

    fn fill(&self, keep: &AttestationStore, xml: &str) -> Result<String> {
        let document = Document::parse(xml)?;
        let launch = document.root().child("launchSecurity");
        let launch =
            launch.ok_or_else(|| Error::failed("the definition has no launch security"))?;
        let xml = match &self.keys {
            Keys::Given { tik, tek } => {
                keep.write(TIK, &store::check_key(tik)?)?;
                keep.write(TEK, &store::check_key(tek)?)?;
                for (file, element) in [(CERT, "dhCert"), (SESSION, "session")] {
                    keep.write(file, launch.text_at(element).unwrap_or_default().as_bytes())?;
                }
                xml.to_owned()
            }
            Keys::ForChain(chain) => self.make(keep, chain, &document, launch)?,
            Keys::ForThisHost => {
                let chain = keep.sevctl_path(CHAIN);
                sevctl(["export", "--full"]).args([&chain]).run()?;
                let made = self.make(keep, &chain, &document, launch);
                remove(&chain)?;
                made?
            }
        };
        keep.write(DOMAIN, xml.as_bytes())?;
        Ok(xml)
    }

    /// Creates a session for the host with this certificate chain, which must lead to AMD's root certificate.
    fn make(
        &self,
        keep: &AttestationStore,
        chain: &Path,
        definition: &Document,
        launch: Node<'_>,
    ) -> Result<String> {
        sevctl(["verify", "--sev"]).args([chain]).run()?;
        let prefix = keep.path(MADE);
        sevctl(["session", "--name"])
            .args([prefix.as_path(), chain])
            .args([self.policy.to_string()])
            .run()?;
        for file in [TIK, TEK, CERT, SESSION] {
            let made = keep.sevctl_path(file);
            keep.write(file, &fs::read(&made).at("read", &made)?)?;
            remove(&made)?;
        }
        let mut edit = definition.edit();
        for (file, element) in [(CERT, "dhCert"), (SESSION, "session")] {
            let text = read_file("sevctl session", &keep.path(file))?;
            edit.insert_into(launch, &Element::new(element).text(text).to_xml()?);
        }
        edit.finish()
    }
}

impl Keys {
    fn for_host(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        options: &SevOptions,
    ) -> Result<Self> {
        sevctl(["--version"]).run()?;
        if options.sev_export_cert {
            return if libvirt.is_local() {
                Ok(Self::ForThisHost)
            } else {
                Err(Error::unsupported(
                    "--sev-export-cert cannot export the certificates of a remote host",
                )
                .hint("run sevctl export --full FILE on that host, then add --sev-cert FILE"))
            };
        }
        let listed = match libvirt.host() {
            Some(name) => Hosts::load(&context.host, config)?.get(name)?.sev_cert.clone(),
            None => None,
        };
        let chain = options.sev_cert.clone().or(listed).ok_or_else(|| {
            Error::usage("--sev-attest needs the certificate chain of the host").hint(
                "run sevctl export --full FILE on the host, then add --sev-cert FILE, or sev-cert in hosts.yaml",
            )
        })?;
        fs::File::open(&chain).at("read", &chain)?;
        Ok(Self::ForChain(chain))
    }
}

fn sevctl<const N: usize>(arguments: [&str; N]) -> Runner {
    Runner::new("sevctl", PACKAGE).args(arguments)
}
