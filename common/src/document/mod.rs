//! The one object every verb prints: a kind, its items, and whether anything changed.

pub mod identity;
pub mod input;
pub mod metrics;
pub mod output;
pub(crate) mod reader;
pub(crate) mod table;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::document::metrics::Gauge;

/// Version of every document and error. Minor versions only add keys.
pub const SCHEMA_VERSION: &str = "1.1";

/// One thing in a document: a pool, a volume, a domain, a device.
///
/// Its JSON is its serde form: every key always present, null when unknown. Its table row comes from
/// the same struct, so the two cannot tell different stories.
pub trait Item: Serialize + JsonSchema {
    /// The table's column titles.
    const COLUMNS: &'static [&'static str];

    /// Whether such things live on a host, whose name their document then has.
    const IS_ON_HOST: bool = true;

    /// The natural key: name, BDF or device. Documents are sorted by it and `--format name` prints it.
    fn key(&self) -> Cow<'_, str>;

    /// Which of two comes first: by key, unless the key is a number.
    fn compare(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }

    /// Titles of the columns of prose and lists: on a terminal they get narrower first, and wrap.
    const WRAPPED: &'static [&'static str] = &[];

    /// Titles of the columns that a narrow terminal does without, in the order in which they are left out.
    const DROPPED: &'static [&'static str] = &[];

    /// Title of the column whose text stands on lines of its own below each row.
    const BELOW: Option<&'static str> = None;

    /// One cell for each of [`Item::COLUMNS`].
    fn row(&self) -> Vec<String>;

    /// Which rows of a table come first: those with the lowest number, by key among equals.
    fn table_order(&self) -> u8 {
        0
    }

    /// What a mutating verb did, or would do, to this thing; none for verbs that only show.
    fn action(&self) -> Option<Action> {
        None
    }

    /// What `--format prometheus` prints of a document's items.
    ///
    /// Shape: none for what has no metrics; no [`Tool::has_metrics`](crate::cli::Tool::has_metrics)
    /// is true for a verb that shows such items.
    fn metrics(_: &[Self]) -> Vec<Gauge>
    where
        Self: Sized,
    {
        Vec::new()
    }
}

/// What was done to an item, or would be. [`Action::None`] is the only one that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The desired state held already.
    None,
    /// A device was given to a domain.
    Attach,
    /// A device was bound to VFIO.
    Bind,
    /// The object was made.
    Create,
    /// The object was deleted.
    Delete,
    /// A device was taken from a domain.
    Detach,
    /// A record was deleted, and nothing else.
    Forget,
    /// An image was brought into a pool.
    Import,
    /// A device was recorded, to be bound at every boot.
    Persist,
    /// A device was released.
    Release,
    /// A module was loaded again, with other options.
    Reload,
    /// A file or line of configuration was removed.
    Remove,
    /// The object was made anew, in place of another.
    Replace,
    /// A former value was set again.
    Restore,
    /// A paused guest runs again.
    Resume,
    /// A value was set.
    Set,
    /// The object was started.
    Start,
    /// The object was stopped.
    Stop,
    /// A device was given back to its driver.
    Unbind,
    /// The object was changed.
    Update,
    /// A device was woken.
    Wake,
}

impl Action {
    /// Returns the verb, as documents and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Attach => "attach",
            Self::Bind => "bind",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Detach => "detach",
            Self::Forget => "forget",
            Self::Import => "import",
            Self::Persist => "persist",
            Self::Release => "release",
            Self::Reload => "reload",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Restore => "restore",
            Self::Resume => "resume",
            Self::Set => "set",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Unbind => "unbind",
            Self::Update => "update",
            Self::Wake => "wake",
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// A minor version of the schema may add actions, so the schema does not list them.
impl JsonSchema for Action {
    fn schema_name() -> Cow<'static, str> {
        "Action".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What was done to an item, or would be. \"none\" is the only one that changes nothing.",
            "type": "string"
        })
    }
}

/// A verb's whole result.
#[derive(Debug)]
pub struct Document<T> {
    kind: &'static str,
    host: Option<String>,
    changed: bool,
    pub(crate) dry_run: bool,
    pub(crate) items: Vec<T>,
    pub(crate) warnings: Vec<String>,
    pub(crate) folded: Option<Folded<T>>,
}

/// Items that a table does not show one by one.
#[derive(Debug)]
pub(crate) struct Folded<T> {
    /// Whether an item is among them.
    pub(crate) is_folded: fn(&T) -> bool,
    /// The table's last line, for so many of them.
    pub(crate) closing: fn(usize) -> Option<String>,
}

impl<T: Item> Document<T> {
    /// A document over `items`, which it sorts; `changed` follows from their actions.
    pub fn new(kind: &'static str, mut items: Vec<T>) -> Self {
        items.sort_by(Item::compare);
        let changed = items.iter().any(|item| item.action().is_some_and(|a| a != Action::None));
        Self {
            kind,
            host: None,
            changed,
            dry_run: false,
            items,
            warnings: Vec::new(),
            folded: None,
        }
    }

    /// Marks the document as a plan.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Adds warnings.
    #[must_use]
    pub fn warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// Leaves items out of tables, which then end with a line that says so of that many items.
    #[must_use]
    pub fn fold(mut self, is_folded: fn(&T) -> bool, closing: fn(usize) -> Option<String>) -> Self {
        self.folded = Some(Folded { is_folded, closing });
        self
    }

