//! What a new domain's definition is made from: the built-in one with settings, or a user's template.

use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;
use common::{Error, Result};

use crate::capability::Security;
use crate::create::disk_plan::DiskKind;
use crate::create::identity::DomainIdentity;
use crate::create::ports::PortRequest;
use crate::create::purpose::Purpose;
use crate::create::settings::{GuestArgs, Settings};
use crate::domain_xml::builder::Guest;
use crate::domain_xml::template::fill::Fitting;
use crate::scenario::resolve::Choice;

/// What a definition is made from.
#[derive(Debug)]
pub enum DefinitionSource {
    /// The built-in definition.
    BuiltIn(Box<Settings>),
    /// A user's template.
    Template(Box<Fitting>),
}

impl DefinitionSource {
    /// Settles what the guest is to have and, when it is to be made, checks it against the host.
    ///
    /// Errors: those of [`Settings::new`] and [`Fitting::new`].
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        args: &GuestArgs,
        kind: DiskKind,
        purpose: Purpose,
    ) -> Result<Self> {
        match &args.xml_template {
            // clap drops this requirement when the template could not be given beside other flags.
            None if args.fix_template => Err(Error::usage("--fix-template needs --xml-template")),
            None => {
                let settings = Settings::new(context, libvirt, config, args, kind, purpose)?;
                Ok(Self::BuiltIn(Box::new(settings)))
            }
            Some(path) => {
                let fitting = Fitting::new(context, libvirt, path, args, purpose)?;
                Ok(Self::Template(Box::new(fitting)))
            }
        }
    }

    /// What was settled of guest, disk and host; none of a template.
    pub fn scenario(&self) -> Option<&Choice> {
        match self {
            Self::BuiltIn(settings) => Some(&settings.choice),
            Self::Template(_) => None,
        }
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::BuiltIn(settings) => &settings.warnings,
            Self::Template(fitting) => &fitting.warnings,
        }
    }

    /// How such guests are protected.
    pub fn security(&self) -> Security {
        match self {
            Self::BuiltIn(settings) => settings.launch.security(),
            Self::Template(fitting) => fitting.security(),
        }
    }

    /// What such guests are called.
    pub fn stem(&self) -> &str {
        match self {
            Self::BuiltIn(settings) => settings.launch.stem(),
            Self::Template(fitting) => fitting.stem(),
        }
    }

    /// Whether a user wrote the definition.
    pub fn is_template(&self) -> bool {
        matches!(self, Self::Template(_))
    }

    /// The port of the host that it needs.
    pub fn port(&self) -> Option<PortRequest> {
        match self {
            Self::BuiltIn(settings) => settings.ssh_port,
            Self::Template(fitting) => fitting.ssh_port,
        }
    }

    /// What was asked for, in the form a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        match self {
            Self::BuiltIn(settings) => settings.request(),
            Self::Template(fitting) => fitting.request(),
        }
    }

    /// The definition of one domain, and what of a template was translated.
    ///
    /// Errors: those of [`Guest::to_xml`] and [`Fitting::to_xml`].
    pub fn to_xml(&self, identity: &DomainIdentity<'_>) -> Result<(String, Vec<String>)> {
        match self {
            Self::BuiltIn(settings) => {
                Guest { settings, identity }.to_xml().map(|xml| (xml, Vec::new()))
            }
            Self::Template(fitting) => fitting.to_xml(identity),
        }
    }
}
