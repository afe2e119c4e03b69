use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A qcow2 header with a backing file's name behind it.
fn overlay(version: u8, features: u8, backing: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[7] = version;
    bytes[14..16].copy_from_slice(&512_u16.to_be_bytes());
    bytes[19] = u8::try_from(backing.len()).unwrap();
    bytes[23] = 16;
    bytes[79] = features;
    bytes[512..512 + backing.len()].copy_from_slice(backing);
    bytes
}

fn backing(content: &[u8]) -> Option<Backing> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    backing_of(file.path()).unwrap()
}

#[test]
fn the_backing_file_is_found_whatever_else_the_header_says() {
    for (version, features) in [(2, 0), (3, 0), (3, 0xff), (4, 0)] {
        let found = backing(&overlay(version, features, b"base.img")).unwrap();
        assert_eq!(found.name, "base.img", "version {version}, features {features}");
    }
    assert_eq!(backing(b"QFI\xfb"), None);
    assert_eq!(backing(b"not an image"), None);
    assert_eq!(backing(b""), None);
    assert_eq!(backing(&overlay(3, 0, b"")), None);
    // A name that the file ends before.
    assert_eq!(backing(&overlay(3, 0, b"base.img")[..515]), None);
}

#[test]
fn the_name_of_a_backing_file_leads_to_a_file_or_nowhere() {
    for (name, path) in [
        ("base", Some("/pool/base")),
        ("../base", Some("/pool/../base")),
        ("/a/base", Some("/a/base")),
        ("./with:colon", Some("/pool/./with:colon")),
        ("file:base", Some("/pool/base")),
        ("file:/a/b:c", Some("/a/b:c")),
        (
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/base"}}"#,
            Some("/a/base"),
        ),
        (r#"json:{"file.filename":"base"}"#, Some("/pool/base")),
        ("nbd://host/export", None),
        ("rbd:pool/image", None),
        ("json:{", None),
    ] {
        let backing = Backing { name: OsStr::new(name).to_owned(), format: None };
        assert_eq!(backing.path(Path::new("/pool/top")), path.map(PathBuf::from), "{name}");
    }
}
