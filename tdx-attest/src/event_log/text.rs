//! Whether the digest of an event confirms what the event's data says.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use crate::event_log::describe;
use crate::event_log::event_type::EventType;
use crate::event_log::log::LoggedEvent;
use crate::event_log::replay::sha384;
use crate::register::Digest;

/// Whether the digest of an event confirms the event's data.
///
/// No digest covers the type of an event, the name of a boot variable, or the label that GRUB puts before a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextStatus {
    /// The digest was computed again from the data and is the same.
    Checked,
    /// The data only describes what was measured: the digest cannot be computed from it.
    Claimed,
    /// The digest must follow from the data of an event of this type, and does not: the data or the digest is false.
    Contradicted,
}

impl TextStatus {
    /// The status of an event's text.
    pub fn of(event: &LoggedEvent<'_>) -> Self {
        if measured(event).iter().any(|bytes| sha384(bytes) == event.digest) {
            Self::Checked
        } else if is_measured_itself(event) {
            Self::Contradicted
        } else {
            Self::Claimed
        }
    }
}

/// The digests of which one must be the event's, because the data of an event of this type is what was measured; none
/// for other types.
pub fn required_digests(event: &LoggedEvent<'_>) -> Vec<Digest> {
    match is_measured_itself(event) {
        true => measured(event).iter().map(sha384).collect(),
        false => Vec::new(),
    }
}

/// Whether the data of an event of this type contains the bytes that were measured.
///
/// Source: TCG PC Client Platform Firmware Profile, "Event Types"; GRUB, `grub-core/commands/tpm.c`.
fn is_measured_itself(event: &LoggedEvent<'_>) -> bool {
    match event.event_type {
        EventType::SEPARATOR | EventType::EFI_ACTION | EventType::EFI_GPT_EVENT => true,
        EventType::IPL => grub_string(event.data).is_some(),
        event_type => event_type.has_variable(),
    }
}

/// The byte strings in an event's data that may be what was measured.
fn measured<'a>(event: &LoggedEvent<'a>) -> Vec<Cow<'a, [u8]>> {
    let mut measured = vec![Cow::Borrowed(event.data)];
    match event.event_type {
        // edk2 measures the value of a boot variable without its name.
        EventType::EFI_VARIABLE_BOOT => {
            measured.extend(describe::variable(event.data).map(|variable| variable.value.into()));
        }
        EventType::IPL => {
            measured.extend(grub_string(event.data).map(Cow::Borrowed));
            // systemd-stub logs the name of a section in UTF-16 and measures it in ASCII, with the NUL.
            let name = describe::utf16(event.data);
            measured.extend(name.map(|name| Cow::Owned(name.into_bytes())));
        }
        _ => {}
    }
    measured
}

/// The string that GRUB measured: what follows the label, without the NUL at the end; none for another event.
fn grub_string(data: &[u8]) -> Option<&[u8]> {
    let labels: [&[u8]; 3] = [b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: "];
    let string = labels.iter().find_map(|label| data.strip_prefix(*label))?;
    string.strip_suffix(b"\0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::Register;

    fn status(event_type: u32, data: &[u8], measured: &[u8]) -> TextStatus {
        let event_type = EventType(event_type);
        let (index, register, digest) = (0, Register::Rtmr0, sha384(measured));
        TextStatus::of(&LoggedEvent { index, register, event_type, digest, data })
    }

    /// A variable in the form of an event.
    fn variable(name: &str, value: &[u8]) -> Vec<u8> {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let sizes = [name.len() as u64 / 2, value.len() as u64].map(u64::to_le_bytes).concat();
        [&[7; 16][..], &sizes, &name, value].concat()
    }

    #[test]
    fn text_is_checked_when_the_digest_follows_from_the_data() {
        let boot = variable("Boot0000", b"option");
        for (event_type, data, measured) in [
            (0x4, &b"\0\0\0\0"[..], &b"\0\0\0\0"[..]),
            (0x8000_0007, b"Exit Boot Services Invocation", b"Exit Boot Services Invocation"),
            (0x8000_0001, &boot, &boot),
            (0x8000_0002, &boot, b"option"),
            (0x8000_0002, &boot, &boot),
            (0xd, b"grub_cmd: set a=1\0", b"set a=1"),
            (0xd, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro"),
            (0xd, b".\0l\0i\0n\0u\0x\0\0\0", b".linux\0"),
            (0x0800_0001, b"whatever it is", b"whatever it is"),
        ] {
            assert_eq!(status(event_type, data, measured), TextStatus::Checked, "{event_type:#x}");
        }
    }

    #[test]
    fn text_is_claimed_when_the_data_only_describes_what_was_measured() {
        for (event_type, data) in [
            (0xa, &b"ACPI DATA"[..]),
            (0xd, b"/boot/grub/grub.cfg\0"),
            (0xd, b".\0l\0i\0n\0u\0x\0\0\0"),
            (0x6, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0"),
            (0x8000_0003, b""),
        ] {
            assert_eq!(status(event_type, data, b"a file"), TextStatus::Claimed, "{event_type:#x}");
        }
    }

    #[test]
    fn text_is_contradicted_when_the_digest_must_follow_from_the_data_and_does_not() {
        let secure_boot = variable("SecureBoot", &[1]);
        for (event_type, data) in [
            (0x4, &b"\0\0\0\0"[..]),
            (0x8000_0001, &secure_boot),
            (0x8000_0002, &secure_boot),
            (0x8000_00e0, &secure_boot),
            (0xd, b"grub_cmd: set a=1\0"),
        ] {
            let got = status(event_type, data, b"another");
            assert_eq!(got, TextStatus::Contradicted, "{event_type:#x}");
        }
    }
}
