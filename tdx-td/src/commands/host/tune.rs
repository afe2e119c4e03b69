//! `tdx-td host tune`: sets this host to the values that a scenario recommends.

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change as ChangeArgs, Context, interrupt};
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::capability::Security;
use crate::commands::args;
use crate::commands::args::scenario::AssignmentArgs;
use crate::host::tuning::machine;
use crate::host::tuning::plan::Options;
use crate::host::tuning::tune_plan::TunePlan;
use crate::scenario::library::Scenario;
use crate::scenario::profile;

const EXAMPLES: &str = "Examples:
  tdx-td host tune --scenario computation --dry-run
  tdx-td host tune --scenario computation --persist --yes";

// Only settings of the host apply.
const SET: &str = "Change one setting of the host, such as host.swappiness=10 (repeatable); tdx-td \
                   scenario show NAME lists all settings";

/// Arguments of `host tune`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("set", |arg| arg.help(SET)))]
pub struct TuneArgs {
    /// Scenario whose host settings are applied
    #[arg(long, value_name = "NAME")]
    scenario: String,
    /// Protection of the scenario's guests [default: the best that the scenario allows and the
    /// processor supports]
    #[arg(long, value_enum, value_name = "KIND")]
    security: Option<Security>,
    /// Also tune the disks that hold the images of this domain (repeatable) [default: only the disks of
    /// the pool]
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<String>,
    /// Also apply at boot
    #[arg(long)]
    persist: bool,
    /// Reload kernel modules whose options differ from the recommended ones; possible only while no guest
    /// runs
    #[arg(long)]
    reload_modules: bool,
    /// Also change settings that tdx-td host tune set for another scenario
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    assignments: AssignmentArgs,
}

/// Sets the host to the values that the scenario recommends.
///
/// Errors: `unsupported` in a container and for another machine's libvirt, `permission` without root, all
/// before anything is changed; those of [`TunePlan::new`] and [`TunePlan::apply`].
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    (may_ask, uri): (bool, Option<&str>),
    config: &Config,
    args: TuneArgs,
) -> Result<Outcome> {
    let host = &context.host;
    machine::check(host, uri)?;
    let dry_run = args.change.dry_run;
    let wanted = wanted(host, config, &args)?;
    let named = args::names::read(args.domains)?;
    let domains: Vec<String> = named.iter().map(|named| named.name.clone()).collect();
    let (libvirt, mut warnings) = match may_ask || !domains.is_empty() {
        true if wanted.io_scheduler.is_some() || !domains.is_empty() => reached(connect, &domains)?,
        _ => (None, Vec::new()),
    };
    interrupt::guard();
    if let Some(libvirt) = &libvirt {
        let host_name = context.host_name();
        named.iter().try_for_each(|named| named.get(libvirt, host_name.as_deref()).map(drop))?;
    }
    let options = Options {
        persist: args.persist,
        reload_modules: args.reload_modules,
        replace: args.replace,
    };
    let scenario = &args.scenario;
    let mut plan =
        TunePlan::new(context, libvirt.as_ref(), config, &wanted, scenario, &domains, options)?;
    if !dry_run {
        plan.check()?;
        if plan.has_changes() {
            let count = plan.count_changes();
            context.confirm(
                args.change,
                &format!("change {count} settings of this host for scenario {scenario}?"),
            )?;
        }
        plan = plan.apply(args.change.yes)?;
    }
    let (items, told) = plan.into_items();
    warnings.extend(told);
    Ok(Document::new("tdx.td.host_tune", items).dry_run(dry_run).warnings(warnings).into())
}

/// Connects to libvirt. If that fails and no domain is named, returns a warning instead of an error.
fn reached(
    connect: impl FnOnce() -> Result<Libvirt>,
    domains: &[String],
) -> Result<(Option<Libvirt>, Vec<String>)> {
    match connect() {
        Ok(libvirt) => Ok((Some(libvirt), Vec::new())),
        Err(error) if !domains.is_empty() => Err(error),
        Err(error) => {
            Ok((None, vec![format!("cannot read the directory of the pool from libvirt: {error}")]))
        }
    }
}

/// Returns the scenario's host settings, changed by the flags.
pub(super) fn wanted(host: &Host, config: &Config, args: &TuneArgs) -> Result<profile::Host> {
    let scenario = Scenario::find(host, &args.scenario)?;
    let security = match args.security {
        Some(security) => security,
        None => best(host, &scenario)?,
    };
    let mut layers = scenario.layers(security)?;
    let assignments = args.assignments.assignments();
    assignments.check_host()?;
    assignments.put(&mut layers, config, &[])?;
    Ok(layers.profile()?.host)
}

/// Returns the first of the scenario's protections that the processor supports. If the scenario has only one,
/// returns that.
///
/// Source: Linux `arch/x86/include/asm/cpufeatures.h`; flags are shown once the kernel can use them.
fn best(host: &Host, scenario: &Scenario) -> Result<Security> {
    if let [only] = scenario.security[..] {
        return Ok(only);
    }
    let text = host.read("/proc/cpuinfo")?.unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let offered = |security: &Security| match security {
        Security::None => true,
        Security::Tdx => {
            has("tdx_host_platform") || host.has("/sys/module/kvm_intel/parameters/tdx")
        }
        Security::Sev => has("sev"),
        Security::SevEs => has("sev_es"),
        Security::SevSnp => has("sev_snp"),
    };
    let names: Vec<&str> = scenario.security.iter().map(|security| security.as_str()).collect();
    scenario.security.iter().copied().find(offered).ok_or_else(|| {
        Error::unsupported(format!(
            "this host's processor supports none of the scenario's protections: {}",
            names.join(", ")
        ))
        .hint("to tune for one of these protections nevertheless, add --security KIND")
    })
}
