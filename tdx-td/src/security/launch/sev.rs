//! AMD SEV, SEV-ES and SEV-SNP launch security.
//!
//! Source: <https://libvirt.org/formatdomain.html#launch-security>; AMD Secure Encrypted
//! Virtualization API (55766), table 2; AMD SEV-SNP Firmware ABI (56860), table 9.

use std::path::PathBuf;

use common::xml::Element;
use common::{Error, Result};

use crate::capability::Security;
use crate::domain::metadata::{ATTESTATION, digest};
use crate::security::launch::fixed_bytes::{FixedBytes, read_file};

/// Bit 0: the host may not debug the guest.
const NO_DEBUG: u64 = 1;
/// Bit 1: the keys of the guest are not shared with another guest.
const NO_KEY_SHARING: u64 = 1 << 1;
/// Bit 2: the registers of the guest are encrypted (SEV-ES).
const ENCRYPTED_STATE: u64 = 1 << 2;
/// Bits 6 to 15 must be zero. The bits from 16 are the lowest version of firmware that may run the guest.
const RESERVED: u64 = 0xffc0;

/// SEV-SNP, bit 16: the guest may run with simultaneous multithreading on.
const SNP_SMT: u64 = 1 << 16;
/// SEV-SNP, bit 17 must be one.
const SNP_ONE: u64 = 1 << 17;
/// SEV-SNP, bit 19: the host may debug the guest.
const SNP_DEBUG: u64 = 1 << 19;
/// SEV-SNP: the bits from 26 must be zero.
const SNP_RESERVED: u64 = !((1 << 26) - 1);

/// The options of an AMD SEV guest, as the user gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SevOptions {
    /// Guest policy; `None` for the default, which forbids debugging.
    pub sev_policy: Option<u64>,
    /// File with the Diffie-Hellman certificate of the guest owner.
    pub sev_dh_cert: Option<PathBuf>,
    /// File with the session blob of the guest owner.
    pub sev_session: Option<PathBuf>,
    /// File with the transport integrity key of the session.
    pub sev_tik: Option<PathBuf>,
    /// File with the transport encryption key of the session.
    pub sev_tek: Option<PathBuf>,
    /// Whether sevctl creates a session.
    pub sev_attest: bool,
    /// File with the certificate chain of the host; `None` for that in hosts.yaml.
    pub sev_cert: Option<PathBuf>,
    /// Whether the certificate chain that this host exports is used.
    pub sev_export_cert: bool,
    /// Firmware file for the expected measurement; `None` for the file in the domain's definition.
    pub sev_firmware: Option<PathBuf>,
    /// Host data for attestation reports of SEV-SNP, 32 bytes.
    pub snp_host_data: Option<String>,
    /// ID block of SEV-SNP, 96 bytes.
    pub snp_id_block: Option<String>,
    /// ID authentication information of SEV-SNP, 4096 bytes.
    pub snp_id_auth: Option<String>,
    /// Whether the ID authentication information contains an author key.
    pub snp_author_key: bool,
    /// Whether the key of the chip itself (VCEK) may sign reports of SEV-SNP; `None` for QEMU's default.
    pub snp_vcek: Option<bool>,
}

impl SevOptions {
    fn of_snp(&self) -> bool {
        let values = [&self.snp_host_data, &self.snp_id_block, &self.snp_id_auth];
        self.snp_author_key || self.snp_vcek.is_some() || values.iter().any(|value| value.is_some())
    }

    fn of_sev(&self) -> bool {
        let files = [
            &self.sev_dh_cert,
            &self.sev_session,
            &self.sev_tik,
            &self.sev_tek,
            &self.sev_firmware,
        ];
        self.sev_attest || files.iter().any(|file| file.is_some())
    }

    /// Returns the origin of the session keys, in the form that a later `new` of the same name compares.
    fn attestation(&self) -> &'static str {
        match (&self.sev_tik, self.sev_attest) {
            (Some(_), _) => "given",
            (None, true) => "made",
            (None, false) => "none",
        }
    }

    /// Whether any option was given.
    pub fn any(&self) -> bool {
        self.of_snp() || self.of_sev() || self.sev_policy.is_some()
    }
}

/// The launch security of an AMD SEV guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sev {
    /// SEV or SEV-ES, depending on a bit of the policy.
    Early {
        /// Guest policy, 32 bits.
        policy: u64,
        /// Diffie-Hellman certificate, base64.
        dh_cert: Option<String>,
        /// Session blob, base64.
        session: Option<String>,
        /// Origin of the session keys: `given`, `made` or `none`.
        attestation: &'static str,
    },
    /// The launch security of an SEV-SNP guest.
    Snp {
        /// Guest policy, 64 bits.
        policy: u64,
        /// Host data for attestation reports.
        host_data: Option<FixedBytes<32>>,
        /// ID block and ID authentication information.
        id: Option<Box<(FixedBytes<96>, FixedBytes<4096>)>>,
        /// Whether the ID authentication information contains an author key.
        author_key: bool,
        /// Whether the key of the chip itself (VCEK) may sign reports.
        vcek: Option<bool>,
    },
}

