//! `--format prometheus`, parsed as strictly as its specification allows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use crate::support::rig::Rig;
use crate::support::td::{define, foreign};
use crate::support::tools::{Run, tool};

/// A metric's values by their labels.
type Samples = BTreeMap<BTreeMap<String, String>, f64>;

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The labels between braces, and the text after them.
fn labels(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    while !text.starts_with('}') {
        let (name, rest) = text.split_once("=\"").unwrap();
        assert!(is_name(name), "{name}");
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (end, '"') => break end,
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("escaped {c}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert_eq!(labels.insert(name.to_owned(), value), None, "{name} twice");
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    (labels, &text[1..])
}

/// Reads text format 0.0.4: each family once, help, type, then its samples and nothing else.
fn parse(text: &str) -> BTreeMap<String, Samples> {
    assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
    let mut families = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (family, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(is_name(family) && !help.is_empty(), "{line}");
        assert_eq!(lines.next().unwrap(), format!("# TYPE {family} gauge"));
        let mut samples = Samples::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let rest = line.strip_prefix(family).and_then(|rest| rest.strip_prefix('{')).unwrap();
            let (labels, value) = labels(rest);
            let value = value.strip_prefix(' ').unwrap().parse().unwrap();
            assert_eq!(samples.insert(labels, value), None, "{line}");
        }
        assert!(families.insert(family.to_owned(), samples).is_none(), "{family} twice");
    }
    families
}

fn metrics(run: &Run) -> BTreeMap<String, Samples> {
    assert_eq!(run.stderr, "", "{run:#?}");
    parse(run.text())
}

fn of<'a>(families: &'a BTreeMap<String, Samples>, family: &str) -> Vec<(Vec<&'a str>, f64)> {
    let samples = families[family].iter();
    samples.map(|(labels, value)| (labels.values().map(String::as_str).collect(), *value)).collect()
}

#[test]
#[ignore = "needs root"]
fn list_and_info_print_domains_and_pools_as_metrics() {
    let rig = Rig::start();
    let none = metrics(&rig.tool("tdx-td", ["list", "--format", "prometheus"]));
    assert!(none.len() == 4 && none.values().all(BTreeMap::is_empty), "{none:?}");
    for name in ["we\"ird\\name", "b"] {
        define(&rig, &foreign(&name.replace('"', "&quot;"), ""));
    }
    rig.virsh(["start", "b"]);
    let document = rig.tool("tdx-td", ["list"]).document();
    let uuid = |index: usize| document["items"][index]["uuid"].as_str().unwrap();
    let domains = metrics(&rig.shell("TDX_FORMAT=prometheus tdx-td list"));
    let weird = "we\"ird\\name";
    // The labels are in the order of their names: name, security, state, uuid.
    assert_eq!(
        of(&domains, "tdx_td_domain_state"),
        [
            (vec!["b", "none", "running", uuid(0)], 1.0),
            (vec![weird, "none", "shut off", uuid(1)], 1.0),
        ]
    );
    let both = |value: f64| [(vec!["b", uuid(0)], value), (vec![weird, uuid(1)], value)];
    assert_eq!(of(&domains, "tdx_td_domain_vcpus"), both(1.0));
    assert_eq!(of(&domains, "tdx_td_domain_memory_bytes"), both(f64::from(64 << 20)));
    assert_eq!(of(&domains, "tdx_td_domain_hostdevs"), both(0.0));

    let pool = rig.tool("tdx-pool", ["ensure"]).item();
    let info = metrics(&rig.tool("tdx-pool", ["info", "--format=prometheus"]));
    assert_eq!(of(&info, "tdx_pool_active"), [(vec!["tdvirsh-pool"], 1.0)]);
    let capacity = pool["capacity_bytes"].as_f64().unwrap();
    assert_eq!(of(&info, "tdx_pool_capacity_bytes"), [(vec!["tdvirsh-pool"], capacity)]);
    let names: BTreeSet<&str> = info.keys().map(String::as_str).collect();
    let wanted = ["active", "allocation_bytes", "available_bytes", "capacity_bytes", "volumes"];
    assert_eq!(
        names,
        wanted.map(|name| format!("tdx_pool_{name}")).iter().map(String::as_str).collect()
    );
    rig.virsh(["pool-destroy", "tdvirsh-pool"]);
    let info = metrics(&rig.tool("tdx-pool", ["info", "--format", "prometheus"]));
    assert_eq!(of(&info, "tdx_pool_active"), [(vec!["tdvirsh-pool"], 0.0)]);
    assert_eq!(of(&info, "tdx_pool_capacity_bytes"), []);
}

#[test]
fn other_verbs_refuse_the_prometheus_format() {
    for (name, verb) in [
        ("tdx-td", vec!["show", "x"]),
        ("tdx-td", vec!["delete", "x", "--yes"]),
        ("tdx-pool", vec!["ensure"]),
        ("tdx-pool", vec!["list"]),
        ("tdx-iommu", vec!["scan"]),
        ("tdx-gpu", vec!["unbind", "--all"]),
        ("tdx-disk", vec!["list"]),
    ] {
        let error = tool(name, [&verb[..], &["--format", "prometheus"]].concat()).error(2);
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains("tdx-td list") && hint.contains("tdx-pool info"), "{error}");
    }
}
