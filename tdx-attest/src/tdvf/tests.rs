//! Images of every kind: valid ones, each part of one made wrong, and random bytes.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::synthetic::{CFV, GLOBAL, Parts, SIZE};
use super::*;

/// The end of the table of GUIDs, from the end of the image.
const FOOTER: usize = 32 + 18;

fn why(image: Vec<u8>) -> String {
    Tdvf::parse(image).unwrap_err()
}

/// The reason why the image is refused after a change of its parts.
fn refusal(change: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::new();
    change(&mut parts);
    why(parts.build())
}

#[test]
fn sections_are_read_in_their_order() {
    let image = Tdvf::parse(Parts::new().build()).unwrap();
    let kinds: Vec<SectionKind> = image.sections().iter().map(|section| section.kind).collect();
    use SectionKind::{Bfv, Cfv, TdHob, TempMem};
    assert_eq!(kinds, [Bfv, Cfv, TempMem, TempMem, TdHob, TempMem]);
    assert_eq!(image.content(&image.sections()[0]).len(), SIZE - CFV);
    assert_eq!(image.content(&image.sections()[2]), b"");
}

#[test]
fn files_without_a_table_of_guids_are_refused() {
    let image = Parts::new().build();
    for bytes in [vec![], vec![0; 49], vec![0; 4096], image[1..SIZE - 1].to_vec()] {
        assert_eq!(why(bytes), "the table of GUIDs is missing");
    }
    let with = |at: usize, length: u16| {
        let mut image = image.clone();
        image[SIZE - at..SIZE - at + 2].copy_from_slice(&length.to_le_bytes());
        image
    };
    assert_eq!(
        why(with(FOOTER, u16::MAX)[SIZE - 4096..].to_vec()),
        "the table of GUIDs is longer than the file"
    );
    assert_eq!(why(with(FOOTER, 17)), "the table of GUIDs is missing");
    assert_eq!(why(with(FOOTER, 18)), "the table of GUIDs has no entry for TDX metadata");
    assert_eq!(why(with(FOOTER, 20)), "the table of GUIDs is too short for an entry");
    for length in [0, 17, 1000] {
        let expected = format!("an entry of the table of GUIDs has a length of {length} bytes");
        assert_eq!(why(with(FOOTER + 18, length)), expected);
    }
}

#[test]
fn metadata_that_points_outside_or_contradicts_itself_is_refused() {
    let outside = "the TDX metadata is outside of the file";
    for distance in [0, 3, SIZE as u32 + 1, u32::MAX] {
        assert_eq!(refusal(|parts| parts.distance = distance), outside);
    }
    assert!(refusal(|parts| parts.distance = 0x300).starts_with("the TDX metadata begins with ["));
    let descriptor =
        |change: fn(&mut ([u8; 4], u32, u32, u32))| refusal(|parts| change(&mut parts.descriptor));
    assert_eq!(
        descriptor(|it| it.0 = *b"FVDT"),
        "the TDX metadata begins with [46, 56, 44, 54], not with TDVF"
    );
    assert_eq!(
        descriptor(|it| it.2 = 2),
        "the TDX metadata has version 2: only version 1 is known"
    );
    let counts = "the TDX metadata has 7 sections and a length of 208 bytes";
    assert_eq!(descriptor(|it| it.3 = 7), counts);
    assert_eq!(
        descriptor(|it| (it.1, it.3) = (48, 1)),
        "the TDX metadata has 1 sections and a length of 48 bytes"
    );
    assert_eq!(descriptor(|it| (it.1, it.3) = (16 + 32 * 100, 100)), outside);
    assert!(descriptor(|it| (it.1, it.3) = (0, 1 << 27)).contains("134217728 sections"));
}

#[test]
fn sections_that_no_host_can_load_are_refused() {
    let section = |at: usize, change: fn(&mut synthetic::Section)| {
        refusal(|parts| change(&mut parts.sections[at]))
    };
    for (refusal, says) in [
        (section(0, |it| it.offset = 0x4001), "section 0 is outside of the file"),
        (section(0, |it| it.offset = u32::MAX), "section 0 is outside of the file"),
        (section(0, |it| it.raw = 0), "section 0 has 0 bytes in the file for 49152 bytes"),
        (section(0, |it| it.raw -= 1), "section 0 is measured and has 49151 bytes in the file"),
        (section(0, |it| it.size += 4096), "section 0 is measured and has 49152 bytes in the file"),
        (section(0, |it| it.size = 4096), "section 0 has 49152 bytes in the file for 4096 bytes"),
        (section(0, |it| it.attributes = 3), "section 0 has the unknown attributes 0x3"),
        (section(1, |it| it.raw = 0), "section 1 has 0 bytes in the file"),
        (section(1, |it| it.kind = 4), "section 1 has the unknown type 4"),
        (section(1, |it| it.address += 1), "section 1 has no whole pages"),
        (section(2, |it| it.size = 4095), "section 2 has no whole pages"),
        (section(2, |it| it.address = u64::MAX - 4095), "section 2 has no whole pages"),
        (section(2, |it| it.raw = 1), "section 2 has 1 bytes in the file"),
        (section(2, |it| it.attributes = 1), "section 2 is measured and has 0 bytes"),
        (section(2, |it| it.size = 1 << 31), "the sections cover more than 1 GiB"),
        (section(2, |it| it.address = 0x80_a000), "two sections contain the address 0x80a000"),
        (
            section(4, |it| (it.address, it.size) = (0, 1 << 29)),
            "two sections contain the address 0x800000",
        ),
    ] {
        assert!(refusal.starts_with(says), "{refusal}");
    }
}

