use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{from_str, to_string};

fn value(text: &str) -> Value {
    from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn scalars_mean_what_they_look_like() {
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
        ("-07.5", json!("-07.5")),
        ("1.5", json!(1.5)),
        ("-.5", json!(-0.5)),
        ("1e3", json!(1000.0)),
        ("1e999", json!("1e999")),
        (".inf", json!(".inf")),
        ("nan", json!("nan")),
        ("1.2.3", json!("1.2.3")),
        ("1G", json!("1G")),
        ("00:11:22", json!("00:11:22")),
        ("2026-01-01", json!("2026-01-01")),
        ("|\n  a\n  b\n", json!("a\nb\n")),
        ("\"\\u00e9\\n\"", json!("é\n")),
    ] {
        assert_eq!(value(text), means, "{text}");
    }
}

#[test]
fn nodes_are_put_together_as_they_stand() {
    assert_eq!(
        value("b: [1, {c: }]\na:\n  - x: 1\n    y: two words\n  -\n").to_string(),
        r#"{"b":[1,{"c":null}],"a":[{"x":1,"y":"two words"},null]}"#
    );
    assert_eq!(value("---\na: &x [1]\nb: *x\n...\n"), json!({"a": [1], "b": [1]}));
    let merged = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {<<: *b}\n";
    let merged = value(merged);
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
fn types_get_the_characters_that_were_typed() {
    let texts = from_str::<BTreeMap<String, String>>("{a: 0800, b: off, c: 10e0, 1: ''}").unwrap();
    assert_eq!(texts.values().collect::<Vec<_>>(), ["", "0800", "off", "10e0"]);
    let record = Record { name: "1e3".to_owned(), word: Some(Word::On), pair: (1, 2) };
    assert_eq!(from_str::<Record>("{name: 1e3, word: on, pair: [1, 2]}").unwrap(), record);
    assert_eq!(from_str::<Record>(&to_string(&record).unwrap()).unwrap(), record);
}

#[test]
fn text_is_in_quotes_where_it_has_to_be() {
    let values =
        ["qemu+tcp://127.0.0.1/system", "a: b", "a #b", "off", "0800", "", " a", "a\nb", "- a"];
    let record: Map<String, Value> =
        values.iter().zip('a'..).map(|(text, key)| (key.to_string(), json!(text))).collect();
    let wanted = "a: qemu+tcp://127.0.0.1/system\nb: \"a: b\"\nc: \"a #b\"\nd: \"off\"\ne: \"0800\"\n\
        f: \"\"\ng: \" a\"\nh: \"a\\nb\"\ni: \"- a\"\n";
    assert_eq!(to_string(&record).unwrap(), wanted);
    assert_eq!(from_str::<Map<String, Value>>(wanted).unwrap(), record);
    let record = json!({"attestation": true, "policy": 3, "firmware": null});
    assert_eq!(to_string(&record).unwrap(), "attestation: true\npolicy: 3\nfirmware: null\n");
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, says) in [
        ("a: [", "line 1: this is no YAML: "),
        ("a: 1\n b: 2", "line 2: this is no YAML: "),
        ("a: *b", "line 1: this is no YAML: "),
        ("a: 1\nb: 2\na: 3", "line 3: a is there twice"),
        ("a: 1\n---\nb: 1", "line 2: a second document begins here"),
        ("? [1]\n: 2", "line 1: a key has to be text"),
        ("a:\n  !secret b", "line 2: the tag !secret means nothing here"),
        ("a: !!binary aGk=", "line 1: the tag !!binary means nothing here"),
        ("a: &a [*a]", "line 1: this stands for what it is in"),
        ("a: 1\n<<: 5", "line 2: only maps can be merged"),
    ] {
        let error = from_str::<Value>(text).unwrap_err().to_string();
        assert!(error.starts_with(says), "{text}: {error}");
    }
    for (text, says) in [
        ("name: a\npair: [1, 2]\nwrod: on", "line 3: unknown field `wrod`"),
        ("pair: [1, 2]", "line 1: missing field `name`"),
        ("name:\npair: [1, 2]", "line 1: invalid type: null, expected a string"),
        ("name: [a]", "line 1: invalid type: sequence, expected a string"),
        ("name: a\nword: up\n", "line 2: unknown variant `up`"),
        ("name: a\npair:\n  - 1\n  - 256", "line 4: invalid value: integer `256`, expected u8"),
        ("name: a\npair: [1, 2, 3]", "line 2: invalid length 3"),
        ("- name", "line 1: invalid "),
        ("", "line 1: invalid type"),
    ] {
        let error = from_str::<Record>(text).unwrap_err().to_string();
        assert!(error.starts_with(says), "{text}: {error}");
    }
}

#[test]
fn a_small_text_is_never_a_large_tree() {
    let bomb = (1..20).fold("a0: &a0 [1, 1]\n".to_owned(), |text, level| {
        let under = level - 1;
        text + &format!("a{level}: &a{level} [*a{under}, *a{under}]\n")
    });
    let long = format!("a: &a {}\nb: [{}]\n", "a".repeat(1 << 16), "*a, ".repeat(1 << 10));
    for bomb in [bomb, long] {
        let error = from_str::<Value>(&bomb).unwrap_err().to_string();
        assert!(error.contains("aliases stand for too much"), "{error}");
    }
    let deep = (1..9)
        .fold(format!("a0: &a0 {}{}\n", "[".repeat(50), "]".repeat(50)), |text, level| {
            text + &format!("a{level}: &a{level} [[[[[[[[*a{}]]]]]]]]\n", level - 1)
        });
    assert!(from_str::<Value>(&deep).unwrap_err().to_string().contains("nested more than"));
    for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
        assert!(from_str::<Value>(&text).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*", flow in "[a\\[\\]{}:,&*!<~ \n-]{0,30}") {
        let _ = from_str::<Value>(&text);
        let _ = from_str::<Value>(&flow);
        let _ = from_str::<Record>(&flow);
    }

    #[test]
    fn what_is_written_is_read_back(name in "\\PC{0,12}|[a:# \n\t'\"\\-\\[{0-9on]{0,6}", pair: (u8, u8)) {
        let record = Record { name, word: None, pair };
        let text = to_string(&record).unwrap();
        prop_assert_eq!(from_str::<Record>(&text).unwrap(), record, "{}", text);
    }
}
