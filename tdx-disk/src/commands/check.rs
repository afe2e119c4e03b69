//! `tdx-disk check`: checks whether disks can be given to a guest now.

use std::borrow::Cow;

use clap::Args;
use common::cli::Context;
use common::code::{Level, join_codes};
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::libvirt::Libvirt;
use common::units::Size;
use common::{Code, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::availability::finding;
use crate::availability::finding::FindingItem;
use crate::availability::judge::Question;
use crate::availability::machine::Machine;
use crate::block::devices::BlockDevices;
use crate::block::disk::Disk;
use crate::block::named_device;

const EXAMPLES: &str = "Examples:
  tdx-disk check /dev/sdb
  tdx-disk check /dev/sdb && tdx-disk attach vm /dev/sdb
  tdx-disk list --json | jq '.items[] | select(.available)' | tdx-disk check -";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// Disks, by any path or name below /dev; - reads the JSON output of tdx-disk list from standard input
    #[arg(value_name = "DEV", required = true)]
    devices: Vec<String>,
    /// Check whether the disks can be attached read-only
    #[arg(long)]
    readonly: bool,
}

/// A disk in a document of `tdx-disk check`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckItem {
    /// The device node, as the kernel names it.
    pub device: String,
    /// The device number, `major:minor`.
    pub number: String,
    /// The type of device: `disk`, `partition`, `loop`, ….
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The size of the disk, in bytes.
    pub size_bytes: u64,
    /// Vendor and model.
    pub model: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The world-wide name.
    pub wwn: Option<String>,
    /// The most permanent name below `/dev/disk/by-id`.
    pub by_id: Option<String>,
    /// Whether the disk can be given to a guest.
    pub available: bool,
    /// The codes of the blockers.
    pub blockers: Vec<Code>,
    /// All findings about the disk, including notes.
    pub findings: Vec<FindingItem>,
}

impl Item for CheckItem {
    const COLUMNS: &'static [&'static str] =
        &["DEVICE", "SIZE", "MODEL", "SERIAL", "AVAILABLE", "BLOCKERS", "WHY"];
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "WHY"];
    const DROPPED: &'static [&'static str] = &["SERIAL", "MODEL", "SIZE"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let shown = |finding: &FindingItem| match finding.level {
            Level::Note => format!("note: {}", finding.message),
            _ => finding.message.clone(),
        };
        let messages: Vec<String> = self.findings.iter().map(shown).collect();
        vec![
            self.device.clone(),
            Size(self.size_bytes).to_string(),
            self.model.clone().unwrap_or_default(),
            self.serial.clone().unwrap_or_default(),
            if self.available { "yes" } else { "no" }.to_owned(),
            join_codes(&self.blockers),
            messages.join("; "),
        ]
    }
}

/// Checks each disk.
pub fn run(
    context: &Context,
    libvirt: impl FnOnce() -> Result<Libvirt, String>,
    args: CheckArgs,
) -> Result<Outcome> {
    let host = &context.host;
    let names = named_device::read(&args.devices)?;
    let blocks = BlockDevices::read(host)?;
    // Absent devices are reported before the slow checks.
    for named in &names {
        let disk = Disk::read(host, &blocks, named_device::find(host, &blocks, &named.name)?);
        named.expect_same(host, &disk)?;
    }
    let (libvirt, mut warnings) = match libvirt() {
        Ok(libvirt) => (Some(libvirt), Vec::new()),
        Err(why) => (None, vec![why]),
    };
    let question = Question { domain: None, readonly: args.readonly };
    let mut items: Vec<CheckItem> = Vec::new();
    let machine = Machine::read(host, libvirt.as_ref())?;
    for named in &names {
        let (disk, judgement) = machine.judge(host, &named.name, question)?;
        named.expect_same(host, &disk)?;
        if items.iter().all(|item| item.device != disk.node()) {
            warnings.extend(judgement.unseen);
            let findings = judgement.findings;
            items.push(item(&disk, findings));
        }
    }
    warnings.sort();
    warnings.dedup();
    let available = items.iter().all(|item| item.available);
    Ok(Outcome::answer(Document::new("tdx.disk.check", items).warnings(warnings), available))
}

fn item(disk: &Disk, findings: Vec<finding::Finding>) -> CheckItem {
    let blockers = finding::blockers(&findings);
    CheckItem {
        device: disk.node(),
        number: disk.number.to_string(),
        kind: disk.kind,
        size_bytes: disk.size,
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        by_id: disk.by_id().map(str::to_owned),
        available: findings.iter().all(|finding| finding.code.level() == Level::Note),
        blockers,
        findings: findings.into_iter().map(FindingItem::from).collect(),
    }
}