impl Sev {
    /// Checks the options and returns the launch security.
    ///
    /// Errors: `usage` for options of another generation, or a policy of another generation;
    /// `invalid_input` and `not_found` for the files.
    pub fn new(security: Security, options: &SevOptions) -> Result<Self> {
        if security == Security::SevSnp {
            return Self::snp(options);
        }
        if options.of_snp() {
            return Err(Error::usage("the --snp-... flags need --security sev-snp"));
        }
        let encrypted = security == Security::SevEs;
        let default = NO_DEBUG | NO_KEY_SHARING | if encrypted { ENCRYPTED_STATE } else { 0 };
        let policy = options.sev_policy.unwrap_or(default);
        let wrong = if policy & RESERVED != 0 || policy > u64::from(u32::MAX) {
            Some("has bits that must be zero")
        } else if encrypted && policy & ENCRYPTED_STATE == 0 {
            Some("lacks bit 2, which SEV-ES needs")
        } else if !encrypted && policy & ENCRYPTED_STATE != 0 {
            Some("has bit 2, which needs --security sev-es")
        } else {
            None
        };
        refuse(policy, wrong)?;
        if options.sev_firmware.is_some() && options.attestation() == "none" {
            return Err(Error::usage("--sev-firmware needs an attested guest")
                .hint("add --sev-attest, or --sev-tik and --sev-tek"));
        }
        let read = |flag: &str, path: &Option<PathBuf>| {
            path.as_deref().map(|path| read_file(flag, path)).transpose()
        };
        Ok(Self::Early {
            policy,
            dh_cert: read("--sev-dh-cert", &options.sev_dh_cert)?,
            session: read("--sev-session", &options.sev_session)?,
            attestation: options.attestation(),
        })
    }

    fn snp(options: &SevOptions) -> Result<Self> {
        if options.of_sev() {
            return Err(Error::usage("flags of sessions and keys do not apply to SEV-SNP")
                .hint("request a report inside the guest instead: snpguest report"));
        }
        let policy = options.sev_policy.unwrap_or(SNP_SMT | SNP_ONE);
        let wrong = if policy & SNP_ONE == 0 {
            Some("lacks bit 17, which must be one")
        } else if policy & SNP_RESERVED != 0 {
            Some("has bits that must be zero")
        } else {
            None
        };
        refuse(policy, wrong)?;
        let id = match (&options.snp_id_block, &options.snp_id_auth) {
            (Some(block), Some(auth)) => Some(Box::new((
                FixedBytes::read("--snp-id-block", block)?,
                FixedBytes::read("--snp-id-auth", auth)?,
            ))),
            _ => None,
        };
        let host_data = options.snp_host_data.as_ref();
        Ok(Self::Snp {
            policy,
            host_data: host_data
                .map(|text| FixedBytes::read("--snp-host-data", text))
                .transpose()?,
            id,
            author_key: options.snp_author_key,
            vcek: options.snp_vcek,
        })
    }

    /// Returns the `<launchSecurity>` element. libvirt adds the values that depend on the processor.
    pub fn to_element(&self) -> Element {
        let text = |name: &str, value: &dyn std::fmt::Display| Element::new(name).text(value);
        match self {
            Self::Early { policy, dh_cert, session, .. } => Element::new("launchSecurity")
                .attr("type", "sev")
                .child(text("policy", &format_args!("{policy:#06x}")))
                .child_opt(dh_cert.as_ref().map(|cert| text("dhCert", cert)))
                .child_opt(session.as_ref().map(|session| text("session", session))),
            Self::Snp { policy, host_data, id, author_key, vcek } => Element::new("launchSecurity")
                .attr("type", "sev-snp")
                .attr_opt("authorKey", author_key.then_some("yes"))
                .attr_opt("vcek", vcek.map(|on| if on { "yes" } else { "no" }))
                .child(text("policy", &format_args!("{policy:#010x}")))
                .child_opt(id.as_ref().map(|id| text("idBlock", &id.0)))
                .child_opt(id.as_ref().map(|id| text("idAuth", &id.1)))
                .child_opt(host_data.as_ref().map(|data| text("hostData", data))),
        }
    }

    /// Returns the generation of AMD SEV.
    pub fn security(&self) -> Security {
        match self {
            Self::Early { policy, .. } if policy & ENCRYPTED_STATE != 0 => Security::SevEs,
            Self::Early { .. } => Security::Sev,
            Self::Snp { .. } => Security::SevSnp,
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Early { policy, .. } => policy & NO_DEBUG == 0,
            Self::Snp { policy, .. } => policy & SNP_DEBUG != 0,
        }
    }

