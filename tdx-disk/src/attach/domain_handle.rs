//! The domain that a verb changes, with a connection that survives a restart of the daemon.

use std::time::{Duration, Instant};

use common::cli::{interrupt, log};
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, Result, name};
use virt::domain::Domain;

use crate::availability::guests::Guest;

/// How long to wait for a daemon that has ended to come back.
const RESTART: Duration = Duration::from_secs(15);

/// A domain, with the means to reconnect to its libvirt.
pub struct DomainHandle<'c> {
    open: &'c dyn Fn() -> Result<Libvirt>,
    libvirt: Libvirt,
    domain: Domain,
    name: String,
}

impl std::fmt::Debug for DomainHandle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'c> DomainHandle<'c> {
    /// Looks up a domain by name.
    ///
    /// Errors: `not_found` when the domain does not exist; those of connecting; `usage` for an invalid name.
    pub fn find(open: &'c dyn Fn() -> Result<Libvirt>, name: &str) -> Result<Self> {
        name::check("domain", name)?;
        let libvirt = open()?;
        let domain = lookup(&libvirt, name)?;
        Ok(Self { open, libvirt, domain, name: name.to_owned() })
    }

    /// The name of the domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection.
    pub fn libvirt(&self) -> &Libvirt {
        &self.libvirt
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Reads the current definitions of the domain.
    ///
    /// Errors: `not_found` when the domain no longer exists.
    pub fn guest(&self) -> Result<Guest> {
        Guest::read(&self.libvirt, &self.domain)?.ok_or_else(|| absent(&self.name))
    }

    /// Connects again if the connection is lost. Returns whether it was lost.
    ///
    /// Errors: those of connecting, when the daemon has not come back in time.
    pub fn reconnect(&mut self) -> Result<bool> {
        if self.libvirt.is_alive() {
            return Ok(false);
        }
        log::step("reconnect to libvirt: the connection is lost");
        let end = Instant::now() + RESTART;
        let libvirt = loop {
            match (self.open)() {
                Ok(libvirt) => break libvirt,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => interrupt::sleep(Duration::from_millis(200))?,
            }
        };
        self.domain = lookup(&libvirt, &self.name)?;
        self.libvirt = libvirt;
        Ok(true)
    }
}

fn lookup(libvirt: &Libvirt, name: &str) -> Result<Domain> {
    match libvirt.connect().lookup_domain_by_name(name) {
        Err(error) if is_gone(&error) => Err(absent(name)),
        found => found.context(format_args!("look up domain '{name}'")),
    }
}

fn absent(name: &str) -> Error {
    Error::not_found(format!("domain '{name}' not found"))
        .hint("to see all domains, run tdx-td list")
}
