//! `tdx-td firmware`: lists the firmware builds of a host, in the order in which libvirt tries them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args};
use common::Result;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::libvirt::Libvirt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::descriptor::{Descriptor, Device, File, INTERFACES, Mode, Target};
use crate::firmware::directory::{Descriptors, Scope};
use crate::firmware::installed::has_files;
use crate::firmware::loaders::Loaders;
use crate::firmware::query::{FEATURES, Feature, FirmwareQuery};

/// Arguments of `firmware`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FirmwareArgs {
    /// Only builds with this feature, such as intel-tdx, or without it, such as no-enrolled-keys
    #[arg(short, long = "feature", value_name = "[no-]FEATURE", value_delimiter = ',')]
    #[arg(value_parser = feature(), hide_possible_values = true)]
    features: Vec<Feature>,
    /// Only builds for this guest architecture, such as x86_64
    #[arg(short, long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Only builds with this interface
    #[arg(short, long, value_parser = PossibleValuesParser::new(INTERFACES))]
    interface: Option<String>,
    /// Only builds for this machine type, such as pc-q35-10.1, or q35 for any version
    #[arg(short, long)]
    machine: Option<String>,
    /// Only builds that store no variables (yes), or that store them (no)
    #[arg(long, value_name = "yes|no", value_parser = stateless(), hide_possible_values = true)]
    stateless: Option<bool>,
    /// Print the descriptor files themselves, one after another
    #[arg(short, long)]
    content: bool,
}

const EXAMPLES: &str = "Examples:
  tdx-td firmware -f intel-tdx
  tdx-td firmware -m q35 -f secure-boot,no-enrolled-keys --format name
  tdx-td firmware --json | jq -r '.items[0].executable.path'";

/// Parses the name of a feature, with or without `no-` in front.
fn feature() -> impl TypedValueParser<Value = Feature> {
    PossibleValuesParser::new(FEATURES).map(|name| Feature::parse(&name))
}

fn stateless() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
}

/// Returns the flag `--connect` without its short form: `-c` means `--content` in this command.
pub fn connect_flag() -> Arg {
    Arg::new("connect")
        .long("connect")
        .value_name("URI")
        .help("Connect to libvirt at this URI; -c means --content in this command")
        .help_heading("Global options")
}

/// A firmware build.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FirmwareItem {
    /// File name of the build's descriptor. libvirt tries builds in the order of these names.
    name: String,
    /// Path of the descriptor.
    descriptor: PathBuf,
    /// Description of the build, as its descriptor has it.
    description: String,
    /// Interfaces that the build offers to the guest, the preferred one first: `uefi`, `bios`, …
    interface_types: Vec<String>,
    /// Architectures and machine types that the build supports.
    targets: Vec<Target>,
    /// Features that the build has or requires.
    features: Vec<String>,
    /// How the build is loaded into the guest: `flash`, `memory`, `kernel` or `igvm`.
    device: Device,
    /// Where the build stores its variables; null if the device has no mode.
    mode: Option<Mode>,
    /// The firmware image.
    executable: File,
    /// The file that a guest's variable store is created from; null if the build has none.
    nvram_template: Option<File>,
    /// Tags of the distributor, as the descriptor has them.
    tags: Vec<String>,
    /// Whether the files of the build exist.
    usable: bool,
    /// Whether libvirt lists the build among its loaders; null when libvirt cannot be asked.
    offered: Option<bool>,
    /// Whether libvirt chooses this build for a guest that requests the same properties; null when libvirt
    /// cannot be asked.
    chosen: Option<bool>,
}

impl Item for FirmwareItem {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "DEVICE", "MODE", "FEATURES", "EXECUTABLE", "USABLE", "OFFERED", "CHOSEN"];
    const IS_ON_HOST: bool = false;

    /// The order of the features is that of the descriptor.
    const WRAPPED: &'static [&'static str] = &["FEATURES"];
    const DROPPED: &'static [&'static str] = &["EXECUTABLE", "MODE"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        vec![
            self.name.clone(),
            self.device.as_str().to_owned(),
            self.mode.map(Mode::as_str).unwrap_or_default().to_owned(),
            self.features.join(" "),
            self.executable.path.display().to_string(),
            yes(self.usable),
            self.offered.map(yes).unwrap_or_default(),
            self.chosen.map(yes).unwrap_or_default(),
        ]
    }
}

/// Lists the firmware builds with all requested properties.
///
/// Unless `may_ask` is false, libvirt is asked which of the builds it offers.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    may_ask: bool,
    args: FirmwareArgs,
) -> Result<Outcome> {
    let host = &context.host;
    let wanted = FirmwareQuery {
        interface: args.interface,
        architecture: args.architecture,
        machine: args.machine,
        features: args.features,
        stateless: args.stateless,
        smm: None,
    };
    let all = Descriptors::read(host, Scope::User)?;
    let mut warnings: Vec<String> = all.damaged.iter().map(ToString::to_string).collect();
    warnings.extend(all.warnings.iter().cloned());
    let mut found: Vec<_> = all.found.iter().filter(|found| wanted.fits(found)).cloned().collect();
    if args.content {
        let texts = found.iter().map(|descriptor| format!("{}\n", descriptor.text.trim_end()));
        return Ok(Outcome::raw_with_warnings(texts.collect(), warnings));
    }
    let mut loaders = None;
    if may_ask {
        match connect() {
            Ok(libvirt) if libvirt.is_local() => loaders = Some(Loaders::new(libvirt)),
            Ok(libvirt) => warnings.push(format!(
                "the values of 'offered' and 'chosen' are unknown: {} is another host",
                libvirt.uri()
            )),
            Err(error) => {
                warnings.push(format!("the values of 'offered' and 'chosen' are unknown: {error}"));
            }
        }
    }
    let choice = loaders.as_ref().map(|loaders| loaders.choose(host, &all, &wanted)).transpose()?;
    let known =
        choice.clone().unwrap_or_else(|| FirmwareChoice::new(&all, &wanted, &Rules::newest()));
    warnings.extend(known.complaint(&wanted).filter(|_| found.is_empty() || choice.is_some()));
    // An old libvirt may choose a build that lacks a requested property, or that a descriptor in the user's
    // directory hides.
    let missing = choice.as_ref().and_then(FirmwareChoice::build);
    if let Some(build) = missing.filter(|build| found.iter().all(|found| found.path != build.path))
    {
        let after = found.partition_point(|found| found.path.file_name() < build.path.file_name());
        found.insert(after, build.clone());
    }
    let chosen = |path: &Path| {
        choice.as_ref().map(|choice| choice.build().is_some_and(|build| build.path == path))
    };
    let item = |descriptor: Descriptor| FirmwareItem {
        offered: loaders.as_mut().map(|loaders| loaders.is_offered(&descriptor, &wanted)),
        chosen: chosen(&descriptor.path),
        usable: has_files(host, &descriptor),
        name: descriptor.name(),
        descriptor: descriptor.path,
        description: descriptor.description,
        interface_types: descriptor.interface_types,
        targets: descriptor.targets,
        features: descriptor.features,
        device: descriptor.device,
        mode: descriptor.mode,
        executable: descriptor.executable,
        nvram_template: descriptor.nvram_template,
        tags: descriptor.tags,
    };
    let items = found.into_iter().map(item).collect();
    Ok(Document::new("tdx.td.firmware", items).warnings(warnings).into())
}
