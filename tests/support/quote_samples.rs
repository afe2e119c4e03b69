//! Quotes of real trust domains with their collateral: those in the published package of the crate dcap-qvl.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use super::tools::repository;

/// The offset of MRTD in the report of a trust domain. Source: Intel TDX DCAP Quoting Library API, "TD Quote Body".
pub(crate) const MRTD: usize = 136;

/// The offset of RTMR0 in the report; RTMR1 to RTMR3 follow. Source: the same.
pub(crate) const RTMR0: usize = 328;

/// The offset of the attributes in the report. Source: the same.
pub(crate) const ATTRIBUTES: usize = 120;

/// The values of the owner: their names in the arguments of QEMU, and their offsets in the report. Source: the same.
pub(crate) const OWNER_VALUES: [(&str, usize); 3] =
    [("mrconfigid", 184), ("mrowner", 232), ("mrownerconfig", 280)];

/// A quote, its collateral, and a time at which the collateral is valid.
pub(crate) struct Sample {
    name: &'static str,
    /// A time at which the collateral is valid.
    pub(crate) at: &'static str,
}

/// A quote of version 4 of a platform that is up to date.
pub(crate) const CURRENT: Sample = Sample { name: "tdx_quote", at: "2025-07-01T00:00:00Z" };
/// A quote of version 5 (TDX 1.5) of a platform that is out of date.
pub(crate) const OUTDATED: Sample =
    Sample { name: "tdx_quote_outdated", at: "2026-03-01T00:00:00Z" };
/// A quote of version 5 with the fields of service trust domains.
pub(crate) const EXTENDED: Sample = Sample { name: "tdx_quote_td15ex", at: "2026-10-20T00:00:00Z" };

impl Sample {
    /// The path of the quote.
    pub(crate) fn quote(&self) -> String {
        file(self.name)
    }

    /// The path of the collateral.
    pub(crate) fn collateral(&self) -> String {
        file(&format!("{}_collateral.json", self.name))
    }

    /// The bytes of the quote.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.quote()).unwrap()
    }

    /// The bytes of the quote (version 4) with other values in the report of the trust domain, at these offsets in the
    /// report. The signature of the quote is wrong then.
    pub(crate) fn with(&self, fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = self.bytes();
        for (offset, value) in fields {
            bytes[48 + offset..][..value.len()].copy_from_slice(value);
        }
        bytes
    }
}

/// The path of a file among the samples.
pub(crate) fn file(name: &str) -> String {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(directory);
    DIRECTORY.join(name).to_str().unwrap().to_owned()
}

/// The directory of the samples: in the sources that cargo built dcap-qvl of.
fn directory() -> PathBuf {
    let metadata = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        // cargo has not downloaded what other platforms need.
        .arg(format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg("--manifest-path")
        .arg(repository().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "dcap-qvl").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("sample")
}
