//! Which devices guests are to have, as a user wrote it: the file of `resolve`.
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
use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::inventory::filter;
use crate::inventory::filter::ClassPrefix;
use crate::inventory::path::HopPath;

/// The most a file can hold, bytes.
const LIMIT: usize = 1 << 20;

/// The wishes of each guest, by its name.
pub type Wishes = BTreeMap<String, Vec<Wish>>;

/// Devices that a guest is to have.
#[derive(Debug, Default)]
pub struct Wish {
    /// What the devices are; all of it holds. Never empty.
    pub criteria: Vec<Criterion>,
    /// Which of those that match.
    pub select: Select,
    /// Whether it may match none.
    pub optional: bool,
}

impl Wish {
    /// Whether it asks for a serial number.
    pub fn is_by_serial(&self) -> bool {
        self.criteria.iter().any(|criterion| matches!(criterion, Criterion::Serial(_)))
    }
}

/// Which of the devices that match, in the order of their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The one with this number, from 0.
    Index(usize),
    /// As many as this from the first on.
    First(usize),
    /// All.
    All,
}

impl Default for Select {
    fn default() -> Self {
        Self::Index(0)
    }
}

/// Something that holds of a device.
#[derive(Debug)]
pub enum Criterion {
    /// Vendor id.
    Vendor(u16),
    /// Device id.
    Device(u16),
    /// Vendor id of the card.
    SubsystemVendor(u16),
    /// Device id of the card.
    SubsystemDevice(u16),
    /// Class, from its first digits on.
    Class(ClassPrefix),
    /// The driver it has, or had before VFIO.
    Driver(String),
    /// Its address.
    Address(Bdf),
    /// Where it sits.
    Path(HopPath),
    /// Its serial number.
    Serial(String),
    /// Its vendor's and its own name, by pci.ids; the letters of ASCII in either case.
    Name(Regex),
}

/// Reads the wishes from a file.
///
/// Errors: `not_found`, `permission`; `invalid_input` for what is no such YAML, naming the guest, the
/// request and the key.
pub fn read(path: &Path) -> Result<Wishes> {
    let shown = path.display();
    let wrong = || Error::invalid_input(format!("{shown} does not say which devices guests get"));
    let bytes = input::file(path, LIMIT)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong().because(error))?;
    parse(&text).map_err(|error| wrong().because(error))
}

/// The file as it stands. Scalars are text: `device_id: 1533` means the digits that were typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    vms: Option<BTreeMap<String, Vm>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    passthrough_devices: Option<Vec<Request>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    r#match: BTreeMap<String, String>,
}

fn parse(text: &str) -> Result<Wishes> {
    let file: File = yaml::from_str(text)
        .map_err(|error| Error::invalid_input("it is not such YAML").because(error))?;
    // Nothing at all is a mistake, not the wish to have nothing, which is [] or {}.
    let missing = |what: &str| Error::invalid_input(format!("{what} says nothing"));
    let mut wishes = Wishes::new();
    for (vm, devices) in file.vms.ok_or_else(|| missing("vms"))? {
        let mut all = Vec::new();
        let nothing = || missing(&format!("passthrough_devices of {vm}"));
        let requests = devices.passthrough_devices.ok_or_else(nothing)?;
        for (number, request) in requests.iter().enumerate() {
            let wish = wish(&request.r#match).map_err(|why| {
                Error::invalid_input(format!("request {} of {vm}: {why}", number + 1))
            })?;
            all.push(wish);
        }
        wishes.insert(vm, all);
    }
    Ok(wishes)
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