    /// Says which machine the items live on; the frame knows.
    pub(crate) fn set_host(&mut self, host: Option<String>) {
        self.host = host.filter(|_| T::IS_ON_HOST);
    }
}

/// A verb's whole result.
#[derive(Serialize, JsonSchema)]
struct Printed<'a, T> {
    /// Version of this shape, `major.minor`.
    schema_version: &'static str,
    /// `tdx.<tool>.<noun>` for what a verb shows, `tdx.<tool>.<verb>` for what it did.
    kind: &'static str,
    /// Name of the machine that the items live on; null when it is unknown, and for what lives on none.
    host: Option<&'a str>,
    /// Whether any item's action is other than `none`.
    changed: bool,
    /// Whether this is a plan that was not carried out.
    dry_run: bool,
    /// Sorted by natural key.
    items: Vec<PrintedItem<'a, T>>,
    /// Sentences for a person; no program should need them.
    warnings: &'a [String],
}

impl<T: Serialize> Serialize for Document<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let host = self.host.as_deref();
        Printed {
            schema_version: SCHEMA_VERSION,
            kind: self.kind,
            host,
            changed: self.changed,
            dry_run: self.dry_run,
            items: self.items.iter().map(|item| PrintedItem { item, host }).collect(),
            warnings: &self.warnings,
        }
        .serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Document<T> {
    fn schema_name() -> Cow<'static, str> {
        "Document".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Printed::<T>::json_schema(generator)
    }
}

/// An item with its host, so that it can leave its document: `jq '.items[]'`.
#[derive(Serialize)]
struct PrintedItem<'a, T> {
    #[serde(flatten)]
    item: &'a T,
    host: Option<&'a str>,
}

impl<T: JsonSchema> JsonSchema for PrintedItem<'_, T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        let host = schemars::json_schema!({
            "description": "Name of the machine that it lives on; null when that is unknown.",
            "type": ["string", "null"]
        });
        let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
        if let Some(properties) = properties {
            properties.insert("host".to_owned(), host.to_value());
        }
        let required = schema.get_mut("required").and_then(serde_json::Value::as_array_mut);
        if let Some(required) = required {
            required.push("host".into());
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Thing {
        name: &'static str,
        action: Option<Action>,
    }

    const fn thing(name: &'static str, action: Option<Action>) -> Thing {
        Thing { name, action }
    }

    impl Item for Thing {
        const COLUMNS: &'static [&'static str] = &["NAME"];
        fn key(&self) -> Cow<'_, str> {
            self.name.into()
        }
        fn row(&self) -> Vec<String> {
            vec![self.name.to_owned()]
        }
        fn action(&self) -> Option<Action> {
            self.action
        }
    }

    #[test]
    fn changed_follows_from_the_actions() {
        assert!(!Document::new("tdx.x.y", Vec::<Thing>::new()).changed);
        assert!(!Document::new("tdx.x.y", vec![thing("a", None)]).changed);
        assert!(!Document::new("tdx.x.y", vec![thing("a", Some(Action::None))]).changed);
        let one = vec![thing("a", Some(Action::None)), thing("b", Some(Action::Create))];
        assert!(Document::new("tdx.x.y", one).changed);
    }

    #[test]
    fn items_are_sorted_by_key() {
        let document = Document::new("tdx.x.y", vec![thing("b", None), thing("a", None)]);
        assert_eq!(document.items.iter().map(|t| t.name).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[derive(Serialize, JsonSchema)]
    struct Nowhere {
        name: &'static str,
    }

    impl Item for Nowhere {
        const COLUMNS: &'static [&'static str] = &["NAME"];
        const IS_ON_HOST: bool = false;
        fn key(&self) -> Cow<'_, str> {
            self.name.into()
        }
        fn row(&self) -> Vec<String> {
            vec![self.name.to_owned()]
        }
    }

    #[test]
    fn the_host_is_in_the_document_and_in_each_item() {
        let print = |document: &Document<Thing>| serde_json::to_value(document).unwrap();
        let mut document = Document::new("tdx.x.y", vec![thing("a", None)]);
        assert_eq!(print(&document)["host"], serde_json::Value::Null);
        assert_eq!(
            print(&document)["items"][0],
            serde_json::json!({"name": "a", "action": null, "host": null})
        );
        document.set_host(Some("node1".to_owned()));
        assert_eq!(print(&document)["host"], "node1");
        assert_eq!(print(&document)["items"][0]["host"], "node1");
        let mut document = Document::new("tdx.x.y", vec![Nowhere { name: "a" }]);
        document.set_host(Some("node1".to_owned()));
        assert_eq!(
            serde_json::to_value(&document).unwrap()["items"][0]["host"],
            serde_json::Value::Null
        );
    }

    #[test]
    fn the_schema_of_an_item_requires_its_host() {
        let schema = schemars::schema_for!(Document<Thing>);
        let item = &schema.as_value()["$defs"]["Thing"];
        assert_eq!(item["required"], serde_json::json!(["name", "host"]));
        assert_eq!(item["properties"]["host"]["type"], serde_json::json!(["string", "null"]));
        assert_eq!(
            schema.as_value()["properties"]["host"]["type"],
            serde_json::json!(["string", "null"])
        );
    }
}
