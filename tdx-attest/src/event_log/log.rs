//! Reads an event log (CCEL).
//!
//! Sources: TCG PC Client Platform Firmware Profile, "Event Logging" (the crypto-agile log, `TCG_PCR_EVENT2`); UEFI
//! 2.10, section 38.4.1 (measurement register indexes); edk2, `OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c` (padding).

use common::fields;
use common::{Code, Error, Result};

use crate::event_log::event_type::EventType;
use crate::register::{Digest, Register};

/// The most that is read of a log. Firmware reserves 64 KiB to 1 MiB for a log. Unit: bytes.
pub const LIMIT: usize = 16 << 20;

/// The most events of a log. A boot through shim and GRUB logs fewer than a hundred.
pub const MOST_EVENTS: usize = 1 << 16;

/// The most digest algorithms of a log. TCG has registered fewer.
const MOST_ALGORITHMS: usize = 16;

/// TPM_ALG_SHA384. Source: TCG Algorithm Registry.
const SHA384: u16 = 0x000c;

/// The signature of the first event of a crypto-agile log.
const SIGNATURE: &[u8] = b"Spec ID Event03\0";

/// The first bytes of the ACPI table that says where the log is.
const ACPI_SIGNATURE: &[u8] = b"CCEL";

/// How a guest reads its log.
const HINT: &str = "copy /sys/firmware/acpi/tables/data/CCEL from the guest";

/// An event log.
#[derive(Debug)]
pub struct EventLog<'a> {
    /// The events that were measured, in order. Events of type EV_NO_ACTION only inform and are left out.
    pub events: Vec<LoggedEvent<'a>>,
    /// Whether bytes other than padding follow the end mark of the log.
    pub has_trailing_bytes: bool,
}

/// A measured event.
#[derive(Debug, Clone, Copy)]
pub struct LoggedEvent<'a> {
    /// The position in the log, counted from 0 at the event after the Spec ID event. Events that were not measured
    /// are counted as well.
    pub index: usize,
    /// The register, one of RTMR0 to RTMR3.
    pub register: Register,
    /// The type. No digest covers it.
    pub event_type: EventType,
    /// The digest that the register was extended with.
    pub digest: Digest,
    /// The event's data: a description of what was measured, and with some types the measured bytes themselves.
    pub data: &'a [u8],
}

/// A digest algorithm of a log.
struct Algorithm {
    /// The TPM's number of the algorithm.
    id: u16,
    /// The size of its digests. Unit: bytes.
    size: u16,
}

impl<'a> EventLog<'a> {
    /// Reads a log. Padding after the last event, of bytes 0xFF (edk2) or 0 (td-shim), is skipped. `source` names the
    /// file in messages.
    ///
    /// Errors: `invalid_input` for bytes that are no event log of a trust domain, with code `LOG_INCOMPLETE` where
    /// they end within an event.
    pub fn parse(bytes: &'a [u8], source: &str) -> Result<Self> {
        Self::read(bytes).map_err(|fault| fault.of(source))
    }

    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        let algorithms = spec_id_event(&mut rest)?;
        let mut log = Self { events: Vec::new(), has_trailing_bytes: false };
        for index in 0.. {
            if is_padding(rest) {
                break;
            }
            if rest.starts_with(&[0xff; 4]) {
                log.has_trailing_bytes = true;
                break;
            }
            if index == MOST_EVENTS {
                return Err(Fault::Other(format!("it has more than {MOST_EVENTS} events")));
            }
            let offset = bytes.len() - rest.len();
            let event = RawEvent::take(&mut rest, &algorithms).and_then(|raw| raw.measured(index));
            log.events.extend(event.map_err(|fault| fault.at(index, offset))?);
        }
        Ok(log)
    }

    /// The events of a register, in order.
    pub fn events_of(&self, register: Register) -> Vec<LoggedEvent<'a>> {
        self.events.iter().filter(|event| event.register == register).copied().collect()
    }
}

/// Whether the rest of a log is padding, or empty.
fn is_padding(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0xff) || rest.iter().all(|byte| *byte == 0)
}

/// Why a log cannot be read.
enum Fault {
    /// The log ends within this part of it.
    Cut(String),
    /// The log is malformed: a clause that says how.
    Other(String),
}

impl Fault {
    fn cut() -> Self {
        Self::Cut("it".to_owned())
    }

    /// The fault of an event. Unit of the offset: bytes.
    fn at(self, index: usize, offset: usize) -> Self {
        match self {
            Self::Cut(_) => Self::Cut(format!("event {index}, which begins at byte {offset}")),
            Self::Other(why) => Self::Other(format!("event {index} at byte {offset} {why}")),
        }
    }

    fn of(self, source: &str) -> Error {
        match self {
            Self::Cut(part) => Error::invalid_input(format!("{source} ends within {part}"))
                .code(Code::LogIncomplete)
                .hint("copy the log again, and compare the sizes of the file and the copy"),
            Self::Other(why) => {
                let message = format!("{source} is not the event log of a trust domain: {why}");
                Error::invalid_input(message).hint(HINT)
            }
        }
    }
}

