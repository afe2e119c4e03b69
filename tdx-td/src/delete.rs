//! `tdx-td delete`: domains are gone, with their own disks and nothing else.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context};
use common::document::{Action, Document, Item};
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::output::Outcome;
use common::{Error, Result, interrupt, log, xml};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_pool::overlay;
use tdx_pool::usage::{Chains, Usage};
use virt::domain::Domain;
use virt::sys;

use crate::disks::OwnFiles;
use crate::domain::Definition;
use crate::{names, power};

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Domains by name, or - for items with a name on standard input
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// Every domain made by these tools or the original tdvirsh
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Also domains made by others: their definition goes, their disks stay
    #[arg(long)]
    foreign: bool,
    /// How long to wait for a guest to shut itself down before it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// A domain and what was done to be rid of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name.
    name: String,
    /// Whether it was cut off without the guest's say.
    forced: bool,
    /// The files that went with it.
    deleted: Vec<String>,
    /// `delete`, or `none` for a domain that was not there.
    action: Action,
    #[serde(skip)]
    warnings: Vec<String>,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORCED", "DELETED"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let forced = if self.forced { "yes" } else { "no" };
        let deleted = self.deleted.join(" ");
        vec![self.name.clone(), self.action.0.to_owned(), forced.to_owned(), deleted]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Shuts each domain down, removes its definition, then its own files; all at once.
///
/// Errors: `conflict` (exit 5) for a domain of others without `--foreign`.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: DeleteArgs,
) -> Result<Outcome> {
    let named = names::read(args.names.clone())?;
    interrupt::guard();
    let libvirt = connect()?;
    let wanted = if args.all { managed(&libvirt)? } else { named };
    let plans = Plans::new(&libvirt, &wanted, args.foreign)?;
    if plans.any() {
        let list = wanted.join(", ");
        context.confirm(args.change, &format!("delete {list}?"))?;
    }
    let dry_run = args.change.dry_run;
    let timeout = Duration::from_secs(args.timeout);
    let delete = |name: &str| plans.take(name)?.apply(&libvirt, timeout, dry_run);
    let applied = |item: &DeleteItem| {
        let changed = item.action != Action::NONE && !dry_run;
        changed.then(|| format!("deleted domain '{}'", item.name))
    };
    let items = names::each(&wanted, delete, applied)?;
    let warnings: Vec<String> = items.iter().flat_map(|item| item.warnings.clone()).collect();
    Ok(Document::new("tdx.td.delete", items).dry_run(dry_run).warnings(warnings).into())
}

fn managed(libvirt: &Libvirt) -> Result<Vec<String>> {
    let mut managed = Vec::new();
    for domain in libvirt.connect().list_all_domains(0).context("list domains")? {
        match domain.xml_desc(0) {
            Err(error) if is_gone(&error) => {}
            text => {
                let definition = Definition::parse(text.context("read a domain")?)?;
                managed.extend(definition.is_managed().then(|| definition.name()));
            }
        }
    }
    Ok(managed)
}

/// What is to be done for each name, or why it cannot be. One refusal does not keep the others.
struct Plans(Vec<(String, Mutex<Option<Result<Plan>>>)>);

impl Plans {
    fn new(libvirt: &Libvirt, wanted: &[String], foreign: bool) -> Result<Self> {
        let mut chains = Chains::visible(libvirt);
        let mut usage = None;
        let mut plans = Vec::new();
        for name in wanted {
            let plan = match names::find(libvirt, name)? {
                None => Ok(Plan::absent(name)),
                Some(domain) => {
                    let usage = match &mut usage {
                        Some(usage) => usage,
                        none => none.insert(Usage::collect(libvirt, &mut chains)?),
                    };
                    Plan::new(name, domain, foreign, &mut chains, usage)
                }
            };
            plans.push((name.clone(), Mutex::new(Some(plan))));
        }
        Ok(Self(plans))
    }

    /// Whether any domain is there to be deleted.
    fn any(&self) -> bool {
        self.0.iter().any(|(_, plan)| {
            let plan = plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            matches!(&*plan, Some(Ok(plan)) if plan.domain.is_some())
        })
    }

    fn take(&self, name: &str) -> Result<Plan> {
        let plan = self.0.iter().find(|(known, _)| known == name).and_then(|(_, plan)| {
            plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        });
        plan.unwrap_or_else(|| Err(Error::failed(format!("no plan for domain '{name}'"))))
    }
}

