//! YAML: settings and passthrough configurations that people write, and records that the tools keep.
//!
//! The crate serde-saphyr reads and writes YAML. This module fixes its options and the form of its errors.
//! A value that the type declares as text keeps the characters that were typed, such as `0800` or `off`. Null is
//! neither a list nor text. Keys are unique, aliases and merge keys are followed, and unknown tags are refused.
//!
//! Source: YAML 1.2.2; YAML 1.1 for merge keys and for `yes`, `no`, `on` and `off`.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Localizer, Location, MessageFormatter, Options, UserMessageFormatter};

/// The longest text of a document after its aliases are replaced. Unit: bytes.
const MAX_TEXT_BYTES: usize = 1 << 22;

/// The reason why a text is not a valid document, with the number of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Reads one document. Empty text is null.
///
/// Errors: text that is not YAML, and values that do not fit `T`, with the line.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| Error(error.render_with_formatter(&LineFirst)))
}

/// Writes one document.
///
/// Errors: values that YAML cannot express, such as a path that is not UTF-8.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error(error.to_string()))
}

/// The boolean that a word means in YAML 1.1, in any case: `yes`, `True`, `on`. None for any other word.
pub fn boolean(text: &str) -> Option<bool> {
    from_str(text).ok()
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_total_scalar_bytes: MAX_TEXT_BYTES },
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// Renders an error as `line N: reason`.
struct LineFirst;

impl MessageFormatter for LineFirst {
    fn localizer(&self) -> &dyn Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a serde_saphyr::Error) -> Cow<'a, str> {
        UserMessageFormatter.format_message(error)
    }
}