/// Reads the first event, in the format of TPM 1.2, which declares the digest algorithms of the others.
///
/// Source: TCG PC Client Platform Firmware Profile, `TCG_PCR_EVENT` and `TCG_EfiSpecIdEvent`.
fn spec_id_event(bytes: &mut &[u8]) -> Result<Vec<Algorithm>, Fault> {
    let other = |why: &str| Err(Fault::Other(why.to_owned()));
    let cut = || Fault::Cut("the Spec ID event".to_owned());
    if bytes.is_empty() {
        return other("it is empty");
    }
    if bytes.starts_with(ACPI_SIGNATURE) {
        return other("it is the ACPI table CCEL, which only contains the address of the log");
    }
    let _register = fields::u32(bytes).ok_or_else(cut)?;
    let event_type = fields::u32(bytes).map(EventType).ok_or_else(cut)?;
    if event_type != EventType::NO_ACTION {
        return other("it does not begin with a Spec ID event");
    }
    let _sha1 = fields::take(bytes, 20).ok_or_else(cut)?;
    let mut data = fields::sized(bytes).ok_or_else(cut)?;
    if !data.starts_with(SIGNATURE) {
        return other("its first event is not a Spec ID event of version 03");
    }
    match declared(&mut data) {
        Some(algorithms) if algorithms.iter().any(|a| a.id == SHA384 && a.size == 48) => {
            Ok(algorithms)
        }
        Some(_) => other("it declares no SHA-384 digests of 48 bytes"),
        None => other("its Spec ID event is malformed"),
    }
}

/// The algorithms that a Spec ID event declares; none if the event is malformed.
fn declared(data: &mut &[u8]) -> Option<Vec<Algorithm>> {
    // The signature, the platform's class, the specification's version and the size of UINTN.
    fields::take(data, SIGNATURE.len() + 8)?;
    let count = usize::try_from(fields::u32(data)?).ok().filter(|c| *c <= MOST_ALGORITHMS)?;
    let algorithm = |_| Some(Algorithm { id: fields::u16(data)?, size: fields::u16(data)? });
    let algorithms = (0..count).map(algorithm).collect::<Option<Vec<_>>>()?;
    let [vendor_size] = fields::array(data)?;
    fields::take(data, vendor_size.into()).map(|_| algorithms)
}

/// An event as the log has it.
struct RawEvent<'a> {
    register_index: u32,
    event_type: EventType,
    /// The SHA-384 digests: one, in a well-formed event that was measured.
    digests: Vec<Digest>,
    data: &'a [u8],
}

impl<'a> RawEvent<'a> {
    /// Takes an event. Source: TCG PC Client Platform Firmware Profile, `TCG_PCR_EVENT2`.
    fn take(bytes: &mut &'a [u8], algorithms: &[Algorithm]) -> Result<Self, Fault> {
        let mut number = || fields::u32(bytes).ok_or_else(Fault::cut);
        let (register_index, event_type, count) = (number()?, EventType(number()?), number()?);
        if count as usize > algorithms.len() {
            let declared = algorithms.len();
            let why = format!("has {count} digests, but the log declares {declared} algorithms");
            return Err(Fault::Other(why));
        }
        let mut digests = Vec::new();
        for _ in 0..count {
            let id = fields::u16(bytes).ok_or_else(Fault::cut)?;
            let Some(algorithm) = algorithms.iter().find(|algorithm| algorithm.id == id) else {
                let why =
                    format!("has a digest of algorithm {id:#06x}, which the log does not declare");
                return Err(Fault::Other(why));
            };
            let digest = fields::take(bytes, algorithm.size.into()).ok_or_else(Fault::cut)?;
            if id == SHA384 {
                digests.extend(digest.try_into().map(Digest));
            }
        }
        let data = fields::sized(bytes).ok_or_else(Fault::cut)?;
        Ok(Self { register_index, event_type, digests, data })
    }

    /// The event with its register; none for an event that was not measured.
    ///
    /// Source: UEFI 2.10, section 38.4.1: index 0 is MRTD, which no event extends, and index 1 is RTMR0.
    fn measured(self, index: usize) -> Result<Option<LoggedEvent<'a>>, Fault> {
        let Self { register_index, event_type, digests, data } = self;
        if event_type == EventType::NO_ACTION {
            return Ok(None);
        }
        let register = register_index.checked_sub(1).and_then(Register::rtmr).ok_or_else(|| {
            Fault::Other(format!(
                "is of measurement register {register_index}, but events of a trust domain are of registers 1 to 4"
            ))
        })?;
        let [digest] = digests[..] else {
            let count = digests.len();
            return Err(Fault::Other(format!("has {count} SHA-384 digests, expected one")));
        };
        Ok(Some(LoggedEvent { index, register, event_type, digest, data }))
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
