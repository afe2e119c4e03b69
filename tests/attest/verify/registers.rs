//! `tdx-attest verify`, compared with expected values of registers.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{check, failed, verify, write};
use crate::support::mrtd::expected_mrtd;
use crate::support::quote_samples::{CURRENT, MRTD};
use crate::support::tdvf::Parts;
use crate::support::tools::{tool, tool_with_input};

#[test]
fn verify_compares_registers_with_expected_values() {
    let bytes = CURRENT.bytes();
    let registers = verify(&CURRENT, &[]).answer(0);
    let found = |name: &str| check(&registers, name)["found"][0].as_str().unwrap().to_owned();
    assert_eq!(found("mrtd"), common::text::hex(&bytes[48 + 136..][..48]));
    let (mrtd, attributes) = (found("mrtd"), found("attributes"));
    let expect = |items: Value, status: i32| {
        let (quote, collateral) = (CURRENT.quote(), CURRENT.collateral());
        let line =
            ["verify", &quote, "--collateral", &collateral, "--at", CURRENT.at, "--expect", "-"];
        tool_with_input("tdx-attest", line, &items.to_string()).answer(status)
    };
    let item = |register: &str, value: Value| json!({"register": register, "value": value});
    let document = expect(
        json!({
            "schema_version": "1.1", "kind": "tdx.attest.measurements",
            "items": [
                item("mrtd", json!(mrtd)), item("rtmr0", Value::Null), item("attributes", json!(attributes)),
            ],
        }),
        0,
    );
    assert_eq!(check(&document, "mrtd")["result"], "passed");
    assert_eq!(check(&document, "mrtd")["expected"], json!([mrtd]));
    assert_eq!(check(&document, "rtmr0")["message"], "the value was not predicted");
    let document = expect(json!([item("mrtd", json!("00".repeat(48)))]), 10);
    assert_eq!(failed(&document), ["mrtd"]);
    let document = expect(json!([item("attributes", json!("0100001000000000"))]), 10);
    assert_eq!(failed(&document), ["attributes"]);
}

#[test]
fn verify_answers_no_and_names_the_page_order_for_mrtd_in_the_other_one() {
    let directory = TempDir::new().unwrap();
    let found = check(&verify(&CURRENT, &[]).answer(0), "mrtd")["found"][0].clone();
    let other = "00".repeat(48);
    let expect = |page: &Value, section: &Value| {
        let orders = json!({"page": page, "section": section});
        let item = json!({"register": "mrtd", "value": page, "value_by_page_order": orders});
        write(&directory, "expected.json", item.to_string())
    };
    let (other, third) = (json!(other), json!("ff".repeat(48)));
    let code = |more: &[&str], status: i32| {
        let document = verify(&CURRENT, more).answer(status);
        let expected = if status == 0 { &[][..] } else { &["mrtd"] };
        assert_eq!(failed(&document), expected);
        check(&document, "mrtd")["code"].clone()
    };
    let expected = expect(&other, &found);
    assert_eq!(code(&["--expect", &expected], 10), "MRTD_PAGE_ORDER");
    // The page order does not explain why MRTD differs from the policy's value.
    let demand = |value: &Value| {
        write(
            &directory,
            "policy.yaml",
            format!("registers: {{mrtd: {}}}", value.as_str().unwrap()),
        )
    };
    assert_eq!(code(&["--expect", &expected, "--policy", &demand(&third)], 10), Value::Null);
    let policy = demand(&found);
    assert_eq!(code(&["--expect", &expected, "--policy", &policy], 10), "MRTD_PAGE_ORDER");
    assert_eq!(code(&["--expect", &expect(&other, &third)], 10), Value::Null);
    assert_eq!(code(&["--expect", &expect(&found, &other)], 0), Value::Null);
}

/// The whole way from a definition to the answer, with a quote whose MRTD is that of the firmware in section order.
#[test]
fn a_prediction_with_the_page_order_that_verify_names_has_the_mrtd_of_the_quote() {
    let directory = TempDir::new().unwrap();
    let image = Parts::new().build();
    let firmware = write(&directory, "f.fd", &image);
    let xml = write(
        &directory,
        "td.xml",
        "<domain><name>td1</name><memory unit='GiB'>1</memory><os><type machine='q35'>hvm</type></os>\
         <launchSecurity type='tdx'><policy>0x10000000</policy></launchSecurity></domain>",
    );
    let mrtd = common::text::from_hex(&expected_mrtd(&image, true)).unwrap();
    let quote = write(&directory, "quote.bin", CURRENT.with(&[(MRTD, &mrtd)]));
    let verify = |order: &str| {
        let line = ["measure", "--xml", &xml, "--firmware", &firmware, "--page-order", order];
        let prediction = tool("tdx-attest", line).document().to_string();
        let line = ["verify", &quote, "--no-collateral", "--at", CURRENT.at, "--expect", "-"];
        // The signature of the quote is wrong, so the answer is no in either case.
        check(&tool_with_input("tdx-attest", line, &prediction).answer(10), "mrtd").clone()
    };
    let mismatch = verify("page");
    assert_eq!(
        (&mismatch["result"], &mismatch["code"]),
        (&json!("failed"), &json!("MRTD_PAGE_ORDER"))
    );
    assert_eq!(
        mismatch["message"],
        "MRTD differs because the host measured the expected firmware in the other page order: run tdx-attest measure \
         with --page-order section"
    );
    assert_eq!(verify("section")["result"], "passed");
}

#[test]
fn verify_answers_no_if_a_required_register_was_not_predicted() {
    let directory = TempDir::new().unwrap();
    let mrtd = check(&verify(&CURRENT, &[]).answer(0), "mrtd")["found"][0].clone();
    let items = json!([{"register": "mrtd", "value": mrtd}, {"register": "rtmr1", "value": null}]);
    let expect = write(&directory, "expected.json", items.to_string());
    let policy = write(&directory, "p.yaml", "required_registers: [mrtd, rtmr1, rtmr2]");
    let document = verify(&CURRENT, &["--expect", &expect, "--policy", &policy]).answer(10);
    assert_eq!(failed(&document), ["rtmr1", "rtmr2"]);
    let message = &check(&document, "rtmr1")["message"];
    assert_eq!(message, "the policy requires rtmr1, but the value was not predicted");
    let none = write(&directory, "none.json", r#"[{"register": "mrtd", "value": null}]"#);
    let error = verify(&CURRENT, &["--expect", &none]).error(3);
    assert!(error["message"].as_str().unwrap().contains("no value of a register"), "{error}");
    let policy = write(&directory, "p.yaml", format!("registers: {{mrtd: {}}}", "ab".repeat(48)));
    assert_eq!(failed(&verify(&CURRENT, &["--policy", &policy]).answer(10)), ["mrtd"]);
}
