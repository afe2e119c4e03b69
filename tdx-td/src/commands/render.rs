//! `tdx-td render`: prints the domain XML that `new` would define.

use std::borrow::Cow;
use std::path::PathBuf;

use clap::Args;
use common::cli::Context;
use common::cli::config::Config;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::libvirt::Libvirt;
use common::{Result, xml};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::args::guest::GuestArgs;
use crate::commands::args::image::ImageArgs;
use crate::create::plan::CreationPlan;
use crate::firmware::domain_query::firmware_path;
use crate::scenario::layers::Setting;

const EXAMPLES: &str = "Examples:
  tdx-td render -i guest.qcow2 --xml
  tdx-td render -i guest.qcow2 --xml | virt-xml-validate - domain
  tdx-td render -i guest.qcow2 | tdx-attest measure -";

// `render` has the flags of `new`, but imports and deletes nothing.
const IMAGE: &str =
    "Disk image: a volume of the pool, or a file, which tdx-td new would import into the pool";
const OVERWRITE: &str = "Print the XML although a different domain of this name exists; tdx-td new \
                         --overwrite would delete that domain and the disks created for it";

/// Arguments of `render`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("td_image", |arg| arg.help(IMAGE)), mut_arg("overwrite", |arg| arg.help(OVERWRITE)))]
pub struct RenderArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    guest: GuestArgs,
    /// Print only the XML, without a JSON document
    #[arg(long, help_heading = "Output")]
    xml: bool,
}

/// A definition that `new` would define.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RenderItem {
    /// Name of the domain.
    name: String,
    /// The domain XML.
    xml: String,
    /// Path of the firmware that libvirt gives the guest; null when no firmware fits, and on a remote connection if
    /// libvirt chooses the firmware.
    firmware: Option<PathBuf>,
    /// Every setting of the definition, with its recommended and its actual value; empty for a template.
    settings: Vec<Setting>,
}

impl Item for RenderItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "XML"];
    const WRAPPED: &'static [&'static str] = &["XML"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), format!("{} bytes (--xml prints the XML)", self.xml.len())]
    }
}

/// Checks everything that `new` checks, and changes nothing.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: RenderArgs,
) -> Result<Outcome> {
    let request = args.guest.read(&args.image)?;
    let libvirt = connect()?;
    let plan = CreationPlan::new(context, &libvirt, config, &request)?;
    let (name, xml, settings) = (plan.name, plan.xml, plan.settings);
    if args.xml {
        return Ok(Outcome::raw_with_warnings(xml + "\n", plan.warnings));
    }
    let domain = xml::Document::parse(xml.as_str())?;
    let firmware = firmware_path(&context.host, &libvirt, domain.root());
    let item = RenderItem { name, xml, firmware, settings };
    let document = Document::new("tdx.td.render", vec![item]);
    Ok(document.warnings(plan.warnings).into())
}
