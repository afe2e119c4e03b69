//! Layers of settings: the scenario's, and those of files and flags that override them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use common::{Error, Result, yaml};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::scenario::profile::Profile;

/// Some settings, by section and key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sections {
    /// Settings of the guest.
    pub guest: Map<String, Value>,
    /// Settings of the guest's disk.
    pub storage: Map<String, Value>,
    /// Settings of the host.
    pub host: Map<String, Value>,
}

impl Sections {
    /// Returns the sections with one setting, such as `guest.video`.
    pub fn single(setting: &str, value: Value) -> Self {
        let (section, key) = setting.split_once('.').unwrap_or_default();
        let settings = Map::from_iter([(key.to_owned(), value)]);
        match section {
            "guest" => Self { guest: settings, ..Self::default() },
            "storage" => Self { storage: settings, ..Self::default() },
            _ => Self { host: settings, ..Self::default() },
        }
    }

    /// Returns the sections by name.
    fn parts(self) -> [(&'static str, Map<String, Value>); 3] {
        [("guest", self.guest), ("storage", self.storage), ("host", self.host)]
    }

    /// Overrides these settings with others.
    pub fn put(&mut self, over: Self) {
        merge(&mut self.guest, over.guest);
        merge(&mut self.storage, over.storage);
        merge(&mut self.host, over.host);
    }
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The scenario of this name.
    Scenario(String),
    /// A file of settings.
    File(PathBuf),
    /// `tdx.yaml`, or the environment variable of this name.
    Config(String),
    /// A flag.
    Flag(String),
    /// The capabilities of the host.
    Host,
}

impl Origin {
    fn error(&self, message: String) -> Error {
        match self {
            Self::Flag(_) => Error::usage(message),
            _ => Error::invalid_input(message),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario(name) => write!(f, "scenario {name}"),
            Self::File(path) => path.display().fmt(f),
            Self::Config(name) | Self::Flag(name) => f.write_str(name),
            Self::Host => f.write_str("the host"),
        }
    }
}

/// A setting, with its recommended and its actual value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Setting {
    /// Section and name of the setting, such as `guest.video`.
    pub setting: String,
    /// The value that the scenario recommends; null if it depends on the host.
    pub recommended: Value,
    /// The value in effect; null if it depends on the host.
    pub value: Value,
    /// Origin of the value: the scenario, a file, a flag or the host.
    pub origin: String,
    /// Whether the setting applies. Settings for new disks do not apply to overlays and existing images.
    pub applies: bool,
    /// Whether a file or flag assigned the value.
    #[serde(skip)]
    pub assigned: bool,
}

impl Setting {
    /// Whether the value differs from the recommended one.
    pub fn differs(&self) -> bool {
        self.applies && self.recommended != self.value
    }
}

/// All settings, with the layers that override the scenario's.
#[derive(Debug, Clone)]
pub struct Layers {
    scenario: String,
    recommended: Value,
    current: Value,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// Puts the settings of a scenario over the default settings, which must be complete.
    ///
    /// Errors: `invalid_input` for unknown settings and invalid values.
    pub fn new(scenario: &str, ground: Sections, sections: Sections) -> Result<Self> {
        let ground = normal(&to_value(ground)).map_err(|cause| {
            Error::invalid_input("scenario 'default' lacks settings or has invalid ones")
                .because(cause)
        })?;
        let mut layers = Self {
            scenario: scenario.to_owned(),
            recommended: Value::Null,
            current: ground,
            origins: BTreeMap::new(),
        };
        layers.put(&Origin::Scenario(scenario.to_owned()), sections)?;
        layers.origins.clear();
        layers.recommended = layers.current.clone();
        Ok(layers)
    }

    /// Overrides settings.
    ///
    /// Errors: as [`Layers::new`]; `usage` instead of `invalid_input` for a flag.
    pub fn put(&mut self, origin: &Origin, sections: Sections) -> Result<()> {
        for (section, settings) in sections.parts() {
            for (key, value) in settings {
                let path = format!("{section}.{key}");
                let known = &self.current[section];
                if known.get(&key).is_none() {
                    return Err(unknown(origin, section, &key, known));
                }
                let mut current = self.current.clone();
                merge_value(&mut current[section][&key], value);
                self.current = normal(&current).map_err(|cause| {
                    origin.error(format!("invalid value for {path} in {origin}")).because(cause)
                })?;
                self.origins.insert(path, origin.clone());
            }
        }
        Ok(())
    }

    /// Returns the values in effect.
    ///
    /// Errors: none, because [`Layers::put`] checks all values.
    pub fn profile(&self) -> Result<Profile> {
        Profile::deserialize(&self.current)
            .map_err(|cause| Error::invalid_input("the settings are invalid").because(cause))
    }

    /// Whether a file, a flag or the host overrides the scenario's value.
    pub fn is_assigned(&self, setting: &str) -> bool {
        self.origins.contains_key(setting)
    }

    /// Returns all settings, in order.
    pub fn settings(&self) -> Vec<Setting> {
        let recommended = flat(&self.recommended);
        flat(&self.current)
            .into_iter()
            .map(|(setting, value)| {
                let origin = self.origins.get(&setting);
                let scenario = || format!("scenario {}", self.scenario);
                Setting {
                    recommended: recommended.get(&setting).cloned().unwrap_or_default(),
                    origin: origin.map_or_else(scenario, Origin::to_string),
                    assigned: origin.is_some_and(|origin| *origin != Origin::Host),
                    applies: true,
                    setting,
                    value,
                }
            })
            .collect()
    }
}

/// Parses the argument of `--set`, such as `guest.video=virtio`. The value is YAML.
pub fn parse_set(text: &str) -> Result<Sections, String> {
    let (path, value) = text.split_once('=').ok_or("expected SECTION.SETTING=VALUE")?;
    let value: Value = match value {
        "" => Value::Null,
        value => yaml::from_str(value).map_err(|error| format!("{value:?}: {error}"))?,
    };
    let mut keys = path.split('.').rev();
    let innermost = keys.next().unwrap_or_default();
    let nested = keys.fold((innermost, value), |(key, value), outer| {
        (outer, Value::Object(Map::from_iter([(key.to_owned(), value)])))
    });
    let sections = Map::from_iter([(nested.0.to_owned(), nested.1)]);
    serde_json::from_value(Value::Object(sections)).map_err(|error| error.to_string())
}

fn to_value(sections: Sections) -> Value {
    let parts = sections.parts().map(|(name, settings)| (name.to_owned(), Value::Object(settings)));
    Value::Object(Map::from_iter(parts))
}

/// Returns the settings in their normal form, so that they can be compared.
fn normal(value: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(Profile::deserialize(value)?)
}

/// Overrides one value with another: maps are merged, other values are replaced.
fn merge_value(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => merge(under, over),
        (under, over) => *under = over,
    }
}

fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        merge_value(under.entry(key).or_insert(Value::Null), value);
    }
}

fn unknown(origin: &Origin, section: &str, key: &str, known: &Value) -> Error {
    let names = known.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    let error = origin.error(format!("{origin}: unknown setting {section}.{key}"));
    match common::nearest(key, names) {
        Some(nearest) => error.hint(format!("did you mean {section}.{nearest}?")),
        None => error.hint("to see all settings, run tdx-td scenario show securevm"),
    }
}

/// Returns the settings of all sections by their full names.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    let sections = value.as_object().into_iter().flatten();
    sections
        .flat_map(|(section, settings)| {
            let settings = settings.as_object().into_iter().flatten();
            settings.map(move |(key, value)| (format!("{section}.{key}"), value.clone()))
        })
        .collect()
}
