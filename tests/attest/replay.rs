//! `tdx-attest replay`: event logs alone, against quotes and against expected values.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::event_log::{self, Entry, hex, sha384};
use crate::support::tools::{self, Run};

pub(crate) mod vectors;

/// A directory with a log, a quote and expected values.
struct Files {
    directory: TempDir,
}

impl Files {
    /// The files of a trust domain that measured these events.
    fn new(entries: &[Entry]) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        files.write("ccel.bin", event_log::write(entries));
        let rtmrs = [1, 2, 3, 4].map(|register| event_log::replay(entries, register));
        files.write("quote.bin", event_log::quote(rtmrs.each_ref().map(Vec::as_slice)));
        files.write("expected.json", expected(entries).to_string());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Runs `tdx-attest replay` in the directory.
    fn replay(&self, line: &str) -> Run {
        self.replay_with_input(line, b"")
    }

    fn replay_with_input(&self, line: &str, stdin: &[u8]) -> Run {
        let arguments = ["replay"].into_iter().chain(line.split_whitespace());
        let mut command = tools::tool_command("tdx-attest", arguments);
        command.current_dir(self.directory.path());
        Run::of(command, stdin)
    }
}

/// The events of a small guest.
fn entries() -> Vec<Entry> {
    let entry = |register, event_type, data: &[u8], measured: &[u8]| Entry {
        register,
        event_type,
        digest: sha384(measured),
        data: data.to_vec(),
    };
    vec![
        entry(1, 0x8000_000b, b"\x09TdxTable\0", b"hand-off blocks"),
        entry(1, 0x8000_000a, b"\x03CFV", b"configuration"),
        entry(1, 4, &[0; 4], &[0; 4]),
        entry(2, 0x8000_0007, b"Calling EFI Application", b"Calling EFI Application"),
        entry(1, 0xa, b"ACPI DATA", b"tables"),
        entry(3, 0xd, b"/boot/grub/grub.cfg\0", b"set timeout=5"),
        entry(3, 0xd, b"grub_cmd: set timeout=5\0", b"set timeout=5"),
    ]
}

/// The document that predicts all events of RTMR0 to RTMR2.
fn expected(entries: &[Entry]) -> Value {
    let item = |(register, name): (u32, &str)| {
        let events = entries.iter().filter(|entry| entry.register == register).map(|entry| {
            let description = String::from_utf8_lossy(&entry.data);
            json!({"description": description, "digest": hex(&entry.digest)})
        });
        let events: Vec<Value> = events.collect();
        let value = hex(&event_log::replay(entries, register));
        json!({"register": name, "value": value, "certainty": "conditional", "events": events})
    };
    let items: Vec<Value> = [(1, "rtmr0"), (2, "rtmr1"), (3, "rtmr2")].map(item).to_vec();
    json!({"schema_version": "1.1", "kind": "tdx.attest.measurements", "items": items})
}

fn item(document: &Value, register: &str) -> Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["register"] == register).unwrap().clone()
}

