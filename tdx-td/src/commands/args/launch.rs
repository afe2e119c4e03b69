//! How a new guest is launched: the flags of Intel TDX and of AMD SEV.

use std::path::{Path, PathBuf};

use clap::Args;
use common::units::hex_u64;

use crate::security::launch::LaunchOptions;
use crate::security::launch::sev::SevOptions;
use crate::security::launch::tdx::{Qgs, TdxOptions};

/// The flags of every kind of launch security.
#[derive(Debug, Clone, Default, Args)]
pub struct LaunchArgs {
    /// Those of Intel TDX.
    #[command(flatten)]
    tdx: TdxArgs,
    /// Those of AMD SEV.
    #[command(flatten)]
    sev: SevArgs,
}

impl LaunchArgs {
    /// Returns what the flags ask for.
    pub fn options(&self) -> LaunchOptions {
        LaunchOptions { tdx: (&self.tdx).into(), sev: (&self.sev).into() }
    }
}

/// The flags of a trust domain.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Trust domain")]
pub struct TdxArgs {
    /// Let the host debug the domain: its memory is then no secret
    #[arg(long)]
    td_debug: bool,
    /// Whether the guest is spared #VE on pages that are not there; Linux needs it [default: on]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    sept_ve_disable: Option<bool>,
    /// MRCONFIGID: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_config_id: Option<String>,
    /// MROWNER: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_owner: Option<String>,
    /// MROWNERCONFIG: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    mr_owner_config: Option<String>,
    /// The quote generation service's unix socket, or none [default: libvirt's own]
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
    /// The guest policy [default: no debugging; 0x3, 0x7 or 0x30000]
    #[arg(long, value_name = "HEX", value_parser = policy)]
    sev_policy: Option<u64>,
    /// The guest owner's Diffie-Hellman certificate
    #[arg(long, value_name = "FILE")]
    sev_dh_cert: Option<PathBuf>,
    /// The guest owner's session blob
    #[arg(long, value_name = "FILE")]
    sev_session: Option<PathBuf>,
    /// The session's transport integrity key: the guest runs only after its launch measured right
    #[arg(long, value_name = "FILE", requires_all = ["sev_tek", "sev_session", "sev_dh_cert"])]
    sev_tik: Option<PathBuf>,
    /// The session's transport encryption key
    #[arg(long, value_name = "FILE", requires = "sev_tik")]
    sev_tek: Option<PathBuf>,
    /// The same with a session made now, by sevctl, for the host's certificate chain
    #[arg(long, conflicts_with_all = ["sev_session", "sev_dh_cert", "sev_tik"])]
    sev_attest: bool,
    /// The host's certificate chain [default: sev-cert in hosts.yaml]
    #[arg(long, value_name = "FILE", requires = "sev_attest")]
    sev_cert: Option<PathBuf>,
    /// Take the chain that this host tells of itself: for a demonstration only
    #[arg(long, requires = "sev_attest", conflicts_with = "sev_cert")]
    sev_export_cert: bool,
    /// The firmware to measure against [default: the file the domain itself names]
    #[arg(long, value_name = "FILE")]
    sev_firmware: Option<PathBuf>,
    /// SEV-SNP: 32 bytes for attestation reports, in hex, base64 or a file
    #[arg(long, value_name = "VALUE|FILE")]
    snp_host_data: Option<String>,
    /// SEV-SNP: the ID block, 96 bytes
    #[arg(long, value_name = "VALUE|FILE", requires = "snp_id_auth")]
    snp_id_block: Option<String>,
    /// SEV-SNP: the ID authentication information, 4096 bytes
    #[arg(long, value_name = "VALUE|FILE", requires = "snp_id_block")]
    snp_id_auth: Option<String>,
    /// SEV-SNP: the ID authentication information holds an author key
    #[arg(long, requires = "snp_id_auth")]
    snp_author_key: bool,
    /// SEV-SNP: whether reports may be signed with the chip's own key [default: the firmware's]
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

/// Reads a flag that is `on` or `off`.
fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

fn qgs(text: &str) -> Result<Qgs, String> {
    match text {
        "none" => Ok(Qgs::None),
        path if Path::new(path).is_absolute() => Ok(Qgs::Socket(path.into())),
        _ => Err("an absolute path, or none".to_owned()),
    }
}

fn policy(text: &str) -> Result<u64, String> {
    hex_u64(text).ok_or_else(|| "a hexadecimal number such as 0x3".to_owned())
}
