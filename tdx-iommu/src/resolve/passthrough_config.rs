//! The passthrough configuration: a file that assigns devices to guests, which `resolve` reads.
//!
//! ```yaml
//! vms:
//!   win10:
//!     passthrough_devices:
//!       - match:
//!           vendor_id: "10de"
//!           device_id: "1b81"
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use common::document::input;
use common::system::pci::Bdf;
use common::{Error, Result, nearest, yaml};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::inventory::id_syntax::{ClassPrefix, parse_id, parse_id_pair};
use crate::inventory::path::HopPath;

/// The largest file that is read. Unit: bytes.
const LIMIT: usize = 1 << 20;

/// The path of the file without `--config`.
pub const DEFAULT_FILE: &str = "passthrough_config.yaml";

/// The device requests of each guest, by the name of the guest.
pub type PassthroughConfig = BTreeMap<String, Vec<DeviceRequest>>;

/// A request of a guest for devices.
#[derive(Debug, Default)]
pub struct DeviceRequest {
    /// The criteria, all of which a device has to match. Never empty.
    pub criteria: Vec<Criterion>,
    /// Which of the matching devices to choose.
    pub select: Select,
    /// Whether the request may match too few devices.
    pub optional: bool,
}

impl DeviceRequest {
    /// Whether the request has a serial number as a criterion.
    pub fn is_by_serial(&self) -> bool {
        self.criteria.iter().any(|criterion| matches!(criterion, Criterion::Serial(_)))
    }
}

/// Which of the matching devices to choose, in the order of their PCI addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The device with this index, from 0.
    Index(usize),
    /// This number of devices, from the first on.
    First(usize),
    /// All devices.
    All,
}

impl Default for Select {
    fn default() -> Self {
        Self::Index(0)
    }
}

/// A criterion that a device has to match.
#[derive(Debug)]
pub enum Criterion {
    /// The vendor id.
    Vendor(u16),
    /// The device id.
    Device(u16),
    /// The subsystem vendor id.
    SubsystemVendor(u16),
    /// The subsystem device id.
    SubsystemDevice(u16),
    /// The first digits of the class.
    Class(ClassPrefix),
    /// The driver, or for a device that is bound to VFIO its former driver.
    Driver(String),
    /// The PCI address.
    Address(Bdf),
    /// The hop path.
    Path(HopPath),
    /// The serial number.
    Serial(String),
    /// The names of vendor and device in pci.ids. Case is ignored.
    Name(Regex),
}

/// Reads the device requests from a file.
///
/// Errors: `not_found`, `permission`; `invalid_input`, which names the guest, the request and the key, for an invalid
/// file.
pub fn read(path: &Path) -> Result<PassthroughConfig> {
    let shown = path.display();
    let wrong =
        || Error::invalid_input(format!("{shown} is not a valid passthrough configuration"));
    let bytes = input::file(path, LIMIT)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong().because(error))?;
    parse(&text).map_err(|error| wrong().because(error))
}

/// The content of the file. Scalars are text: `device_id: 1533` means the digits that were typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    vms: Option<BTreeMap<String, Vm>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    passthrough_devices: Option<Vec<RawRequest>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    r#match: BTreeMap<String, String>,
}

fn parse(text: &str) -> Result<PassthroughConfig> {
    let file: File = yaml::from_str(text)
        .map_err(|error| Error::invalid_input("cannot parse the YAML").because(error))?;
    // A key without a value is a mistake. A guest without devices has [] or {}.
    let missing = |what: &str| Error::invalid_input(format!("{what} has no value"));
    let mut config = PassthroughConfig::new();
    for (vm, devices) in file.vms.ok_or_else(|| missing("vms"))? {
        let mut parsed = Vec::new();
        let nothing = || missing(&format!("passthrough_devices of {vm}"));
        let requests = devices.passthrough_devices.ok_or_else(nothing)?;
        for (number, request) in requests.iter().enumerate() {
            let request = parse_request(&request.r#match).map_err(|why| {
                Error::invalid_input(format!("request {} of guest {vm}: {why}", number + 1))
            })?;
            parsed.push(request);
        }
        config.insert(vm, parsed);
    }
    Ok(config)
}

const KEYS: [&str; 15] = [
    "bdf",
    "class",
    "count",
    "device_id",
    "driver",
    "name",
    "optional",
    "path",
    "select_index",
    "serial",
    "subsystem_device_id",
    "subsystem_id",
    "subsystem_vendor_id",
    "vendor_device_id",
    "vendor_id",
];

/// Parses the request of one `match`.
///
/// Errors: the reason, which names the key.
fn parse_request(keys: &BTreeMap<String, String>) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut selects = 0;
    for (key, value) in keys {
        let value = value.trim();
        // An empty name would match every device.
        if value.is_empty() && KEYS.contains(&key.as_str()) {
            return Err(format!("{key} has no value"));
        }
        let name_key = |why: String| format!("{key}: {why}");
        match key.as_str() {
            "optional" => {
                let no_boolean = || name_key(format!("{value:?} is neither yes nor no"));
                request.optional = yaml::boolean(value).ok_or_else(no_boolean)?;
            }
            "select_index" | "count" => {
                selects += 1;
                request.select = parse_select(key, value).map_err(name_key)?;
            }
            _ => match parse_criteria(key, value) {
                Some(criteria) => request.criteria.extend(criteria.map_err(name_key)?),
                None => return Err(not_a_key(key)),
            },
        }
    }
    if selects > 1 {
        return Err("select_index and count cannot be used together".to_owned());
    }
    if request.criteria.is_empty() {
        return Err("match has no criterion for a device".to_owned());
    }
    Ok(request)
}

