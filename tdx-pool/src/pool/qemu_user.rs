//! The user and group that QEMU runs as on this host.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::libvirt::{Context, Libvirt};
use common::xml::{Document, Element};
use common::{Error, IoContext, Result};

/// A user id and group id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QemuUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The user and group that this libvirt runs QEMU as; none if libvirt does not report them.
///
/// They are never guessed from the distribution: Debian has libvirt-qemu:kvm, Fedora has qemu:qemu, and a session
/// daemon uses the user's own.
/// Source: <https://libvirt.org/formatcaps.html>, `host/secmodel[model='dac']/baselabel`, `+UID:+GID`.
pub fn qemu_user(libvirt: &Libvirt) -> Result<Option<QemuUser>> {
    let text = libvirt.connect().capabilities().context("read the host's capabilities")?;
    let capabilities = Document::parse(text)?;
    let mut models = capabilities.root().find_all("host/secmodel");
    let dac = models.find(|model| model.text_at("model").as_deref() == Some("dac"));
    Ok(dac.and_then(|dac| dac.text_at("baselabel")).and_then(|label| parse(&label)))
}

/// The `<permissions>` of a new volume: its mode in octal digits, and its owner if libvirt reports one.
pub(crate) fn permissions(mode: &str, owner: Option<QemuUser>) -> Element {
    let element = Element::new("permissions").child(Element::new("mode").text(mode));
    element.children(owner.into_iter().flat_map(|QemuUser { uid, gid }| {
        [Element::new("owner").text(uid), Element::new("group").text(gid)]
    }))
}

/// Fails for a file that QEMU's user cannot read, if libvirt will not change the owner of the file.
///
/// Errors: `conflict`, with the command that grants access as the hint; `not_found`, `io`.
pub fn check_readable(path: &Path, qemu: QemuUser) -> Result<()> {
    let file = match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
        file => file.at("examine", path)?,
    };
    let read_bit = if file.uid() == qemu.uid {
        0o400
    } else if file.gid() == qemu.gid {
        0o040
    } else {
        0o004
    };
    if qemu.uid == 0 || file.mode() & read_bit != 0 {
        return Ok(());
    }
    let (path, gid) = (path.display(), qemu.gid);
    Err(Error::conflict(format!(
        "QEMU runs as user {} and group {gid} and cannot read {path}",
        qemu.uid
    ))
    .hint(format!("chgrp {gid} '{path}' && chmod 0640 '{path}'")))
}

fn parse(label: &str) -> Option<QemuUser> {
    let (uid, gid) = label.split_once(':')?;
    let number = |text: &str| text.strip_prefix('+')?.parse().ok();
    Some(QemuUser { uid: number(uid)?, gid: number(gid)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_label_is_parsed_only_if_it_is_numeric() {
        assert_eq!(parse("+64055:+106"), Some(QemuUser { uid: 64055, gid: 106 }));
        for label in ["", "+1", "1:2", "+a:+b", "qemu:qemu"] {
            assert_eq!(parse(label), None, "{label}");
        }
    }
}
