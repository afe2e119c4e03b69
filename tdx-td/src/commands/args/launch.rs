//! The flags of launch security: those of Intel TDX and those of AMD SEV.

use std::path::{Path, PathBuf};

use clap::Args;
use common::units::hex_u64;

use crate::security::launch::LaunchOptions;
use crate::security::launch::sev::SevOptions;
use crate::security::launch::tdx::{Qgs, TdxOptions};

/// The flags of every kind of launch security.
#[derive(Debug, Clone, Default, Args)]
pub struct LaunchArgs {
    /// The flags of Intel TDX.
    #[command(flatten)]
    tdx: TdxArgs,
    /// The flags of AMD SEV.
    #[command(flatten)]
    sev: SevArgs,
}

impl LaunchArgs {
    /// Returns the launch options that the flags set.
    pub fn options(&self) -> LaunchOptions {
        LaunchOptions { tdx: (&self.tdx).into(), sev: (&self.sev).into() }
    }
}

/// The flags of a trust domain.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Intel TDX")]
pub struct TdxArgs {
    /// Allow the host to debug the trust domain, and so to read its memory
    #[arg(long)]
    td_debug: bool,
    /// Disable #VE exceptions for unmapped guest pages; Linux guests need the value on [default: on]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    sept_ve_disable: Option<bool>,
    /// MRCONFIGID: 48 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_config_id: Option<String>,
    /// MROWNER: 48 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_owner: Option<String>,
    /// MROWNERCONFIG: 48 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_owner_config: Option<String>,
    /// Unix socket of the quote generation service, or none [default: libvirt's default socket]
    #[arg(long, value_name = "PATH|none", value_parser = qgs)]
    qgs: Option<Qgs>,
}

impl From<&TdxArgs> for TdxOptions {
    fn from(args: &TdxArgs) -> Self {
        Self {
            td_debug: args.td_debug,
            sept_ve_disable: args.sept_ve_disable,
            mr_config_id: args.mr_config_id.clone(),
            mr_owner: args.mr_owner.clone(),
            mr_owner_config: args.mr_owner_config.clone(),
            qgs: args.qgs.clone(),
        }
    }
}

/// The flags of an AMD SEV guest.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "AMD SEV")]
pub struct SevArgs {
    /// Guest policy [default: 0x3 for SEV, 0x7 for SEV-ES, 0x30000 for SEV-SNP: no debugging]
    #[arg(long, value_name = "HEX", value_parser = policy)]
    sev_policy: Option<u64>,
    /// Diffie-Hellman certificate of the guest owner
    #[arg(long, value_name = "FILE")]
    sev_dh_cert: Option<PathBuf>,
    /// Session blob of the guest owner
    #[arg(long, value_name = "FILE")]
    sev_session: Option<PathBuf>,
    /// Transport integrity key of the session. The guest runs only if its launch measurement is the
    /// expected one
    #[arg(long, value_name = "FILE", requires_all = ["sev_tek", "sev_session", "sev_dh_cert"])]
    sev_tik: Option<PathBuf>,
    /// Transport encryption key of the session
    #[arg(long, value_name = "FILE", requires = "sev_tik")]
    sev_tek: Option<PathBuf>,
    /// Create a session with sevctl, for the host's certificate chain. The guest runs only if its
    /// launch measurement is the expected one
    #[arg(long, conflicts_with_all = ["sev_session", "sev_dh_cert", "sev_tik"])]
    sev_attest: bool,
    /// Certificate chain of the host [default: sev-cert in hosts.yaml]
    #[arg(long, value_name = "FILE", requires = "sev_attest")]
    sev_cert: Option<PathBuf>,
    /// Use the certificate chain that this host itself exports. Such a chain proves nothing about the
    /// host; use this option only for demonstrations
    #[arg(long, requires = "sev_attest", conflicts_with = "sev_cert")]
    sev_export_cert: bool,
    /// Firmware file from which the expected measurement is computed [default: the file in the domain's
    /// definition]
    #[arg(long, value_name = "FILE")]
    sev_firmware: Option<PathBuf>,
    /// SEV-SNP: host data for attestation reports, 32 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE")]
    snp_host_data: Option<String>,
    /// SEV-SNP: ID block, 96 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE", requires = "snp_id_auth")]
    snp_id_block: Option<String>,
    /// SEV-SNP: ID authentication information, 4096 bytes in hex or base64, or a file with them
    #[arg(long, value_name = "VALUE|FILE", requires = "snp_id_block")]
    snp_id_auth: Option<String>,
    /// SEV-SNP: the ID authentication information contains an author key
    #[arg(long, requires = "snp_id_auth")]
    snp_author_key: bool,
    /// SEV-SNP: allow (on) or forbid (off) reports signed with the VCEK, the key of the chip [default:
    /// QEMU's default]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    snp_vcek: Option<bool>,
}

impl From<&SevArgs> for SevOptions {
    fn from(args: &SevArgs) -> Self {
        Self {
            sev_policy: args.sev_policy,
            sev_dh_cert: args.sev_dh_cert.clone(),
            sev_session: args.sev_session.clone(),
            sev_tik: args.sev_tik.clone(),
            sev_tek: args.sev_tek.clone(),
            sev_attest: args.sev_attest,
            sev_cert: args.sev_cert.clone(),
            sev_export_cert: args.sev_export_cert,
            sev_firmware: args.sev_firmware.clone(),
            snp_host_data: args.snp_host_data.clone(),
            snp_id_block: args.snp_id_block.clone(),
            snp_id_auth: args.snp_id_auth.clone(),
            snp_author_key: args.snp_author_key,
            snp_vcek: args.snp_vcek,
        }
    }
}

/// Parses `on` or `off`.
fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

fn qgs(text: &str) -> Result<Qgs, String> {
    match text {
        "none" => Ok(Qgs::None),
        path if Path::new(path).is_absolute() => Ok(Qgs::Socket(path.into())),
        _ => Err("expected an absolute path, or none".to_owned()),
    }
}

fn policy(text: &str) -> Result<u64, String> {
    hex_u64(text).ok_or_else(|| "expected a hexadecimal number such as 0x3".to_owned())
}