fn wish(keys: &BTreeMap<String, String>) -> Result<Wish, String> {
    let mut wish = Wish::default();
    let mut selects = 0;
    for (key, value) in keys {
        let value = value.trim();
        let told = |why: String| format!("{key}: {why}");
        let criteria = &mut wish.criteria;
        match key.as_str() {
            // An empty name would be that of every device.
            known if value.is_empty() && KEYS.contains(&known) => {
                return Err(format!("{key} says nothing"));
            }
            "vendor_id" => criteria.push(Criterion::Vendor(filter::id(value).map_err(told)?)),
            "device_id" => criteria.push(Criterion::Device(filter::id(value).map_err(told)?)),
            "vendor_device_id" => {
                let (vendor, device) = filter::pair(value).map_err(told)?;
                criteria.extend([Criterion::Vendor(vendor), Criterion::Device(device)]);
            }
            "subsystem_vendor_id" => {
                criteria.push(Criterion::SubsystemVendor(filter::id(value).map_err(told)?));
            }
            "subsystem_device_id" => {
                criteria.push(Criterion::SubsystemDevice(filter::id(value).map_err(told)?));
            }
            "subsystem_id" => {
                let (vendor, device) = filter::pair(value).map_err(told)?;
                criteria.extend([
                    Criterion::SubsystemVendor(vendor),
                    Criterion::SubsystemDevice(device),
                ]);
            }
            "class" => criteria.push(Criterion::Class(value.parse().map_err(told)?)),
            "driver" => criteria.push(Criterion::Driver(value.to_owned())),
            "bdf" => criteria.push(Criterion::Address(value.parse().map_err(told)?)),
            "path" => criteria.push(Criterion::Path(from_str(value).map_err(told)?)),
            "serial" => criteria.push(Criterion::Serial(value.to_ascii_lowercase())),
            "name" => criteria.push(Criterion::Name(regex(value).map_err(told)?)),
            "optional" => {
                let no_boolean = || told(format!("{value:?} is neither yes nor no"));
                wish.optional = yaml::boolean(value).ok_or_else(no_boolean)?;
            }
            "select_index" => {
                selects += 1;
                let index = value.parse().map_err(|_| told(not_a_number(value, 0)))?;
                wish.select = Select::Index(index);
            }
            "count" if value.eq_ignore_ascii_case("all") => {
                selects += 1;
                wish.select = Select::All;
            }
            "count" => {
                selects += 1;
                let count = value.parse().ok().filter(|count| *count > 0);
                wish.select = Select::First(count.ok_or_else(|| told(not_a_number(value, 1)))?);
            }
            unknown => return Err(not_a_key(unknown)),
        }
    }
    match () {
        () if selects > 1 => Err("select_index and count exclude each other".to_owned()),
        () if wish.criteria.is_empty() => Err("it says nothing of the device".to_owned()),
        () => Ok(wish),
    }
}

fn from_str<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: ToString,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn regex(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build();
    regex.map_err(|error| format!("{text:?} is no regular expression: {error}"))
}

fn not_a_number(text: &str, least: u8) -> String {
    format!("{text:?} is not a whole number from {least} on")
}

fn not_a_key(key: &str) -> String {
    match nearest(key, KEYS) {
        Some(known) => format!("there is no key {key}; did you mean {known}?"),
        None => format!("there is no key {key}: known are {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(request: &str) -> Result<Wish> {
        let text =
            format!("vms:\n  win10:\n    passthrough_devices:\n      - match: {{{request}}}\n");
        parse(&text).map(|mut wishes| wishes.remove("win10").unwrap().remove(0))
    }

    #[test]
    fn numbers_are_the_digits_that_were_typed() {
        for (text, device) in [
            ("1533", 0x1533),
            ("0800", 0x0800),
            ("0x1533", 0x1533),
            ("10e0", 0x10e0),
            ("'1B81'", 0x1b81),
            ("0o17", 0),
        ] {
            match one(&format!("device_id: {text}")) {
                Ok(wish) => {
                    let found =
                        matches!(wish.criteria[..], [Criterion::Device(id)] if id == device);
                    assert!(found, "{text}: {wish:?}");
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
            let wish = one(&format!("driver: nvme, optional: {text}")).unwrap();
            assert_eq!(wish.optional, optional, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (request, says) in [
            ("vendr_id: 10de", "did you mean vendor_id?"),
            ("select_index: 1", "it says nothing of the device"),
            ("vendor_id: nvidia", "vendor_id: an id is up to four hexadecimal digits"),
            ("driver: nvme, select_index: -1", "select_index: \"-1\" is not a whole number"),
            ("driver: nvme, count: 0", "count: \"0\" is not a whole number from 1 on"),
            ("driver: nvme, count: 2, select_index: 1", "exclude each other"),
            ("name: '('", "name: \"(\" is no regular expression: "),
            ("name: ''", "name says nothing"),
            ("driver: ' '", "driver says nothing"),
            ("bdf: 17:00", "bdf: "),
            ("path: 17:00.0", "path: "),
            ("driver: nvme, optional: perhaps", "optional: \"perhaps\" is neither yes nor no"),
        ] {
            let error = one(request).unwrap_err().to_string();
            assert!(error.starts_with("request 1 of win10: ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn only_the_whole_shape_is_taken() {
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
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
            let _ = one(&text);
        }
    }
}
