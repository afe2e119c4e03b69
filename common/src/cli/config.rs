//! Defaults from configuration files and the environment. Flags take precedence.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::document::input;
use crate::error::{Error, Result};
use crate::system::sysroot::Host;
use crate::units::Size;
use crate::yaml;

/// The largest configuration file that is read. Unit: bytes.
const LIMIT: usize = 1 << 20;

/// Defaults that an operator sets once instead of on every command line.
///
/// Read from `/etc/tdx/tdx.yaml`, then `$XDG_CONFIG_HOME/tdx/tdx.yaml` (`~/.config` without it), then
/// `TDX_<KEY>` in the environment. A later source overrides an earlier one, and a flag overrides all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The libvirt URI; libvirt's own default when absent.
    pub connect: Option<String>,
    /// The list of hosts, read instead of `/etc/tdx/hosts.yaml` and `~/.config/tdx/hosts.yaml`.
    pub hosts: Option<PathBuf>,
    /// The pool's name.
    pub pool: Option<String>,
    /// The pool's directory.
    pub pool_path: Option<PathBuf>,
    /// The base image of `tdx-td new` without `--td-image`.
    pub image: Option<PathBuf>,
    /// Memory of a new domain.
    pub memory: Option<Size>,
    /// Virtual CPUs of a new domain.
    pub vcpus: Option<u32>,
    /// The libvirt network of a new domain.
    pub network: Option<String>,
    /// Launch security of a new domain.
    pub security: Option<String>,
    /// `auto`, `kvm` or `qemu`.
    pub virt_type: Option<String>,
}

/// The keys of [`Config`], each of which the environment can set as `TDX_<KEY>`.
const KEYS: [&str; 10] = [
    "connect",
    "hosts",
    "pool",
    "pool_path",
    "image",
    "memory",
    "vcpus",
    "network",
    "security",
    "virt_type",
];

impl Config {
    /// Reads the files and the environment.
    ///
    /// Errors: `invalid_input` for a file that is not a valid configuration, naming the file and the key;
    /// `permission`, `io` for a file that cannot be read.
    pub fn load(host: &Host) -> Result<Self> {
        let mut merged = Map::new();
        for path in files(host) {
            merged.append(&mut read(&path)?);
        }
        for key in KEYS {
            let name = variable(key);
            if let Ok(value) = std::env::var(&name) {
                // The only plain number; everything else is read from text.
                let value: Value = match value.parse::<u32>() {
                    Ok(number) if key == "vcpus" => number.into(),
                    _ => value.into(),
                };
                let alone = Map::from_iter([(key.to_owned(), value.clone())]);
                serde_json::from_value::<Self>(Value::Object(alone)).map_err(|error| {
                    Error::invalid_input(format!(
                        "environment variable {name} has an invalid value"
                    ))
                    .because(error)
                })?;
                merged.insert(key.to_owned(), value);
            }
        }
        // Cannot fail, because each file and each variable was checked.
        serde_json::from_value(Value::Object(merged)).map_err(|error| {
            Error::invalid_input("the configuration has an invalid value").because(error)
        })
    }
}

/// Where the value of a key of [`Config`] comes from: the environment variable, or else `tdx.yaml`.
pub fn source(key: &str) -> String {
    let name = variable(key);
    if std::env::var_os(&name).is_some() { name } else { "tdx.yaml".to_owned() }
}

/// The environment variable that sets a key.
fn variable(key: &str) -> String {
    format!("TDX_{}", key.to_uppercase())
}

/// The directory of the user's own configuration; none when neither XDG_CONFIG_HOME nor HOME is set.
///
/// Source: XDG Base Directory Specification.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))
        .filter(|home| home.is_absolute())
}

fn files(host: &Host) -> Vec<PathBuf> {
    let user = home().map(|home| home.join("tdx/tdx.yaml"));
    [Some(host.path("/etc/tdx/tdx.yaml")), user].into_iter().flatten().collect()
}

/// The mapping in one file. The file is checked as a whole [`Config`], so that an error names this file.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let Some(text) = input::text_file(path, LIMIT)? else { return Ok(Map::new()) };
    parse(&text).map_err(|error| {
        Error::invalid_input(format!("{} is not a valid configuration", path.display()))
            .because(error)
    })
}

fn parse(text: &str) -> Result<Map<String, Value>, Box<dyn std::error::Error + Send + Sync>> {
    let values: Option<Map<String, Value>> = yaml::from_str(text)?;
    let values = values.unwrap_or_default();
    serde_json::from_value::<Config>(Value::Object(values.clone()))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_from_yaml() {
        let values = parse("# comment\nmemory: 4G\nvcpus: 2\npool: guests\n").unwrap();
        let config: Config = serde_json::from_value(Value::Object(values)).unwrap();
        assert_eq!(config.memory, Some(Size(4 << 30)));
        assert_eq!((config.vcpus, config.pool.as_deref()), (Some(2), Some("guests")));
        assert!(parse("# nothing but comments\n").unwrap().is_empty());
    }

    #[test]
    fn an_unreadable_file_is_an_error_with_its_cause() {
        use crate::ErrorKind;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tdx.yaml");
        assert!(read(&file).unwrap().is_empty());
        std::fs::write(&file, [0xff, b'\n']).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read(folder.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
        std::fs::write(&file, vec![b'#'; LIMIT + 1]).unwrap();
        assert!(read(&file).unwrap_err().message().ends_with("is larger than 1 MiB"));
    }

    #[test]
    fn errors_name_unknown_keys_and_wrong_values() {
        for (text, says) in [("memmory: 4G", "memmory"), ("memory: lots", "lots"), ("- a", "")] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
