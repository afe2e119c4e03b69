//! `tdx-attest collateral`: fetches the collateral that a quote is verified with.

use std::path::PathBuf;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::input;
use common::document::output::Outcome;
use common::td_quote::{self, TdReport};

use crate::pccs::{Pccs, Url};

const EXAMPLES: &str = "Examples:
  tdx-attest collateral quote.bin --pccs https://pccs.example:8081 >collateral.json
  tdx-attest collateral quote.bin --pccs https://api.trustedservices.intel.com >collateral.json
  SSL_CERT_FILE=pccs.pem tdx-attest collateral quote.bin --pccs https://localhost:8081 >collateral.json

The command uses the proxy in HTTPS_PROXY. It trusts the certificate authorities of the
system, or those in SSL_CERT_FILE and SSL_CERT_DIR. Collateral expires after about 30 days.
The server need not be trusted: verify checks the signatures of Intel.";

/// Arguments of `collateral`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CollateralArgs {
    /// The file with the quote; - reads standard input
    #[arg(value_name = "QUOTE")]
    quote: PathBuf,
    /// The address of the Provisioning Certificate Caching Service (PCCS), or of Intel's service
    #[arg(long, value_name = "URL")]
    pccs: Url,
}

/// Fetches the collateral and prints it as JSON.
///
/// Errors: `invalid_input` for a file that is no quote; those of [`Pccs::fetch`].
pub fn run(_: &Context, args: CollateralArgs) -> Result<Outcome> {
    let quote = input::bytes_from(&args.quote, td_quote::LIMIT, "a quote")?;
    TdReport::parse(&quote, &input::name(&args.quote))?;
    let collateral = Pccs::new(args.pccs)?.fetch(&quote)?;
    Ok(Outcome::raw(collateral.to_json()))
}
