//! The Provisioning Certificate Caching Service (PCCS) of a site, or Intel's service: where collateral is fetched from.
//!
//! Nothing that a server answers is trusted here. The verification of a quote checks the signatures of Intel.
//!
//! Source: Intel SGX and TDX Provisioning Certification Service API, version 4; PCCS design guide, "Get Root CA CRL".

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use common::{Error, Result, text};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::quote::verification::collateral::{Collateral, Parts};
use crate::quote::verification::pck;

/// The address of the root authority's revocation list, for a service that has none.
///
/// Source: the CRL distribution point in the certificate "Intel SGX Root CA".
const ROOT_LIST: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// The most that is read of an answer; TCB info has about 20 kB. Unit: bytes.
const LIMIT: u64 = 4 << 20;

/// The longest time that an answer may take, from the name's look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The address of a service: `https`, a host, and maybe a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(String);

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected an address such as https://pccs.example:8081";
        let uri: Uri = text.parse().map_err(|_| expected)?;
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if uri.scheme_str() != Some("https") || !has_host || text.contains(['?', '#', '@']) {
            return Err(expected);
        }
        // Users copy the address with the path of the service's interface, too.
        let mut base = text.trim_end_matches('/');
        for path in ["/sgx/certification/v4", "/tdx/certification/v4"] {
            base = base.strip_suffix(path).unwrap_or(base);
        }
        Ok(Self(base.to_owned()))
    }
}

/// A service that collateral is fetched from.
#[derive(Debug)]
pub struct Pccs {
    url: Url,
    agent: Agent,
}

/// An answer of a service.
struct Answer {
    url: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A statement that Intel signed, as the service wraps it. The signature is of the statement's bytes as they are.
#[derive(Deserialize)]
struct Statement<'a> {
    #[serde(borrow, alias = "tcbInfo", alias = "enclaveIdentity")]
    statement: &'a RawValue,
    signature: &'a str,
}

