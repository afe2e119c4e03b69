//! The launch session of a new domain: given in files, or made by `sevctl`.

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

/// What it takes to have a new domain attested.
#[derive(Debug)]
pub struct AttestationRequest {
    keys: Keys,
    policy: u32,
    firmware: Option<PathBuf>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Where the keys come from.
#[derive(Debug)]
enum Keys {
    /// The user has them; the definition has the session.
    Given { tik: PathBuf, tek: PathBuf },
    /// sevctl makes them for the host of this certificate chain.
    ForChain(PathBuf),
    /// The same for the chain that this host tells.
    ForThisHost,
}

impl AttestationRequest {
    /// Looks at everything that can fail; none for a domain that is not to be attested.
    ///
    /// Errors: `usage` for a guest of another kind, and without a session or a certificate chain;
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
            return Err(Error::usage(
                "only AMD SEV and SEV-ES guests are attested before they run",
            )
            .hint("others ask for a quote or a report themselves, while they run"));
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
                return Err(Error::usage("the definition has a session: its keys are missing")
                    .hint("--sev-tik FILE --sev-tek FILE instead of --sev-attest"));
            }
            _ => {
                return Err(Error::usage("keys are of a session: it is missing")
                    .hint("--sev-session FILE --sev-dh-cert FILE"));
            }
        };
        let name = definition.name();
        // One that is to be overwritten takes its keys along.
        if lookup::find(libvirt, &name)?.is_none() {
            AttestationStore::check_free(&context.host, libvirt, &name)?;
        }
        measure::check_validator()?;
        let firmware = options.sev_firmware.as_ref();
        let firmware = firmware.map(|file| file.canonicalize().at("find", file)).transpose()?;
        if firmware.is_none() && !libvirt.is_local() {
            return Err(Error::usage(
                "a guest of a remote host is measured against a file from here",
            )
            .hint("--sev-firmware names a copy of its firmware that you trust"));
        }
        let warnings = match keys {
            Keys::ForThisHost => vec![
                "--sev-export-cert trusts whatever this host says of itself: for a demonstration only"
                    .to_owned(),
            ],
            _ => Vec::new(),
        };
        Ok(Some(Self { keys, policy, firmware, warnings }))
    }

    /// Makes the session where there is none, and keeps everything. Returns what is kept and the
    /// definition with the session in it.
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

    /// Makes a session for the host with this certificate chain, which has to lead up to AMD's.
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
                Err(Error::unsupported("only this host's own certificates can be exported here")
                    .hint("run sevctl export --full FILE there, and name the file by --sev-cert"))
            };
        }
        let listed = match libvirt.host() {
            Some(name) => Hosts::load(&context.host, config)?.get(name)?.sev_cert.clone(),
            None => None,
        };
        let chain = options.sev_cert.clone().or(listed).ok_or_else(|| {
            Error::usage("a session is made for one host: its certificate chain is missing")
                .hint("--sev-cert FILE, or sev-cert in hosts.yaml; sevctl export --full FILE writes it there")
        })?;
        fs::File::open(&chain).at("read", &chain)?;
        Ok(Self::ForChain(chain))
    }
}

fn sevctl<const N: usize>(arguments: [&str; N]) -> Runner {
    Runner::new("sevctl", PACKAGE).args(arguments)
}
