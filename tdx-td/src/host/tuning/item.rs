//! The item of a setting in the document of `host tune`.

use std::borrow::Cow;
use std::cmp::Ordering;

use common::document::{Action, Item};
use schemars::JsonSchema;
use serde::Serialize;

/// A setting of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TuneItem {
    /// Name of the setting, such as `host.swappiness`.
    pub setting: String,
    /// The kernel file, or the systemd unit, of the setting; null for an unknown disk.
    pub path: Option<String>,
    /// The value when the command began; null if the file or unit does not exist.
    pub current: Option<String>,
    /// The wanted value.
    pub wanted: String,
    /// `set` for a value, `start` or `stop` for a unit, `reload` for a module, `persist` if only the
    /// setting at boot changed, or `none`.
    pub action: Action,
    /// Whether the setting has the wanted value after the command.
    pub in_force: bool,
    /// Whether the setting gets the wanted value at every boot.
    pub persistent: bool,
    /// A remark, such as why the setting cannot get the wanted value.
    pub note: Option<String>,
}

impl TuneItem {
    /// Creates the item of a setting with action `none`.
    pub fn new(setting: &str, path: Option<&str>, current: Option<&str>, wanted: &str) -> Self {
        Self {
            setting: setting.to_owned(),
            path: path.map(str::to_owned),
            current: current.map(str::to_owned),
            wanted: wanted.to_owned(),
            action: Action::None,
            in_force: false,
            persistent: false,
            note: None,
        }
    }

    /// Adds a sentence to the note.
    pub fn add_note(&mut self, note: &str) {
        let before = self.note.take().map(|before| before + "; ");
        self.note = Some(before.unwrap_or_default() + note);
    }
}

impl Item for TuneItem {
    const COLUMNS: &'static [&'static str] =
        &["SETTING", "PATH", "CURRENT", "WANTED", "ACTION", "NOTE"];
    const WRAPPED: &'static [&'static str] = &["NOTE"];
    const DROPPED: &'static [&'static str] = &["PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.setting.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        (&self.setting, &self.path).cmp(&(&other.setting, &other.path))
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.setting.clone(),
            self.path.clone().unwrap_or_default(),
            self.current.clone().unwrap_or_default(),
            self.wanted.clone(),
            self.action.to_string(),
            self.note.clone().unwrap_or_default(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