impl Localizer for LineFirst {
    fn attach_location<'a>(&self, reason: Cow<'a, str>, location: Location) -> Cow<'a, str> {
        format!("line {}: {reason}", location.line()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::{Map, Value, json};

    use super::{boolean, from_str, to_string};

    fn value(text: &str) -> Value {
        from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn plain_scalars_without_a_type_are_read_as_yaml_defines_them() {
        for (text, means) in [
            ("", json!(null)),
            ("# nothing\n", json!(null)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("on", json!(true)),
            ("OFF", json!(false)),
            ("yes", json!(true)),
            ("'off'", json!("off")),
            ("!!str off", json!("off")),
            ("! 5", json!("5")),
            ("0", json!(0)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("0x1f", json!(31)),
            ("0o17", json!(15)),
            ("0x+1", json!("0x+1")),
            ("18446744073709551615", json!(u64::MAX)),
            ("0600", json!("0600")),
            ("1.5", json!(1.5)),
            ("-.5", json!(-0.5)),
            ("1e3", json!(1000.0)),
            (".inf", json!(".inf")),
            ("nan", json!("nan")),
            ("1.2.3", json!("1.2.3")),
            ("1G", json!("1G")),
            ("1_000", json!("1_000")),
            ("00:11:22", json!("00:11:22")),
            ("2026-01-01", json!("2026-01-01")),
            ("|\n  a\n  b\n", json!("a\nb\n")),
            ("\"\\u00e9\\n\"", json!("é\n")),
        ] {
            assert_eq!(value(text), means, "{text}");
        }
        assert_eq!(
            ["On", "n", "5", "", "[on]"].map(boolean),
            [Some(true), Some(false), None, None, None]
        );
    }

    #[test]
    fn lists_maps_aliases_and_merge_keys_are_read() {
        assert_eq!(
            value("b: [1, {c: }]\na:\n  - x: 1\n    y: two words\n  -\n").to_string(),
            r#"{"b":[1,{"c":null}],"a":[{"x":1,"y":"two words"},null]}"#
        );
        assert_eq!(value("---\na: &x [1]\nb: *x\n...\n"), json!({"a": [1], "b": [1]}));
        let merged =
            value("a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {<<: *b}\n");
        assert_eq!(merged["c"], json!({"x": 1, "y": 3, "z": 2}));
        assert_eq!(merged["d"], json!({"x": 2, "z": 2}));
        assert_eq!(value("{on: 1, 5: 2, '<<': 3}"), json!({"on": 1, "5": 2, "<<": 3}));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        name: String,
        word: Option<Word>,
        pair: (u8, u8),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        On,
        Other,
    }

    #[test]
    fn a_string_field_keeps_the_characters_that_were_typed() {
        let texts: BTreeMap<String, String> =
            from_str("{a: 0800, b: off, c: 10e0, 1: ''}").unwrap();
        assert_eq!(texts.values().collect::<Vec<_>>(), ["", "0800", "off", "10e0"]);
        let record = Record { name: "1e3".to_owned(), word: Some(Word::On), pair: (1, 2) };
        assert_eq!(from_str::<Record>("{name: 1e3, word: on, pair: [1, 2]}").unwrap(), record);
        assert_eq!(from_str::<Record>(&to_string(&record).unwrap()).unwrap(), record);
    }

    #[test]
    fn text_that_looks_like_another_type_is_written_in_quotes() {
        let values =
            ["qemu+tcp://127.0.0.1/system", "a: b", "a #b", "off", "0800", "", " a", "a\nb", "- a"];
        let record: Map<String, Value> =
            values.iter().zip('a'..).map(|(text, key)| (key.to_string(), json!(text))).collect();
        let text = to_string(&record).unwrap();
        assert!(text.starts_with("a: qemu+tcp://127.0.0.1/system\n"), "{text}");
        assert_eq!(from_str::<Map<String, Value>>(&text).unwrap(), record, "{text}");
        let record = json!({"attestation": true, "policy": 3, "firmware": null});
        assert_eq!(to_string(&record).unwrap(), "attestation: true\npolicy: 3\nfirmware: null\n");
    }

    #[test]
    fn errors_name_the_line() {
        for (text, begins) in [
            ("a: [", "line 1: unclosed bracket"),
            ("a: 1\n b: 2", "line 2: mapping values are not allowed"),
            ("a: *b", "line 1: reference to unknown value"),
            ("a: 1\nb: 2\na: 3", "line 3: duplicate mapping key `a`"),
            ("a: 1\n---\nb: 1", "line 3: only single YAML document expected"),
            ("? [1]\n: 2", "line 1: expected string"),
            ("a:\n  !secret b", "line 2: unsupported tag `!secret`"),
            ("a: &a [*a]", "line 1: "),
            ("a: 1\n<<: 5", "line 2: YAML merge value must be mapping"),
        ] {
            let error = from_str::<Value>(text).unwrap_err().to_string();
            assert!(error.starts_with(begins), "{text}: {error}");
        }
        for (text, begins) in [
            ("name: a\npair: [1, 2]\nwrod: on", "line 3: unknown field `wrod`"),
            ("pair: [1, 2]", "line 1: missing field `name`"),
            ("name:\npair: [1, 2]", "line 1: null is not allowed here"),
            ("name: [a]", "line 1: expected string"),
            ("name: a\nword: up\n", "line 2: unknown variant `up`"),
            ("name: a\npair:\n  - 1\n  - 256", "line 4: invalid u8"),
            ("name: a\npair: [1, 2, 3]", "line 2: invalid length 3"),
            ("- name", "line 1: expected mapping"),
            ("", "line 1: unexpected end"),
        ] {
            let error = from_str::<Record>(text).unwrap_err().to_string();
            assert!(error.starts_with(begins), "{text}: {error}");
        }
    }

    #[test]
    fn null_is_an_error_where_a_list_is_expected() {
        for text in ["x:", "x: ~", "x: null"] {
            let error = from_str::<BTreeMap<String, Vec<u8>>>(text).unwrap_err().to_string();
            assert_eq!(error, "line 1: expected sequence start", "{text}");
        }
        let lists: BTreeMap<String, Vec<u8>> = from_str("x: []").unwrap();
        assert!(lists["x"].is_empty());
    }

    #[test]
    fn aliases_cannot_expand_a_small_text_to_a_large_document() {
        let bomb = (1..20).fold("a0: &a0 [1, 1]\n".to_owned(), |text, level| {
            let under = level - 1;
            text + &format!("a{level}: &a{level} [*a{under}, *a{under}]\n")
        });
        let long = format!("a: &a {}\nb: [{}]\n", "a".repeat(1 << 16), "*a, ".repeat(1 << 10));
        for bomb in [bomb, long] {
            let error = from_str::<Value>(&bomb).unwrap_err().to_string();
            assert!(error.contains("limits breached") || error.contains("alias"), "{error}");
        }
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(from_str::<Value>(&text).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_from_str_panic(text in "\\PC*", flow in "[a\\[\\]{}:,&*!<~ \n-]{0,30}") {
            let _ = from_str::<Value>(&text);
            let _ = from_str::<Value>(&flow);
            let _ = from_str::<Record>(&flow);
        }

        #[test]
        fn written_values_are_read_back_unchanged(name in "\\PC{0,12}|[a:# \n\t'\"\\-\\[{0-9on]{0,6}", pair: (u8, u8)) {
            let record = Record { name, word: None, pair };
            let text = to_string(&record).unwrap();
            prop_assert_eq!(from_str::<Record>(&text).unwrap(), record, "{}", text);
        }
    }
}