/// The results of all registers of a document.
fn results(document: &Value) -> Vec<&str> {
    let items = document["items"].as_array().unwrap().iter();
    items.map(|item| item["result"].as_str().unwrap()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_log_alone_shows_its_registers_and_events() {
    let files = Files::new(&entries());
    let document = files.replay("ccel.bin").document();
    assert_eq!(results(&document), ["not_compared"; 4]);
    let rtmr0 = item(&document, "rtmr0");
    assert_eq!(rtmr0["value"], hex(&event_log::replay(&entries(), 1)));
    assert_eq!((&rtmr0["quote_value"], &rtmr0["first_difference"]), (&Value::Null, &Value::Null));
    assert_eq!(rtmr0["events"].as_array().unwrap().len(), 4);
    let event = json!({
        "index": 4, "type": "EV_PLATFORM_CONFIG_FLAGS", "digest": hex(&sha384(b"tables")),
        "text": "ACPI DATA", "text_status": "claimed",
    });
    assert_eq!(rtmr0["events"][3], event);
    let rtmr2 = item(&document, "rtmr2");
    assert_eq!(rtmr2["events"][1]["text_status"], "checked");
    assert_eq!(item(&document, "rtmr3")["value"], "0".repeat(96));
}

#[test]
fn a_log_is_read_from_standard_input() {
    let files = Files::new(&entries());
    let log = read(&files.path("ccel.bin"));
    let document = files.replay_with_input("- --quote quote.bin", &log).document();
    assert_eq!(results(&document), ["match"; 4]);
    let error = files.replay_with_input("- --expect -", &log).error(2);
    assert_eq!(error["message"], "only one argument can be -: standard input is read once");
    assert!(
        files.replay_with_input("-", b"").error(3)["message"]
            .as_str()
            .unwrap()
            .starts_with("standard input is")
    );
}

#[test]
fn a_log_matches_its_quote_and_its_expected_values() {
    let files = Files::new(&entries());
    let document = files.replay("ccel.bin --quote quote.bin --expect expected.json").document();
    assert_eq!(results(&document), ["match"; 4]);
    let rtmr0 = item(&document, "rtmr0");
    assert_eq!(
        (&rtmr0["value"], &rtmr0["value"]),
        (&rtmr0["quote_value"], &rtmr0["expected_value"])
    );
    assert_eq!(rtmr0["codes"], json!([]));
}

#[test]
fn an_edited_event_is_named_by_the_expected_events() {
    for (edit, index, change) in [
        ("change", Some(1), "changed"),
        ("drop", Some(1), "missing"),
        ("drop last", None, "missing"),
        ("add", Some(1), "added"),
        ("swap", Some(0), "moved"),
    ] {
        let files = Files::new(&entries());
        let mut edited = entries();
        match edit {
            "change" => edited[1].digest = sha384(b"another"),
            "drop" => drop(edited.remove(1)),
            "drop last" => drop(edited.remove(4)),
            "add" => edited.insert(1, Entry { digest: sha384(b"another"), ..edited[4].clone() }),
            _ => edited.swap(0, 1),
        }
        files.write("ccel.bin", event_log::write(&edited));
        for line in
            ["ccel.bin --expect expected.json", "ccel.bin --quote quote.bin --expect expected.json"]
        {
            let rtmr0 = item(&files.replay(line).answer(10), "rtmr0");
            assert_eq!(rtmr0["result"], "differs", "{edit}");
            let found = &rtmr0["first_difference"];
            assert_eq!(
                (&found["index"], &found["change"]),
                (&json!(index), &json!(change)),
                "{edit} {found}"
            );
            assert!(rtmr0["codes"].as_array().unwrap().contains(&json!("EVENT_DIFFERS")));
        }
    }
}

#[test]
fn a_quote_alone_names_an_event_or_says_that_it_cannot() {
    let files = Files::new(&entries());
    let mut edited = entries();
    edited.insert(1, Entry { digest: sha384(b"another"), ..edited[4].clone() });
    files.write("ccel.bin", event_log::write(&edited));
    let found = item(&files.replay("ccel.bin --quote quote.bin").answer(10), "rtmr0");
    assert_eq!(found["codes"], json!(["EVENT_DIFFERS"]));
    let description = "the log gives the value in the quote only without event 1 (ACPI DATA)";
    assert_eq!(found["first_difference"]["description"], description);

    let mut edited = entries();
    edited.remove(1);
    files.write("ccel.bin", event_log::write(&edited));
    let document = files.replay("ccel.bin --quote quote.bin").answer(10);
    let rtmr0 = item(&document, "rtmr0");
    assert_eq!(rtmr0["codes"], json!(["LOG_INCOMPLETE"]));
    let found = &rtmr0["first_difference"];
    assert_eq!((&found["index"], &found["change"]), (&Value::Null, &json!("register")));
    assert_eq!((&found["expected"], &found["found"]), (&rtmr0["quote_value"], &rtmr0["value"]));
    assert!(found["description"].as_str().unwrap().ends_with("which event differs is unknown"));
    assert_eq!(results(&document), ["differs", "match", "match", "match"]);
}

#[test]
fn rtmr3_may_be_extended_without_a_log_entry() {
    let files = Files::new(&entries());
    let rtmrs = [1, 2, 3].map(|register| event_log::replay(&entries(), register));
    let [r0, r1, r2] = rtmrs.each_ref().map(Vec::as_slice);
    files.write("quote.bin", event_log::quote([r0, r1, r2, &sha384(b"a program")]));
    let document = files.replay("ccel.bin --quote quote.bin").document();
    let rtmr3 = item(&document, "rtmr3");
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with("RTMR3 computed from ccel.bin differs from the quote"),
        "{document}"
    );
    assert_eq!(
        (&rtmr3["result"], &rtmr3["codes"]),
        (&json!("unlogged"), &json!(["RTMR3_UNLOGGED"]))
    );
    let run = files.replay("ccel.bin --quote quote.bin --require-rtmr3");
    assert_eq!(item(&run.answer(10), "rtmr3")["codes"], json!(["LOG_INCOMPLETE"]));
    files.replay("ccel.bin --require-rtmr3").error(2);
}

#[test]
fn a_register_that_is_not_predicted_is_no_match() {
    let files = Files::new(&entries());
    let mut prediction = expected(&entries());
    for item in prediction["items"].as_array_mut().unwrap() {
        item["value"] = Value::Null;
        item["events"].as_array_mut().unwrap().truncate(1);
    }
    files.write("expected.json", prediction.to_string());
    let document = files.replay("ccel.bin --quote quote.bin --expect expected.json").document();
    assert_eq!(results(&document), ["not_predicted", "not_predicted", "not_predicted", "match"]);
    prediction["items"][0]["events"][0]["digest"] = hex(&sha384(b"another memory")).into();
    files.write("expected.json", prediction.to_string());
    let document = files.replay("ccel.bin --expect expected.json").answer(10);
    let found = &item(&document, "rtmr0")["first_difference"];
    assert_eq!((&found["index"], &found["change"]), (&json!(0), &json!("changed")), "{found}");
}

#[test]
fn mrtd_in_the_other_page_order_differs_with_a_code_of_its_own() {
    let files = Files::new(&entries());
    // The quote has an MRTD of zeros.
    let (found, other) = ("00".repeat(48), "11".repeat(48));
    let orders = json!({"page": other, "section": found});
    let item_of =
        |value: &str| json!({"register": "mrtd", "value": value, "value_by_page_order": orders});
    for (value, status, result, codes) in
        [(&other, 10, "differs", json!(["MRTD_PAGE_ORDER"])), (&found, 0, "match", json!([]))]
    {
        files.write("expected.json", item_of(value).to_string());
        let run = files.replay("ccel.bin --quote quote.bin --expect expected.json");
        let mrtd = item(&run.answer(status), "mrtd");
        assert_eq!((&mrtd["result"], &mrtd["codes"]), (&json!(result), &codes));
    }
}

#[test]
fn an_expectation_that_cannot_be_compared_is_exit_3() {
    let files = Files::new(&entries());
    let digits = "00".repeat(48);
    for (content, more) in [
        ("[]".to_owned(), "--quote quote.bin"),
        (r#"[{"register":"rtmr0","value":null,"events":[]}]"#.to_owned(), "--quote quote.bin"),
        (format!(r#"[{{"register":"mrtd","value":"{digits}"}}]"#), ""),
    ] {
        files.write("expected.json", &content);
        let error = files.replay(&format!("ccel.bin {more} --expect expected.json")).error(3);
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with("contains nothing to compare the event log with"), "{message}");
    }
}

#[test]
fn the_table_shows_registers_and_the_first_difference() {
    let files = Files::new(&entries());
    let mut edited = entries();
    edited.swap(0, 1);
    files.write("ccel.bin", event_log::write(&edited));
    let run = files.replay("ccel.bin --expect expected.json --format table");
    assert_eq!(run.status, Some(10), "{run:#?}");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("REGISTER  RESULT"), "{run:#?}");
    assert!(lines[1].starts_with("rtmr0     differs"), "{run:#?}");
    assert_eq!(lines[2], "  difference: event 0 (CFV) is expected in another place");
    assert_eq!(lines.len(), 6);
    let names = files.replay("ccel.bin --format name");
    assert_eq!(names.text(), "rtmr0\nrtmr1\nrtmr2\nrtmr3\n");
}

#[test]
fn files_that_are_no_logs_quotes_or_predictions_are_exit_3() {
    let files = Files::new(&entries());
    let log = read(&files.path("ccel.bin"));
    files.write("cut.bin", &log[..200]);
    let error = files.replay("cut.bin").error(3);
    assert_eq!(error["code"], "LOG_INCOMPLETE");
    assert_eq!(error["message"], "cut.bin ends within event 1, which begins at byte 141");
    files.write("table.bin", "CCEL8\0\0\0");
    let error = files.replay("table.bin").error(3);
    assert_eq!(error["hint"], "copy /sys/firmware/acpi/tables/data/CCEL from the guest");
    files.write("huge.bin", vec![0xff; (16 << 20) + 1]);
    assert_eq!(files.replay("huge.bin").error(3)["message"], "huge.bin is larger than 16 MiB");
    let quote = read(&files.path("quote.bin"));
    for (name, content) in [("empty", &[][..]), ("half", &quote[..300]), ("log", &log)] {
        files.write(name, content);
        let error = files.replay(&format!("ccel.bin --quote {name}")).error(3);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("{name} is not the quote of a trust domain: ")),
            "{error}"
        );
    }
    for (content, says) in [
        (json!([{"register": "rtmr0", "value": "00"}]), "is not 96 hexadecimal digits"),
        (
            json!([{"register": "rtmr0", "value": null, "events": [{"description": "x", "digest": "0"}]}]),
            "the expected digest of event \"x\" of rtmr0 is not 96 hexadecimal digits",
        ),
        (json!({"kind": "tdx.attest.replay", "items": []}), "is a document of kind"),
    ] {
        files.write("wrong.json", content.to_string());
        let error = files.replay("ccel.bin --expect wrong.json").error(3);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    files.replay("absent.bin").error(4);
    files.replay("ccel.bin --quote absent.bin").error(4);
}