    /// Returns warnings for the user.
    pub fn warnings(&self) -> Vec<String> {
        let open = || "--sev-policy allows the host to debug the guest".to_owned();
        self.is_open().then(open).into_iter().collect()
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let of = |value: Option<&dyn std::fmt::Display>| {
            value.map_or_else(|| "none".to_owned(), |value| digest(value.to_string().as_bytes()))
        };
        let policy = |policy: &u64| ("sev_policy", format!("{policy:#x}"));
        let request = match self {
            Self::Early { policy: bits, dh_cert, session, attestation } => vec![
                policy(bits),
                ("sev_dh_cert_sha256", of(dh_cert.as_ref().map(|cert| cert as _))),
                ("sev_session_sha256", of(session.as_ref().map(|session| session as _))),
                (ATTESTATION, (*attestation).to_owned()),
            ],
            Self::Snp { policy: bits, host_data, id, author_key, vcek } => vec![
                policy(bits),
                ("snp_host_data_sha256", of(host_data.as_ref().map(|data| data as _))),
                ("snp_id_block_sha256", of(id.as_ref().map(|id| &id.0 as _))),
                ("snp_id_auth_sha256", of(id.as_ref().map(|id| &id.1 as _))),
                ("snp_author_key", author_key.to_string()),
                ("snp_vcek", vcek.map_or_else(|| "default".to_owned(), |on| on.to_string())),
            ],
        };
        request.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn refuse(policy: u64, wrong: Option<&str>) -> Result<()> {
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(Error::usage(format!("--sev-policy {policy:#x} {wrong}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn xml(security: Security, options: &SevOptions) -> String {
        Sev::new(security, options).unwrap().to_element().to_xml().unwrap()
    }

    #[test]
    fn default_policy_forbids_debugging() {
        let options = SevOptions::default();
        for (security, kind, policy) in [
            (Security::Sev, "sev", "0x0003"),
            (Security::SevEs, "sev", "0x0007"),
            (Security::SevSnp, "sev-snp", "0x00030000"),
        ] {
            let want = format!(
                "<launchSecurity type='{kind}'>\n  <policy>{policy}</policy>\n</launchSecurity>"
            );
            assert_eq!(xml(security, &options), want);
            assert_eq!(Sev::new(security, &options).unwrap().warnings(), Vec::<String>::new());
        }
        for (security, open) in [(Security::Sev, 0x2), (Security::SevSnp, 0xb_0000)] {
            let options = SevOptions { sev_policy: Some(open), ..SevOptions::default() };
            assert_eq!(Sev::new(security, &options).unwrap().warnings().len(), 1);
        }
    }

    #[test]
    fn to_element_has_every_option() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert");
        std::fs::write(&cert, [0, 1, 2]).unwrap();
        let early = SevOptions {
            sev_dh_cert: Some(cert.clone()),
            sev_session: Some(cert),
            ..SevOptions::default()
        };
        let early = xml(Security::Sev, &early);
        assert!(early.contains("<dhCert>AAEC</dhCert>\n  <session>AAEC</session>"), "{early}");

        let snp = SevOptions {
            snp_host_data: Some("00".repeat(32)),
            snp_id_block: Some("00".repeat(96)),
            snp_id_auth: Some("00".repeat(4096)),
            snp_author_key: true,
            snp_vcek: Some(false),
            ..SevOptions::default()
        };
        let snp = xml(Security::SevSnp, &snp);
        for part in ["type='sev-snp' authorKey='yes' vcek='no'", "<idBlock>AA", "<idAuth>AA"] {
            assert!(snp.contains(part), "{part} is not in {snp}");
        }
    }

    #[test]
    fn new_refuses_policies_of_another_generation() {
        for (security, policy, says) in [
            (Security::Sev, 0x7, "--security sev-es"),
            (Security::SevEs, 0x3, "bit 2"),
            (Security::Sev, 0x43, "must be zero"),
            (Security::Sev, 0x1_0000_0003, "must be zero"),
            (Security::SevSnp, 0x1_0000, "bit 17"),
            (Security::SevSnp, 0x400_0000 | 0x3_0000, "must be zero"),
        ] {
            let options = SevOptions { sev_policy: Some(policy), ..SevOptions::default() };
            let error = Sev::new(security, &options).unwrap_err();
            assert!(error.message().contains(says), "{policy:#x}: {error}");
        }
        let wrong_length = SevOptions { snp_host_data: Some("00".into()), ..SevOptions::default() };
        assert!(Sev::new(Security::SevSnp, &wrong_length).is_err());
        assert!(Sev::new(Security::Sev, &wrong_length).is_err());
    }
}