/// Parses the value of `select_index` or `count`.
fn parse_select(key: &str, value: &str) -> Result<Select, String> {
    if key == "select_index" {
        let index = value.parse().map_err(|_| not_a_number(value, 0))?;
        return Ok(Select::Index(index));
    }
    if value.eq_ignore_ascii_case("all") {
        return Ok(Select::All);
    }
    let count = value.parse().ok().filter(|count| *count > 0);
    Ok(Select::First(count.ok_or_else(|| not_a_number(value, 1))?))
}

/// Parses the criteria of a key and its value; none for a key that is not a criterion.
fn parse_criteria(key: &str, value: &str) -> Option<Result<Vec<Criterion>, String>> {
    let one = |criterion: Result<Criterion, String>| criterion.map(|criterion| vec![criterion]);
    Some(match key {
        "vendor_id" => one(parse_id(value).map(Criterion::Vendor)),
        "device_id" => one(parse_id(value).map(Criterion::Device)),
        "vendor_device_id" => parse_id_pair(value)
            .map(|(vendor, device)| vec![Criterion::Vendor(vendor), Criterion::Device(device)]),
        "subsystem_vendor_id" => one(parse_id(value).map(Criterion::SubsystemVendor)),
        "subsystem_device_id" => one(parse_id(value).map(Criterion::SubsystemDevice)),
        "subsystem_id" => parse_id_pair(value).map(|(vendor, device)| {
            vec![Criterion::SubsystemVendor(vendor), Criterion::SubsystemDevice(device)]
        }),
        "class" => one(value.parse().map(Criterion::Class)),
        "driver" => one(Ok(Criterion::Driver(value.to_owned()))),
        "bdf" => one(from_str(value).map(Criterion::Address)),
        "path" => one(from_str(value).map(Criterion::Path)),
        "serial" => one(Ok(Criterion::Serial(value.to_ascii_lowercase()))),
        "name" => one(regex(value).map(Criterion::Name)),
        _ => return None,
    })
}

fn from_str<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: ToString,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn regex(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text).case_insensitive(true).build();
    regex.map_err(|error| format!("{text:?} is not a valid regular expression: {error}"))
}

fn not_a_number(text: &str, least: u8) -> String {
    format!("{text:?} is not a whole number of at least {least}")
}

fn not_a_key(key: &str) -> String {
    match nearest(key, KEYS) {
        Some(known) => format!("unknown key '{key}'; did you mean '{known}'?"),
        None => format!("unknown key '{key}'; known keys: {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(request: &str) -> Result<DeviceRequest> {
        let text =
            format!("vms:\n  win10:\n    passthrough_devices:\n      - match: {{{request}}}\n");
        parse(&text).map(|mut config| config.remove("win10").unwrap().remove(0))
    }

    #[test]
    fn a_device_id_keeps_the_digits_that_were_typed() {
        for (text, device) in [
            ("1533", 0x1533),
            ("0800", 0x0800),
            ("0x1533", 0x1533),
            ("10e0", 0x10e0),
            ("'1B81'", 0x1b81),
            ("0o17", 0),
        ] {
            match one(&format!("device_id: {text}")) {
                Ok(request) => {
                    let found =
                        matches!(request.criteria[..], [Criterion::Device(id)] if id == device);
                    assert!(found, "{text}: {request:?}");
                }
                Err(error) => assert_eq!(device, 0, "{text}: {error}"),
            }
        }
    }

    #[test]
    fn optional_takes_every_boolean_of_yaml() {
        for (text, optional) in [
            ("yes", true),
            ("True", true),
            ("on", true),
            ("y", true),
            ("'yes'", true),
            ("no", false),
            ("FALSE", false),
            ("off", false),
        ] {
            let request = one(&format!("driver: nvme, optional: {text}")).unwrap();
            assert_eq!(request.optional, optional, "{text}");
        }
    }

    #[test]
    fn parse_names_the_request_and_the_key_that_is_invalid() {
        for (request, says) in [
            ("vendr_id: 10de", "did you mean 'vendor_id'?"),
            ("select_index: 1", "match has no criterion for a device"),
            ("vendor_id: nvidia", "vendor_id: an id has one to four hexadecimal digits"),
            ("driver: nvme, select_index: -1", "select_index: \"-1\" is not a whole number"),
            ("driver: nvme, count: 0", "count: \"0\" is not a whole number of at least 1"),
            ("driver: nvme, count: 2, select_index: 1", "cannot be used together"),
            ("name: '('", "name: \"(\" is not a valid regular expression: "),
            ("name: ''", "name has no value"),
            ("driver: ' '", "driver has no value"),
            ("bdf: 17:00", "bdf: "),
            ("path: 17:00.0", "path: "),
            ("driver: nvme, optional: perhaps", "optional: \"perhaps\" is neither yes nor no"),
        ] {
            let error = one(request).unwrap_err().to_string();
            assert!(
                error.starts_with("request 1 of guest win10: ") && error.contains(says),
                "{error}"
            );
        }
    }

    #[test]
    fn parse_refuses_a_file_of_another_shape() {
        for text in [
            "",
            "vms:",
            "vms: []",
            "vms: {a: {}}",
            "vms: {a: {passthrough_devices: }}",
            "vms: {a: {passthrough_devices: [{}]}}",
            "vms: {a: {passthrough_device: []}}",
            "vms: {a: {passthrough_devices: [{match: {vendor_id: [1]}}]}}",
            "vms: {a: {passthrough_devices: []}, a: {passthrough_devices: []}}",
            "- vms",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("vms: {a: {passthrough_devices: []}}").unwrap()["a"].is_empty());
        assert!(parse("vms: {}").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_parse_panic(text in "\\PC*") {
            let _ = parse(&text);
            let _ = one(&text);
        }
    }
}
