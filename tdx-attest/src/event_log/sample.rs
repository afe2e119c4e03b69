//! A small log for tests, in the form of what OVMF, shim and GRUB log.

use crate::event_log::describe;
use crate::event_log::event_type::EventType;
use crate::event_log::log::LoggedEvent;
use crate::event_log::replay::sha384;
use crate::prediction::ExpectedEvent;
use crate::register::{Digest, Register};

/// The data of a separator.
pub(crate) const SEPARATOR: &[u8] = &[0; 4];

/// The type, the data and the measured bytes of an event.
type Measurement = (u32, &'static [u8], &'static [u8]);

/// What is measured into RTMR0.
const RTMR0: [Measurement; 6] = [
    (0x8000_000b, b"\x09TdxTable\0\0\0\0\0\0\0\0\0", b"hand-off blocks"),
    (0x8000_000a, b"\x03CFV\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"configuration volume"),
    (0x8000_0001, SECURE_BOOT, SECURE_BOOT),
    (4, SEPARATOR, SEPARATOR),
    (0xa, b"ACPI DATA", b"tables"),
    (0xa, b"ACPI DATA", b"rsdp"),
];

/// What is measured into RTMR2.
const RTMR2: [Measurement; 3] = [
    (0xd, b"/boot/grub/grub.cfg\0", b"set timeout=5"),
    (0xd, b"grub_cmd: set timeout=5\0", b"set timeout=5"),
    (0x6, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0", b"cpio"),
];

/// The variable `SecureBoot` with value 1.
const SECURE_BOOT: &[u8] =
    b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c\x0a\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
      S\0e\0c\0u\0r\0e\0B\0o\0o\0t\0\x01";

/// The events of RTMR0.
pub(crate) fn events() -> Vec<LoggedEvent<'static>> {
    all().into_iter().filter(|event| event.register == Register::Rtmr0).collect()
}

/// The events of RTMR0 and RTMR2.
pub(crate) fn all() -> Vec<LoggedEvent<'static>> {
    let rtmr0 = RTMR0.map(|measurement| (Register::Rtmr0, measurement));
    let rtmr2 = RTMR2.map(|measurement| (Register::Rtmr2, measurement));
    let event = |(index, (register, (event_type, data, measured)))| {
        let (event_type, digest) = (EventType(event_type), sha384(measured));
        LoggedEvent { index, register, event_type, digest, data }
    };
    rtmr0.into_iter().chain(rtmr2).enumerate().map(event).collect()
}

/// The expected event that an event of a log is.
pub(crate) fn expected(event: &LoggedEvent<'_>) -> ExpectedEvent {
    let variable = describe::variable(event.data).filter(|_| event.event_type.has_variable());
    let description = describe::text(event).unwrap_or_default();
    let variable = variable.map(|variable| variable.name);
    ExpectedEvent { description, variable, digest: Some(event.digest) }
}

/// The Spec ID event of edk2: SHA-384 only.
pub(crate) fn spec_id_event() -> Vec<u8> {
    header(&[(0xc, 48)])
}

/// A Spec ID event that declares these algorithms: number and digest size.
pub(crate) fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let count = u32::try_from(algorithms.len()).unwrap().to_le_bytes();
    let sizes =
        algorithms.iter().flat_map(|(id, size)| [id.to_le_bytes(), size.to_le_bytes()].concat());
    let sizes: Vec<u8> = sizes.collect();
    let data = [b"Spec ID Event03\0\0\0\0\0\x00\x02\x00\x02", &count[..], &sizes, &[0]].concat();
    let size = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&1u32.to_le_bytes()[..], &3u32.to_le_bytes(), &[0; 20], &size, &data].concat()
}

/// An event with its digests, as a log has it.
pub(crate) fn raw(
    register: u32,
    event_type: u32,
    digests: &[(u16, &[u8])],
    data: &[u8],
) -> Vec<u8> {
    let numbers = [register, event_type, u32::try_from(digests.len()).unwrap()];
    let digests = digests.iter().flat_map(|(id, digest)| [&id.to_le_bytes()[..], digest].concat());
    let size = u32::try_from(data.len()).unwrap().to_le_bytes();
    let numbers = numbers.map(u32::to_le_bytes).concat();
    numbers.into_iter().chain(digests).chain(size).chain(data.iter().copied()).collect()
}

/// The bytes of an event.
pub(crate) fn bytes(event: &LoggedEvent<'_>) -> Vec<u8> {
    let number = match event.register {
        Register::Rtmr0 => 1,
        Register::Rtmr1 => 2,
        Register::Rtmr2 => 3,
        _ => 4,
    };
    let Digest(digest) = event.digest;
    raw(number, event.event_type.0, &[(0xc, &digest)], event.data)
}

/// The bytes of a log, without padding.
pub(crate) fn log(events: &[LoggedEvent<'_>]) -> Vec<u8> {
    [spec_id_event()].into_iter().chain(events.iter().map(bytes)).collect::<Vec<_>>().concat()
}
