//! What `host tune` reports of a setting.

use std::borrow::Cow;
use std::cmp::Ordering;

use common::document::{Action, Item};
use schemars::JsonSchema;
use serde::Serialize;

/// A setting of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TuneItem {
    /// Its name, `host.swappiness`.
    pub setting: String,
    /// The file of the kernel, or the unit of systemd, that has it; null for disks that are not known.
    pub path: Option<String>,
    /// What it was when the command began; null where it is not there.
    pub current: Option<String>,
    /// What it is to be.
    pub wanted: String,
    /// `set`, `start`, `stop`, `reload` of a module, `persist` when it held already, or `none`.
    pub action: Action,
    /// Whether it holds, or does once the command is carried out.
    pub in_force: bool,
    /// Whether it is set so at every boot.
    pub persistent: bool,
    /// What else there is to say of it.
    pub note: Option<String>,
}

impl TuneItem {
    /// A setting that nothing is done about.
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

    /// Adds something to its note.
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
