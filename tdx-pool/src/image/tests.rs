//! Real images of every kind, cut, bent and impersonated.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::error::{ErrorKind, Result};
use common::shell::quote_path;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A folder for the images of one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "the real qemu-img makes what is tested")]
    fn run(&self, command: &str) {
        let ran = std::process::Command::new("sh")
            .args(["-ec", command])
            .current_dir(self.0.path())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(ran.unwrap().success(), "{command}");
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

fn probe_at(path: &Path) -> Result<Image> {
    probe(&open(path)?, path)
}

fn check_at(path: &Path) -> Result<Image> {
    check_base(&open(path)?, path)
}

/// Message and hint of the refusal of `path`, without the name in front.
fn refusal(path: &Path) -> (String, String) {
    let error = check_at(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let name = path.display().to_string();
    let hint = error.to_document().error.hint.unwrap_or_default();
    (error.message().strip_prefix(&name).unwrap().trim_start().to_owned(), hint)
}

/// A disk of 8 MiB with something at its start, middle and end, and a boot signature.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    for (at, seed) in [(0, 1u64), (3 << 20, 2), ((8 << 20) - (200 << 10), 3)] {
        let mut state = seed;
        for byte in &mut disk[at..at + (200 << 10)] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

/// Complete images of `disk()` in all the ways that QEMU writes them.
const VARIANTS: &[&str] = &[
    "-o compat=0.10",
    "-o compat=1.1",
    "-o compat=1.1,lazy_refcounts=on",
    "-c",
    "-c -o compression_type=zstd",
    "-c -o cluster_size=2M",
    "-o extended_l2=on",
    "-o extended_l2=on,cluster_size=16k",
    "-o cluster_size=512",
    "-o cluster_size=2M",
    "-o refcount_bits=1",
    "-o refcount_bits=64",
    "-o preallocation=metadata",
    "-o preallocation=falloc",
    "-o preallocation=full",
    "-S 0",
];

#[test]
fn check_base_accepts_complete_images() {
    let folder = Folder::new();
    folder.write("disk.raw", &disk());
    for variant in VARIANTS {
        folder.run(&format!("qemu-img convert -f raw -O qcow2 {variant} disk.raw image.qcow2"));
        let path = folder.path("image.qcow2");
        let image = check_at(&path).unwrap_or_else(|error| panic!("{variant}: {error}"));
        let expected = Image {
            format: Format::Qcow2,
            virtual_size_bytes: 8 << 20,
            ..Image::raw(fs::metadata(&path).unwrap().len())
        };
        assert_eq!(image, expected, "{variant}");
        assert_eq!(probe_at(&path).unwrap(), expected, "{variant}");
    }
    assert_eq!(check_at(&folder.path("disk.raw")).unwrap(), Image::raw(8 << 20));
}

#[test]
fn check_base_refuses_an_image_that_lacks_its_end() {
    let folder = Folder::new();
    folder.write("disk.raw", &disk());
    for variant in VARIANTS {
        folder.run(&format!("qemu-img convert -f raw -O qcow2 {variant} disk.raw image.qcow2"));
        let path = folder.path("image.qcow2");
        let whole = fs::read(&path).unwrap();
        let cluster = 1usize << whole[23];
        let size = whole.len();
        for cut in [4, 100, 600, cluster, 3 * cluster, size / 2, size - size / 8, size - cluster] {
            if cut >= size {
                continue;
            }
            let (message, hint) = refusal(&folder.write("cut.qcow2", &whole[..cut]));
            let expected = format!("is truncated: it has {cut} bytes and needs at least ");
            assert!(message.starts_with(&expected), "{variant} cut at {cut}: {message}");
            assert_eq!(hint, "copy or download the image again");
        }
    }
}

#[test]
fn check_base_counts_each_allocated_subcluster() {
    let folder = Folder::new();
    folder.run(
        "qemu-img create -f qcow2 -o extended_l2=on,cluster_size=64k image.qcow2 1M
         qemu-io -c 'write 0 2k' -c 'write 20k 2k' image.qcow2",
    );
    let path = folder.path("image.qcow2");
    let end = check_at(&path).unwrap().file_size_bytes;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(end.next_multiple_of(64 << 10) - (64 << 10) + (20 << 10)).unwrap();
    assert!(refusal(&path).0.starts_with("is truncated"));
    file.set_len(end.next_multiple_of(64 << 10) - (64 << 10) + (20 << 10) + 1).unwrap();
    check_at(&path).unwrap();
}

#[test]
fn check_base_refuses_images_that_need_a_file_a_key_or_a_repair() {
    let folder = Folder::new();
    folder.run(
        "qemu-img create -f qcow2 base.qcow2 1M
         qemu-img create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
         qemu-img create -f qcow2 -o compat=0.10 -b base.qcow2 -F qcow2 over2.qcow2
         qemu-img create -f qcow2 -o cluster_size=2M -b base.qcow2 -F raw 'over 3.qcow2'
         qemu-img create -f qcow2 -o data_file=data.raw data.qcow2 1M
         qemu-img create -f qcow2 --object secret,id=s,data=x \
            -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 1M
         qemu-img create -f qcow2 none.qcow2 0
         cp base.qcow2 corrupt.qcow2
         printf '\\002' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none
         # Making a real one takes seconds, and fails on a busy machine.
         cp base.qcow2 luks.qcow2
         printf '\\002' | dd of=luks.qcow2 bs=1 seek=35 conv=notrunc status=none
         cp base.qcow2 dirty.qcow2
         printf '\\001' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc status=none",
    );
    let flatten = |name: &str| {
        let path = folder.path(name);
        let output = folder.path(&name.replace(".qcow2", "-flat.qcow2"));
        let (path, output) = (quote_path(&path), quote_path(&output));
        let purpose =
            "merge the image with the files that it names (only if you trust these files)";
        format!("to {purpose}, run: qemu-img convert -f qcow2 -O qcow2 -- {path} {output}")
    };
    let corrupt = folder.path("corrupt.qcow2");
    let repair = format!("to repair it, run: qemu-img check -r all -- {}", corrupt.display());
    let key = "make a decrypted copy with qemu-img convert, and pass the key with --object secret";
    let key = key.to_owned();
    for (name, message, hint) in [
        ("over.qcow2", "is an overlay of base.qcow2", flatten("over.qcow2")),
        ("over2.qcow2", "is an overlay of base.qcow2", flatten("over2.qcow2")),
        ("over 3.qcow2", "is an overlay of base.qcow2", flatten("over 3.qcow2")),
        ("data.qcow2", "keeps its data in an external data file", flatten("data.qcow2")),
        ("aes.qcow2", "is an encrypted qcow2 image", key.clone()),
        ("luks.qcow2", "is an encrypted qcow2 image", key),
        ("corrupt.qcow2", "is marked corrupt", repair),
        ("none.qcow2", "is an image of a disk of zero bytes", String::new()),
    ] {
        assert_eq!(refusal(&folder.path(name)), (message.to_owned(), hint));
    }
    assert!(check_at(&folder.path("dirty.qcow2")).unwrap().dirty);
    assert!(probe_at(&folder.path("data.qcow2")).unwrap().data_file);

    for (name, format) in
        [("over.qcow2", "qcow2"), ("over2.qcow2", "qcow2"), ("over 3.qcow2", "raw")]
    {
        let path = folder.path(name);
        let backing = probe_at(&path).unwrap().backing.unwrap();
        assert_eq!(backing.name, "base.qcow2");
        assert_eq!(backing.format.as_deref(), Some(format));
    }
}

#[test]
fn check_base_names_the_format_of_other_files() {
    let folder = Folder::new();
    folder.write("disk.raw", &disk());
    folder.run(
        "for f in vmdk vdi vhdx vpc qed qcow; do qemu-img convert -O $f disk.raw disk.$f; done
         qemu-img convert -O vpc -o subformat=fixed disk.raw fixed.vpc
         gzip -k disk.raw
         xz -k0 disk.raw
         tar -cf disk.tar disk.raw",
    );
    let mut iso = vec![0; 64 << 10];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    folder.write("disk.iso", &iso);
    folder.write("disk.elf", b"\x7fELF\x02");
    folder.write("noise", &[7; 5000]);
    folder.write("short", &[7; 5]);
    folder.write("uneven", &disk()[..1000]);
    for (name, message, hint) in [
        ("disk.vmdk", "is a VMDK image,", "qemu-img convert -f vmdk -O qcow2 -- "),
        ("disk.vdi", "is a VirtualBox VDI image,", "qemu-img convert -f vdi -O qcow2 -- "),
        ("disk.vhdx", "is a VHDX image,", "qemu-img convert -f vhdx -O qcow2 -- "),
        ("disk.vpc", "is a VHD image,", "qemu-img convert -f vpc -O qcow2 -- "),
        ("fixed.vpc", "is a VHD image,", "qemu-img convert -f vpc -O qcow2 -- "),
        ("disk.qed", "is a QED image,", "qemu-img convert -f qed -O qcow2 -- "),
        ("disk.qcow", "is an image in QEMU's old qcow", "qemu-img convert -f qcow -O qcow2 -- "),
        ("disk.raw.gz", "is a gzip-compressed file,", "decompress the file first: gzip -dk "),
        ("disk.raw.xz", "is an xz-compressed file,", "decompress the file first: xz -dk "),
        ("disk.tar", "is a tar archive,", "decompress the file first: tar -xf "),
        ("disk.iso", "is a CD image,", "pass a disk image"),
        ("disk.elf", "is an ELF program,", "pass a disk image"),
        ("noise", "is not a disk image:", "pass a disk image"),
        ("short", "is not a disk image:", "pass a disk image"),
        ("uneven", "is not a complete raw disk: 1000 bytes", "copy or download"),
    ] {
        let refused = refusal(&folder.path(name));
        assert!(refused.0.starts_with(message), "{name}: {refused:?}");
        assert!(refused.1.contains(hint), "{name}: {refused:?}");
    }
}

#[test]
fn check_base_names_the_kind_of_special_files() {
    let folder = Folder::new();
    folder.write("empty", b"");
    folder.run("mkfifo pipe; ln -s . folder");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    for (name, message) in [
        ("empty", "is empty"),
        ("pipe", "is a named pipe"),
        ("folder", "is a directory"),
        ("socket", "is a socket or the node of a device that does not exist"),
        ("/dev/null", "is a character device"),
    ] {
        assert_eq!(refusal(&folder.path(name)).0, message);
    }
    assert_eq!(check_at(&folder.path("absent")).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Fields of a header set to what they must not be.
#[test]
fn check_base_refuses_damaged_headers() {
    let folder = Folder::new();
    folder.run("qemu-img create -f qcow2 image.qcow2 1G; qemu-io -c 'write 0 64k' image.qcow2");
    let path = folder.path("image.qcow2");
    let good = fs::read(&path).unwrap();
    let l1 = u64::from_be_bytes(good[40..48].try_into().unwrap()) as usize;
    let l2 = u64::from_be_bytes(good[l1..l1 + 8].try_into().unwrap()) as usize & 0xff_ffff;
    let bend = |at: usize, bytes: &[u8]| {
        let mut bent = good.clone();
        bent[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&folder.write("bent.qcow2", &bent)).0
    };
    let max = u64::MAX.to_be_bytes();
    for (at, bytes, message) in [
        (4, &[0, 0, 0, 4][..], "is a qcow2 image of unknown version 4"),
        (8, &max, "the offset of its backing file's name is invalid"),
        (20, &[0, 0, 0, 8], "its cluster size of 2^8 bytes is not allowed"),
        (20, &[255; 4], "its cluster size of 2^4294967295 bytes is not allowed"),
        (24, &max, "its virtual size is too large"),
        (24, &[0, 0, 1], "its L1 table is too small for the disk"),
        (32, &[0, 0, 0, 3], "its encryption method is unknown"),
        (36, &[255; 4], "its L1 table is too large"),
        (36, &[0; 4], "its L1 table is too small for the disk"),
        (40, &max, "the offset of its L1 table is invalid"),
        (40, &[0; 8], "the offset of its L1 table is invalid"),
        (40, &[255, 255, 255, 255, 255, 255, 0, 0], "is truncated"),
        (48, &max, "the offset of its reference count table is invalid"),
        (56, &[0; 4], "it has no reference counts"),
        (56, &[255; 4], "its reference count table is too large"),
        (60, &[255; 4], "it has more than 65536 snapshots"),
        (72, &[0x80], "needs unknown qcow2 features 0x8000000000000000"),
        (79, &[8], "its compression type contradicts its feature bits"),
        (104, &[1], "its compression type contradicts its feature bits"),
        (104, &[2], "its compression type is unknown"),
        (96, &[0, 0, 0, 7], "its reference counts are too wide"),
        (100, &[0, 0, 0, 72], "its header is too short"),
        (100, &[0, 1, 0, 8], "its header is longer than a cluster"),
        (l1 + 6, &[2], "the offset of an L2 table is invalid"),
        (l1 + 8, &good[l1..l1 + 8], "an L2 table is used twice"),
        (l2 + 6, &[2], "the offset of a cluster is invalid"),
        (l2 + 1, &[1], "is truncated"),
        (l1 + 1, &[1], "is truncated"),
    ] {
        let found = bend(at, bytes);
        assert!(found.contains(message), "{bytes:?} at {at}: {found}");
    }
}

#[test]
fn check_base_refuses_snapshots_outside_the_file() {
    let folder = Folder::new();
    folder.run(
        "qemu-img create -f qcow2 image.qcow2 64M; qemu-io -c 'write 0 64k' image.qcow2
         qemu-img snapshot -c first image.qcow2; qemu-io -c 'write 64k 64k' image.qcow2
         qemu-img snapshot -c 'the second' image.qcow2",
    );
    let path = folder.path("image.qcow2");
    check_at(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let table = u64::from_be_bytes(good[64..72].try_into().unwrap()) as usize;
    for (at, bytes, message) in [
        (60, &65_536u32.to_be_bytes()[..], "is truncated"),
        (64, &(1u64 << 62).to_be_bytes(), "is truncated"),
        (64, &0xffff_ffff_ffff_0000u64.to_be_bytes(), "is truncated"),
        (table, &(1u64 << 62).to_be_bytes(), "is truncated"),
        (table, &1u64.to_be_bytes(), "the offset of the L1 table of a snapshot is invalid"),
        (table + 8, &[255; 4], "a snapshot entry is larger than QEMU accepts"),
        (table + 36, &[255; 4], "a snapshot entry is larger than QEMU accepts"),
    ] {
        let mut bent = good.clone();
        bent[at..at + bytes.len()].copy_from_slice(bytes);
        let found = refusal(&folder.write("bent.qcow2", &bent)).0;
        assert!(found.contains(message), "{bytes:?} at {at}: {found}");
    }
}

#[test]
fn convert_suggests_another_name_for_its_output() {
    for (image, command) in [
        ("/a/b.vmdk", "/a/b.vmdk /a/b.vmdk.qcow2"),
        ("/a/b.qcow2", "/a/b.qcow2 /a/b-flat.qcow2"),
        ("/dev/vg/root", "/dev/vg/root root.qcow2"),
        ("it", "it it.qcow2"),
    ] {
        let expected = format!("to test, run: qemu-img convert -f raw -O qcow2 -- {command}");
        assert_eq!(foreign::convert(Path::new(image), "raw", "test"), expected);
    }
}

proptest! {
    #[test]
    fn no_content_makes_check_base_panic(
        mut content in proptest::collection::vec(any::<u8>(), 0..2000),
        magic: bool,
    ) {
        if magic {
            content.splice(0..content.len().min(8), *b"QFI\xfb\0\0\0\x03");
        }
        look_at(&content);
    }

    #[test]
    fn no_mutation_of_an_image_makes_check_base_panic(
        variant in 0..4usize,
        edits in proptest::collection::vec(
            (prop_oneof![0..112usize, 0..1usize << 20], prop_oneof![Just(0u8), Just(255), any::<u8>()]),
            1..8,
        ),
        cut in prop_oneof![Just(usize::MAX), 0..1usize << 20],
    ) {
        let mut content = images()[variant].clone();
        for (at, byte) in edits {
            let at = at % content.len();
            content[at] = byte;
        }
        content.truncate(cut);
        look_at(&content);
    }
}

/// Small real images, made once.
fn images() -> &'static [Vec<u8>; 4] {
    static IMAGES: std::sync::OnceLock<[Vec<u8>; 4]> = std::sync::OnceLock::new();
    IMAGES.get_or_init(|| {
        let folder = Folder::new();
        folder.write("disk.raw", &disk()[..1 << 20]);
        ["-c", "-o compat=0.10", "-o extended_l2=on,cluster_size=16k", "-B disk.raw -F raw"].map(
            |variant| {
                folder.run(&format!("qemu-img convert -f raw -O qcow2 {variant} disk.raw image"));
                fs::read(folder.path("image")).unwrap()
            },
        )
    })
}

fn look_at(content: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let probed = probe_at(file.path());
    if check_at(file.path()).is_ok() {
        probed.unwrap();
    }
}
