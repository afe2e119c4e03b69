//! `tdx-attest collateral`, against a server of HTTPS and a proxy that these tests start.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod server;

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::collateral::server::{Answers, Server, proxy};
use crate::support::quote_samples::{CURRENT, file};
use crate::support::tools::{Run, tool, tool_command};

/// The host that has the root authority's revocation list if a service has none.
const INTEL: &str = "certificates.trustedservices.intel.com";

/// The answers of a service about the sample.
fn answers() -> Answers {
    let collateral: Value =
        serde_json::from_slice(&fs::read(CURRENT.collateral()).unwrap()).unwrap();
    let text = |key: &str| collateral[key].as_str().unwrap().to_owned();
    let encode = |pem: String| {
        percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let statement = |key: &str, name: &str| {
        let signature = text(&format!("{key}_signature"));
        format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(key)).into_bytes()
    };
    let mut answers = Answers::default();
    answers.add(
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        ("SGX-PCK-CRL-Issuer-Chain", encode(text("pck_crl_issuer_chain"))),
        common::text::from_hex(&text("pck_crl")).unwrap(),
    );
    answers.add(
        "/tdx/certification/v4/tcb?fmspc=B0C06F000000",
        ("TCB-Info-Issuer-Chain", encode(text("tcb_info_issuer_chain"))),
        statement("tcb_info", "tcbInfo"),
    );
    answers.add(
        "/tdx/certification/v4/qe/identity",
        ("SGX-Enclave-Identity-Issuer-Chain", encode(text("qe_identity_issuer_chain"))),
        statement("qe_identity", "enclaveIdentity"),
    );
    answers.add(
        "/sgx/certification/v4/rootcacrl",
        ("Content-Type", "application/x-pem-file".to_owned()),
        text("root_ca_crl").into_bytes(),
    );
    answers
}

/// The command that fetches the sample's collateral from a server, and trusts the server's authority.
fn command(server: &Server, directory: &TempDir) -> Command {
    let authority = directory.path().join("authority.pem");
    fs::write(&authority, &server.authority).unwrap();
    let (quote, url) = (CURRENT.quote(), format!("https://localhost:{}", server.port));
    let mut command = tool_command("tdx-attest", ["collateral", &quote, "--pccs", &url]);
    command.env("SSL_CERT_FILE", authority);
    command
}

fn fetch(answers: Answers) -> Run {
    let directory = TempDir::new().unwrap();
    let server = Server::start(&["localhost"], answers);
    Run::of(command(&server, &directory), b"")
}

/// Expects that `verify` accepts the sample with what a run of `collateral` printed.
#[track_caller]
fn expect_usable(run: &Run) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("collateral.json");
    fs::write(&path, run.text()).unwrap();
    let (quote, path) = (CURRENT.quote(), path.to_str().unwrap().to_owned());
    tool("tdx-attest", ["verify", &quote, "--collateral", &path, "--at", CURRENT.at]).answer(0);
}

#[test]
fn collateral_prints_what_verify_reads() {
    let run = fetch(answers());
    expect_usable(&run);
    assert_eq!(run.stderr, "");
    let printed: Value = serde_json::from_str(&run.stdout).unwrap();
    let sample: Value = serde_json::from_slice(&fs::read(CURRENT.collateral()).unwrap()).unwrap();
    for (key, value) in sample.as_object().unwrap() {
        assert_eq!(printed[key], *value, "{key}");
    }
    // Collateral serves all platforms of its kind.
    assert_eq!(printed["pck_certificate_chain"], Value::Null);
}

#[test]
fn collateral_keeps_the_signed_text_byte_for_byte() {
    let mut answers = answers();
    let spaced = br#"{ "tcbInfo" : {"b": 1,  "a":2 } , "signature":"00" }"#.to_vec();
    answers.replace("tcb?", |body| *body = spaced);
    // The text is no TCB info, but the message shows that the text itself was read.
    let error = fetch(answers).error(1);
    assert!(error["causes"][0].as_str().unwrap().contains("TCB info in the collateral"), "{error}");
}

