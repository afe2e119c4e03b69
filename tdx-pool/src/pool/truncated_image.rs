//! Finds truncated images in a pool's directory. Such an image keeps libvirt from reading the pool, with an error
//! message that does not name the image.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use common::Error;
use common::libvirt::is_local;
use virt::storage_pool::StoragePool;

/// A qcow2 file that ends within its header.
#[derive(Debug, PartialEq, Eq)]
struct Truncated {
    path: PathBuf,
    bytes: u64,
    header: u64,
}

/// Returns libvirt's error about a pool that it cannot read. If a truncated image in the pool's directory on this
/// host is the cause, returns an error that names the image.
pub(crate) fn explain(error: Error, pool: &StoragePool, directory: Option<&Path>) -> Error {
    let uri = pool.connect().and_then(|connect| connect.uri());
    let directory = directory.filter(|_| uri.is_ok_and(|uri| is_local(&uri)));
    let Some(Truncated { path, bytes, header }) = directory.and_then(find) else {
        return error;
    };
    let path = path.display();
    Error::invalid_input(format!(
        "{path} is truncated within its qcow2 header ({bytes} of {header} bytes), and libvirt cannot read a \
         pool with such a file"
    ))
    .because(error)
    .hint(format!("delete {path}, then copy or download the image again"))
}

fn find(directory: &Path) -> Option<Truncated> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let is_file = path.symlink_metadata().ok()?.is_file();
        let file = is_file.then(|| File::open(&path).ok()).flatten()?;
        let bytes = file.metadata().ok()?.len();
        let mut start = Vec::new();
        file.take(8).read_to_end(&mut start).ok()?;
        let header = header_length(&start)?;
        (bytes < header).then_some(Truncated { path, bytes, header })
    })
}

/// The length of the header of a qcow2 file with this start; `None` for other files. Unit: bytes.
///
/// Source: QEMU's `docs/interop/qcow2.rst`, "Header".
fn header_length(start: &[u8]) -> Option<u64> {
    let rest = start.strip_prefix(b"QFI\xfb")?;
    Some(if matches!(rest, [0, 0, 0, 2]) { 72 } else { 104 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_names_a_qcow2_file_that_ends_within_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        write("raw.img", b"QF");
        write("whole.qcow2", &[b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 96]].concat());
        write("old.qcow2", &[b"QFI\xfb\0\0\0\x02".as_slice(), &[0; 64]].concat());
        fs::create_dir(folder.path().join("a.qcow2")).unwrap();
        assert_eq!(find(folder.path()), None);
        write("short.qcow2", &[b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 52]].concat());
        let path = folder.path().join("short.qcow2");
        assert_eq!(find(folder.path()), Some(Truncated { path, bytes: 60, header: 104 }));
        write("bare.qcow2", b"QFI\xfb");
        assert_eq!(find(folder.path()).unwrap().bytes, 4);
        assert_eq!(find(Path::new("/no/such/folder")), None);
    }
}
