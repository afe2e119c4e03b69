//! `tdx-td host tune`: this host as a scenario recommends it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::PathBuf;

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change as ChangeArgs, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::capability::Security;
use crate::commands::names;
use crate::host::tuning::apply::Change;
use crate::host::tuning::observed::Observed;
use crate::host::tuning::plan::{Options, draft};
use crate::host::tuning::record::Records;
use crate::host::tuning::{apply, disks, machine, ownership, record};
use crate::scenario::library::Scenario;
use crate::scenario::profile;
use crate::scenario::resolve::Assignments;

const EXAMPLES: &str = "Examples:
  tdx-td host tune --scenario computation --dry-run
  tdx-td host tune --scenario computation --persist --yes";

/// Arguments of `host tune`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TuneArgs {
    /// The scenario whose settings of the host are wanted
    #[arg(long, value_name = "NAME")]
    scenario: String,
    /// How its guests are protected [default: the best of the scenario's that the processor has]
    #[arg(long, value_enum, value_name = "KIND")]
    security: Option<Security>,
    /// Also the disks that this domain's images are on, besides those of the pool
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<String>,
    /// Have it hold at every boot, too
    #[arg(long)]
    persist: bool,
    /// Load modules again whose options differ, while no guest runs
    #[arg(long)]
    reload_modules: bool,
    /// Overrule what another scenario has set
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    assignments: Assignments,
}

/// A setting of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TuneItem {
    /// Its name, `host.swappiness`.
    pub setting: String,
    /// The file of the kernel, or the unit of systemd, that has it; null for disks that are not known.
    pub path: Option<String>,
    /// What it was when the command began; null where it is not there.
    pub current: Option<String>,
    /// What it is to be.
    pub wanted: String,
    /// `set`, `start`, `stop`, `reload` of a module, `persist` when it held already, or `none`.
    pub action: Action,
    /// Whether it holds, or does once the command is carried out.
    pub in_force: bool,
    /// Whether it is set so at every boot.
    pub persistent: bool,
    /// What else there is to say of it.
    pub note: Option<String>,
}

impl TuneItem {
    /// A setting that nothing is done about.
    pub fn new(setting: &str, path: Option<&str>, current: Option<&str>, wanted: &str) -> Self {
        Self {
            setting: setting.to_owned(),
            path: path.map(str::to_owned),
            current: current.map(str::to_owned),
            wanted: wanted.to_owned(),
            action: Action::None,
            in_force: false,
            persistent: false,
            note: None,
        }
    }

    /// Adds something to its note.
    pub fn say(&mut self, note: &str) {
        let before = self.note.take().map(|before| before + "; ");
        self.note = Some(before.unwrap_or_default() + note);
    }
}

