//! `tdx-td host check`: whether guests of a kind can run on this host, and what to do about it if not.
//!
//! `facts` are read once; everything else is judged from them without another look. What only follows
//! from another failure is no failure of its own, so that those which are told are those to mend.

use crate::host::check::{access, firmware, libvirt, memory, sev, tdx, vfio};
use std::borrow::Cow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use common::Result;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::libvirt::Libvirt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Vendor};

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// What is to run here [default: the best protection that processors of this vendor have]
    #[arg(long = "for", value_enum, value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Take libvirt's word from this file, as virsh domcapabilities writes it, instead of asking
    #[arg(long, value_name = "FILE")]
    capabilities: Option<PathBuf>,
    /// In a table, also show the checks that passed or do not apply
    #[arg(long)]
    all: bool,
}

const EXAMPLES: &str = "Examples:
  tdx-td host check
  tdx-td host check --for tdx --for vfio && make guests
  tdx-td host check --json | jq -r '.items[] | select(.status==\"fail\") | .fix'
  tdx-td host check --sysroot captured --capabilities domcapabilities.xml";

/// What is to run on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Intel TDX trust domains
    Tdx,
    /// AMD SEV guests
    Sev,
    /// AMD SEV-ES guests
    SevEs,
    /// AMD SEV-SNP guests
    SevSnp,
    /// Guests with devices of the host
    Vfio,
    /// Ordinary guests
    None,
}

impl Kind {
    /// The best protection that processors of the host's vendor have: of AMD's what this one offers.
    fn best(facts: &Facts) -> Self {
        let cpu = facts.cpu.as_ref().ok();
        let has = |flag: &str| cpu.is_some_and(|cpu| cpu.flags.contains(flag));
        match cpu.and_then(|cpu| cpu.vendor) {
            Some(Vendor::Intel) => Self::Tdx,
            Some(Vendor::Amd) if has("sev_es") && !has("sev_snp") => Self::SevEs,
            Some(Vendor::Amd) if has("sev") && !has("sev_snp") => Self::Sev,
            Some(Vendor::Amd) => Self::SevSnp,
            None => Self::None,
        }
    }

    /// Its name, as on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether such guests are protected from the host.
    pub(crate) fn is_secure(self) -> bool {
        !matches!(self, Self::Vfio | Self::None)
    }
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it has to be.
    Ok,
    /// Guests run, and something is worse than it could be.
    Warn,
    /// Guests do not run.
    Fail,
    /// It does not matter here, or follows from something else.
    NotApplicable,
    /// Nobody can tell.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::NotApplicable => "n/a",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckItem {
    /// What it is.
    pub code: HostCode,
    /// How it stands.
    pub status: Status,
    /// What is there, or why nobody can tell.
    pub found: String,
    /// What has to hold.
    pub wanted: &'static str,
    /// What to do about it: a command, or a sentence; null where there is nothing to do.
    pub fix: Option<String>,
}

impl CheckItem {
    /// Whether guests do not run for it.
    pub fn is_failure(&self) -> bool {
        self.status == Status::Fail
    }
}

impl Item for CheckItem {
    const COLUMNS: &'static [&'static str] = &["CODE", "STATUS", "FOUND", "FIX"];
    const WRAPPED: &'static [&'static str] = &["FOUND"];
    const BELOW: Option<&'static str> = Some("FIX");

    fn key(&self) -> Cow<'_, str> {
        self.code.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.code.as_str().to_owned(),
            self.status.as_str().to_owned(),
            self.found.clone(),
            self.fix.clone().unwrap_or_default(),
        ]
    }

    fn table_order(&self) -> u8 {
        match self.status {
            Status::Fail => 0,
            Status::Warn => 1,
            Status::Unknown => 2,
            Status::Ok => 3,
            Status::NotApplicable => 4,
        }
    }
}

/// What a table says of the checks that it does not show.
fn closing(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 other check passed or does not apply (--all shows it)".to_owned()),
        _ => Some(format!("{count} other checks passed or do not apply (--all shows them)")),
    }
}

/// Looks at the host, and says yes or no to what is to run on it.
///
/// Errors: `not_found` for a file of capabilities that is not there.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    may_ask: bool,
    args: &CheckArgs,
) -> Result<Outcome> {
    context.host.expect_machine()?;
    let asked = libvirt::Asked::ask(connect, may_ask, args.capabilities.as_deref())?;
    let facts = Facts::read(&context.host, asked);
    let mut warnings = Vec::new();
    let mut kinds = args.kinds.clone();
    if kinds.is_empty() {
        let best = Kind::best(&facts);
        warnings.push(format!("judged for --for {}", best.name()));
        kinds.push(best);
    }
    let items = judge(&facts, &kinds);
    let yes = !items.iter().any(CheckItem::is_failure);
    let mut document = Document::new("tdx.td.host_check", items).warnings(warnings);
    if !args.all {
        let passed = |item: &CheckItem| matches!(item.status, Status::Ok | Status::NotApplicable);
        document = document.fold(passed, closing);
    }
    Ok(Outcome::answer(document, yes))
}

/// All that is to be said of a host on which such guests are to run.
pub fn judge(facts: &Facts, kinds: &[Kind]) -> Vec<CheckItem> {
    let mut items = access::judge(facts, kinds);
    if kinds.contains(&Kind::Tdx) {
        items.extend(tdx::judge(facts));
    }
    if let Some(&kind) = kinds.iter().filter(|k| **k != Kind::Tdx && k.is_secure()).max() {
        items.extend(sev::judge(facts, kind));
    }
    if kinds.contains(&Kind::Vfio) {
        items.extend(vfio::judge(facts));
    }
    items.push(arguments(facts, kinds));
    items.extend(memory::judge(facts, kinds));
    items.push(firmware::judge(facts, kinds));
    let without: Vec<HostCode> =
        items.iter().filter(|item| item.is_failure()).map(|item| item.code).collect();
    items.extend(libvirt::judge(facts, kinds, &without));
    items
}

/// The kernel's command line, as far as it is not said of what it turns on.
fn arguments(facts: &Facts, kinds: &[Kind]) -> CheckItem {
    let code = HostCode::KernelArguments;
    let words = match &facts.command_line {
        Ok(words) => words,
        Err(why) => return code.unknown(why),
    };
    let has = |word: &str| words.iter().any(|is| is == word);
    let tdx_runs = matches!(facts.parameter("kvm_intel", "tdx"), Ok(Some("Y")));
    if kinds.contains(&Kind::Tdx) && !has("nohibernate") && !tdx_runs {
        return code.warn(
            "nohibernate is not there",
            "add nohibernate: TDX and hibernation exclude each other",
        );
    }
    let bad = ["amd_iommu=off", "iommu=off", "iommu=pt", "iommu.passthrough=1"];
    match bad.into_iter().find(|word| has(word)) {
        Some(word) if kinds.contains(&Kind::SevSnp) => code.warn(
            format!("{word} is there"),
            format!("remove {word}: SEV-SNP needs the IOMMU to translate"),
        ),
        _ => code.ok("nothing is missing or in the way"),
    }
}
