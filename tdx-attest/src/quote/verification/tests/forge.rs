//! Forges quotes and collateral: platforms, quoting enclaves and authorities that do not exist.

use dcap_qvl::verify::rustcrypto;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::quote::verification::collateral::Parts;
use crate::time::Time;

/// A time at which everything forged is valid: 2026-01-15.
pub(super) const AT: Time = Time(1_768_435_200);

/// The serial numbers of the certificates.
pub(super) const ROOT: u8 = 1;
pub(super) const AUTHORITY: u8 = 2;
pub(super) const PCK: u8 = 3;
pub(super) const SIGNER: u8 = 4;

/// A key of the curve P-256, made of one byte.
pub(super) struct Key {
    key: SigningKey,
    public: Vec<u8>,
}

impl Key {
    pub(super) fn new(seed: u8) -> Self {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Self { key, public }
    }

    /// The signature of the bytes: `r`, then `s`.
    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign(bytes);
        signature.to_bytes().to_vec()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok((rustcrypto::backend().encode_ecdsa)(&self.sign(message)).unwrap())
    }
}

/// What is forged. The default is a quote that is accepted.
pub(super) struct Forge {
    /// The trust domain's report, of TDX 1.0 (584 bytes) or of TDX 1.5 (648 bytes).
    pub(super) report: Vec<u8>,
    /// The quoting enclave's report, without its report data.
    pub(super) qe_report: [u8; 384],
    /// The serial numbers of revoked certificates.
    pub(super) revoked: Vec<u8>,
    pub(super) tcb_info: Value,
    pub(super) qe_identity: Value,
    /// The seed of the key that signs the quoting enclave's report; by default that of the PCK.
    pub(super) qe_signer: u8,
    /// The seed of the key that signs TCB info and the identity; by default that of the signing certificate.
    pub(super) statement_signer: u8,
    /// The seed of the key of the root certificate that the verifier trusts.
    pub(super) trusted: u8,
    /// The last day of the platform's certificate: year, month, day.
    pub(super) pck_until: (i32, u8, u8),
    /// The last day of the revocation lists.
    pub(super) lists_until: (i32, u8, u8),
}

/// The forged files, and the root certificate to trust.
pub(super) struct Forged {
    pub(super) quote: Vec<u8>,
    pub(super) parts: Parts,
    pub(super) root: CertificateDer<'static>,
}

impl Default for Forge {
    fn default() -> Self {
        let mut report = vec![0; 584];
        report[0] = 3;
        // SEPT_VE_DISABLE.
        report[123] = 0x10;
        let mut qe_report = [0; 384];
        qe_report[48] = 0x11;
        qe_report[128..160].fill(0xaa);
        qe_report[256] = 2;
        qe_report[258] = 4;
        Self {
            report,
            qe_report,
            revoked: Vec::new(),
            tcb_info: tcb_info(),
            qe_identity: qe_identity(),
            qe_signer: PCK,
            statement_signer: SIGNER,
            trusted: ROOT,
            pck_until: (2035, 1, 1),
            lists_until: (2026, 2, 1),
        }
    }
}

fn tcb_info() -> Value {
    let level = |svn: u8, date: &str, status: &str, advisories: Value| {
        let mut tdx = vec![json!({"svn": 0}); 16];
        tdx[0] = json!({"svn": svn});
        let tcb = json!({"sgxtcbcomponents": vec![json!({"svn": 1}); 16], "pcesvn": 1, "tdxtcbcomponents": tdx});
        json!({"tcb": tcb, "tcbDate": date, "tcbStatus": status, "advisoryIDs": advisories})
    };
    json!({
        "id": "TDX", "version": 3, "issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2026-02-01T00:00:00Z",
        "fmspc": "0A0B0C0D0E0F", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tdxModule": {"mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "ff".repeat(8)},
        "tdxModuleIdentities": [],
        "tcbLevels": [
            level(3, "2025-05-14T00:00:00Z", "UpToDate", json!([])),
            level(2, "2024-03-13T00:00:00Z", "OutOfDate", json!(["INTEL-SA-00001"])),
        ],
    })
}

fn qe_identity() -> Value {
    let level =
        json!({"tcb": {"isvsvn": 4}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "UpToDate"});
    json!({
        "id": "TD_QE", "version": 2, "issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2026-02-01T00:00:00Z",
        "tcbEvaluationDataNumber": 17, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "aa".repeat(32), "isvprodid": 2, "tcbLevels": [level],
    })
}

