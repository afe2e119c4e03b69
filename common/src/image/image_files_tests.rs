use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A qcow2 header that names `backing` as its backing file and `data` as its data file.
fn image(backing: &str, data: &str) -> Vec<u8> {
    let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
    bytes.resize(104, 0);
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    if !data.is_empty() {
        bytes[79] = 4;
        bytes.extend(0x4441_5441u32.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend([0; 8]);
    let offset = bytes.len() as u64;
    bytes[8..16].copy_from_slice(&offset.to_be_bytes());
    bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
    bytes.extend(backing.as_bytes());
    bytes
}

/// A directory with these images: name, backing file, data file.
fn directory(images: &[(&str, &str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    for (name, backing, data) in images {
        fs::write(path.join(name), image(backing, data)).unwrap();
    }
    (directory, path)
}

fn below(directory: &Path, name: &str) -> Vec<String> {
    let below = Images::new(&Host::new("/")).below(&directory.join(name));
    assert_eq!(below.unknown, []);
    let inside =
        |path: &PathBuf| path.strip_prefix(directory).unwrap_or(path).display().to_string();
    below.paths.iter().map(inside).collect()
}

#[test]
fn below_returns_every_file_of_a_tree_of_images() {
    let images = [("top", "base", "top.data"), ("base", "", "base.data"), ("base.data", "", "")];
    let (_guard, directory) = directory(&images);
    let expected = ["base", "top.data", "/top.data", "base.data", "/base.data"];
    assert_eq!(below(&directory, "top"), expected);
    let chain = Images::new(&Host::new("/")).backing_chain(&directory.join("top"));
    assert_eq!(chain, [directory.join("base")]);
}

#[test]
fn below_ends_at_a_cycle_and_follows_a_deep_chain_to_its_end() {
    let (_guard, path) = directory(&[("a", "b", ""), ("b", "x/../a", ""), ("self", "self", "")]);
    fs::create_dir(path.join("x")).unwrap();
    assert_eq!(below(&path, "a"), ["b"]);
    assert_eq!(below(&path, "self"), [""; 0]);
    let mut images = Images::new(&Host::new("/"));
    assert_eq!(images.backing_chain(&path.join("self")), Vec::<PathBuf>::new());
    assert_eq!(images.backing_chain(&path.join("a"))[0], path.join("b"));
    for number in 0..200 {
        fs::write(path.join(number.to_string()), image(&(number + 1).to_string(), "")).unwrap();
    }
    assert_eq!(below(&path, "0").len(), 200);
    assert_eq!(images.backing_chain(&path.join("0")).len(), 200);
}

#[test]
fn below_resolves_a_relative_name_from_the_link_and_from_its_target() {
    let (_guard, path) = directory(&[("base", "", "")]);
    fs::create_dir(path.join("real")).unwrap();
    fs::write(path.join("real/top"), image("base", "")).unwrap();
    fs::write(path.join("real/base"), "").unwrap();
    symlink("real/top", path.join("link")).unwrap();
    assert_eq!(below(&path, "link"), ["base", "real/base"]);
    assert_eq!(below(&path, "real/top"), ["real/base"]);
}

#[test]
fn below_neither_opens_nor_reports_files_that_cannot_be_images() {
    let (_guard, path) = directory(&[("top", "pipe", "folder"), ("long", &"x".repeat(4096), "")]);
    fs::create_dir(path.join("folder")).unwrap();
    nix::unistd::mkfifo(&path.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(below(&path, "top"), ["pipe", "folder", "/folder"]);
    assert_eq!(below(&path, "pipe"), [""; 0]);
    assert_eq!(below(&path, "absent/x"), [""; 0]);
    assert_eq!(below(&path, "long").len(), 1);
}

#[test]
fn below_reports_an_image_whose_files_are_not_known() {
    let (_guard, path) = directory(&[("top", "base", ""), ("json", "json:{", "")]);
    let mut base = image("", "x");
    base[104] = 0;
    fs::write(path.join("base"), base).unwrap();
    let mut images = Images::new(&Host::new("/"));
    let unknown = images.below(&path.join("top")).unknown;
    assert_eq!(unknown[0].path, path.join("base"));
    assert_eq!(unknown[0].reason, UnknownReason::UnnamedDataFile);
    assert_eq!(images.below(&path.join("json")).unknown[0].reason, UnknownReason::StrangeName);
}

#[test]
fn the_image_that_libvirt_describes_counts_if_the_header_names_none() {
    let (_guard, path) = directory(&[("top", "base", ""), ("raw", "", ""), ("base", "", "")]);
    let mut images = Images::new(&Host::new("/"));
    images.describe(&path.join("raw"), Some(&path.join("base")));
    images.describe(&path.join("top"), Some(&path.join("raw")));
    assert_eq!(images.below(&path.join("raw")).paths, [path.join("base")]);
    assert_eq!(images.below(&path.join("top")).paths, [path.join("base")]);
    let mut remote = Images::unread();
    remote.describe(&path.join("top"), Some(&path.join("raw")));
    assert_eq!(remote.backing_chain(&path.join("top")), [path.join("raw")]);
}

#[test]
fn below_returns_paths_of_the_machine_under_a_sysroot() {
    let (_guard, path) = directory(&[("top", "/dev/sdb", "base")]);
    let below = Images::new(&Host::new(&path)).below(Path::new("/top"));
    assert_eq!(below.paths, [PathBuf::from("/dev/sdb"), PathBuf::from("/base")]);
}