struct Plan {
    name: String,
    domain: Option<Domain>,
    files: OwnFiles,
}

impl Plan {
    fn absent(name: &str) -> Self {
        Self { name: name.to_owned(), domain: None, files: OwnFiles::default() }
    }

    fn new(
        name: &str,
        domain: Domain,
        foreign: bool,
        chains: &mut Chains,
        usage: &Usage,
    ) -> Result<Self> {
        let reading = format_args!("read domain '{name}'");
        let flags = [0, sys::VIR_DOMAIN_XML_INACTIVE];
        let mut definitions = Vec::new();
        for flags in flags {
            definitions.push(Definition::parse(domain.xml_desc(flags).context(reading)?)?);
        }
        let managed = definitions.iter().any(Definition::is_managed);
        if !managed && !foreign {
            return Err(Error::conflict(format!("domain '{name}' was not made by these tools"))
                .hint("--foreign removes its definition and leaves its disks"));
        }
        let mut files = OwnFiles::default();
        if managed {
            let mut snapshots = Vec::new();
            let doing = format_args!("read the snapshots of domain '{name}'");
            for snapshot in domain.list_all_snapshots(0).context(doing)? {
                snapshots.push(xml::Document::parse(snapshot.xml_desc(0).context(doing)?)?);
            }
            files = OwnFiles::find(name, &definitions, &snapshots, chains, usage)?;
        }
        Ok(Self { name: name.to_owned(), domain: Some(domain), files })
    }

    fn apply(self, libvirt: &Libvirt, timeout: Duration, dry_run: bool) -> Result<DeleteItem> {
        let Self { name, domain, files } = self;
        let warnings = files.shared.iter().map(|(file, users)| {
            format!("{} is kept: {} needs it too", file.display(), users.join(", "))
        });
        let mut item = DeleteItem {
            warnings: warnings.collect(),
            name,
            forced: false,
            deleted: files.delete.iter().map(|file| file.display().to_string()).collect(),
            action: Action("delete"),
        };
        let Some(domain) = domain else {
            return Ok(DeleteItem { action: Action::NONE, ..item });
        };
        if dry_run {
            return Ok(item);
        }
        item.forced = switch_off(&domain, &item.name, timeout)?;
        undefine(&domain, &item.name)?;
        item.deleted = delete_files(libvirt, &item.name, files.delete)?;
        Ok(item)
    }
}

/// Gets the guest off, by force when it does not go by itself. Returns whether force was used.
fn switch_off(domain: &Domain, name: &str, timeout: Duration) -> Result<bool> {
    if !power::is_active(domain, name)? {
        return Ok(false);
    }
    let gone = match timeout.is_zero() {
        true => false,
        false => match power::shut_down(domain, name, timeout) {
            // A paused guest cannot hear: there is nothing to wait for.
            Err(error) if error.kind() == common::ErrorKind::Conflict => false,
            done => done?,
        },
    };
    if !gone {
        power::cut_off(domain, name)?;
    }
    Ok(!gone)
}

/// Removes the definition with everything libvirt keeps beside it.
pub(crate) fn undefine(domain: &Domain, name: &str) -> Result<()> {
    log::step(format_args!("undefine domain '{name}'"));
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    match domain.undefine_flags(flags) {
        Err(error) if is_gone(&error) => Ok(()), // a transient domain goes by stopping
        done => done.context(format_args!("undefine domain '{name}'")).map(drop),
    }
}

/// Deletes every file it can; those it cannot are in the error.
fn delete_files(libvirt: &Libvirt, name: &str, files: Vec<PathBuf>) -> Result<Vec<String>> {
    let mut deleted = Vec::new();
    let mut failed: Option<Error> = None;
    let mut left = Vec::new();
    for file in files {
        match overlay::delete_file(libvirt, &file) {
            Ok(true) => deleted.push(file.display().to_string()),
            Ok(false) => {}
            Err(error) => {
                left.push(file.display().to_string());
                failed = Some(failed.unwrap_or(error));
            }
        }
    }
    match failed {
        None => Ok(deleted),
        Some(error) => Err(error.applied([format!("undefined domain '{name}'")]).left_behind(left)),
    }
}
