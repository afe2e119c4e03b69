use proptest::prelude::*;

use super::*;
use crate::event_log::replay::sha384;
use crate::event_log::sample;
use crate::prediction::ExpectedRegister;
use crate::tdvf::PageOrder;

/// The bytes of a quote of version 4 with these values of registers; other registers are 0.
fn quote(registers: &[(Register, Digest)]) -> Vec<u8> {
    let mut body = [0; 584];
    for (register, Digest(value)) in registers {
        let offset = match register {
            Register::Mrtd => 136,
            Register::Rtmr0 => 328,
            Register::Rtmr2 => 424,
            Register::Rtmr3 => 472,
            other => panic!("{other} is not in the quotes of these tests"),
        };
        body[offset..][..48].copy_from_slice(value);
    }
    crate::quote::sample::quote(4, &body)
}

/// The quote of a trust domain that measured these events.
fn quote_of(events: &[LoggedEvent<'_>]) -> Vec<u8> {
    quote(&[Register::Rtmr0, Register::Rtmr2].map(|register| (register, value(events, register))))
}

fn value(events: &[LoggedEvent<'_>], register: Register) -> Digest {
    let events = events.iter().filter(|event| event.register == register);
    replay(Digest::ZERO, events.map(|event| event.digest))
}

/// The prediction of RTMR0 and RTMR2: their events and, if they `have_values`, their values.
fn predicted(events: &[LoggedEvent<'_>], have_values: bool) -> Prediction {
    let expected = |register| {
        let value = have_values.then(|| value(events, register).0.to_vec());
        let events = events.iter().filter(|event| event.register == register);
        let events = events.map(sample::expected).collect();
        (register, ExpectedRegister { value, events, ..ExpectedRegister::default() })
    };
    Prediction([Register::Rtmr0, Register::Rtmr2].map(expected).into())
}

/// The prediction of one register: its value alone.
fn predicted_value(register: Register, Digest(value): Digest) -> Prediction {
    let expected = ExpectedRegister { value: Some(value.to_vec()), ..ExpectedRegister::default() };
    Prediction([(register, expected)].into())
}

fn log(events: Vec<LoggedEvent<'_>>) -> EventLog<'_> {
    EventLog { events, has_trailing_bytes: false }
}

/// Compares events with a quote, with expected values, or both.
fn compared(
    events: &[LoggedEvent<'static>],
    quote: Option<&[u8]>,
    prediction: Option<&Prediction>,
) -> Vec<Comparison<'static>> {
    let quote = quote.map(|bytes| TdReport::parse(bytes, "quote").unwrap());
    let reference = Reference { quote, prediction, requires_rtmr3: false };
    compare(&log(events.to_vec()), &reference)
}

fn of(comparisons: Vec<Comparison<'static>>, register: Register) -> Comparison<'static> {
    comparisons.into_iter().find(|comparison| comparison.register == register).unwrap()
}

fn results(comparisons: &[Comparison<'_>]) -> Vec<ComparisonResult> {
    comparisons.iter().map(|comparison| comparison.result).collect()
}

#[test]
fn a_log_alone_is_not_compared() {
    let comparisons = compared(&sample::all(), None, None);
    assert_eq!(results(&comparisons), [ComparisonResult::NotCompared; 4]);
    let values: Vec<_> = comparisons.iter().map(|c| c.value.unwrap()).collect();
    let all = sample::all();
    let wanted = [value(&all, Register::Rtmr0), Digest::ZERO, value(&all, Register::Rtmr2)];
    assert_eq!(values, [&wanted[..], &[Digest::ZERO]].concat());
}

#[test]
fn a_log_matches_its_quote_and_its_prediction() {
    let events = sample::all();
    let quote = quote_of(&events);
    assert_eq!(results(&compared(&events, Some(&quote), None)), [ComparisonResult::Match; 4]);
    let expected = predicted(&events, true);
    let comparisons = compared(&events, Some(&quote), Some(&expected));
    assert_eq!(results(&comparisons), [ComparisonResult::Match; 4]);
    let [r0, r1, r2, r3] = [
        ComparisonResult::Match,
        ComparisonResult::NotCompared,
        ComparisonResult::Match,
        ComparisonResult::NotCompared,
    ];
    assert_eq!(results(&compared(&events, None, Some(&expected))), [r0, r1, r2, r3]);
    let unknown = predicted(&events[..3], false);
    let result = of(compared(&events, Some(&quote), Some(&unknown)), Register::Rtmr0).result;
    assert_eq!(result, ComparisonResult::NotPredicted);
}

/// Logs that differ from the events in one event of RTMR0: how, the place of the change, and the log.
fn edited_logs() -> Vec<(Change, usize, Vec<LoggedEvent<'static>>)> {
    let events = sample::all();
    let mut logs = Vec::new();
    for at in 0..sample::events().len() {
        let mut changed = events.clone();
        changed[at].digest = sha384("changed");
        logs.push((Change::Changed, at, changed));
        let mut dropped = events.clone();
        dropped.remove(at);
        logs.push((Change::Missing, at, dropped));
        let mut added = events.clone();
        added.insert(at, LoggedEvent { digest: sha384("added"), data: b"added", ..added[4] });
        logs.push((Change::Added, at, added));
        if at + 1 < sample::events().len() {
            let mut exchanged = events.clone();
            exchanged.swap(at, at + 1);
            logs.push((Change::Moved, at, exchanged));
        }
    }
    // The indexes are those of the log as it is read.
    for (_, _, events) in &mut logs {
        (0..).zip(events).for_each(|(index, event)| event.index = index);
    }
    logs
}

#[test]
fn one_edited_event_is_named_by_its_expected_events() {
    let events = sample::all();
    for (change, at, log) in edited_logs() {
        for expected in [predicted(&events, true), predicted(&events, false)] {
            let is_complete = expected.value(Register::Rtmr0).is_some();
            if change == Change::Added && !is_complete {
                continue;
            }
            let comparison = of(compared(&log, None, Some(&expected)), Register::Rtmr0);
            assert_eq!(comparison.result, ComparisonResult::Differs);
            assert_eq!(comparison.codes, [Code::EventDiffers]);
            let found = comparison.first_difference.unwrap();
            let is_at_end = change == Change::Missing && at + 1 == sample::events().len();
            assert_eq!(found.index, (!is_at_end).then_some(at), "{found:?}");
            let contradicts = found.change == Change::Contradicted && change == Change::Changed;
            assert!(found.change == change || contradicts, "{found:?}");
        }
    }
}

#[test]
fn one_edited_event_is_named_by_a_quote_alone_only_if_that_is_certain() {
    let quote = quote_of(&sample::all());
    for (change, at, log) in edited_logs() {
        let comparison = of(compared(&log, Some(&quote), None), Register::Rtmr0);
        assert_eq!(comparison.result, ComparisonResult::Differs, "{change:?} {at}");
        let found = comparison.first_difference.unwrap();
        let is_certain = match change {
            Change::Added | Change::Moved => true,
            Change::Changed => TextStatus::of(&log[at]) == TextStatus::Contradicted,
            _ => false,
        };
        let named = is_certain.then_some(at);
        assert_eq!(found.index, named, "{change:?} {found:?}");
        match is_certain {
            true => assert_eq!(comparison.codes, [Code::EventDiffers]),
            false => {
                assert_eq!(
                    (found.change, &*comparison.codes),
                    (Change::Register, &[Code::LogIncomplete][..])
                );
                assert!(found.description.ends_with("which event differs is unknown"), "{found:?}");
            }
        }
    }
}

#[test]
fn a_log_that_continues_after_the_quote_says_where() {
    let events = sample::all();
    let quote = quote_of(&events[..4]);
    let found =
        of(compared(&events, Some(&quote), None), Register::Rtmr0).first_difference.unwrap();
    assert_eq!((found.index, found.change), (Some(4), Change::Added));
    assert_eq!(
        found.description,
        "the log gives the value in the quote only without event 4 (ACPI DATA) and the later events"
    );
}

#[test]
fn rtmr3_without_log_entries_differs_only_on_request() {
    let events = sample::all();
    let measured = sha384("by a program");
    let registers = [Register::Rtmr0, Register::Rtmr2].map(|r| (r, value(&events, r)));
    let quote = quote(&[&registers[..], &[(Register::Rtmr3, measured)]].concat());
    let comparison = of(compared(&events, Some(&quote), None), Register::Rtmr3);
    assert_eq!(comparison.result, ComparisonResult::Unlogged);
    assert_eq!(comparison.codes, [Code::Rtmr3Unlogged]);
    assert_eq!(comparison.first_difference, None);
    let report = Some(TdReport::parse(&quote, "quote").unwrap());
    let reference = Reference { quote: report, prediction: None, requires_rtmr3: true };
    let comparison = compare(&log(events.clone()), &reference).pop().unwrap();
    assert_eq!(
        (comparison.register, comparison.result),
        (Register::Rtmr3, ComparisonResult::Differs)
    );
    assert_eq!(comparison.codes, [Code::LogIncomplete]);
    // An expected value is compared with the quote.
    for (wanted, result) in
        [(measured, ComparisonResult::Unlogged), (sha384("another"), ComparisonResult::Differs)]
    {
        let expected = predicted_value(Register::Rtmr3, wanted);
        let comparison = of(compared(&events, Some(&quote), Some(&expected)), Register::Rtmr3);
        assert_eq!(comparison.result, result);
    }
    // An expected event in a log that does not give the registers of the quote proves nothing.
    let event = ExpectedEvent {
        description: "application".to_owned(),
        variable: None,
        digest: Some(measured),
    };
    let expected = ExpectedRegister { events: vec![event], ..ExpectedRegister::default() };
    let expected = Prediction([(Register::Rtmr3, expected)].into());
    let comparison = of(compared(&events, Some(&quote), Some(&expected)), Register::Rtmr3);
    assert_eq!(comparison.result, ComparisonResult::Differs);
}

#[test]
fn other_registers_are_compared_with_the_quote_if_they_are_expected() {
    let events = sample::all();
    let mrtd = sha384("firmware");
    let quote = quote(&[(Register::Mrtd, mrtd)]);
    for (wanted, result) in
        [(mrtd, ComparisonResult::Match), (sha384("another"), ComparisonResult::Differs)]
    {
        let expected = predicted_value(Register::Mrtd, wanted);
        let comparison = of(compared(&events, Some(&quote), Some(&expected)), Register::Mrtd);
        assert_eq!((comparison.result, comparison.value), (result, None));
        let comparison = of(compared(&events, None, Some(&expected)), Register::Mrtd);
        assert_eq!(comparison.result, ComparisonResult::NotCompared);
    }
}

#[test]
fn mrtd_in_the_other_page_order_differs_with_a_code_of_its_own() {
    let [page, section] = ["by page", "by section"].map(sha384);
    let mut prediction = predicted_value(Register::Mrtd, page);
    let orders = [(PageOrder::Page, page), (PageOrder::Section, section)];
    prediction.0.get_mut(&Register::Mrtd).unwrap().by_page_order =
        orders.map(|(order, Digest(value))| (order, value.to_vec())).into();
    for (mrtd, code) in
        [(section, Code::MrtdPageOrder), (sha384("another firmware"), Code::EventDiffers)]
    {
        let quote = quote(&[(Register::Mrtd, mrtd)]);
        let comparison =
            of(compared(&sample::all(), Some(&quote), Some(&prediction)), Register::Mrtd);
        assert_eq!(comparison.result, ComparisonResult::Differs);
        assert_eq!(comparison.codes, [code]);
        let found = comparison.first_difference.unwrap();
        assert_eq!(found.change, Change::Register);
        let names_order = found.description.ends_with("--page-order section");
        assert_eq!(names_order, code == Code::MrtdPageOrder, "{found:?}");
    }
}

#[test]
fn text_that_contradicts_its_digest_differs_although_the_registers_match() {
    let mut events = sample::all();
    let quote = quote_of(&events);
    events[3].data = &[1, 0, 0, 0];
    let comparison = of(compared(&events, Some(&quote), None), Register::Rtmr0);
    assert_eq!(comparison.result, ComparisonResult::Differs);
    let found = comparison.first_difference.unwrap();
    assert_eq!((found.index, found.change), (Some(3), Change::Contradicted));
    assert_eq!(found.expected, Some(sha384([1u8, 0, 0, 0]).to_string()));
}

proptest! {
    #[test]
    fn any_other_log_differs_from_the_quote(
        order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(),
        length in 0usize..=6,
    ) {
        let events = sample::events();
        let other: Vec<_> = order[..length].iter().map(|at| events[*at]).collect();
        let result = of(compared(&other, Some(&quote_of(&events)), None), Register::Rtmr0).result;
        let is_same = order[..length].iter().copied().eq(0..6);
        prop_assert_eq!(result == ComparisonResult::Match, is_same);
    }
}
