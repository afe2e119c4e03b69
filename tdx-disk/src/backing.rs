//! What an image stands on, from its own header: the definition of a domain that does not run tells
//! no more than the uppermost.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::host::Host;

/// The most images that are followed.
const DEEPEST: usize = 64;

/// The paths below an image, the uppermost first; none below what is no qcow2 or cannot be read.
pub fn chain(host: &Host, image: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut next = below(host, image);
    while let Some(path) = next.filter(|path| !found.contains(path) && found.len() < DEEPEST) {
        next = below(host, &path);
        found.push(path);
    }
    found
}

/// Source: QEMU `docs/interop/qcow2.rst`: big endian; magic, version, offset and length of the name.
fn below(host: &Host, image: &str) -> Option<String> {
    let path = host.path(image);
    // Opening anything else, such as a pipe, may wait.
    let file = File::open(&path).ok().filter(|_| path.is_file())?;
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0).ok()?;
    let offset = u64::from_be_bytes(header[8..16].try_into().ok()?);
    let length = u32::from_be_bytes(header[16..20].try_into().ok()?);
    if !header.starts_with(b"QFI\xfb") || offset == 0 || !(1..=1023).contains(&length) {
        return None;
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, offset).ok()?;
    let name = String::from_utf8(name).ok()?;
    let name = name.strip_prefix("host_device:").or(name.strip_prefix("file:")).unwrap_or(&name);
    Some(Path::new(image).parent()?.join(name).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_followed_to_their_end() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let image = |name: &str, backing: &str| {
            let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
            bytes.extend(64u64.to_be_bytes());
            bytes.extend((backing.len() as u32).to_be_bytes());
            bytes.resize(64, 0);
            bytes.extend(backing.as_bytes());
            std::fs::write(root.path().join(name), bytes).unwrap();
        };
        image("top", "middle");
        image("middle", "/dev/sdb");
        assert_eq!(chain(&host, "/top"), ["/middle", "/dev/sdb"]);
        image("middle", "top");
        assert_eq!(chain(&host, "/top"), ["/middle", "/top"], "a circle ends");
        std::fs::write(root.path().join("raw"), "QFI").unwrap();
        for none in ["/raw", "/absent", "/"] {
            assert_eq!(chain(&host, none), [""; 0], "{none}");
        }
    }
}
