//! Starting, resuming and shutting down domains.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::document::{Action, Item};
use common::libvirt::{Context, State, failure, is_gone};
use common::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Serialize;
use virt::domain::{Domain, DomainStateReason, DomainStateReasonEnum};
use virt::error::Error as VirtError;
use virt::sys;

use crate::domain::definition::Definition;

/// Interval between two checks of a guest that shuts down.
const POLL: Duration = Duration::from_millis(50);

/// How long to wait before the shutdown request is repeated: a guest that is still booting ignores the
/// first one.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A domain that was started or stopped.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PowerItem {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain.
    pub uuid: String,
    /// Whether the guest was forced off, without a clean shutdown.
    pub forced: bool,
    /// True if `start` verified the launch measurement, for AMD SEV and SEV-ES guests whose session keys are
    /// kept; null for other guests.
    pub attested: Option<bool>,
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
        vec![self.name.clone(), self.action.to_string(), forced.to_owned()]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

impl PowerItem {
    /// Returns a description of the action, for the error of a command that failed for another domain.
    pub fn applied(&self, dry_run: bool) -> Option<String> {
        let changed = self.action != Action::None && !dry_run;
        changed.then(|| format!("{} domain '{}'", self.action, self.name))
    }
}

/// Whether libvirt runs the domain. A deleted domain does not run.
pub fn is_active(domain: &Domain, name: &str) -> Result<bool> {
    match domain.is_active() {
        Err(error) if is_gone(&error) => Ok(false),
        active => active.context(format_args!("read the state of domain '{name}'")),
    }
}

/// Whether the domain is known to be deleted.
pub fn is_deleted(domain: &Domain) -> bool {
    domain.is_active().is_err_and(|error| is_gone(&error))
}

/// Whether the domain is known not to run, after a call that failed.
pub fn is_off(domain: &Domain, name: &str) -> bool {
    is_active(domain, name).is_ok_and(|active| !active)
}

/// Returns the action that makes the domain run: `start`, `resume`, `wake` or `none`.
///
/// Errors: `conflict` for a crashed guest that libvirt preserves for inspection.
pub fn action_to_run(domain: &Domain, name: &str) -> Result<Action> {
    match state(domain, name)? {
        State::Off => Ok(Action::Start),
        State::Paused => Ok(Action::Resume),
        State::PmSuspended => Ok(Action::Wake),
        State::Crashed if !is_active(domain, name)? => Ok(Action::Start),
        State::Crashed => Err(Error::conflict(format!("domain '{name}' has crashed"))
            .hint(format!("run tdx-td stop {name} --force, then tdx-td start {name}"))),
        State::None | State::Running | State::Idle | State::Shutdown => Ok(Action::None),
    }
}

/// Starts, resumes or wakes the domain. Returns the action; `none` if another command was faster.
pub fn start_or_resume(domain: &Domain, name: &str) -> Result<Action> {
    let action = action_to_run(domain, name)?;
    if action == Action::None {
        return Ok(action);
    }
    let doing = format_args!("{action} domain '{name}'");
    log::step(doing);
    let reason_before = shutoff_reason(domain);
    let done = match action {
        Action::Start => domain.create(),
        Action::Resume => domain.resume(),
        _ => domain.pm_wakeup(0),
    };
    match done {
        Ok(()) => Ok(action),
        Err(_) if state(domain, name).is_ok_and(|state| state == State::Running) => {
            Ok(Action::None)
        }
        Err(error) if action == Action::Start => {
            Err(not_started(error, domain, name, reason_before))
        }
        Err(error) => Err(failure(error, doing)),
    }
}

/// Returns why a domain is shut off, as libvirt's number; `None` for a domain that runs or does not exist.
///
/// Source: `virDomainShutoffReason`, <https://libvirt.org/html/libvirt-libvirt-domain.html>.
fn shutoff_reason(domain: &Domain) -> Option<u32> {
    match domain.state() {
        Ok((_, DomainStateReasonEnum::Known(DomainStateReason::Shutoff(reason)))) => {
            Some(reason.to_raw())
        }
        _ => None,
    }
}

