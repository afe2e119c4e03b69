//! `tdx-attest verify`, with quotes of real trust domains.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use common::td_quote::TdReport;
use serde_json::{Value, json};
use tdx_attest::quote::verification::collateral::Collateral;
use tdx_attest::quote::verification::verifier::Verifier;
use tdx_attest::time::Time;
use tempfile::TempDir;

use crate::support::quote_samples::{CURRENT, EXTENDED, OUTDATED, Sample, file};
use crate::support::tools::{Run, tool, tool_command};
use crate::support::vectors::vector;

mod event_log;
mod registers;

/// Runs `verify` for a sample at a time, with more arguments.
fn verify_at(sample: &Sample, at: &str, more: &[&str]) -> Run {
    let (quote, collateral) = (sample.quote(), sample.collateral());
    let line = ["verify", &quote, "--collateral", &collateral, "--at", at];
    tool("tdx-attest", [&line, more].concat())
}

fn verify(sample: &Sample, more: &[&str]) -> Run {
    verify_at(sample, sample.at, more)
}

/// The check of this name.
#[track_caller]
fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let items = document["items"].as_array().unwrap();
    items.iter().find(|item| item["check"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

/// The names of the failed checks.
fn failed(document: &Value) -> Vec<&str> {
    let items = document["items"].as_array().unwrap();
    let failed = items.iter().filter(|item| item["result"] == "failed");
    failed.map(|item| item["check"].as_str().unwrap()).collect()
}

/// Writes a file into a directory, and returns its path.
fn write(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn verify_accepts_a_quote_while_its_collateral_is_valid() {
    for sample in [CURRENT, EXTENDED] {
        let document = verify(&sample, &[]).answer(0);
        assert_eq!(document["host"], Value::Null);
        for name in
            ["signature", "chain", "collateral", "revocation", "fmspc", "qe_identity", "tcb"]
        {
            let check = check(&document, name);
            assert_eq!((&check["result"], &check["message"]), (&json!("passed"), &Value::Null));
        }
        assert_eq!(check(&document, "tcb")["found"], json!(["UpToDate"]));
        assert_eq!(check(&document, "fmspc")["found"], json!(["B0C06F000000"]));
        assert_eq!(check(&document, "mrtd")["result"], "not_checked");
        assert_eq!(document["warnings"], json!([]));
    }
}

#[test]
fn verify_answers_no_before_and_after_the_time_of_the_collateral() {
    for at in ["2025-07-19T10:16:04Z", "1752920164", "2025-06-01T00:00:00Z", "2018-01-01T00:00:00Z"]
    {
        let document = verify_at(&CURRENT, at, &[]).answer(10);
        assert_eq!(check(&document, "collateral")["code"], "COLLATERAL_EXPIRED", "{at}");
        assert_eq!(check(&document, "tcb")["result"], "not_checked", "{at}");
    }
    let (quote, collateral) = (CURRENT.quote(), CURRENT.collateral());
    let now = tool("tdx-attest", ["verify", &quote, "--collateral", &collateral]).answer(10);
    assert_eq!(check(&now, "collateral")["code"], "COLLATERAL_EXPIRED");
}

#[test]
fn verify_answers_no_for_an_outdated_platform() {
    let directory = TempDir::new().unwrap();
    // The platform has not reached even the oldest level, so no policy can accept it.
    let policy = write(&directory, "policy.yaml", "accept_status: [UpToDate, OutOfDate]");
    for more in [&[][..], &["--policy", &policy]] {
        let document = verify(&OUTDATED, more).answer(10);
        assert_eq!(failed(&document), ["tcb"]);
        assert_eq!(check(&document, "tcb")["code"], "TCB_OUT_OF_DATE");
    }
}

#[test]
fn verify_answers_no_for_a_platform_that_the_policy_does_not_accept() {
    let directory = TempDir::new().unwrap();
    let date = check(&verify(&CURRENT, &[]).answer(0), "tcb_date")["found"][0].clone();
    let date = date.as_str().unwrap();
    for (policy, failure) in [
        ("accept_status: [SWHardeningNeeded]".to_owned(), Some("tcb")),
        ("accept_status: [SWHardeningNeeded, UpToDate]".to_owned(), None),
        (format!("min_tcb_date: {date}"), None),
        ("min_tcb_date: 2030-01-01".to_owned(), Some("tcb_date")),
    ] {
        let policy = write(&directory, "policy.yaml", policy);
        let status = if failure.is_some() { 10 } else { 0 };
        let document = verify(&CURRENT, &["--policy", &policy]).answer(status);
        assert_eq!(failed(&document), Vec::from_iter(failure));
    }
}

#[test]
fn verify_without_collateral_checks_the_signature_and_the_chain_alone() {
    let quote = CURRENT.quote();
    let line = ["verify", &quote, "--no-collateral", "--at", CURRENT.at];
    let document = tool("tdx-attest", line).answer(0);
    for name in
        ["collateral", "revocation", "fmspc", "qe_identity", "tcb", "tcb_date", "advisories"]
    {
        assert_eq!(check(&document, name)["result"], "not_checked", "{name}");
    }
    assert!(document["warnings"][0].as_str().unwrap().starts_with("tcb: not checked."));
    let table = tool("tdx-attest", [&line[..], &["--format", "table"]].concat());
    let row = table.stdout.lines().find(|line| line.starts_with("tcb ")).unwrap().to_owned();
    assert!(row.contains("not checked"), "{row}");
    let error = tool("tdx-attest", ["verify", &quote]).error(2);
    assert!(error["message"].as_str().unwrap().contains("--collateral"), "{error}");
    let directory = TempDir::new().unwrap();
    let policy = write(&directory, "p.yaml", "min_tcb_date: 2024-01-01");
    let error = tool("tdx-attest", [&line[..], &["--policy", &policy]].concat()).error(2);
    assert!(error["message"].as_str().unwrap().contains("min_tcb_date"), "{error}");
}

#[test]
fn verify_compares_report_data_and_processor_features() {
    let document = verify(&CURRENT, &[]).answer(0);
    let data = check(&document, "report_data")["found"][0].as_str().unwrap().to_owned();
    verify(&CURRENT, &["--report-data", &data]).answer(0);
    let directory = TempDir::new().unwrap();
    let policy = write(&directory, "p.yaml", format!("report_data: {data}"));
    verify(&CURRENT, &["--policy", &policy]).answer(0);
    assert_eq!(failed(&verify(&CURRENT, &["--report-data", "00"]).answer(10)), ["report_data"]);
    for other in ["", "0", "xy"] {
        verify(&CURRENT, &["--report-data", other]).error(2);
    }
    let xfam = |value: &str| {
        let text = format!("xfam: {{mask: '0700000000000000', value: '{value}00000000000000'}}");
        write(&directory, "xfam.yaml", text)
    };
    verify(&CURRENT, &["--policy", &xfam("07")]).answer(0);
    assert_eq!(failed(&verify(&CURRENT, &["--policy", &xfam("03")]).answer(10)), ["xfam"]);
}

#[test]
fn verify_answers_no_with_collateral_of_another_platform() {
    let (quote, collateral) = (CURRENT.quote(), OUTDATED.collateral());
    let line = ["verify", &quote, "--collateral", &collateral, "--at", OUTDATED.at];
    let document = tool("tdx-attest", line).answer(10);
    assert_eq!(failed(&document), ["fmspc"]);
    assert_eq!(check(&document, "tcb")["result"], "not_checked");
}

#[test]
fn verify_refuses_files_that_are_no_quote_no_collateral_and_no_policy() {
    let directory = TempDir::new().unwrap();
    let (quote, collateral) = (CURRENT.quote(), CURRENT.collateral());
    let run = |quote: &str, collateral: &str, more: &[&str], status: i32| {
        let line = ["verify", quote, "--collateral", collateral, "--at", CURRENT.at];
        let error = tool("tdx-attest", [&line[..], more].concat()).error(status);
        error["message"].as_str().unwrap().to_owned()
    };
    let message = run(&file("sgx_quote"), &collateral, &[], 3);
    assert!(message.contains("SGX enclave"), "{message}");
    let empty = write(&directory, "empty", "");
    let text = write(&directory, "text", "no quote, no JSON, no policy: ".repeat(100));
    let short = write(&directory, "short", &CURRENT.bytes()[..3000]);
    for other in [&empty, &text, &short, &collateral] {
        run(other, &collateral, &[], 3);
    }
    for other in [&empty, &text, &quote, &write(&directory, "object", "{}")] {
        let message = run(&quote, other, &[], 3);
        assert!(message.ends_with("is not collateral in JSON"), "{message}");
    }
    let policy = write(&directory, "p.yaml", "accept_status: [UpToDate]\nmin_date: 2024-11-13\n");
    run(&quote, &collateral, &["--policy", &policy], 3);
    run(&quote, &collateral, &["--policy", &text], 3);
    run(&quote, &collateral, &["--expect", &text], 3);
    run("absent", &collateral, &[], 4);
    run(&quote, "absent", &[], 4);
    run(&quote, &collateral, &["--at", "soon"], 2);
    run("-", &collateral, &["--expect", "-"], 2);
    run(&quote, &collateral, &["--event-log", &text], 3);
    run(&quote, &collateral, &["--event-log", "-", "--expect", "-"], 2);
}

/// Whether a quote is refused, by its form or by a check.
fn is_refused(quote: &[u8], collateral: &Collateral, at: Time) -> bool {
    let verification = Verifier::intel().verify(quote, Some(collateral), at);
    TdReport::parse(quote, "quote").is_err()
        || verification.is_ok_and(|verification| !matches!(verification.tcb, Some(Ok(_))))
}

#[test]
fn truncated_quotes_are_refused_at_every_length() {
    for sample in [CURRENT, OUTDATED, EXTENDED] {
        let bytes = sample.bytes();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for length in (0..=end).rev() {
            assert!(TdReport::parse(&bytes[..length], "quote").is_err(), "{length} bytes");
        }
        TdReport::parse(&bytes, "quote").unwrap();
    }
    let sgx = fs::read(file("sgx_quote")).unwrap();
    for length in 0..=sgx.len() {
        assert!(TdReport::parse(&sgx[..length], "quote").is_err());
    }
}

/// Flips each of the given bits of a quote alone, and expects that the quote is refused.
fn flip(sample: &Sample, bits: impl Iterator<Item = usize>) {
    let collateral = Collateral::read(Path::new(&sample.collateral())).unwrap();
    let at = sample.at.parse().unwrap();
    let mut quote = sample.bytes();
    assert!(!is_refused(&quote, &collateral, at));
    for bit in bits {
        quote[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&quote, &collateral, at), "bit {bit}");
        quote[bit / 8] ^= 1 << (bit % 8);
    }
}

/// The bits of a quote that a signature covers: header and body; then the attestation key, the report of the quoting
/// enclave and its data.
fn signed_bits(sample: &Sample) -> impl Iterator<Item = usize> {
    let bytes = sample.bytes();
    let body = if bytes[0] == 4 {
        48 + 584
    } else {
        54 + usize::from(u16::from_le_bytes([bytes[50], bytes[51]]))
    };
    let data = body + 4;
    let report = data + 128 + 6;
    let ranges = [0..body, data..data + 128, report..report + 384 + 64, report + 450..report + 482];
    ranges.into_iter().flat_map(|range| range.start * 8..range.end * 8)
}

#[test]
fn a_quote_with_any_signed_bit_flipped_is_refused() {
    // Every bit with TDX_BITS=full, which takes minutes; otherwise some.
    let step =
        if std::env::var_os("TDX_BITS").is_some_and(|bits| bits == "full") { 1 } else { 499 };
    for sample in [CURRENT, EXTENDED] {
        flip(&sample, signed_bits(&sample).step_by(step));
    }
}

#[test]
fn verify_answers_no_for_a_quote_whose_certificates_are_changed() {
    let directory = TempDir::new().unwrap();
    let mut bytes = CURRENT.bytes();
    let at = bytes.windows(10).position(|window| window == b"-----BEGIN").unwrap() + 100;
    bytes[at] ^= 1;
    let quote = write(&directory, "quote", &bytes);
    let line = ["verify", &quote, "--no-collateral", "--at", CURRENT.at];
    let document = tool("tdx-attest", line).answer(10);
    assert_eq!(failed(&document), ["chain"]);
    assert_eq!(check(&document, "chain")["code"], "QUOTE_SIGNATURE");
}

#[test]
fn the_signatures_and_chains_of_the_vectors_are_verified() {
    let Some(report) = vector("dstack-quote-report.json") else { return };
    let directory = TempDir::new().unwrap();
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let dstack = common::text::from_hex(report["quote"].as_str().unwrap()).unwrap();
    let dstack = write(&directory, "dstack", dstack);
    let vector = |name: &str| vector(name).unwrap().to_str().unwrap().to_owned();
    for (quote, status, expected) in [
        (dstack, 0, &[][..]),
        (vector("cos113-quote.bin"), 0, &[]),
        (vector("v5-quote.bin"), 0, &[]),
        // This trust domain was started without SEPT_VE_DISABLE.
        (vector("spr-quote.bin"), 10, &["attributes"]),
    ] {
        let line = ["verify", &quote, "--no-collateral", "--at", "2026-03-01T00:00:00Z"];
        let document = tool("tdx-attest", line).answer(status);
        assert_eq!(failed(&document), expected, "{quote}");
    }
}

#[test]
fn verify_reads_a_quote_from_standard_input() {
    let collateral = CURRENT.collateral();
    let line = ["verify", "-", "--collateral", &collateral, "--at", CURRENT.at];
    Run::of(tool_command("tdx-attest", line), &CURRENT.bytes()).answer(0);
}
