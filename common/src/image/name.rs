//! Parses the name of an image as QEMU does: a path, or a path behind the prefix of a protocol.
//!
//! Source: QEMU `block.c` (`path_has_protocol()`, `bdrv_get_full_backing_filename()`),
//! `block/file-posix.c`, `block/blkdebug.c`, `block/blkverify.c`, `block/vvfat.c`;
//! `docs/system/qemu-block-drivers.rst`.

use super::local_files::{LocalFiles, is_remote};
use super::name_json;

/// The number of names that can wrap each other.
const MAX_WRAPPERS: usize = 8;
impl LocalFiles {
    /// Reads a name in QEMU's syntax.
    pub fn parse(name: &[u8]) -> Self {
        let mut found = Self::default();
        found.add_name(name, 0);
        found
    }

    /// Parses the name of a data file, which QEMU resolves from its working directory.
    pub fn parse_data_file(name: &[u8]) -> Self {
        let mut found = Self::parse(name);
        found.files.iter_mut().for_each(|file| file.from_working_directory = true);
        found
    }

    /// Adds the files that a name means; `depth` is the number of names that wrap it.
    pub(super) fn add_name(&mut self, name: &[u8], depth: usize) {
        if name.is_empty() {
            return;
        }
        if depth > MAX_WRAPPERS {
            self.is_incomplete = true;
            return;
        }
        let Some((protocol, rest)) = split_protocol(name) else {
            return self.add_path(name, false);
        };
        match protocol {
            b"json" => name_json::add(self, rest, depth),
            b"file" | b"host_device" | b"host_cdrom" | b"host_floppy" => self.add_path(rest, true),
            b"blkdebug" | b"blkverify" => {
                // A configuration or a raw image, then the image.
                let (first, image) = split_at_colon(rest).unwrap_or((b"", rest));
                self.add_path(first, true);
                self.add_name(image, depth + 1);
            }
            b"fat" => self.add_directory(rest.rsplit(|byte| *byte == b':').next().unwrap_or(rest)),
            _ if is_remote(protocol) => {}
            // This is not a protocol that is known here: a file with a colon in its name, or a wrapper of a
            // newer QEMU.
            _ => {
                self.add_path(name, true);
                if rest.starts_with(b"/") && !rest.starts_with(b"//") {
                    self.add_path(rest, true);
                }
            }
        }
    }
}

/// The protocol before the first colon, and the text after it; none for a plain path.
fn split_protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[at] == b':').then(|| (&name[..at], &name[at + 1..]))
}

fn split_at_colon(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|byte| *byte == b':')?;
    Some((&name[..at], &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &[&str]) {
        let found = LocalFiles::parse(name.as_bytes());
        let paths = found.files.iter().flat_map(|file| file.paths_from(Path::new("/dir")));
        let paths: Vec<PathBuf> = paths.collect();
        assert_eq!(paths, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{name}");
        assert!(!found.is_incomplete, "{name}");
    }

    #[test]
    fn parse_returns_the_files_that_qemu_opens() {
        check("/a/b", &["/a/b"]);
        check("b", &["/dir/b"]);
        check("../b:c", &["/dir/../b:c"]);
        check("file:/a/b:c", &["/a/b:c"]);
        check("file:b", &["/dir/b", "/b"]);
        check("host_device:/dev/sdb", &["/dev/sdb"]);
        check("blkdebug::/a", &["/a"]);
        check("blkdebug:conf:blkverify:/raw:file:/a", &["/dir/conf", "/conf", "/raw", "/a"]);
        check("fat:rw:/srv/share", &["/srv/share"]);
        check("unknown:/a", &["/dir/unknown:/a", "/unknown:/a", "/a"]);
    }

    #[test]
    fn parse_returns_no_local_file_for_a_remote_protocol() {
        for name in [
            "nbd:localhost:10809:exportname=/a",
            "nbd+unix:///name?socket=/s",
            "rbd:pool/image:conf=/etc/ceph.conf",
            "https://host/a",
            "ssh://host/srv/a",
            "gluster+tcp://host/volume/a",
            "iscsi://host/iqn/1",
            "null-co://",
            "",
        ] {
            check(name, &[]);
        }
    }

    #[test]
    fn parse_returns_every_file_in_a_json_name() {
        for name in [
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}"#,
            r#"json:{"file.filename":"/a"}"#,
            r#"json:{"driver":"raw","offset":512,"file":{"filename":"/a"}}"#,
            r#"json:{'driver':'qcow2','file':{'driver':'file','filename':'/a'}}"#,
            r#"json:{"filename":"json:{\"file.filename\":\"/a\"}"}"#,
            r#"json:{"driver":"blkdebug","image":{"driver":"host_device","filename":"/a"}}"#,
            r#"json:{"driver":"qcow2","backing":null,"data-file":{"filename":"/a"},"file":"node"}"#,
            r#"json:{"driver":"copy-on-read","file":{"driver":"nbd","host":"h","port":"1"},
                "backing.file.filename":"/a"}"#,
            "json:{\"filename\": \"/a\", \"x\": 'it\\'s \"so\"'}",
        ] {
            check(name, &["/a"]);
        }
        let quorum = r#"json:{"driver":"quorum","vote-threshold":1,"children":[
            {"driver":"qcow2","file":{"driver":"file","filename":"/a"}},{"file.filename":"/b"}]}"#;
        check(quorum, &["/a", "/b"]);
        check(r#"json:{"driver":"quorum","children.0.file.filename":"/a"}"#, &["/a"]);
        check(r#"json:{"driver":"file","filename":"b"}"#, &["/dir/b", "/b"]);
        check(r#"json:{"driver":"file","filename":"nbd:b"}"#, &["/dir/nbd:b", "/nbd:b"]);
        check(r#"json:{"driver":"vvfat","dir":"/srv"}"#, &["/srv"]);
        for remote in [
            r#"json:{"driver":"ssh","path":"/srv/a","server.host":"h"}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"https","url":"https://h/a"}}"#,
            r#"json:{"driver":"qcow2","file.driver":"nfs","file.path":"/srv/a"}"#,
            r#"json:{"file":{"driver":"nbd","server":{"type":"unix","path":"/run/s"}}}"#,
            r#"json:{"filename":"nbd://h/a"}"#,
        ] {
            check(remote, &[]);
        }
    }

    #[test]
    fn parse_marks_an_unknown_name_incomplete_and_keeps_its_known_files() {
        let found = LocalFiles::parse(br#"json:{"filename":"/a","#);
        assert!(found.is_incomplete);
        assert_eq!(found.files[0].path, Path::new("/a"));
        let deep = "blkdebug::".repeat(20) + "/a";
        assert!(LocalFiles::parse(deep.as_bytes()).is_incomplete);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]
        #[test]
        fn no_name_makes_parse_panic(
            prefix in "(json:|blkdebug:|fat:|file:|)",
            name in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            text in r#"[{}\[\]"',:a-f/\\]{0,48}"#,
        ) {
            let name = [prefix.as_bytes(), &name].concat();
            LocalFiles::parse(&name);
            LocalFiles::parse(format!("{prefix}{text}").as_bytes());
        }
    }
}
