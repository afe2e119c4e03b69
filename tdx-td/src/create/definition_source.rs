//! What a new domain's definition is made from: the built-in one with settings, or a user's template.

use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;
use common::{Error, Result};

use crate::capability::Security;
use crate::create::identity::DomainIdentity;
use crate::create::ports::PortRequest;
use crate::create::request::GuestRequest;
use crate::create::settings::Settings;
use crate::domain::purpose::Purpose;
use crate::domain_xml::builder::GuestDefinition;
use crate::domain_xml::template::checked::{CheckedTemplate, TemplateRequest};
use crate::scenario::disk_kind::DiskKind;
use crate::scenario::resolve::ResolvedSettings;

/// What a definition is made from.
#[derive(Debug)]
pub enum DefinitionSource {
    /// The built-in definition.
    BuiltIn(Box<Settings>),
    /// A user's template.
    Template(Box<CheckedTemplate>),
}

impl DefinitionSource {
    /// Settles what the guest is to have and, when it is to be made, checks it against the host.
    ///
    /// Errors: those of [`Settings::new`] and [`CheckedTemplate::new`].
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &GuestRequest,
        kind: DiskKind,
        purpose: Purpose,
    ) -> Result<Self> {
        match &request.template {
            // clap drops this requirement when the template could not be given beside other flags.
            None if request.fix_template => {
                Err(Error::usage("--fix-template needs --xml-template"))
            }
            None => {
                let settings = Settings::new(context, libvirt, config, request, kind, purpose)?;
                Ok(Self::BuiltIn(Box::new(settings)))
            }
            Some(path) => {
                if request.launch.any() {
                    return Err(Error::usage("a template says itself how its guest is protected")
                        .hint("write these values into its <launchSecurity>"));
                }
                let template = TemplateRequest {
                    fix: request.fix_template,
                    memory: request.memory,
                    vcpus: request.vcpus,
                    ssh_port: request.ssh_port,
                };
                let checked = CheckedTemplate::new(context, libvirt, path, template, purpose)?;
                Ok(Self::Template(Box::new(checked)))
            }
        }
    }

    /// What was settled of guest, disk and host; none of a template.
    pub fn scenario(&self) -> Option<&ResolvedSettings> {
        match self {
            Self::BuiltIn(settings) => Some(&settings.resolved),
            Self::Template(_) => None,
        }
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::BuiltIn(settings) => &settings.warnings,
            Self::Template(template) => &template.warnings,
        }
    }

    /// How such guests are protected.
    pub fn security(&self) -> Security {
        match self {
            Self::BuiltIn(settings) => settings.launch.security(),
            Self::Template(template) => template.security(),
        }
    }

    /// What such guests are called.
    pub fn stem(&self) -> &str {
        match self {
            Self::BuiltIn(settings) => settings.launch.stem(),
            Self::Template(template) => template.stem(),
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
            Self::Template(template) => template.ssh_port,
        }
    }

    /// What was asked for, in the form a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        match self {
            Self::BuiltIn(settings) => settings.request(),
            Self::Template(template) => template.request(),
        }
    }

    /// The definition of one domain, and what of a template was translated.
    ///
    /// Errors: those of [`GuestDefinition::to_xml`] and [`CheckedTemplate::to_xml`].
    pub fn to_xml(&self, identity: &DomainIdentity<'_>) -> Result<(String, Vec<String>)> {
        match self {
            Self::BuiltIn(settings) => {
                GuestDefinition { settings, identity }.to_xml().map(|xml| (xml, Vec::new()))
            }
            Self::Template(template) => template.to_xml(identity),
        }
    }
}