impl Pccs {
    /// A client of the service at this address. The proxy and the trusted certificate authorities are those of the
    /// environment.
    ///
    /// Errors: `failed` if no certificate authority is trusted.
    pub fn new(url: Url) -> Result<Self> {
        let trusted = rustls_native_certs::load_native_certs();
        if trusted.certs.is_empty() {
            let error = Error::failed("no certificate authority is trusted on this machine")
                .hint("install the package ca-certificates, or set SSL_CERT_FILE to a file in PEM");
            return Err(match trusted.errors.into_iter().next() {
                Some(cause) => error.because(cause),
                None => error,
            });
        }
        let certificates =
            trusted.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
        let certificates: Vec<_> = certificates.collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(3)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("tdx-attest/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { url, agent })
    }

    /// Fetches the collateral that a quote is verified with.
    ///
    /// Errors: `invalid_input` for a quote without the certificate of its platform; `failed` for a service that cannot
    /// be reached or that answers otherwise than expected.
    pub fn fetch(&self, quote: &[u8]) -> Result<Collateral> {
        let platform = pck::platform_of(quote)?;
        let authority = platform.authority;
        let pck_crl =
            self.get(&format!("sgx/certification/v4/pckcrl?ca={authority}&encoding=der"))?;
        let tcb_info = self.get(&format!("tdx/certification/v4/tcb?fmspc={}", platform.fmspc))?;
        let identity = self.get("tdx/certification/v4/qe/identity")?;
        let (tcb_info_text, tcb_info_signature) = tcb_info.statement()?;
        let (qe_identity, qe_identity_signature) = identity.statement()?;
        let parts = Parts {
            pck_crl_issuer_chain: pck_crl.chain(&["SGX-PCK-CRL-Issuer-Chain"])?,
            root_ca_crl: self.root_list()?,
            tcb_info_issuer_chain: tcb_info
                .chain(&["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])?,
            qe_identity_issuer_chain: identity.chain(&["SGX-Enclave-Identity-Issuer-Chain"])?,
            pck_crl: pck_crl.body,
            tcb_info: tcb_info_text,
            tcb_info_signature,
            qe_identity,
            qe_identity_signature,
            // The quote has its own. With this one, the collateral would serve one platform only.
            pck_certificate_chain: None,
        };
        let url = &self.url.0;
        Collateral::new(parts, url).map_err(|error| {
            Error::failed(format!("{url} answered with malformed collateral")).because(error)
        })
    }

    /// The revocation list of the root authority, in DER. A PCCS gives it in hexadecimal digits; Intel's service does
    /// not give it, but another server of Intel does.
    fn root_list(&self) -> Result<Vec<u8>> {
        let url = format!("{}/sgx/certification/v4/rootcacrl", self.url.0);
        let list = match self.ask(&url)? {
            (StatusCode::NOT_FOUND, _) => expect_ok(self.ask(ROOT_LIST)?)?,
            answer => expect_ok(answer)?,
        };
        let digits = str::from_utf8(&list.body).ok().and_then(|text| text::from_hex(text.trim()));
        Ok(digits.unwrap_or(list.body))
    }

    /// The answer to a request for this path.
    fn get(&self, path: &str) -> Result<Answer> {
        expect_ok(self.ask(&format!("{}/{path}", self.url.0))?)
    }

    fn ask(&self, url: &str) -> Result<(StatusCode, Answer)> {
        let failed = |error: ureq::Error| {
            Error::failed(format!("cannot fetch {url}")).because(error).hint(
                "check the address, the proxy in HTTPS_PROXY, and the certificate authorities in SSL_CERT_FILE",
            )
        };
        let (head, mut body) = self.agent.get(url).call().map_err(failed)?.into_parts();
        let body = body.with_config().limit(LIMIT).read_to_vec().map_err(failed)?;
        Ok((head.status, Answer { url: url.to_owned(), headers: head.headers, body }))
    }
}

/// The answer, if its status is 200.
fn expect_ok((status, answer): (StatusCode, Answer)) -> Result<Answer> {
    match status {
        StatusCode::OK => Ok(answer),
        _ => Err(Error::failed(format!("{} answered with status {status}", answer.url))),
    }
}

impl Answer {
    /// The certificate chain in a header, in PEM. The names are those of versions of the service.
    fn chain(&self, names: &[&str]) -> Result<String> {
        let value = names.iter().find_map(|name| self.headers.get(*name)?.to_str().ok());
        let chain = value.and_then(|value| percent_decode_str(value).decode_utf8().ok());
        let absent =
            || Error::failed(format!("{} answered without the header {}", self.url, names[0]));
        Ok(chain.ok_or_else(absent)?.into_owned())
    }

    /// The text of the signed statement, and the signature.
    fn statement(&self) -> Result<(String, Vec<u8>)> {
        let failed = || {
            Error::failed(format!(
                "{} answered with something else than a signed statement",
                self.url
            ))
        };
        let parsed: Statement<'_> =
            serde_json::from_slice(&self.body).map_err(|error| failed().because(error))?;
        let signature = text::from_hex(parsed.signature).ok_or_else(failed)?;
        Ok((parsed.statement.get().to_owned(), signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_services_are_https_and_without_the_path_of_the_interface() {
        for text in [
            "https://pccs.example:8081",
            "https://pccs.example:8081/",
            "https://pccs.example:8081/sgx/certification/v4/",
            "https://pccs.example:8081/tdx/certification/v4",
        ] {
            assert_eq!(text.parse(), Ok(Url("https://pccs.example:8081".to_owned())), "{text}");
        }
        let other = [
            "",
            "pccs.example",
            "http://pccs.example",
            "https://",
            "https://a/?x=1",
            "https://user:pw@a",
            "file:///a",
            "https://a b",
            "-",
        ];
        for text in other {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
