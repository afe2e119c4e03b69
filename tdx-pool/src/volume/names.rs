//! The names that these tools choose for files.

use std::path::Path;

use common::{Error, ErrorKind, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// A kind of file that these tools create, recognized by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFile {
    /// `overlay.<15 alnum>.qcow2`: a domain's disk over a base image.
    Overlay,
    /// `cidata.<15 alnum>.<extension>`: a cloud-init seed.
    Seed,
    /// `disk.<15 alnum>.qcow2` or `.raw`: a domain's disk without a backing file.
    Disk,
    /// `import.<15 alnum>.part`: an incomplete import.
    Import,
}

impl ToolFile {
    /// The kind of file with this name; none for other names. The first two patterns are also those of the original
    /// script tdvirsh.
    pub fn classify(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('.')?;
        let (random, extension) = rest.split_once('.')?;
        if random.len() != RANDOM_LENGTH || !random.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        match (kind, extension) {
            ("overlay", "qcow2") => Some(Self::Overlay),
            ("disk", "qcow2" | "raw") => Some(Self::Disk),
            ("import", "part") => Some(Self::Import),
            ("cidata", extension) if !extension.is_empty() => Some(Self::Seed),
            _ => None,
        }
    }

    /// The kind of the file at a path, by its file name.
    pub fn classify_path(path: &Path) -> Option<Self> {
        Self::classify(path.file_name()?.to_str()?)
    }

    /// Whether the file belongs to a domain: its disk or its cloud-init seed.
    pub fn is_of_domain(self) -> bool {
        matches!(self, Self::Overlay | Self::Disk | Self::Seed)
    }

    /// A new random name for this kind of file.
    ///
    /// Errors: `io` when the kernel returns no random bytes.
    pub fn new_name(self) -> Result<String> {
        let random = random_alnum()?;
        Ok(match self {
            Self::Overlay => format!("overlay.{random}.qcow2"),
            Self::Disk => format!("disk.{random}.qcow2"),
            Self::Seed => format!("cidata.{random}.img"),
            Self::Import => format!("import.{random}.part"),
        })
    }
}

const RANDOM_LENGTH: usize = 15;

/// Fifteen random letters and digits, about 89 bits, so that collisions do not happen.
fn random_alnum() -> Result<String> {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut text = String::new();
    while text.len() < RANDOM_LENGTH {
        // Bytes from 248 on are dropped: 248 is a multiple of 62, so all characters are equally likely.
        let fair = random_bytes::<32>()?.into_iter().filter(|&byte| byte < 248);
        text.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    text.truncate(RANDOM_LENGTH);
    Ok(text)
}

/// Random bytes from the kernel.
///
/// Errors: `io` when the kernel returns none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(n) if n == N => Ok(bytes),
        Ok(_) => Err(Error::new(ErrorKind::Io, "the kernel returned too few random bytes")),
        Err(error) => Err(Error::new(ErrorKind::Io, "cannot get random bytes").because(error)),
    }
}

/// Checks the name that a user chose for a new volume.
///
/// Errors: `usage` for a name that libvirt or a file system does not allow, or that `cleanup` would take for a file of
/// these tools.
pub fn check_volume_name(name: &str) -> Result<()> {
    let problem = match name {
        "" | "." | ".." => "is not a file name",
        _ if name.contains('/') => "contains a slash",
        _ if name.chars().any(char::is_control) => "contains a control character",
        _ if name.len() > 255 => "is longer than 255 bytes",
        _ if ToolFile::classify(name).is_some() => {
            "is reserved: tdx-pool cleanup deletes unused files with such a name"
        }
        _ => return Ok(()),
    };
    Err(Error::usage(format!("volume name {name:?} {problem}"))
        .hint("choose another name with --name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classify_recognizes_only_names_of_these_tools() {
        for (name, ours) in [
            ("overlay.abcDEF012345678.qcow2", Some(ToolFile::Overlay)),
            ("cidata.abcDEF012345678.iso", Some(ToolFile::Seed)),
            ("cidata.abcDEF012345678.img", Some(ToolFile::Seed)),
            ("cidata.common.iso", None),
            ("cidata.abcDEF01234567.iso", None),
            ("cidata.abcDEF012345678.", None),
            ("import.abcDEF012345678.part", Some(ToolFile::Import)),
            ("disk.abcDEF012345678.qcow2", Some(ToolFile::Disk)),
            ("disk.abcDEF012345678.raw", Some(ToolFile::Disk)),
            ("disk.abcDEF012345678.img", None),
            ("overlay.abcDEF01234567.qcow2", None),
            ("overlay.abcDEF0123456789.qcow2", None),
            ("overlay.abcDEF01234567_.qcow2", None),
            ("overlay.abcDEF012345678.qcow2.bak", None),
            ("overlay.abcDEF012345678.qcow", None),
            ("my-overlay.abcDEF012345678.qcow2", None),
            ("cidata..iso", None),
            ("cidata.a-b.iso", None),
            ("overlay", None),
            ("", None),
        ] {
            assert_eq!(ToolFile::classify(name), ours, "{name}");
        }
    }

    #[test]
    fn new_names_are_recognized_and_unique() {
        for kind in [ToolFile::Overlay, ToolFile::Disk, ToolFile::Seed, ToolFile::Import] {
            let name = kind.new_name().unwrap();
            assert_eq!(ToolFile::classify(&name), Some(kind), "{name}");
            assert_ne!(name, kind.new_name().unwrap());
        }
    }

    #[test]
    fn check_volume_name_refuses_invalid_and_reserved_names() {
        for name in ["guest.qcow2", "a & 'b' \"c\".img", "日本語.qcow2", "-x"] {
            assert!(check_volume_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a\nb", "overlay.abcDEF012345678.qcow2"] {
            assert!(check_volume_name(name).is_err(), "{name:?}");
        }
    }
}
