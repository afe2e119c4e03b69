//! `tdx-disk detach`: a disk comes back from a guest, once the guest has let go of it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use common::cli::{Change, Context, interrupt, log, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::{Context as _, Libvirt, UnplugAnswer, failure, is_gone};
use common::system::sysroot::Host;
use common::{Code, Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Serialize;
use virt::sys;

use crate::attach::domain_handle::Subject;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::{guest_disk, undefined_disk};
use crate::block::devices::Blocks;
use crate::block::devt::Number;
use crate::block::named_device;

/// How often the definition of the running guest is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How long until a guest is asked again: one that boots does not hear the first time.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The domain
    #[arg(value_name = "VM")]
    domain: String,
    /// A disk by whatever name, or the guest target
    #[arg(value_name = "DEV|TARGET")]
    device: String,
    /// How long to wait for the guest to let go
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// A disk that was to come back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DetachItem {
    /// The domain.
    pub domain: String,
    /// The host's device as the kernel names it; what was asked for where there is none.
    pub device: String,
    /// The path in the definition; null when the domain has no such disk.
    pub source: Option<String>,
    /// Guest target; null when the domain has no such disk.
    pub target: Option<String>,
    /// Whether the running guest had it.
    pub live: bool,
    /// Whether it was in the definition that stays.
    pub config: bool,
    /// `detach`, or `none` when the domain has no such disk.
    pub action: Action,
}

impl Item for DetachItem {
    const COLUMNS: &'static [&'static str] = &["DOMAIN", "DEVICE", "TARGET", "ACTION"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.domain.clone(),
            self.device.clone(),
            self.target.clone().unwrap_or_default(),
            self.action.to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Takes the disk from the definition that stays, and from the running guest.
///
/// Errors: `conflict` with code `STILL_ATTACHED` when the guest has not let go in time, or
/// `GUEST_REFUSED`; `not_found` for a domain that is not there.
pub fn run(
    context: &Context,
    open: impl Fn() -> Result<Libvirt>,
    args: DetachArgs,
) -> Result<Outcome> {
    let path = named_device::path(&args.device)?;
    let detach = Detach { host: &context.host, word: &args.device, path };
    let mut subject = Subject::find(&open, &args.domain)?;
    interrupt::guard();
    let (found, device) = detach.find(&subject)?;
    let dry_run = args.change.dry_run;
    if found.is_empty() {
        detach.expect_none(&subject)?;
        let mut warnings = vec![format!("domain '{}' has no disk {}", args.domain, args.device)];
        let asked = detach.asked(&device)?;
        let host = &context.host;
        warnings.extend(undefined_disk::expect_closed(host, &mut subject, asked.as_ref())?);
        let item = DetachItem {
            domain: args.domain,
            device,
            source: None,
            target: None,
            live: false,
            config: false,
            action: Action::None,
        };
        let document = Document::new("tdx.disk.detach", vec![item]).dry_run(dry_run);
        return Ok(document.warnings(warnings).into());
    }
    let mut warnings = Vec::new();
    if !dry_run {
        let timeout = Duration::from_secs(args.timeout);
        warnings = detach.carry_out(&mut subject, &found, timeout)?;
    }
    let item = |disk: GuestDisk| DetachItem {
        domain: args.domain.clone(),
        device: device.clone(),
        source: Some(disk.source),
        target: Some(disk.target),
        live: disk.live.is_some(),
        config: disk.config.is_some(),
        action: Action::Detach,
    };
    let items = found.into_iter().map(item).collect();
    Ok(Document::new("tdx.disk.detach", items).dry_run(dry_run).warnings(warnings).into())
}

/// One disk on its way back.
struct Detach<'a> {
    host: &'a Host,
    /// What the user calls it.
    word: &'a str,
    /// The same as a path.
    path: String,
}

