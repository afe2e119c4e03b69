//! Checks whether an object is the one that an item on standard input describes.
//!
//! Between two commands, a name, an address or a path can come to mean another object. On another host, it does
//! mean another object. Items therefore also carry properties that identify the object, and a verb compares these
//! properties before it changes the object.

use std::collections::HashMap;
use std::fmt::Display;

use crate::code::Code;
use crate::error::{Error, Result};

/// Compares the keys of items with the properties of the object that they name.
///
/// A key is not compared when the item lacks it or when the value on this host is unknown.
#[derive(Debug)]
#[must_use = "finish says whether they differ"]
pub struct Comparison {
    object: String,
    differences: Vec<String>,
}

impl Comparison {
    /// Begins a comparison. The error names the object as `object` says.
    pub fn new(object: impl Display) -> Self {
        Self { object: object.to_string(), differences: Vec::new() }
    }

    /// Compares host names, as [`is_same_host`] does.
    pub fn host(self, said: Option<&str>, found: Option<&str>) -> Self {
        self.compare("host", said, found, is_same_host)
    }

    /// Compares text byte for byte, such as the serial number of a disk.
    pub fn text(self, key: &str, said: Option<&str>, found: Option<&str>) -> Self {
        self.compare(key, said, found, |said, found| said == found)
    }

    /// Compares hexadecimal numbers, such as UUIDs and PCI ids, without regard to case.
    pub fn hex(self, key: &str, said: Option<&str>, found: Option<&str>) -> Self {
        self.compare(key, said, found, |said, found| said.eq_ignore_ascii_case(found))
    }

    fn compare(
        mut self,
        key: &str,
        said: Option<&str>,
        found: Option<&str>,
        is_same: impl Fn(&str, &str) -> bool,
    ) -> Self {
        if let (Some(said), Some(found)) = (said, found)
            && !is_same(said, found)
        {
            let (said, found) = (said.escape_debug(), found.escape_debug());
            let difference = format!("{key} is '{found}', but '{said}' on standard input");
            if !self.differences.contains(&difference) {
                self.differences.push(difference);
            }
        }
        self
    }

    /// Ends the comparison.
    ///
    /// Errors: `conflict` (exit 5) with code `IDENTITY_CHANGED` when anything differs.
    pub fn finish(self) -> Result<()> {
        if self.differences.is_empty() {
            return Ok(());
        }
        let (object, differences) = (self.object, self.differences.join("; "));
        Err(Error::conflict(format!(
            "{object} differs from its description on standard input: {differences}"
        ))
        .code(Code::IdentityChanged)
        .hint("rerun, on this host, the command whose output is on standard input"))
    }
}

/// Groups claims by name: each name once, in the order of its first occurrence, with all its claims.
pub fn by_name<C>(named: impl IntoIterator<Item = (String, Option<C>)>) -> Vec<(String, Vec<C>)> {
    let mut all: Vec<(String, Vec<C>)> = Vec::new();
    let mut places = HashMap::<String, usize>::new();
    for (name, claim) in named {
        let place = *places.entry(name.clone()).or_insert(all.len());
        if place == all.len() {
            all.push((name, Vec::new()));
        }
        all[place].1.extend(claim);
    }
    all
}

/// Whether two names mean the same host. Case is ignored. A short name equals a full name whose first label is the
/// short name.
pub fn is_same_host(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|name| name.strip_suffix('.').unwrap_or(name));
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    match (one.contains('.'), other.contains('.')) {
        (true, false) => label(one).eq_ignore_ascii_case(other),
        (false, true) => label(other).eq_ignore_ascii_case(one),
        _ => one.eq_ignore_ascii_case(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_compared_without_case_and_by_first_label_when_one_is_short() {
        for (one, other, same) in [
            ("node1", "node1", true),
            ("node1", "NODE1", true),
            ("node1", "node1.example.org", true),
            ("Node1.example.org", "node1", true),
            ("node1.example.org.", "node1.example.org", true),
            ("node1", "node2", false),
            ("node1", "node10.example.org", false),
            ("node1.a.org", "node1.b.org", false),
            ("example", "node1.example.org", false),
            ("", "node1", false),
            ("", "", true),
        ] {
            assert_eq!(is_same_host(one, other), same, "{one:?} {other:?}");
            assert_eq!(is_same_host(other, one), same, "{other:?} {one:?}");
        }
    }

    #[test]
    fn by_name_returns_each_name_once_in_order_with_all_its_claims() {
        let named = [("b", Some(1)), ("a", None), ("b", None), ("b", Some(2)), ("a", Some(3))];
        let all = by_name(named.map(|(name, claim)| (name.to_owned(), claim)));
        assert_eq!(all, [("b".to_owned(), vec![1, 2]), ("a".to_owned(), vec![3])]);
    }

    #[test]
    fn keys_that_are_absent_or_unknown_are_not_compared() {
        let compare = |said, found| {
            let comparison =
                Comparison::new("domain 'a'").host(said, found).hex("uuid", said, found);
            comparison.text("serial", said, found).finish()
        };
        compare(None, Some("A")).unwrap();
        compare(Some("A"), None).unwrap();
        compare(None, None).unwrap();
        compare(Some("A"), Some("A")).unwrap();
        compare(Some("A"), Some("B")).unwrap_err();
    }

    #[test]
    fn the_error_names_the_object_and_every_difference_once() {
        let compare = Comparison::new("domain 'a'").hex("uuid", Some("AB\u{1b}"), Some("CD"));
        let compare =
            compare.hex("uuid", Some("AB\u{1b}"), Some("CD")).hex("id", Some("F"), Some("f"));
        let error = compare.text("serial", Some("F"), Some("f")).finish().unwrap_err();
        let error = error.to_document().error;
        assert_eq!((error.code, error.exit_code), (Some(Code::IdentityChanged), 5));
        assert_eq!(
            error.message,
            "domain 'a' differs from its description on standard input: uuid is 'CD', but 'AB\\u{1b}' on \
             standard input; serial is 'f', but 'F' on standard input"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_host_name_panics_and_each_equals_itself(one in "\\PC*", other in "\\PC*") {
            assert!(is_same_host(&one, &one));
            assert_eq!(is_same_host(&one, &other), is_same_host(&other, &one));
        }
    }
}
