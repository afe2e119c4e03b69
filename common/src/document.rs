//! The one object every verb prints: a kind, its items, and whether anything changed.

use std::borrow::Cow;
use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::Serialize;

use crate::metrics::Gauge;
use crate::order::sort_by;

/// Version of every document and error. Minor versions only add keys.
pub const SCHEMA_VERSION: &str = "1.0";

/// One thing in a document: a pool, a volume, a domain, a device.
///
/// Its JSON is its serde form: every key always present, null when unknown. Its table row comes from
/// the same struct, so the two cannot tell different stories.
pub trait Item: Serialize + JsonSchema {
    /// The table's column titles.
    const COLUMNS: &'static [&'static str];

    /// The natural key: name, BDF or device. Documents are sorted by it and `--format name` prints it.
    fn key(&self) -> Cow<'_, str>;

    /// Which of two comes first: by key, unless the key is a number.
    fn compare(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }

    /// One cell for each of [`Item::COLUMNS`].
    fn row(&self) -> Vec<String>;

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

/// What was done to an item. [`Action::NONE`] is the only one that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Action(pub &'static str);

impl Action {
    /// The desired state held already.
    pub const NONE: Self = Self("none");
}

/// A verb's whole result.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document<T> {
    /// Version of this shape, `major.minor`.
    pub schema_version: &'static str,
    /// `tdx.<tool>.<noun>` for what a verb shows, `tdx.<tool>.<verb>` for what it did.
    pub kind: &'static str,
    /// Whether any item's action is other than `none`.
    pub changed: bool,
    /// Whether this is a plan that was not carried out.
    pub dry_run: bool,
    /// Sorted by natural key.
    pub items: Vec<T>,
    /// Sentences for a person; no program should need them.
    pub warnings: Vec<String>,
}

impl<T: Item> Document<T> {
    /// A document over `items`, which it sorts; `changed` follows from their actions.
    pub fn new(kind: &'static str, mut items: Vec<T>) -> Self {
        sort_by(&mut items, Item::compare);
        let changed = items.iter().any(|item| item.action().is_some_and(|a| a != Action::NONE));
        Self {
            schema_version: SCHEMA_VERSION,
            kind,
            changed,
            dry_run: false,
            items,
            warnings: Vec::new(),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Thing(&'static str, #[serde(skip)] Option<Action>);

    impl Item for Thing {
        const COLUMNS: &'static [&'static str] = &["NAME"];
        fn key(&self) -> Cow<'_, str> {
            self.0.into()
        }
        fn row(&self) -> Vec<String> {
            vec![self.0.to_owned()]
        }
        fn action(&self) -> Option<Action> {
            self.1
        }
    }

    #[test]
    fn changed_follows_from_the_actions() {
        assert!(!Document::new("tdx.x.y", Vec::<Thing>::new()).changed);
        assert!(!Document::new("tdx.x.y", vec![Thing("a", None)]).changed);
        assert!(!Document::new("tdx.x.y", vec![Thing("a", Some(Action::NONE))]).changed);
        let one = vec![Thing("a", Some(Action::NONE)), Thing("b", Some(Action("create")))];
        assert!(Document::new("tdx.x.y", one).changed);
    }

    #[test]
    fn items_are_sorted_by_key() {
        let document = Document::new("tdx.x.y", vec![Thing("b", None), Thing("a", None)]);
        assert_eq!(document.items.iter().map(|t| t.0).collect::<Vec<_>>(), ["a", "b"]);
    }
}