#[test]
fn mrtd_depends_on_measured_content_on_places_and_on_the_page_order() {
    let mrtd = |parts: &Parts| Tdvf::parse(parts.build()).unwrap().mrtd(PageOrder::Page);
    let parts = Parts::new();
    let first = mrtd(&parts);
    let image = Tdvf::parse(parts.build()).unwrap();
    assert_ne!(first, image.mrtd(PageOrder::Section));
    let mut moved = parts.clone();
    moved.sections[2].address += 4096;
    assert_ne!(first, mrtd(&moved));
    let mut swapped = parts.clone();
    swapped.sections.swap(2, 3);
    assert_ne!(first, mrtd(&swapped));
    let variables = vec![(GLOBAL, "PK", 0x3f, vec![1])];
    assert_eq!(first, mrtd(&Parts { variables, ..parts }));
}

#[test]
fn variable_stores_that_the_firmware_would_not_accept_are_refused() {
    let variables = vec![(GLOBAL, "PK", 0x3f, vec![1; 9])];
    let volume = Parts { variables, ..Parts::new() }.build()[..CFV].to_vec();
    let store = |at: usize, bytes: &[u8]| {
        let mut volume = volume.clone();
        volume[at..at + bytes.len()].copy_from_slice(bytes);
        VariableStore::parse(&volume).map(|store| format!("{store:?}"))
    };
    assert!(store(0, &[]).is_ok());
    for (result, says) in [
        (store(0x28, b"x"), "the CFV does not begin with a firmware volume"),
        (store(0x30, &[0xff, 0xff]), "the header of the firmware volume is longer than the CFV"),
        (store(0x30, &[0xf8, 0x3f]), "the CFV is too short for its variable store"),
        (store(0x48, &[0]), "the firmware volume has no store of authenticated variables"),
        (store(0x58, &[0xff, 0xff]), "the CFV is too short for its variable store"),
        (store(0x58, &[0, 0]), "the CFV is too short for its variable store"),
        (store(0x5c, &[0]), "the variable store is not formatted or not healthy"),
        (store(0x64 + 36, &[0xff; 4]), "variable 0 of the store is cut off"),
        (store(0x64 + 40, &[0xff; 4]), "variable 0 of the store is cut off"),
        (store(0x64, &[0]), "the store contains something other than variables"),
        (store(0x1000, &[0]), "the store contains something other than variables"),
    ] {
        assert_eq!(result, Err(says.to_owned()));
    }
    for end in 0..volume.len() - 0x1000 {
        assert!(VariableStore::parse(&volume[..end]).is_err(), "{end}");
    }
}

/// An image with variables.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let variables = vec![(GLOBAL, "PK", 0x3f, vec![1; 9]), (GLOBAL, "KEK", 0x3f, vec![2; 5])];
    Parts { variables, ..Parts::new() }.build()
});

/// A part of an image where a wrong byte matters: its end with the metadata, or its start with the variables.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![(0..0x400usize).prop_map(|back| SIZE - 1 - back), 0..0x200usize]
}

fn read(image: Vec<u8>) {
    let Ok(firmware) = Tdvf::parse(image) else { return };
    firmware.mrtd(PageOrder::Page);
    crate::rtmr0::first_events(&firmware, Ok(crate::rtmr0::GuestMemory(1 << 30)));
}

proptest! {
    #[test]
    fn no_file_makes_parse_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read(bytes.clone());
        let _ = VariableStore::parse(&bytes);
        bytes.extend_from_slice(&WHOLE[SIZE - 0x80..]);
        read(bytes);
    }

    #[test]
    fn no_damage_to_an_image_makes_parse_panic(
        damage in proptest::collection::vec((place(), any::<u8>()), 1..8),
        start in 0..SIZE,
    ) {
        let mut image = WHOLE.clone();
        for (at, byte) in damage {
            image[at] = byte;
        }
        let _ = VariableStore::parse(&image[..CFV]);
        read(image[start..].to_vec());
        read(image);
    }
}
