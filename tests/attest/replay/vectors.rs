//! `tdx-attest replay` on logs of real trust domains.

use std::path::Path;

use serde_json::{Value, json};

use super::{Files, item, read, results};
use crate::support::event_log::{self, Entry, hex, sha384};
use crate::support::tools::{self, Run};
use crate::support::vectors::vector;

/// Checks a document of a log against values computed without the code under test.
fn check_values(document: &Value, entries: &[Entry]) {
    for (number, name) in [(1, "rtmr0"), (2, "rtmr1"), (3, "rtmr2"), (4, "rtmr3")] {
        let item = item(document, name);
        assert_eq!(item["value"], hex(&event_log::replay(entries, number)), "{name}");
        let of_register = entries.iter().filter(|entry| entry.register == number);
        let digests: Vec<String> = of_register.map(|entry| hex(&entry.digest)).collect();
        let events = item["events"].as_array().unwrap().iter();
        let found: Vec<&str> = events.map(|event| event["digest"].as_str().unwrap()).collect();
        assert_eq!(found, digests);
    }
}

/// The texts of a register's events with their status.
fn texts(document: &Value, register: &str) -> Vec<(String, String)> {
    let events = item(document, register)["events"].clone();
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = events.as_array().unwrap().iter();
    events.map(|event| (string(&event["text"]), string(&event["text_status"]))).collect()
}

fn replay_vector(log: &Path, more: &[&Path]) -> Run {
    let mut arguments = vec![Path::new("replay"), log];
    if let [quote] = more {
        arguments.extend([Path::new("--quote"), quote]);
    }
    tools::tool("tdx-attest", arguments)
}

#[test]
fn the_log_of_container_optimized_os_leads_to_its_quote() {
    let (Some(log), Some(quote)) = (vector("cos113-ccel.bin"), vector("cos113-quote.bin")) else {
        return;
    };
    let document = replay_vector(&log, &[&quote]).document();
    assert_eq!(results(&document), ["match"; 4]);
    check_values(&document, &event_log::read(&read(&log)));
    let checked = |text: &str| (text.to_owned(), "checked".to_owned());
    let rtmr0 = texts(&document, "rtmr0");
    assert_eq!(rtmr0[2], checked("SecureBoot=0"));
    assert_eq!(rtmr0[0], ("TdxTable".to_owned(), "claimed".to_owned()));
    let rtmr2 = texts(&document, "rtmr2");
    assert!(rtmr2.contains(&checked("grub_cmd: set timeout=0")), "{rtmr2:#?}");
    assert!(rtmr2.contains(&("/efi/boot/grub.cfg".to_owned(), "claimed".to_owned())));
    let images = texts(&document, "rtmr1");
    assert!(images.iter().any(|(text, _)| text.contains("\\EFI\\")), "{images:#?}");
}

#[test]
fn the_log_of_a_guest_with_shim_and_grub_is_replayed() {
    let Some(log) = vector("grub-ccel.bin") else { return };
    let document = replay_vector(&log, &[]).document();
    check_values(&document, &event_log::read(&read(&log)));
    let secure_boot = &item(&document, "rtmr0")["events"][2];
    assert!(secure_boot["digest"].as_str().unwrap().starts_with("2cded0c6"));
    assert_eq!(
        (&secure_boot["text"], &secure_boot["text_status"]),
        (&json!("SecureBoot=1"), &json!("checked"))
    );
    assert!(texts(&document, "rtmr2").iter().any(|(text, _)| text == "Linux initrd"));
    // These quotes are of other guests.
    for name in ["spr-quote.bin", "v5-quote.bin"] {
        let Some(quote) = vector(name) else { return };
        let document = replay_vector(&log, &[&quote]).answer(10);
        let bytes = read(&quote);
        let body = if bytes[0] == 5 { 54 } else { 48 };
        for (number, register) in ["rtmr0", "rtmr1", "rtmr2"].iter().enumerate() {
            let value = hex(&bytes[body + 328 + 48 * number..][..48]);
            assert_eq!(item(&document, register)["quote_value"], value, "{name}");
            assert_eq!(item(&document, register)["codes"], json!(["LOG_INCOMPLETE"]), "{name}");
        }
    }
}

