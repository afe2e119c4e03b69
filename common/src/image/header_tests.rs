use std::io::Write;

use proptest::prelude::{ProptestConfig, any, proptest};

use super::*;

fn read(bytes: &[u8]) -> Header {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Header::read(&file).unwrap()
}

fn names(header: &Header) -> Vec<(Role, &str)> {
    let name =
        |reference: &Reference| std::str::from_utf8(&reference.name).unwrap().to_owned().leak();
    header.references.iter().map(|reference| (reference.role, &*name(reference))).collect()
}

/// A qcow2 header with these extensions and this backing file.
fn qcow2(features: u64, extensions: &[(u32, &[u8])], backing: &[u8]) -> Vec<u8> {
    let mut bytes = [QCOW_MAGIC, &3u32.to_be_bytes()].concat();
    bytes.resize(104, 0);
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[72..80].copy_from_slice(&features.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    for (kind, data) in extensions {
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend([0; 8]);
    if !backing.is_empty() {
        let offset = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes.extend(backing);
    }
    bytes
}

#[test]
fn a_qcow2_header_names_its_backing_and_data_files() {
    let header = read(&qcow2(4, &[(0xE279_2ACA, b"raw"), (EXTENSION_DATA_FILE, b"data")], b"base"));
    assert_eq!(names(&header), [(Role::Backing, "base"), (Role::Data, "data")]);
    assert!(!header.is_data_file_unnamed);
    // A long extension moves the name of the data file beyond the first read.
    let long = vec![b'x'; 9000];
    let header = read(&qcow2(4, &[(7, &long), (EXTENSION_DATA_FILE, b"data")], b""));
    assert_eq!(names(&header), [(Role::Data, "data")]);
    assert!(read(&qcow2(4, &[], b"")).is_data_file_unnamed);
    assert!(read(&qcow2(4, &[(EXTENSION_DATA_FILE, b"")], b"")).is_data_file_unnamed);
    assert_eq!(names(&read(&qcow2(0, &[], b"a\0b"))), [(Role::Backing, "a")]);
    let path = "x".repeat(4096);
    assert_eq!(names(&read(&qcow2(0, &[], path.as_bytes()))), [(Role::Backing, &*path)]);
    assert_eq!(read(&qcow2(0, &[], &[b'x'; 4097])), Header::default());
}

#[test]
fn a_qcow_and_a_qed_header_name_their_backing_files() {
    let mut bytes = qcow2(0, &[], b"base");
    bytes[4..8].copy_from_slice(&1u32.to_be_bytes());
    assert_eq!(names(&read(&bytes)), [(Role::Backing, "base")]);
    let mut bytes = QED_MAGIC.to_vec();
    bytes.resize(64, 0);
    bytes[16] = 1;
    bytes[56..60].copy_from_slice(&64u32.to_le_bytes());
    bytes[60..64].copy_from_slice(&4u32.to_le_bytes());
    bytes.extend(b"base");
    assert_eq!(names(&read(&bytes)), [(Role::Backing, "base")]);
    bytes[16] = 0;
    assert_eq!(read(&bytes), Header::default());
}

#[test]
fn a_vmdk_description_names_its_extents_and_its_parent() {
    let text = "# Disk DescriptorFile\nversion=1\nparentFileNameHint=\"base.vmdk\"\n\
        createType=\"twoGbMaxExtentFlat\"\nRW 2048 FLAT \"a f001.vmdk\" 0\n\
        RW 2048 SPARSE \"/b.vmdk\"\nRW 9 ZERO\n#DDB\nddb.x = \"1\"\n";
    let expected =
        [(Role::Backing, "base.vmdk"), (Role::Data, "a f001.vmdk"), (Role::Data, "/b.vmdk")];
    assert_eq!(names(&read(text.as_bytes())), expected);
    let mut inside = b"KDMV".to_vec();
    inside.resize(512, 0);
    inside[28] = 1;
    inside.extend(text.as_bytes());
    assert_eq!(names(&read(&inside)), expected);
    // An image with its own sectors opens none of the extents in its description.
    inside[12] = 1;
    assert_eq!(names(&read(&inside)), expected[..1]);
}

#[test]
fn a_header_of_a_file_that_is_not_an_image_names_no_files() {
    for bytes in
        [&b""[..], b"QFI", b"QFI\xfb", b"KDMV", b"QED\0", &[0; 8192], &[0xff; 8192], b"text\n"]
    {
        assert!(names(&read(bytes)).is_empty(), "{bytes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_header_makes_read_panic(
        magic in 0usize..6,
        rest in proptest::collection::vec(any::<u8>(), 0..6000),
        small in proptest::collection::vec(0u8..4, 0..128),
    ) {
        let magics: [&[u8]; 6] =
            [b"QFI\xfb\0\0\0\x03", b"QFI\xfb\0\0\0\x01", b"QED\0", b"KDMV", b"createType=\nRW ", b""];
        read(&[magics[magic], &rest].concat());
        // Small numbers, so that offsets and lengths lie within the file.
        read(&[magics[magic], &small, &rest].concat());
    }
}
