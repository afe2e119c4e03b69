use super::*;
use crate::event_log::event_type::EventType;
use crate::event_log::replay::sha384;
use crate::event_log::sample;

/// The events of a log, as expected events.
fn expected(events: &[LoggedEvent<'_>]) -> Vec<ExpectedEvent> {
    events.iter().map(sample::expected).collect()
}

fn all(events: &[LoggedEvent<'_>], expected: &[ExpectedEvent]) -> Option<Difference> {
    from_all(Register::Rtmr0, events, expected)
}

fn some(events: &[LoggedEvent<'_>], expected: &[ExpectedEvent]) -> Option<Difference> {
    from_some(Register::Rtmr0, events, expected)
}

/// An event that no expected event stands for.
fn stranger() -> LoggedEvent<'static> {
    let event_type = EventType(0xa);
    let digest = sha384("stranger");
    LoggedEvent { index: 99, register: Register::Rtmr0, event_type, digest, data: b"stranger" }
}

#[test]
fn equal_events_do_not_differ() {
    let events = sample::events();
    assert_eq!(all(&events, &expected(&events)), None);
    assert_eq!(some(&events, &expected(&events)), None);
    let mut unknown = expected(&events);
    unknown[2].digest = None;
    assert_eq!(all(&events, &unknown), None);
}

#[test]
fn a_changed_event_is_named() {
    let events = sample::events();
    for at in 0..events.len() {
        let mut changed = events.clone();
        changed[at].digest = sha384("changed");
        for found in [all(&changed, &expected(&events)), some(&changed, &expected(&events))] {
            let found = found.unwrap();
            assert_eq!((found.index, found.change), (Some(at), Change::Changed), "{found:?}");
            assert_eq!(found.expected, Some(events[at].digest.to_string()));
            assert_eq!(found.found, Some(sha384("changed").to_string()));
        }
    }
}

#[test]
fn a_dropped_event_is_named() {
    let events = sample::events();
    for at in 0..events.len() {
        let mut dropped = events.clone();
        dropped.remove(at);
        for found in [all(&dropped, &expected(&events)), some(&dropped, &expected(&events))] {
            let found = found.unwrap();
            assert_eq!((found.change, &found.found), (Change::Missing, &None), "{found:?}");
            assert_eq!(found.index, dropped.get(at).map(|event| event.index));
            assert_eq!(found.expected, Some(events[at].digest.to_string()));
            assert!(found.description.contains(&expected(&events)[at].description), "{found:?}");
        }
    }
}

#[test]
fn an_added_event_is_named_if_all_events_are_expected() {
    let events = sample::events();
    for at in 0..=events.len() {
        let mut added = events.clone();
        added.insert(at, stranger());
        let found = all(&added, &expected(&events)).unwrap();
        assert_eq!((found.index, found.change), (Some(99), Change::Added), "{found:?}");
        assert_eq!((found.expected, found.found), (None, Some(sha384("stranger").to_string())));
        assert_eq!(some(&added, &expected(&events)), None);
    }
}

#[test]
fn exchanged_events_are_named() {
    let events = sample::events();
    for at in 0..events.len() - 1 {
        let mut exchanged = events.clone();
        exchanged.swap(at, at + 1);
        let found = all(&exchanged, &expected(&events)).unwrap();
        assert_eq!((found.index, found.change), (Some(at + 1), Change::Moved), "{found:?}");
        let found = some(&exchanged, &expected(&events)).unwrap();
        assert_eq!((found.index, found.change), (Some(at + 1), Change::Moved), "{found:?}");
    }
}

#[test]
fn a_changed_variable_is_named_among_events_that_are_not_expected() {
    let events = sample::events();
    let secure_boot = events.iter().position(|event| event.event_type.has_variable()).unwrap();
    let mut changed = events.clone();
    changed[secure_boot].digest = sha384("changed");
    changed.insert(secure_boot, stranger());
    let found = some(&changed, &expected(&events)).unwrap();
    assert_eq!((found.index, found.change), (Some(secure_boot), Change::Changed), "{found:?}");
    changed.remove(secure_boot + 1);
    let found = some(&changed, &expected(&events)).unwrap();
    assert_eq!((found.index, found.change), (Some(secure_boot + 1), Change::Missing), "{found:?}");
}

#[test]
fn long_texts_are_shortened_in_descriptions() {
    let event_type = EventType(0xd);
    let event = LoggedEvent { event_type, data: "é".repeat(100).leak().as_bytes(), ..stranger() };
    assert_eq!(name(&event), format!("event 99 ({}…)", "é".repeat(60)));
}