/// Returns the error for a guest that did not start. `reason_before` is why the domain was shut off before.
///
/// If another command destroys the domain while libvirt starts it, the start fails with any error. libvirt then
/// records the faster one: the destruction (the domain was destroyed, or is deleted) or the failed start. In the
/// second case the destruction cannot be detected. A reason equal to `reason_before` may be the old one: a start
/// that fails before libvirt runs the domain does not change it.
///
/// Source: libvirt `src/qemu/qemu_driver.c`, `qemuDomainDestroyFlags()`; `src/qemu/qemu_process.c`,
/// `qemuProcessInit()`, `qemuProcessStop()`.
fn not_started(error: VirtError, domain: &Domain, name: &str, reason_before: Option<u32>) -> Error {
    let reason = shutoff_reason(domain);
    let was_destroyed = reason == Some(sys::VIR_DOMAIN_SHUTOFF_DESTROYED)
        && (reason != reason_before || was_under_way(&error, domain));
    // Other things than the domain may be absent, such as a network.
    let is_absent = error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN || is_deleted(domain);
    let was_ended = was_destroyed || is_absent;
    let error = failure(error, format_args!("start domain '{name}'"));
    if was_ended {
        return Error::conflict(format!(
            "another command stopped or deleted domain '{name}' while it started"
        ))
        .because(error)
        .hint("run the command again");
    }
    if error.kind() != ErrorKind::Failed {
        return error;
    }
    error.hint(format!(
        "look for the reason in /var/log/libvirt/qemu/{name}.log and in dmesg on the host of the \
         domain"
    ))
}

/// Whether a start failed after libvirt had begun to run the domain, as far as the error shows. Of the errors
/// before that point, only those about a saved state have this code and origin.
fn was_under_way(error: &VirtError, domain: &Domain) -> bool {
    (error.code().to_raw(), error.domain().to_raw())
        == (sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_QEMU)
        && matches!(domain.has_managed_save(0), Ok(false))
}

/// Starts the domain paused: its processors are stopped.
pub fn start_paused(domain: &Domain, name: &str) -> Result<()> {
    log::step(format_args!("start domain '{name}' paused"));
    let reason_before = shutoff_reason(domain);
    domain
        .create_with_flags(sys::VIR_DOMAIN_START_PAUSED)
        .map(drop)
        .map_err(|error| not_started(error, domain, name, reason_before))
}

/// Resumes a paused guest, or wakes a suspended one. Never starts a guest.
///
/// Errors: `conflict` if the guest was stopped meanwhile.
pub fn resume(domain: &Domain, name: &str, sleeps: bool) -> Result<()> {
    let doing = format_args!("resume domain '{name}'");
    log::step(doing);
    let done = if sleeps { domain.pm_wakeup(0) } else { domain.resume().map(drop) };
    match done {
        Err(_) if state(domain, name).is_ok_and(|state| state == State::Running) => Ok(()),
        done => done.context(doing),
    }
}

/// Returns the current state of the domain.
pub fn state(domain: &Domain, name: &str) -> Result<State> {
    let doing = format_args!("read the state of domain '{name}'");
    let (state, _) = domain.state().context(doing)?;
    match state.to_raw() {
        // The binding (virt 0.5) does not check whether the call failed, and returns its -1.
        u32::MAX => Err(VirtError::last_error()).context(doing),
        state => Ok(State::from_raw(state)),
    }
}

/// Asks the guest to power off and waits for that, at most `timeout`. Returns whether the guest is off.
///
/// If the definition restarts the guest on power-off, that is first changed for this run. Otherwise libvirt
/// would boot the guest again.
///
/// Errors: `interrupted`; `conflict` for a paused or crashed guest, which cannot react.
pub fn shut_down(domain: &Domain, name: &str, timeout: Duration) -> Result<bool> {
    let asking = format_args!("shut down domain '{name}'");
    let end = Instant::now() + timeout;
    if let Err(error) = prepare(domain, name) {
        return if is_off(domain, name) { Ok(true) } else { Err(error) };
    }
    loop {
        log::step(asking);
        if let Err(error) = domain.shutdown() {
            return if is_off(domain, name) { Ok(true) } else { Err(failure(error, asking)) };
        }
        let ask_again = Instant::now() + ASK_AGAIN;
        while Instant::now() < ask_again {
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
}

fn prepare(domain: &Domain, name: &str) -> Result<()> {
    let about = format_args!("read the definition of domain '{name}'");
    let state = state(domain, name)?;
    if matches!(state, State::Paused | State::PmSuspended | State::Crashed) {
        let state = state.as_str();
        return Err(Error::conflict(format!(
            "domain '{name}' is {state} and cannot react to a shutdown request"
        ))
        .hint(format!(
            "to resume a paused domain, run tdx-td start {name}; to force the domain off, run tdx-td stop \
             {name} --force"
        )));
    }
    let definition = Definition::parse(domain.xml_desc(0).context(about)?)?;
    if definition.on_poweroff() != "destroy" {
        let doing = format_args!("set domain '{name}' to stay shut off after power-off");
        let (event, action) =
            (sys::VIR_DOMAIN_LIFECYCLE_POWEROFF, sys::VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY);
        domain.set_lifecycle_action(event, action, sys::VIR_DOMAIN_AFFECT_LIVE).context(doing)?;
    }
    Ok(())
}

/// Forces the guest off at once.
pub fn destroy(domain: &Domain, name: &str) -> Result<()> {
    let doing = format_args!("force off domain '{name}'");
    log::step(doing);
    match domain.destroy() {
        Err(_) if is_off(domain, name) => Ok(()),
        done => done.context(doing),
    }
}
