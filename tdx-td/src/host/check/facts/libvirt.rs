//! The facts that libvirt reports about itself and its domain capabilities.

use std::path::Path;

use common::Result;
use common::document::input;
use common::libvirt::Libvirt;
use common::xml::Document;

use crate::capability::{VirtType, domain_capabilities};
use crate::firmware::choice::Rules;
use crate::host::check::facts::firmware::rules;
use crate::host::check::facts::reading::{Fact, fact};

/// The facts that libvirt reports.
#[derive(Debug)]
pub struct LibvirtFacts {
    /// The daemon; `None` if libvirt was not queried, the error if it cannot be reached.
    pub daemon: Option<Fact<Daemon>>,
    /// The domain capabilities, with KVM.
    pub capabilities: Fact<Document>,
    /// The rules by which it chooses firmware; `None` if libvirt was not queried, or runs on a remote host.
    pub rules: Option<Rules>,
}

/// A libvirt daemon that can be reached.
#[derive(Debug)]
pub struct Daemon {
    /// The URI of the connection.
    pub uri: String,
    /// Whether the daemon runs on this machine.
    pub local: bool,
    /// The version of the library, as libvirt counts it.
    pub version: u32,
    /// The version of QEMU, as libvirt counts it.
    pub qemu: Fact<u32>,
    /// Whether the network `default` is active; `None` if there is no such network.
    pub network: Fact<Option<bool>>,
}

/// The largest size of a file of capabilities, in bytes.
const MOST: usize = 16 << 20;

impl LibvirtFacts {
    /// Asks libvirt, or reads the domain capabilities from a file.
    ///
    /// Errors: `not_found`, `permission` for that file. Invalid content makes the facts unknown.
    pub fn read(
        connect: impl FnOnce() -> Result<Libvirt>,
        may_ask: bool,
        file: Option<&Path>,
    ) -> Result<Self> {
        if let Some(file) = file {
            let text = String::from_utf8_lossy(&input::file(file, MOST)?).into_owned();
            let capabilities = fact(Document::parse(text))
                .map_err(|why| format!("{} is not XML: {why}", file.display()))
                .and_then(|document| match document.root().name() {
                    "domainCapabilities" => Ok(document),
                    other => Err(format!(
                        "{} has the root element <{other}>, expected <domainCapabilities>",
                        file.display()
                    )),
                });
            return Ok(Self { daemon: None, capabilities, rules: None });
        }
        if !may_ask {
            let why = "with --sysroot, tdx-td does not query the local libvirt: add --connect URI or \
                       --capabilities FILE of the captured machine";
            return Ok(Self { daemon: None, capabilities: Err(why.to_owned()), rules: None });
        }
        let libvirt = match fact(connect()) {
            Ok(libvirt) => libvirt,
            Err(why) => {
                let capabilities =
                    Err("not checked, because check LIBVIRT did not pass".to_owned());
                return Ok(Self { daemon: Some(Err(why)), capabilities, rules: None });
            }
        };
        let capabilities = fact(domain_capabilities(&libvirt, VirtType::Kvm));
        let rules = rules(&libvirt);
        Ok(Self { daemon: Some(Daemon::read(&libvirt)), capabilities, rules })
    }
}

impl Daemon {
    fn read(libvirt: &Libvirt) -> Fact<Self> {
        let connect = libvirt.connect();
        let text = |error: virt::error::Error| error.message().to_owned();
        let networks = connect.list_all_networks(0).map_err(text);
        let network = networks.map(|networks| {
            let is_default = |network: &&virt::network::Network| {
                network.name().is_ok_and(|name| name == "default")
            };
            networks.iter().find(is_default).map(|network| network.is_active().unwrap_or(false))
        });
        Ok(Self {
            uri: libvirt.uri().to_owned(),
            local: libvirt.is_local(),
            version: connect.lib_version().map_err(text)?,
            qemu: connect.hyp_version().map_err(text),
            network,
        })
    }
}
