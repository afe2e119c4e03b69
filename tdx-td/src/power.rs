//! Getting a guest off.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use common::document::{Action, Item};
use common::libvirt::{Context, is_gone};
use common::{Error, Result, interrupt, log};
use schemars::JsonSchema;
use serde::Serialize;
use virt::domain::Domain;
use virt::sys;

use crate::domain::Definition;

/// How often a guest that is shutting down is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A domain that was started or stopped.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PowerItem {
    /// Name.
    pub name: String,
    /// Whether it was cut off without the guest's say.
    pub forced: bool,
    /// `start`, `resume`, `wake`, `stop` or `none`.
    pub action: Action,
}

impl Item for PowerItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORCED"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let forced = if self.forced { "yes" } else { "no" };
        vec![self.name.clone(), self.action.0.to_owned(), forced.to_owned()]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

impl PowerItem {
    /// A sentence for the error of a command that failed for another domain.
    pub fn applied(&self, dry_run: bool) -> Option<String> {
        let changed = self.action != Action::NONE && !dry_run;
        changed.then(|| format!("{} domain '{}'", self.action.0, self.name))
    }
}

/// Whether libvirt runs the domain. One that is gone does not run.
pub fn is_active(domain: &Domain, name: &str) -> Result<bool> {
    match domain.is_active() {
        Err(error) if is_gone(&error) => Ok(false),
        active => active.context(format_args!("ask about domain '{name}'")),
    }
}

/// Asks the guest to power off and waits until it has, at most `timeout`. Returns whether it has.
///
/// Where the definition says that powering off restarts the guest, that is changed for this run
/// first, or libvirt would boot it again.
///
/// Errors: `interrupted`; `conflict` for a paused guest, which cannot hear.
pub fn shut_down(domain: &Domain, name: &str, timeout: Duration) -> Result<bool> {
    let asking = format_args!("shut down domain '{name}'");
    let end = Instant::now() + timeout;
    if let Err(error) = prepare(domain, name) {
        return if is_active(domain, name)? { Err(error) } else { Ok(true) };
    }
    log::step(asking);
    if let Err(error) = domain.shutdown() {
        return if is_active(domain, name)? { Err(error).context(asking) } else { Ok(true) };
    }
    loop {
        if !is_active(domain, name)? {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        interrupt::sleep(left.min(POLL))?;
    }
}

fn prepare(domain: &Domain, name: &str) -> Result<()> {
    let about = format_args!("ask about domain '{name}'");
    let (state, _) = domain.state().context(about)?;
    if matches!(state.to_raw(), sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED) {
        return Err(Error::conflict(format!(
            "domain '{name}' is paused and cannot shut itself down"
        ))
        .hint("tdx-td start resumes it; --force ends it"));
    }
    let definition = Definition::parse(domain.xml_desc(0).context(about)?)?;
    if definition.on_poweroff() != "destroy" {
        let doing = format_args!("have domain '{name}' stay off when it powers off");
        let (event, action) =
            (sys::VIR_DOMAIN_LIFECYCLE_POWEROFF, sys::VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY);
        domain.set_lifecycle_action(event, action, sys::VIR_DOMAIN_AFFECT_LIVE).context(doing)?;
    }
    Ok(())
}

/// Ends the guest at once.
pub fn cut_off(domain: &Domain, name: &str) -> Result<()> {
    log::step(format_args!("end domain '{name}'"));
    match domain.destroy() {
        Err(_) if !is_active(domain, name)? => Ok(()),
        done => done.context(format_args!("end domain '{name}'")),
    }
}