impl Item for TuneItem {
    const COLUMNS: &'static [&'static str] =
        &["SETTING", "PATH", "CURRENT", "WANTED", "ACTION", "NOTE"];
    const WRAPPED: &'static [&'static str] = &["NOTE"];
    const DROPPED: &'static [&'static str] = &["PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.setting.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        (&self.setting, &self.path).cmp(&(&other.setting, &other.path))
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.setting.clone(),
            self.path.clone().unwrap_or_default(),
            self.current.clone().unwrap_or_default(),
            self.wanted.clone(),
            self.action.to_string(),
            self.note.clone().unwrap_or_default(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// What a host is to be like, and for whom.
#[derive(Debug, Clone)]
struct Goal {
    host: Host,
    wanted: profile::Host,
    scenario: String,
    /// Where disks are looked for.
    places: Vec<PathBuf>,
    options: Options,
}

/// What has to be done for this host to be as a scenario wants it.
#[derive(Debug)]
pub struct Plan {
    goal: Goal,
    items: Vec<TuneItem>,
    warnings: Vec<String>,
    changes: Vec<Change>,
    old: Records,
    new: Records,
}

impl Plan {
    /// Looks at the host and plans. Nothing is touched.
    ///
    /// The disks are those of the pool and of `domains`; libvirt tells of both, and without it the pool is
    /// where the configuration has it.
    /// Errors: `conflict` with what another scenario has set; `not_found` for a domain; `unsupported` in a
    /// container and for another machine's libvirt; `permission`, `io`.
    pub fn new(
        context: &Context,
        libvirt: Option<&Libvirt>,
        config: &Config,
        wanted: &profile::Host,
        scenario: &str,
        domains: &[String],
        options: Options,
    ) -> Result<Self> {
        let host = context.host.clone();
        machine::check(&host, libvirt.map(Libvirt::uri))?;
        let places = match wanted.io_scheduler {
            Some(_) => disks::places(libvirt, config, domains)?,
            None => Vec::new(),
        };
        let (wanted, scenario) = (wanted.clone(), scenario.to_owned());
        Self::of(Goal { host, wanted, scenario, places, options })
    }

    fn of(goal: Goal) -> Result<Self> {
        let Goal { host, wanted, scenario, places, options } = &goal;
        let disks = match wanted.io_scheduler {
            Some(_) => disks::below(host, places)?,
            None => disks::Disks::default(),
        };
        let observed = Observed::read(host, wanted, disks)?;
        let draft = draft(&observed, wanted, *options)?;
        let old = match Records::read(host) {
            // Who may not read it can only look, and the rest is theirs to see.
            Err(error) if error.kind() == ErrorKind::Permission => Records::default(),
            read => read?,
        };
        let new = ownership::records(&draft.wants, *options, &old, scenario)?;
        let changes = draft.wants.iter().map(|want| Change {
            knob: want.knob.clone(),
            before: want.now.clone(),
            after: if want.holds { want.now.clone() } else { want.value.clone() },
        });
        let changes = apply::in_order(observed.ksm.as_ref(), changes.collect());
        let mut warnings = draft.overruled;
        warnings.extend(ownership::edited(&observed.files, &draft.wants, &old));
        if old.is_outdated {
            warnings.push("what was recorded before the last boot is forgotten".to_owned());
        }
        Ok(Self { goal, items: draft.items, warnings, changes, old, new })
    }

    /// A sentence for each setting that is not as the scenario recommends.
    pub fn differences(&self) -> Vec<String> {
        let differs = |item: &&TuneItem| {
            !item.in_force || !matches!(item.action, Action::None | Action::Persist)
        };
        let told = |item: &TuneItem| {
            let (setting, wanted) = (&item.setting, &item.wanted);
            match &item.current {
                Some(current) => format!("{setting} is {current}, not {wanted}"),
                None => format!("{setting} is not {wanted}"),
            }
        };
        self.items.iter().filter(differs).map(told).collect()
    }

    /// Whether anything would change.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Fails unless it can be carried out, as far as that is known without doing so.
    ///
    /// Errors: `permission` for who is not root; `permission`, `io`, with the path.
    pub fn check(&self) -> Result<()> {
        machine::check_root(&self.goal.host)?;
        apply::check_writable(&self.goal.host, &self.changes)
    }

    /// Plans again once nobody else is at work on the host, records what is so, and has the host as it is
    /// wanted. What fails is undone. Returns the plan that was carried out.
    ///
    /// Errors: `conflict` with what another scenario has set meanwhile, and unless `whatever` is to be done
    /// when the changes are not any more those that were planned here; `permission`, `io`; whatever the kernel,
    /// systemctl or modprobe say.
    pub fn apply(self, whatever: bool) -> Result<Self> {
        if self.changes.is_empty() && self.old == self.new {
            return Ok(self);
        }
        let _lock = record::lock(&self.goal.host)?;
        let plan = Self::of(self.goal)?;
        if !whatever && plan.changes != self.changes {
            return Err(
                Error::conflict("the host's settings have changed meanwhile").hint("run it again")
            );
        }
        plan.check()?;
        plan.carry_out()?;
        Ok(plan)
    }

    fn carry_out(&self) -> Result<()> {
        let host = &self.goal.host;
        let forget = || self.old.write(host, &self.new);
        if let Err(error) = self.new.write(host, &self.old) {
            let _ = forget();
            return Err(error);
        }
        apply::carry_out(host, &self.changes).map_err(|error| {
            match error.to_document().error.left_behind.is_empty() && forget().is_ok() {
                true => error,
                false => error.hint("tdx-td host restore puts back what can be"),
            }
        })
    }

    /// The settings, and what becomes of each; what the user should know.
    pub fn into_items(self) -> (Vec<TuneItem>, Vec<String>) {
        let missing = self.items.iter().filter(|item| !item.in_force).map(|item| {
            format!("{}: {}", item.setting, item.note.as_deref().unwrap_or("it does not hold"))
        });
        let warnings = self.warnings.iter().cloned().chain(missing).collect();
        (self.items, warnings)
    }
}

/// Sets the host to what the scenario recommends.
///
/// Errors: `unsupported` in a container and for another machine's libvirt, `permission` for who is not root,
/// all before anything is touched; those of [`Plan::new`] and [`Plan::apply`].
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
    let named = names::read(args.domains)?;
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
        Plan::new(context, libvirt.as_ref(), config, &wanted, scenario, &domains, options)?;
    if !dry_run {
        plan.check()?;
        if plan.has_changes() {
            let count = plan.items.iter().filter(|item| item.action != Action::None).count();
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

/// libvirt, or without a domain a warning that it is out of reach.
fn reached(
    connect: impl FnOnce() -> Result<Libvirt>,
    domains: &[String],
) -> Result<(Option<Libvirt>, Vec<String>)> {
    match connect() {
        Ok(libvirt) => Ok((Some(libvirt), Vec::new())),
        Err(error) if !domains.is_empty() => Err(error),
        Err(error) => {
            Ok((None, vec![format!("where the pool is, libvirt was not asked for: {error}")]))
        }
    }
}

/// The scenario's settings of the host with what was said over them.
fn wanted(host: &Host, config: &Config, args: &TuneArgs) -> Result<profile::Host> {
    let scenario = Scenario::find(host, &args.scenario)?;
    let security = match args.security {
        Some(security) => security,
        None => best(host, &scenario)?,
    };
    let mut layers = scenario.layers(security)?;
    args.assignments.check_host()?;
    args.assignments.put(&mut layers, config, [])?;
    Ok(layers.profile()?.host)
}

/// The first of a scenario's protections that the processor has; the only one, whatever it has.
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
        Error::unsupported(format!("this host's processor offers none of {}", names.join(", ")))
            .hint("--security says which of them to tune for all the same")
    })
}
