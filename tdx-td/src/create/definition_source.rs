//! The source of a new domain's definition: the built-in definition with settings, or a user's template.

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

/// The source of a definition.
#[derive(Debug)]
pub enum DefinitionSource {
    /// The built-in definition.
    BuiltIn(Box<Settings>),
    /// A user's template.
    Template(Box<CheckedTemplate>),
}

impl DefinitionSource {
    /// Determines the guest's settings and, if the domain is to be created, checks them against the host.
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
            // clap does not enforce this requirement if another flag conflicts with the template.
            None if request.fix_template => {
                Err(Error::usage("--fix-template needs --xml-template"))
            }
            None => {
                let settings = Settings::new(context, libvirt, config, request, kind, purpose)?;
                Ok(Self::BuiltIn(Box::new(settings)))
            }
            Some(path) => {
                if request.launch.any() {
                    return Err(Error::usage(
                        "the flags of Intel TDX and AMD SEV cannot be combined with --xml-template",
                    )
                    .hint("write these values into <launchSecurity> of the template"));
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

    /// Returns the settings of guest, disk and host; `None` for a template.
    pub fn scenario(&self) -> Option<&ResolvedSettings> {
        match self {
            Self::BuiltIn(settings) => Some(&settings.resolved),
            Self::Template(_) => None,
        }
    }

    /// Returns the warnings for the user.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::BuiltIn(settings) => &settings.warnings,
            Self::Template(template) => &template.warnings,
        }
    }

    /// Returns the protection of the guest.
    pub fn security(&self) -> Security {
        match self {
            Self::BuiltIn(settings) => settings.launch.security(),
            Self::Template(template) => template.security(),
        }
    }

    /// Returns the KIND in the default name of the domain.
    pub fn stem(&self) -> &str {
        match self {
            Self::BuiltIn(settings) => settings.launch.stem(),
            Self::Template(template) => template.stem(),
        }
    }

    /// Whether the source is a user's template.
    pub fn is_template(&self) -> bool {
        matches!(self, Self::Template(_))
    }

    /// Returns the port of the host that the definition forwards to the guest's SSH server.
    pub fn port(&self) -> Option<PortRequest> {
        match self {
            Self::BuiltIn(settings) => settings.ssh_port,
            Self::Template(template) => template.ssh_port,
        }
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        match self {
            Self::BuiltIn(settings) => settings.request(),
            Self::Template(template) => template.request(),
        }
    }

    /// Returns the definition of one domain, and descriptions of what was translated in a template.
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
