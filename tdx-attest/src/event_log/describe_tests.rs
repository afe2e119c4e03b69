use proptest::prelude::*;

use super::*;
use crate::event_log::replay::sha384;
use crate::event_log::text::TextStatus;
use crate::register::Register;

fn event(event_type: u32, data: &[u8]) -> LoggedEvent<'_> {
    let (register, digest) = (Register::Rtmr0, sha384(data));
    LoggedEvent { index: 0, register, event_type: EventType(event_type), digest, data }
}

fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn a_variable(name: &str, value: &[u8]) -> Vec<u8> {
    let sizes = [name.encode_utf16().count() as u64, value.len() as u64];
    [&[7; 16][..], &sizes.map(u64::to_le_bytes).concat(), &utf16le(name), value].concat()
}

/// An image load event with a device path of these nodes: type, subtype, data.
fn an_image(nodes: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let node = |(node_type, subtype, data): &(u8, u8, &[u8])| {
        let size = u16::try_from(4 + data.len()).unwrap().to_le_bytes();
        [&[*node_type, *subtype][..], &size, data].concat()
    };
    let path = nodes.iter().map(node).collect::<Vec<_>>().concat();
    [&[1; 24][..], &(path.len() as u64).to_le_bytes(), &path].concat()
}

#[test]
fn structures_are_put_into_words() {
    let file = utf16le("\\EFI\\BOOT\\BOOTX64.EFI\0");
    let volume = *b"\xc9\xbd\xb8\x7c\xeb\xf8\x34\x4f\xaa\xea\x3e\xe4\xaf\x65\x16\xa1";
    let option = [&[1, 0, 0, 0, 4, 0][..], &utf16le("UiApp\0"), &[9; 4]].concat();
    let gpt = [&b"EFI PART"[..], &[0; 84], &2u64.to_le_bytes(), &[0; 256]].concat();
    let end = (0x7f, 0xff, &[][..]);
    for (event_type, data, text) in [
        (0x4, vec![0; 4], "00000000"),
        (0x8000_0001, a_variable("SecureBoot", &[1]), "SecureBoot=1"),
        (0x8000_0001, a_variable("SecureBoot", &[]), "SecureBoot is not set"),
        (0x8000_0001, a_variable("dbx", &[7; 76]), "dbx, 76 bytes"),
        (0x8000_0002, a_variable("BootOrder", &[0, 0, 0x1a, 0]), "BootOrder=0000,001A"),
        (0x8000_0002, a_variable("Boot001A", &option), "Boot001A=UiApp"),
        (0x8000_0002, a_variable("BootXYZW", &option), "BootXYZW, 22 bytes"),
        (0x8000_0003, an_image(&[(2, 1, &[0; 8]), (4, 4, &file), end]), "\\EFI\\BOOT\\BOOTX64.EFI"),
        (
            0x8000_0003,
            an_image(&[(4, 6, &volume), end]),
            "FvFile(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)",
        ),
        (0x8000_0006, gpt, "GPT, 2 partitions"),
        (0x8000_000a, b"\x03CFV\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "CFV"),
        (0x8000_000b, b"\x09TdxTable\0\x01\0\0".to_vec(), "TdxTable"),
        (0x6, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0".to_vec(), "Linux initrd"),
        (0x6, b"LOADED_IMAGE::LoadOptions\0".to_vec(), "LOADED_IMAGE::LoadOptions"),
        (0xd, b"grub_cmd: set a=1\0".to_vec(), "grub_cmd: set a=1"),
        (0xd, utf16le(".linux\0"), ".linux"),
        (0xa, b"etc/acpi/rsdp\0\0\0\0\0".to_vec(), "etc/acpi/rsdp"),
    ] {
        assert_eq!(super::text(&event(event_type, &data)).as_deref(), Some(text));
    }
}

#[test]
fn data_that_is_neither_text_nor_a_known_structure_has_no_text() {
    let long = [&a_variable("SecureBoot", &[1])[..], &[0]].concat();
    for (event_type, data) in [
        (0x1, &b""[..]),
        (0x1, b"\0\0"),
        (0x1, b"a\x1b[2J"),
        (0x1, b"\xff\xfe\xff"),
        (0x8000_0001, &long),
        (0x8000_0003, &an_image(&[])),
        (0x8000_0003, &an_image(&[(2, 1, &[0; 8])])),
    ] {
        assert_eq!(text(&event(event_type, data)), None, "{data:?}");
    }
}

proptest! {
    #[test]
    fn no_data_makes_text_panic(
        event_type in prop_oneof![0u32..0x13, 0x8000_0000u32..0x8000_0011, Just(0x8000_00e0)],
        data in proptest::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..160),
        sizes in any::<[u8; 2]>(),
    ) {
        let mut images = an_image(&[(4, 4, &data), (4, 3, &data), (4, 6, &data)]);
        let mut variable = a_variable("Boot0000", &data);
        let at = usize::from(sizes[0]);
        for data in [&mut images, &mut variable] {
            let at = at % data.len();
            data[at] = sizes[1];
        }
        for data in [&data, &images, &variable] {
            let event = event(event_type, data);
            let _ = text(&event);
            prop_assert_eq!(TextStatus::of(&event), TextStatus::Checked);
            let other = LoggedEvent { digest: sha384("another"), ..event };
            prop_assert_ne!(TextStatus::of(&other), TextStatus::Checked);
        }
    }
}
