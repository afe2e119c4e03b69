//! The list of hosts in `hosts.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::config;
use crate::cli::config::Config;
use crate::document::input;
use crate::error::{Error, ErrorKind, Result};
use crate::system::sysroot::Host;
use crate::{nearest, yaml};

/// The largest list of hosts that is read. Unit: bytes.
const LIMIT: usize = 1 << 20;

/// A host that runs libvirt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The connection URI of the host; `url` in virt-scenario's files.
    #[serde(alias = "url")]
    pub uri: String,
    /// The file of the host's AMD SEV certificate chain, which `sevctl export --full` writes on that host.
    #[serde(default, rename = "sev-cert", alias = "sev_cert")]
    pub sev_cert: Option<PathBuf>,
}

/// All hosts that `hosts.yaml` lists.
#[derive(Debug, Default)]
pub struct Hosts {
    entries: BTreeMap<String, Entry>,
    /// The files that were read.
    files: Vec<PathBuf>,
}

impl Hosts {
    /// Reads the configured file, or `/etc/tdx/hosts.yaml` and then `$XDG_CONFIG_HOME/tdx/hosts.yaml`,
    /// whose entries replace those of the same name.
    ///
    /// Shape: `NAME: {uri: URI, sev-cert: FILE}`, like virt-scenario's `virthosts.yaml`.
    /// Errors: `invalid_input` for a file of another shape; `not_found` for a configured file that is absent.
    pub fn load(host: &Host, config: &Config) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let files = match &config.hosts {
            Some(file) => {
                entries.append(&mut read(file)?);
                vec![file.clone()]
            }
            None => {
                let own = config::home().map(|folder| folder.join("tdx/hosts.yaml"));
                let files = [Some(host.path("/etc/tdx/hosts.yaml")), own];
                let files: Vec<PathBuf> = files.into_iter().flatten().collect();
                for file in &files {
                    match read(file) {
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        read => entries.append(&mut read?),
                    }
                }
                files
            }
        };
        Ok(Self { entries, files })
    }

    /// The host with the given name.
    ///
    /// Errors: `not_found`, with the most similar name as the hint.
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let names = self.entries.keys().map(String::as_str);
            let hint = match nearest(name, names.clone()) {
                Some(near) => format!("did you mean '{near}'?"),
                None if self.entries.is_empty() => {
                    let files = self.files.iter().map(|file| file.display().to_string());
                    format!("add the host to {}", files.collect::<Vec<_>>().join(" or "))
                }
                None => format!("known hosts: {}", names.collect::<Vec<_>>().join(", ")),
            };
            Error::not_found(format!("host '{name}' not found in hosts.yaml")).hint(hint)
        })
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let bytes = input::file(path, LIMIT)?;
    parse(&bytes).map_err(|error| {
        Error::invalid_input(format!("{} is not a valid list of hosts", path.display()))
            .because(error)
            .hint("write one host per line, such as epyc1: {uri: qemu+ssh://root@epyc1/system}")
    })
}

fn parse(
    bytes: &[u8],
) -> Result<BTreeMap<String, Entry>, Box<dyn std::error::Error + Send + Sync>> {
    let text = std::str::from_utf8(bytes)?;
    let entries: Option<BTreeMap<String, Entry>> = yaml::from_str(text)?;
    let entries = entries.unwrap_or_default();
    match entries.iter().find(|(_, entry)| entry.uri.trim().is_empty()) {
        Some((name, _)) => Err(format!("the uri of '{name}' is empty").into()),
        None => Ok(entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_the_list_of_virt_scenario() {
        let text = b"localhost:\n  url: qemu:///system\n\
            # Generate with 'sevctl export --full filename.pdh' on the given host\n  \
            sev-cert: /path/to/host-cert-chain.pdh\n";
        let hosts = parse(text).unwrap();
        let cert = Some(PathBuf::from("/path/to/host-cert-chain.pdh"));
        let localhost = Entry { uri: "qemu:///system".to_owned(), sev_cert: cert };
        assert_eq!(hosts, BTreeMap::from([("localhost".to_owned(), localhost)]));
    }

    #[test]
    fn parse_refuses_a_file_of_another_shape() {
        assert_eq!(parse(b"").unwrap().len(), 0);
        assert_eq!(parse(b"# none yet\n").unwrap().len(), 0);
        for (text, says) in [
            (&b"- a"[..], ""),
            (b"a: qemu:///system", ""),
            (b"a: {}", "uri"),
            (b"a: {uri: ' '}", "the uri of 'a' is empty"),
            (b"a: {uri: x, sev-crt: y}", "sev-crt"),
            (b"a: {uri: x, url: y}", "uri"),
            (b"a: {uri: x}\na: {uri: y}", ""),
            (b"\xff", ""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn get_suggests_the_most_similar_name() {
        let entries = parse(b"epyc1: {uri: x}\nxeon1: {uri: y}").unwrap();
        let hosts = Hosts { entries, files: Vec::new() };
        assert_eq!(hosts.get("xeon1").unwrap().uri, "y");
        let hint = |name: &str| hosts.get(name).unwrap_err().to_document().error.hint;
        assert_eq!(hint("epcy1").as_deref(), Some("did you mean 'epyc1'?"));
        assert_eq!(hint("else").as_deref(), Some("known hosts: epyc1, xeon1"));
    }
}