/// A report of dstack: its quote, and its events as a log.
pub(crate) fn dstack() -> Option<(Vec<u8>, Vec<Entry>)> {
    let report: Value =
        serde_json::from_slice(&read(&vector("dstack-quote-report.json")?)).unwrap();
    let bytes = |value: &Value| {
        let digits = value.as_str().unwrap().as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect::<Vec<u8>>()
    };
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let events: Value = serde_json::from_str(report["event_log"].as_str().unwrap()).unwrap();
    let entry = |event: &Value| Entry {
        register: number(&event["imr"]) + 1,
        event_type: number(&event["event_type"]),
        digest: bytes(&event["digest"]),
        data: bytes(&event["event_payload"]),
    };
    Some((bytes(&report["quote"]), events.as_array().unwrap().iter().map(entry).collect()))
}

#[test]
fn the_events_of_dstack_lead_to_all_four_registers_of_their_quote() {
    let Some((quote, entries)) = dstack() else { return };
    let files = Files::new(&entries);
    files.write("quote.bin", quote);
    let document = files.replay("ccel.bin --quote quote.bin --require-rtmr3").document();
    assert_eq!(results(&document), ["match"; 4]);
    check_values(&document, &entries);
}

/// The logs that differ from these events in the event at this position, and how each differs.
fn edited(entries: &[Entry], at: usize) -> Vec<(&'static str, Vec<Entry>)> {
    let mut changed = entries.to_vec();
    changed[at].digest = sha384(b"changed");
    let mut dropped = entries.to_vec();
    dropped.remove(at);
    let mut added = entries.to_vec();
    let (event_type, data) = (0xa, b"added".to_vec());
    added.insert(at, Entry { digest: sha384(b"added"), event_type, data, ..entries[at].clone() });
    let mut logs = vec![("changed", changed), ("missing", dropped), ("added", added)];
    let next = entries.get(at + 1).filter(|next| next.register == entries[at].register);
    if next.is_some_and(|next| next.digest != entries[at].digest) {
        let mut exchanged = entries.to_vec();
        exchanged.swap(at, at + 1);
        logs.push(("moved", exchanged));
    }
    logs
}

/// The document of a log that differs. It is not held against its schema, which takes longer than the replay.
#[track_caller]
fn differing(run: &Run) -> Value {
    assert_eq!(run.status, Some(10), "{run:#?}");
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn each_edited_event_of_a_real_log_is_named() {
    let Some(log) = vector("cos113-ccel.bin") else { return };
    let entries = event_log::read(&read(&log));
    let files = Files::new(&entries);
    for at in 0..entries.len() {
        let register = ["rtmr0", "rtmr1", "rtmr2"][entries[at].register as usize - 1];
        for (change, log) in edited(&entries, at) {
            files.write("ccel.bin", event_log::write(&log));
            let rtmr = item(&differing(&files.replay("ccel.bin --expect expected.json")), register);
            let found = &rtmr["first_difference"];
            match change {
                // Of two equal events in a row, either may be the one that was dropped.
                "missing" => assert_eq!(found["expected"], hex(&entries[at].digest), "{found}"),
                _ => assert_eq!(found["index"], json!(at), "{change} {found}"),
            }
            let found = found["change"].as_str().unwrap();
            assert!(
                found == change || (change, found) == ("changed", "contradicted"),
                "{at} {found}"
            );
            let rtmr = item(&differing(&files.replay("ccel.bin --quote quote.bin")), register);
            let found = &rtmr["first_difference"];
            match change {
                "added" | "moved" => assert_eq!(found["index"], json!(at), "{change} {found}"),
                "missing" => assert_eq!(found["index"], Value::Null, "{found}"),
                _ => assert!([json!(at), Value::Null].contains(&found["index"]), "{found}"),
            }
        }
    }
}
