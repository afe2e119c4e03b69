//! The JSON document that every verb prints: its kind, its items, and whether anything changed.

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

/// The schema version of every document and every error. Minor versions only add keys.
pub const SCHEMA_VERSION: &str = "1.1";

/// An item of a document: a pool, a volume, a domain, a device.
///
/// The JSON of an item is its serde form: every key is always present, and null when unknown. The table row is made
/// from the same struct, so that JSON and table cannot disagree.
pub trait Item: Serialize + JsonSchema {
    /// The column titles of the table.
    const COLUMNS: &'static [&'static str];

    /// Whether the items belong to a host, whose name the document then contains.
    const IS_ON_HOST: bool = true;

    /// The natural key: name, BDF or device. Documents are sorted by it and `--format name` prints it.
    fn key(&self) -> Cow<'_, str>;

    /// The order of items in a document: by key. Items whose key is a number override it.
    fn compare(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }

    /// The titles of the columns of prose and lists. On a terminal, these columns are the first to wrap.
    const WRAPPED: &'static [&'static str] = &[];

    /// The titles of the columns that are omitted on a narrow terminal, in the order in which they are omitted.
    const DROPPED: &'static [&'static str] = &[];

    /// The title of the column whose text is printed on separate lines below each row.
    const BELOW: Option<&'static str> = None;

    /// The cells of the table row, one for each of [`Item::COLUMNS`].
    fn row(&self) -> Vec<String>;

    /// The rank of the row in the table: lower ranks come first, and equal ranks are ordered by key.
    fn table_order(&self) -> u8 {
        0
    }

    /// What a mutating verb did, or with `--dry-run` would do, to this item; none for a verb that only reads.
    fn action(&self) -> Option<Action> {
        None
    }

    /// The metrics that `--format prometheus` prints for the items of a document.
    ///
    /// Empty for items without metrics. [`Tool::has_metrics`](crate::cli::Tool::has_metrics) is false for verbs
    /// that print such items.
    fn metrics(_: &[Self]) -> Vec<Gauge>
    where
        Self: Sized,
    {
        Vec::new()
    }
}

/// The action on an item; with `--dry-run`, the planned action. Only [`Action::None`] changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: the item already had the desired state.
    None,
    /// A device was attached to a domain.
    Attach,
    /// A device was bound to VFIO.
    Bind,
    /// The object was created.
    Create,
    /// The object was deleted.
    Delete,
    /// A device was detached from a domain.
    Detach,
    /// Only a record was deleted.
    Forget,
    /// An image was imported into a pool.
    Import,
    /// A device was recorded, so that it is bound at every boot.
    Persist,
    /// A device was released from a domain: its former driver has it again.
    Release,
    /// A kernel module was reloaded with other options.
    Reload,
    /// A file or line of configuration was removed.
    Remove,
    /// The object replaced another object of the same name.
    Replace,
    /// A former value was restored.
    Restore,
    /// A paused guest was resumed.
    Resume,
    /// A value was set.
    Set,
    /// The object was started.
    Start,
    /// The object was stopped.
    Stop,
    /// A device was unbound from VFIO and bound to its former driver.
    Unbind,
    /// The object was updated.
    Update,
    /// A device was woken from a power-saving state.
    Wake,
}

impl Action {
    /// The name of the action in documents and tables.
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
            "description": "The action on the item; with --dry-run, the planned action. \"none\" means no change; every other value means a change.",
            "type": "string"
        })
    }
}

/// The result of a verb, before it is printed.
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

/// The items that a table counts instead of showing.
#[derive(Debug)]
pub(crate) struct Folded<T> {
    /// Whether the table omits the row of an item.
    pub(crate) is_folded: fn(&T) -> bool,
    /// The last line of the table, for the given number of omitted items.
    pub(crate) closing: fn(usize) -> Option<String>,
}

impl<T: Item> Document<T> {
    /// A document of the given items, sorted. `changed` is computed from the items' actions.
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

    /// Sets whether the document is the plan of a `--dry-run`.
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

    /// Omits the rows of some items from tables. `closing` returns the last line of the table for their number.
    #[must_use]
    pub fn fold(mut self, is_folded: fn(&T) -> bool, closing: fn(usize) -> Option<String>) -> Self {
        self.folded = Some(Folded { is_folded, closing });
        self
    }

    /// Sets the name of the machine that the items belong to.
    pub(crate) fn set_host(&mut self, host: Option<String>) {
        self.host = host.filter(|_| T::IS_ON_HOST);
    }
}

/// The result of a verb.
#[derive(Serialize, JsonSchema)]
struct Printed<'a, T> {
    /// The version of the schema, `major.minor`. A minor version only adds keys.
    schema_version: &'static str,
    /// The kind of document: `tdx.<tool>.<noun>` from a verb that reads, `tdx.<tool>.<verb>` from a verb that
    /// changes something.
    kind: &'static str,
    /// The name of the machine that the items belong to. Null when the name is unknown, and in a document that is
    /// about no machine.
    host: Option<&'a str>,
    /// Whether the action of any item is other than `none`.
    changed: bool,
    /// Whether this is the plan of a `--dry-run`, so that nothing was changed.
    dry_run: bool,
    /// The items, sorted by their natural key, such as a name or a PCI address.
    items: Vec<PrintedItem<'a, T>>,
    /// Warnings for people. The words may change; programs should not parse them.
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

/// An item together with its host, so that the item stays complete without its document (`jq '.items[]'`).
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
            "description": "The name of the machine that the item belongs to; null when unknown.",
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
    fn changed_is_computed_from_the_actions() {
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
