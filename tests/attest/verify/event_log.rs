//! `tdx-attest verify --event-log`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{check, failed, write};
use crate::replay::vectors::dstack;
use crate::support::event_log::{self, Entry, sha384};
use crate::support::quote_samples::{CURRENT, RTMR0};
use crate::support::tools::tool;
use crate::support::vectors::vector;

#[test]
fn verify_and_replay_report_the_same_about_a_log_that_leaves_rtmr3_open() {
    let directory = TempDir::new().unwrap();
    let entry =
        |register| Entry { register, event_type: 4, digest: sha384(&[0; 4]), data: vec![0; 4] };
    let entries = [1, 2, 3].map(entry);
    let [r0, r1, r2] = [1, 2, 3].map(|register| event_log::replay(&entries, register));
    let rtmrs = [&r0[..], &r1, &r2, &sha384(b"a program of the guest")].concat();
    // The signature of the quote is wrong, so the answer is no in any case.
    let quote = write(&directory, "quote.bin", CURRENT.with(&[(RTMR0, &rtmrs)]));
    let log = write(&directory, "log", [&event_log::write(&entries)[..], b"more"].concat());
    let verify = |more: &[&str]| {
        let line = ["verify", &quote, "--no-collateral", "--at", CURRENT.at, "--event-log", &log];
        tool("tdx-attest", [&line[..], more].concat()).answer(10)
    };
    let document = verify(&[]);
    let event_log = check(&document, "event_log");
    assert_eq!(
        (&event_log["result"], &event_log["code"]),
        (&json!("passed"), &json!("RTMR3_UNLOGGED"))
    );
    let [_, warnings @ ..] = &document["warnings"].as_array().unwrap()[..] else {
        panic!("no warning about the TCB: {document}");
    };
    assert!(
        warnings[0].as_str().unwrap().ends_with("after the end of the log, which were ignored")
    );
    assert!(warnings[1].as_str().unwrap().contains("RTMR3 computed from "));
    let replay = tool("tdx-attest", ["replay", &log, "--quote", &quote]).document();
    assert_eq!(replay["warnings"], json!(warnings));

    let document = verify(&["--require-rtmr3"]);
    let event_log = check(&document, "event_log");
    assert_eq!(
        (&event_log["result"], &event_log["code"]),
        (&json!("failed"), &json!("LOG_INCOMPLETE"))
    );
    let line = ["verify", &quote, "--no-collateral", "--require-rtmr3"];
    tool("tdx-attest", line).error(2);
}

/// A log without the events of RTMR3 in the log of a genuine quote.
#[test]
fn verify_accepts_an_open_rtmr3_of_a_genuine_quote_unless_it_is_required() {
    let Some((quote, all)) = dstack() else { return };
    let (_, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|entry| entry.register == 4);
    let directory = TempDir::new().unwrap();
    let quote = write(&directory, "quote", quote);
    let run = |entries: &[Entry], more: &[&str], status: i32| {
        let log = write(&directory, "log", event_log::write(entries));
        let line = ["verify", &quote, "--no-collateral", "--at", "2026-03-01T00:00:00Z"];
        let line = [&line[..], &["--event-log", &log], more].concat();
        let document = tool("tdx-attest", line).answer(status);
        check(&document, "event_log")["code"].clone()
    };
    assert_eq!(run(&all, &["--require-rtmr3"], 0), Value::Null);
    assert_eq!(run(&others, &[], 0), "RTMR3_UNLOGGED");
    assert_eq!(run(&others, &["--require-rtmr3"], 10), "LOG_INCOMPLETE");
}

#[test]
fn verify_names_the_event_of_the_log_that_does_not_lead_to_the_quote() {
    let (Some(quote), Some(log)) = (vector("cos113-quote.bin"), vector("cos113-ccel.bin")) else {
        return;
    };
    let quote = quote.to_str().unwrap();
    let directory = TempDir::new().unwrap();
    let run = |log: &[u8], status: i32| {
        let log = write(&directory, "log", log);
        let line = ["verify", quote, "--no-collateral", "--at", "2026-03-01T00:00:00Z"];
        tool("tdx-attest", [&line[..], &["--event-log", &log]].concat()).answer(status)
    };
    let mut bytes = fs::read(log).unwrap();
    let document = run(&bytes, 0);
    assert_eq!(check(&document, "event_log")["result"], "passed");
    // A bit of the digest of the first separator, which follows from its data.
    let separator = sha384(&[0; 4]);
    let digest = bytes.windows(48).position(|window| *window == separator[..]).unwrap();
    bytes[digest] ^= 1;
    let document = run(&bytes, 10);
    assert_eq!(failed(&document), ["event_log"]);
    let check = check(&document, "event_log");
    assert_eq!(check["code"], "EVENT_DIFFERS");
    assert!(check["message"].as_str().unwrap().contains("event 7 "), "{check}");
}
