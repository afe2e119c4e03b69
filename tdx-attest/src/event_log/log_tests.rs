use common::Code;
use proptest::prelude::*;

use super::*;
use crate::event_log::replay::sha384;
use crate::event_log::sample;

fn parse(bytes: &[u8]) -> Result<EventLog<'_>> {
    EventLog::parse(bytes, "ccel.bin")
}

fn message(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().message().to_owned()
}

fn key(event: &LoggedEvent<'_>) -> (usize, Register, u32, Digest, Vec<u8>) {
    (event.index, event.register, event.event_type.0, event.digest, event.data.to_vec())
}

#[test]
fn every_event_is_read_with_any_padding() {
    let events = sample::all();
    for padding in [vec![], vec![0xff; 3], vec![0xff; 4096], vec![0; 5], vec![0; 4096]] {
        let bytes = [sample::log(&events), padding].concat();
        let log = parse(&bytes).unwrap();
        let keys = |events: &[LoggedEvent<'_>]| events.iter().map(key).collect::<Vec<_>>();
        assert_eq!(keys(&log.events), keys(&events));
        assert!(!log.has_trailing_bytes);
    }
}

#[test]
fn bytes_after_the_end_mark_are_ignored_and_reported() {
    let events = sample::all();
    let bytes = [sample::log(&events), vec![0xff; 8], vec![1]].concat();
    let log = parse(&bytes).unwrap();
    assert_eq!((log.events.len(), log.has_trailing_bytes), (events.len(), true));
}

#[test]
fn a_log_without_events_is_read() {
    assert!(parse(&sample::spec_id_event()).unwrap().events.is_empty());
}

#[test]
fn events_that_were_not_measured_are_counted_and_left_out() {
    let digest = sha384("a").0;
    let no_action = sample::raw(0, 3, &[(0xc, &[0; 48])], b"SP800-155 Event");
    let event = sample::raw(4, 4, &[(0xc, &digest)], b"a");
    let bytes = [sample::spec_id_event(), no_action, event].concat();
    let log = parse(&bytes).unwrap();
    let indexes: Vec<_> = log.events.iter().map(|event| (event.index, event.register)).collect();
    assert_eq!(indexes, [(1, Register::Rtmr3)]);
}

#[test]
fn digests_of_other_declared_algorithms_are_skipped() {
    let digest = sha384("a");
    let event = sample::raw(1, 4, &[(0xb, &[1; 32]), (0xc, &digest.0), (0x99, &[2; 5])], b"a");
    let bytes = [sample::header(&[(0xb, 32), (0xc, 48), (0x99, 5)]), event].concat();
    assert_eq!(parse(&bytes).unwrap().events[0].digest, digest);
}

#[test]
fn a_log_that_ends_within_an_event_is_incomplete() {
    let events = sample::all();
    let bytes = sample::log(&events);
    let starts = events.iter().scan(sample::spec_id_event().len(), |start, event| {
        let this = *start;
        *start += sample::bytes(event).len();
        Some(this)
    });
    let mut whole: Vec<usize> = starts.collect();
    whole.push(bytes.len());
    for length in 1..bytes.len() {
        let part = &bytes[..length];
        // Padding of zeros cannot be told from the zeros of an event that was cut off.
        let end = whole.iter().rposition(|start| *start <= length);
        match (end, parse(part)) {
            (Some(count), Ok(log)) => {
                assert!(part[whole[count]..].iter().all(|byte| *byte == 0), "{length}");
                assert_eq!(log.events.len(), count);
            }
            (_, Ok(_)) => panic!("a log of {length} bytes has no complete Spec ID event"),
            (end, Err(error)) => {
                assert_eq!(error.known_code(), Some(Code::LogIncomplete), "{length} {error}");
                let part = match end {
                    None => "the Spec ID event".to_owned(),
                    Some(at) => format!("event {at}, which begins at byte {}", whole[at]),
                };
                assert_eq!(error.message(), format!("ccel.bin ends within {part}"));
            }
        }
    }
}

#[test]
fn an_event_larger_than_the_file_is_incomplete() {
    let mut event = sample::raw(1, 4, &[(0xc, &[0; 48])], b"");
    let size = event.len() - 4;
    event[size..].copy_from_slice(&u32::MAX.to_le_bytes());
    let bytes = [sample::spec_id_event(), event, vec![0xff; 100]].concat();
    assert_eq!(message(&bytes), "ccel.bin ends within event 0, which begins at byte 65");
}

#[test]
fn other_files_are_refused() {
    let not = |why: &str| format!("ccel.bin is not the event log of a trust domain: {why}");
    for (bytes, why) in [
        (vec![], "it is empty"),
        (
            b"CCEL8\0\0\0".to_vec(),
            "it is the ACPI table CCEL, which only contains the address of the log",
        ),
        (b"\x7fELF-and-more".to_vec(), "it does not begin with a Spec ID event"),
        (vec![0xff; 65536], "it does not begin with a Spec ID event"),
        (sample::header(&[(0xb, 32)]), "it declares no SHA-384 digests of 48 bytes"),
        (sample::header(&[(0xc, 32)]), "it declares no SHA-384 digests of 48 bytes"),
        (sample::header(&[(0xc, 48); 17]), "its Spec ID event is malformed"),
    ] {
        assert_eq!(message(&bytes), not(why));
    }
    let mut old = sample::spec_id_event();
    old[46] = b'2';
    assert_eq!(message(&old), not("its first event is not a Spec ID event of version 03"));
}

#[test]
fn malformed_events_are_refused_with_their_place() {
    let (digest, other) = ((0xc, &[1; 48][..]), (0x4, &[1; 20][..]));
    for (event, why) in [
        (sample::raw(1, 4, &[], b""), "has 0 SHA-384 digests, expected one"),
        (
            sample::raw(1, 4, &[digest, digest], b""),
            "has 2 digests, but the log declares 1 algorithms",
        ),
        (
            sample::raw(1, 4, &[other], b""),
            "has a digest of algorithm 0x0004, which the log does not declare",
        ),
        (
            sample::raw(0, 4, &[digest], b""),
            "is of measurement register 0, but events of a trust domain are of registers 1 to 4",
        ),
        (
            sample::raw(5, 4, &[digest], b""),
            "is of measurement register 5, but events of a trust domain are of registers 1 to 4",
        ),
    ] {
        let bytes = [sample::spec_id_event(), sample::raw(1, 4, &[digest], b"x"), event].concat();
        let at = "ccel.bin is not the event log of a trust domain: event 1 at byte 132";
        assert_eq!(message(&bytes), format!("{at} {why}"));
    }
}

#[test]
fn a_log_of_too_many_events_is_refused() {
    let event = sample::raw(0, 3, &[], b"");
    let bytes = |count| [sample::spec_id_event(), event.repeat(count)].concat();
    assert!(parse(&bytes(MOST_EVENTS)).unwrap().events.is_empty());
    let bytes = bytes(1_000_000);
    assert!(bytes.len() < LIMIT);
    assert!(message(&bytes).ends_with("it has more than 65536 events"));
}

#[test]
fn no_changed_byte_makes_parse_panic() {
    let bytes = sample::log(&sample::all());
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = parse(&changed).map(|log| log.events.len());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_parse_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        has_header: bool,
    ) {
        let header = if has_header { sample::spec_id_event() } else { Vec::new() };
        let bytes = [header, bytes].concat();
        if let Ok(log) = parse(&bytes) {
            // Whatever is read is in the file.
            prop_assert!(log.events.len() * 16 <= bytes.len());
        }
    }

    #[test]
    fn no_field_of_an_event_makes_parse_panic(
        fields in proptest::collection::vec(
            (
                prop_oneof![0u32..6, any::<u32>()],
                prop_oneof![Just(3u32), Just(4), any::<u32>()],
                prop_oneof![0u32..3, any::<u32>()],
                prop_oneof![Just(0xcu16), any::<u16>()],
                prop_oneof![0u32..70, any::<u32>()],
            ),
            0..8,
        ),
    ) {
        let mut bytes = sample::spec_id_event();
        for (register, event_type, count, algorithm, size) in fields {
            bytes.extend([register, event_type, count].map(u32::to_le_bytes).concat());
            bytes.extend(algorithm.to_le_bytes());
            bytes.extend([7; 48]);
            bytes.extend(size.to_le_bytes());
            bytes.extend([7; 60]);
        }
        let _ = parse(&bytes).map(|log| log.events.len());
    }

    #[test]
    fn a_log_is_read_as_it_was_written(
        events in proptest::collection::vec(
            (1u32..5, any::<u32>(), any::<[u8; 16]>(), proptest::collection::vec(any::<u8>(), 0..40)),
            0..12,
        ),
        padding in prop_oneof![Just(0xffu8), Just(0)],
    ) {
        let digests: Vec<Digest> = events.iter().map(|(_, _, seed, _)| sha384(seed)).collect();
        let raw = events.iter().zip(&digests).map(|((register, event_type, _, data), digest)| {
            sample::raw(*register, *event_type, &[(0xc, &digest.0)], data)
        });
        let bytes = [sample::spec_id_event(), raw.collect::<Vec<_>>().concat(), vec![padding; 99]];
        let bytes = bytes.concat();
        let log = parse(&bytes).unwrap();
        let measured = events.iter().zip(&digests).filter(|((_, event_type, _, _), _)| *event_type != 3);
        let wanted: Vec<_> = measured.map(|((r, t, _, data), digest)| {
            (Register::rtmr(r - 1).unwrap(), *t, *digest, data.as_slice())
        }).collect();
        let got: Vec<_> =
            log.events.iter().map(|e| (e.register, e.event_type.0, e.digest, e.data)).collect();
        prop_assert_eq!(got, wanted);
    }
}