impl Detach<'_> {
    /// The disk, where the domain has it, and what it is called on the host. What runs and what stays
    /// may have it under two targets.
    fn find(&self, subject: &Subject<'_>) -> Result<(Vec<GuestDisk>, String)> {
        let guest = subject.guest()?;
        let blocks = Blocks::read(self.host)?;
        let disks = guest_disk::all(self.host, &blocks, &guest, Some(subject.libvirt().connect()));
        let block = blocks.of_path(self.host, &self.path);
        let number = block.map(|block| block.number);
        let disks = guest_disk::called(disks, self.word, &self.path, number);
        let there = disks.iter().find_map(|disk| blocks.named(disk.block.as_deref()?)).or(block);
        let device = match (there, disks.first()) {
            (Some(block), _) => block.node(),
            (None, Some(disk)) => disk.source.clone(),
            (None, None) => self.path.clone(),
        };
        Ok((disks, device))
    }

    /// Takes the disk out of the definition that stays. Returns what was done.
    fn undefine(&self, subject: &Subject<'_>, disk: &GuestDisk) -> Result<Option<String>> {
        let Some(xml) = &disk.config else { return Ok(None) };
        let (name, target) = (subject.name(), &disk.target);
        let doing = format!("take {target} from the definition of '{name}'");
        log::step(&doing);
        let done = subject.domain().detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG);
        match done {
            // Another command took it out since it was found.
            Err(error) if error.code().to_raw() == sys::VIR_ERR_DEVICE_MISSING => return Ok(None),
            done => done.context(doing)?,
        };
        Ok(Some(format!("took {target} from the definition of '{name}'")))
    }

    /// Fails when the word is a target of the domain behind which there is no device of the host.
    fn expect_none(&self, subject: &Subject<'_>) -> Result<()> {
        match guest_disk::targets(&subject.guest()?).contains(self.word) {
            false => Ok(()),
            true => Err(Error::conflict(format!(
                "{} of domain '{}' is no block device of the host",
                self.word,
                subject.name()
            ))),
        }
    }

    /// Whether the running guest still has the disk. A guest that does not run has none.
    fn is_attached(&self, subject: &Subject<'_>, target: &str) -> Result<bool> {
        let xml = match subject.domain().is_active() {
            Ok(false) => return Ok(false),
            Err(error) if is_gone(&error) => return Ok(false),
            _ => subject.guest(),
        };
        match xml {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            guest => {
                let live = guest?.live;
                let disks = live.iter().flat_map(|live| live.root().find_all("devices/disk"));
                let mut targets = disks.filter_map(|disk| disk.attr_at("target", "dev"));
                Ok(targets.any(|other| other == target))
            }
        }
    }

    /// Asks the guest, again where it does not answer, and waits until the disk is gone from it.
    fn wait(&self, subject: &mut Subject<'_>, disk: &GuestDisk, timeout: Duration) -> Result<()> {
        let Some(xml) = &disk.live else { return Ok(()) };
        let (name, target) = (subject.name().to_owned(), &disk.target);
        let doing = format!("detach {target} from domain '{name}'");
        let asked_for = || [format!("{target} in '{name}', asked to let go of it")];
        let end = Instant::now() + timeout;
        let mut last = None;
        loop {
            interrupt::check()?;
            log::step(&doing);
            let asked = subject.domain().detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE);
            if let Err(error) = asked {
                let answer = UnplugAnswer::of(&error);
                let error = failure(error, &doing);
                let lost = subject.reconnect().map_err(|error| error.left_behind(asked_for()))?;
                if !self.is_attached(subject, target)? {
                    return Ok(());
                }
                match answer {
                    UnplugAnswer::NotNow => last = Some(error),
                    UnplugAnswer::Refused => return Err(refused(&name, disk).because(error)),
                    UnplugAnswer::Failed if lost => {}
                    UnplugAnswer::Failed => return Err(error),
                }
            }
            let ask_again = Instant::now() + ASK_AGAIN;
            while Instant::now() < ask_again {
                if !self.is_attached(subject, target)? {
                    return Ok(());
                }
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let error = still_attached(&name, disk, timeout);
                    return Err(match last {
                        Some(last) => error.because(last),
                        None => error,
                    });
                }
                interrupt::sleep(left.min(POLL)).map_err(|error| error.left_behind(asked_for()))?;
            }
        }
    }

    /// Takes disks out of the definition that stays and from the running guest, and checks that QEMU has closed
    /// them. Returns warnings.
    fn carry_out(
        &self,
        subject: &mut Subject<'_>,
        disks: &[GuestDisk],
        timeout: Duration,
    ) -> Result<Vec<String>> {
        let mut applied = Vec::new();
        for disk in disks {
            applied.extend(self.undefine(subject, disk)?);
        }
        for disk in disks {
            let done = self.wait(subject, disk, timeout);
            done.map_err(|error| error.applied(applied.clone()))?;
        }
        let numbers: BTreeSet<Number> = disks.iter().filter_map(|disk| disk.number).collect();
        let closed = undefined_disk::expect_closed(self.host, subject, Some(&numbers));
        closed.map_err(|error| error.applied(applied))
    }

    /// The numbers of the device that was asked for and of all that is made of it; none when the host has no
    /// such device.
    fn asked(&self, device: &str) -> Result<Option<BTreeSet<Number>>> {
        let blocks = Blocks::read(self.host)?;
        let Some(block) = blocks.of_path(self.host, device) else { return Ok(None) };
        Ok(Some(blocks.stack(&block.name).into_iter().map(|block| block.number).collect()))
    }
}

fn refused(name: &str, disk: &GuestDisk) -> Error {
    Error::conflict(format!("the guest '{name}' does not let go of {}", disk.target))
        .code(Code::GuestRefused)
        .hint("the disk is still attached: unmount it in the guest first, or shut the guest off")
}

fn still_attached(name: &str, disk: &GuestDisk, waited: Duration) -> Error {
    let target = &disk.target;
    let message =
        format!("{target} is still attached to '{name}': no answer in {} s", waited.as_secs());
    Error::conflict(message).code(Code::StillAttached).hint(format!(
        "the guest was asked and may yet let go: tdx-disk detach {name} {target} waits again"
    ))
}
