//! Finds the one event that keeps a log from leading to a known register value.
//!
//! If the log gives the value after one event was left out, exchanged with the next or given another digest, then,
//! because SHA-384 is collision-resistant, the register was extended with exactly the events of that changed log. So
//! the event is named with certainty, and if no such change gives the value, no event is named.

use crate::event_log::log::LoggedEvent;
use crate::event_log::replay::{extend, replay};
use crate::event_log::text::required_digests;
use crate::register::Digest;

/// The most events for which every change is tried. The time grows with the square of their number.
const MOST: usize = 256;

/// The one change of a register's events after which the log gives a value. Positions are those in the slice of
/// events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// The register has the value before the event at this position: it was read before later events were measured.
    EndBefore(usize),
    /// The event at this position is left out.
    LeaveOut(usize),
    /// The event at this position is exchanged with the next.
    Exchange(usize),
    /// The event at this position gets this digest, which follows from the event's data.
    Digest(usize, Digest),
}

/// The change of `events` after which they give `value`; none if no single change does, or if they give `value`
/// unchanged.
pub fn find(events: &[LoggedEvent<'_>], value: Digest) -> Option<Edit> {
    let digests: Vec<Digest> = events.iter().map(|event| event.digest).collect();
    let steps = digests.iter().scan(Digest::ZERO, |step, digest| {
        let before = *step;
        *step = extend(before, *digest);
        Some(before)
    });
    let before: Vec<Digest> = steps.collect();
    if replay(Digest::ZERO, digests.iter().copied()) == value {
        return None;
    }
    if let Some(position) = before.iter().position(|step| *step == value) {
        return Some(Edit::EndBefore(position));
    }
    if events.len() > MOST {
        return None;
    }
    let leads_to = |step: Digest, rest: &[Digest]| replay(step, rest.iter().copied()) == value;
    (0..events.len()).find_map(|position| {
        let (step, digest) = (before[position], digests[position]);
        let rest = &digests[position + 1..];
        if leads_to(step, rest) {
            return Some(Edit::LeaveOut(position));
        }
        if let [next, rest @ ..] = rest
            && leads_to(extend(extend(step, *next), digest), rest)
        {
            return Some(Edit::Exchange(position));
        }
        let required = required_digests(&events[position]).into_iter();
        let fits = |required: &Digest| leads_to(extend(step, *required), rest);
        required.filter(|r| *r != digest).find(fits).map(|r| Edit::Digest(position, r))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_log::replay::sha384;
    use crate::event_log::sample;

    #[test]
    fn each_single_change_is_found() {
        let events = sample::events();
        let digests: Vec<Digest> = events.iter().map(|event| event.digest).collect();
        let value = |digests: &[Digest]| replay(Digest::ZERO, digests.iter().copied());
        assert_eq!(find(&events, value(&digests)), None);
        for at in 0..digests.len() {
            assert_eq!(find(&events, value(&digests[..at])), Some(Edit::EndBefore(at)));
            let mut without = digests.clone();
            without.remove(at);
            let edit = find(&events, value(&without)).unwrap();
            let last = Edit::EndBefore(at);
            assert!(edit == Edit::LeaveOut(at) || (at + 1 == digests.len() && edit == last));
            if at + 1 < digests.len() {
                let mut exchanged = digests.clone();
                exchanged.swap(at, at + 1);
                assert_eq!(find(&events, value(&exchanged)), Some(Edit::Exchange(at)));
            }
        }
    }

    #[test]
    fn a_digest_that_the_data_requires_is_found() {
        let events = sample::events();
        let value = replay(Digest::ZERO, events.iter().map(|event| event.digest));
        let mut changed = events.clone();
        let separator = changed.iter().position(|event| event.data == sample::SEPARATOR).unwrap();
        changed[separator].digest = sha384("another");
        let right = events[separator].digest;
        assert_eq!(find(&changed, value), Some(Edit::Digest(separator, right)));
    }

    #[test]
    fn no_event_is_named_when_no_single_change_leads_to_the_value() {
        assert_eq!(find(&sample::events(), sha384("another")), None);
        assert_eq!(find(&[], sha384("another")), None);
    }
}