#[test]
fn collateral_uses_the_proxy_of_the_environment_and_another_server_for_the_list_of_the_root() {
    let directory = TempDir::new().unwrap();
    let mut answers = answers();
    let list = answers.remove("/sgx/certification/v4/rootcacrl");
    let list = common::text::from_hex(str::from_utf8(&list).unwrap()).unwrap();
    answers.add("/IntelSGXRootCA.der", ("Content-Type", "application/pkix-crl".to_owned()), list);
    let server = Server::start(&["localhost", INTEL], answers);
    let (port, seen) = proxy(server.port);
    let mut command = command(&server, &directory);
    command.env("HTTPS_PROXY", format!("http://localhost:{port}"));
    expect_usable(&Run::of(command, b""));
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|host| host == &format!("localhost:{}", server.port)), "{seen:?}");
    assert!(seen.iter().any(|host| host == &format!("{INTEL}:443")), "{seen:?}");
}

#[test]
fn collateral_trusts_no_other_authority() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(&["localhost"], answers());
    let other = Server::start(&["localhost"], answers());
    let mut command = command(&server, &directory);
    let authority = directory.path().join("other.pem");
    fs::write(&authority, &other.authority).unwrap();
    command.env("SSL_CERT_FILE", authority);
    let error = Run::of(command, b"").error(1);
    assert!(
        error["message"].as_str().unwrap().starts_with("cannot fetch https://localhost:"),
        "{error}"
    );
    assert!(error["hint"].as_str().unwrap().contains("SSL_CERT_FILE"), "{error}");
}

#[test]
fn collateral_does_not_accept_the_certificate_of_another_host() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(&["other.example"], answers());
    Run::of(command(&server, &directory), b"").error(1);
}

#[test]
fn collateral_refuses_answers_that_are_not_as_expected() {
    let change = |path: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut answers = answers();
        answers.replace(path, change);
        let error = fetch(answers).error(1);
        error["message"].as_str().unwrap().to_owned()
    };
    for path in ["tcb?", "identity"] {
        for text in ["", "not JSON", "{}", r#"{"tcbInfo":{},"signature":"xy"}"#] {
            let message = change(path, &|body| *body = text.into());
            assert!(message.contains("something else than a signed statement"), "{message}");
        }
    }
    change("pckcrl", &|body| body.truncate(20));
    change("rootcacrl", &|body| *body = b"<html>".to_vec());
    let message = change("tcb?", &|body| body.resize(5 << 20, b' '));
    assert!(message.starts_with("cannot fetch https://localhost:"), "{message}");
}

#[test]
fn collateral_reports_the_status_of_an_answer_and_an_absent_header() {
    let mut without = answers();
    without.remove("/tdx/certification/v4/tcb?fmspc=B0C06F000000");
    let error = fetch(without).error(1);
    assert!(
        error["message"].as_str().unwrap().ends_with("answered with status 404 Not Found"),
        "{error}"
    );
    let mut without = answers();
    let body = without.remove("/tdx/certification/v4/qe/identity");
    without.add("/tdx/certification/v4/qe/identity", ("X", String::new()), body);
    let error = fetch(without).error(1);
    assert!(
        error["message"].as_str().unwrap().contains("without the header SGX-Enclave"),
        "{error}"
    );
}

#[test]
fn collateral_refuses_other_arguments() {
    let quote = CURRENT.quote();
    for url in ["http://localhost", "localhost", "https://a?b"] {
        tool("tdx-attest", ["collateral", &quote, "--pccs", url]).error(2);
    }
    tool("tdx-attest", ["collateral", &quote]).error(2);
    let sgx = file("sgx_quote");
    tool("tdx-attest", ["collateral", &sgx, "--pccs", "https://localhost:1"]).error(3);
    tool("tdx-attest", ["collateral", "absent", "--pccs", "https://localhost:1"]).error(4);
}