impl Forge {
    pub(super) fn make(&self) -> Forged {
        let root_key = Key::new(ROOT);
        let root_params = authority("Test SGX Root CA", ROOT);
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let root = root_params.self_signed(&root_key).unwrap();
        let authority_params = authority("Test SGX PCK Platform CA", AUTHORITY);
        let authority_key = Key::new(AUTHORITY);
        let authority = authority_params.signed_by(&authority_key, &root_issuer).unwrap();
        let authority_issuer = Issuer::from_params(&authority_params, &authority_key);
        let pck_key = Key::new(PCK);
        let mut pck_params = leaf("Test SGX PCK Certificate", PCK);
        let (year, month, day) = self.pck_until;
        pck_params.not_after = date_time_ymd(year, month, day);
        pck_params.custom_extensions = vec![pck_extension()];
        let pck = pck_params.signed_by(&pck_key, &authority_issuer).unwrap();
        let signer = leaf("Test SGX TCB Signing", SIGNER)
            .signed_by(&Key::new(SIGNER), &root_issuer)
            .unwrap();
        let pck_chain = pck.pem() + &authority.pem() + &root.pem();
        let signer_chain = signer.pem() + &root.pem();
        let statement_key = Key::new(self.statement_signer);
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        let parts = Parts {
            pck_crl_issuer_chain: authority.pem() + &root.pem(),
            root_ca_crl: self.list(&root_issuer),
            pck_crl: self.list(&authority_issuer),
            tcb_info_issuer_chain: signer_chain.clone(),
            tcb_info_signature: statement_key.sign(tcb_info.as_bytes()),
            tcb_info,
            qe_identity_issuer_chain: signer_chain,
            qe_identity_signature: statement_key.sign(qe_identity.as_bytes()),
            qe_identity,
            pck_certificate_chain: None,
        };
        let trusted = match self.trusted {
            ROOT => root,
            other => {
                self::authority("Test SGX Root CA", ROOT).self_signed(&Key::new(other)).unwrap()
            }
        };
        Forged { quote: self.quote(&pck_chain), parts, root: trusted.der().clone() }
    }

    /// A revocation list of all revoked certificates, by an issuer.
    fn list(&self, issuer: &Issuer<'_, &Key>) -> Vec<u8> {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(u64::from(*serial)),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let (year, month, day) = self.lists_until;
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 12, 1),
            next_update: date_time_ymd(year, month, day),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: self.revoked.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(issuer).unwrap().der().to_vec()
    }

    fn quote(&self, pck_chain: &str) -> Vec<u8> {
        let attestation = Key::new(9);
        let key = &attestation.public[1..];
        let qe_auth_data = [7; 32];
        let mut qe_report = self.qe_report;
        let digest = Sha256::digest([key, &qe_auth_data].concat());
        qe_report[320..352].copy_from_slice(&digest);
        let signature = Key::new(self.qe_signer).sign(&qe_report);
        let chain = certification(5, pck_chain.as_bytes());
        let qe = [&qe_report[..], &signature, &32u16.to_le_bytes(), &qe_auth_data, &chain].concat();
        let is_old = self.report.len() == 584;
        let mut signed = vec![0; 48];
        signed[0] = if is_old { 4 } else { 5 };
        signed[2] = 2;
        signed[4] = 0x81;
        // The vendor of the quoting enclave: Intel.
        signed[12..28].copy_from_slice(&dcap_qvl::INTEL_QE_VENDOR_ID);
        if !is_old {
            signed.extend(3u16.to_le_bytes());
            signed.extend(648u32.to_le_bytes());
        }
        signed.extend(&self.report);
        let data = [&attestation.sign(&signed)[..], key, &certification(6, &qe)].concat();
        signed.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        signed.extend(data);
        signed
    }
}

/// Certification data of a type.
fn certification(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&kind.to_le_bytes()[..], &length, data].concat()
}

fn params(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(u64::from(serial)));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(name: &str, serial: u8) -> CertificateParams {
    let mut params = params(name, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, serial: u8) -> CertificateParams {
    let mut params = params(name, serial);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// The extension of the platform's certificate. Source: Intel SGX PCK Certificate and Certificate Revocation List
/// Profile, "PCK Certificate: Extensions".
fn pck_extension() -> CustomExtension {
    const SGX: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
    let entry = |path: &[u8], tag: u8, value: &[u8]| {
        let identifier = der(6, &[&SGX[..], path].concat());
        der(0x30, &[identifier, der(tag, value)].concat())
    };
    let tcb = [entry(&[2, 17], 2, &[1]), entry(&[2, 18], 4, &[1; 16])].concat();
    let entries = [
        entry(&[1], 4, &[5; 16]),
        entry(&[2], 0x30, &tcb),
        entry(&[3], 4, &[0; 2]),
        entry(&[4], 4, &[10, 11, 12, 13, 14, 15]),
        entry(&[5], 10, &[1]),
    ];
    let oid = [1, 2, 840, 113_741, 1, 13, 1];
    CustomExtension::from_oid_content(&oid, der(0x30, &entries.concat()))
}

/// A value in DER, of less than 64 kB.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    let length = match length.to_be_bytes() {
        [0, short @ 0..128] => vec![short],
        [0, long] => vec![0x81, long],
        [high, low] => vec![0x82, high, low],
    };
    [&[tag], &length[..], value].concat()
}
