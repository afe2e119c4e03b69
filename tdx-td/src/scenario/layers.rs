//! Settings over settings: what the scenario recommends, what was asked for instead, and by whom.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use common::{Error, Result, yaml};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::scenario::profile::Profile;

/// Settings by section and key, not all of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sections {
    /// Of the guest.
    pub guest: Map<String, Value>,
    /// Of its disk.
    pub storage: Map<String, Value>,
    /// Of the host.
    pub host: Map<String, Value>,
}

impl Sections {
    /// One setting, `guest.video`, of which there may be none.
    pub fn single(setting: &str, value: Value) -> Self {
        let (section, key) = setting.split_once('.').unwrap_or_default();
        let settings = Map::from_iter([(key.to_owned(), value)]);
        match section {
            "guest" => Self { guest: settings, ..Self::default() },
            "storage" => Self { storage: settings, ..Self::default() },
            _ => Self { host: settings, ..Self::default() },
        }
    }

    /// The sections by name.
    fn parts(self) -> [(&'static str, Map<String, Value>); 3] {
        [("guest", self.guest), ("storage", self.storage), ("host", self.host)]
    }

    /// Puts settings over these.
    pub fn put(&mut self, over: Self) {
        merge(&mut self.guest, over.guest);
        merge(&mut self.storage, over.storage);
        merge(&mut self.host, over.host);
    }
}

/// Who said how something is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The scenario of this name.
    Scenario(String),
    /// A file of settings.
    File(PathBuf),
    /// `tdx.yaml` or a `TDX_` variable.
    Config,
    /// A flag.
    Flag(String),
    /// What the host has.
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
            Self::Config => f.write_str("tdx.yaml"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Host => f.write_str("the host"),
        }
    }
}

/// One setting, as recommended and as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Setting {
    /// Section and name, `guest.video`.
    pub setting: String,
    /// What the scenario says; null where it leaves it to the host.
    pub recommended: Value,
    /// What it is to be; null where it is left to the host.
    pub value: Value,
    /// Who said so: the scenario, a file or a flag.
    pub origin: String,
    /// Whether it has a meaning here: how a disk is made has none for one that is there.
    pub applies: bool,
    /// Whether it was said, rather than left to the scenario or the host.
    #[serde(skip)]
    pub assigned: bool,
}

impl Setting {
    /// Whether it is not as the scenario recommends.
    pub fn differs(&self) -> bool {
        self.applies && self.recommended != self.value
    }
}

/// All settings, layer over layer.
#[derive(Debug, Clone)]
pub struct Layers {
    scenario: String,
    recommended: Value,
    current: Value,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// What a scenario says, over what holds without any, which is all settings.
    ///
    /// Errors: `invalid_input` for settings that there are not, or values that they cannot have.
    pub fn new(scenario: &str, ground: Sections, sections: Sections) -> Result<Self> {
        let ground = normal(&to_value(ground)).map_err(|cause| {
            Error::invalid_input("scenario 'default' is not whole").because(cause)
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

    /// Puts settings over all that there are.
    ///
    /// Errors: as [`Layers::new`]; for a flag they are `usage`.
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
                    origin.error(format!("{path} in {origin} cannot be so")).because(cause)
                })?;
                self.origins.insert(path, origin.clone());
            }
        }
        Ok(())
    }

    /// The settings as they are to be.
    ///
    /// Errors: none that [`Layers::put`] has not told of.
    pub fn profile(&self) -> Result<Profile> {
        Profile::deserialize(&self.current)
            .map_err(|cause| Error::invalid_input("the settings are wrong").because(cause))
    }

    /// Whether somebody said something else than the scenario.
    pub fn is_assigned(&self, setting: &str) -> bool {
        self.origins.contains_key(setting)
    }

    /// Every setting, in order.
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

/// Settings as `--set` has them: `guest.video=virtio`, the value being YAML.
///
/// Errors: `usage`, with the nearest name for a setting that there is not.
pub fn parse_set(text: &str) -> Result<Sections, String> {
    let (path, value) = text.split_once('=').ok_or("write SECTION.SETTING=VALUE")?;
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

/// The settings in one way of writing, so that they can be compared.
fn normal(value: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(Profile::deserialize(value)?)
}

/// Puts one value over another: maps are put together, all else is replaced.
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
    let error = origin.error(format!("{origin}: there is no setting {section}.{key}"));
    match common::nearest(key, names) {
        Some(nearest) => error.hint(format!("did you mean {section}.{nearest}?")),
        None => error.hint("tdx-td scenario show securevm shows them all"),
    }
}

/// The settings of all sections by their full names.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    let sections = value.as_object().into_iter().flatten();
    sections
        .flat_map(|(section, settings)| {
            let settings = settings.as_object().into_iter().flatten();
            settings.map(move |(key, value)| (format!("{section}.{key}"), value.clone()))
        })
        .collect()
}
