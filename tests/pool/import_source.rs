//! An image whose owner changes it while `tdx-pool import` reads it: the pool only ever gets the bytes whose
//! digest is promised.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

use crate::support::pool::{IMAGES, raw_image};
use crate::support::rig::Rig;
use crate::support::steps::{Moment, Walk, moments};

/// A change that the owner of an image makes during an import.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Gives the name of the image to another image.
    Rename,
    /// Writes a qcow2 header into the image that names another file, and restores the modification time.
    Header,
    /// Writes other data into the image, and restores the modification time.
    Data,
}

const SIZE: usize = 2 << 20;

/// A rig with the images, and the digest of `image.raw`.
fn rig_with_source() -> (Rig, String) {
    let rig = Rig::start();
    rig.pool("ensure").document();
    raw_image(rig.scratch().join("good.raw"), SIZE, 1);
    raw_image(rig.scratch().join("evil.raw"), SIZE, 2);
    fs::write(rig.scratch().join("secret"), vec![b's'; SIZE]).unwrap();
    rig.shell("chmod 600 secret; qemu-img create -q -u -f qcow2 -b $PWD/secret -F raw header 2M")
        .text();
    let digest = rig.shell("sha256sum good.raw").text()[..64].to_owned();
    (rig, digest)
}

/// Restores `image.raw`.
fn restore(rig: &Rig) {
    rig.shell(&format!("cp good.raw new && mv new image.raw; cp evil.raw evil; rm -f {IMAGES}/*"))
        .text();
}

fn change(folder: &Path, change: Change) {
    let image = folder.join("image.raw");
    let write = |bytes: &[u8], at: u64| {
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        let before: SystemTime = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.set_modified(before).unwrap();
    };
    match change {
        Change::Rename => fs::rename(folder.join("evil"), &image).unwrap(),
        Change::Header => write(&fs::read(folder.join("header")).unwrap()[..4096], 0),
        Change::Data => write(b"other data", SIZE as u64 - 4096),
    }
}

/// Fails unless the pool has the promised image, or the import was refused and left nothing.
fn check(rig: &Rig, walk: &Walk, digest: &str, compressed: bool, when: &str) {
    let (run, volume) = (&walk.run, format!("{IMAGES}/image.raw"));
    let leftovers = rig.names().into_iter().filter(|name| name.ends_with(".part"));
    assert_eq!(leftovers.count(), 0, "{when}: {walk:#?}");
    if run.status != Some(0) {
        let error = run.error(run.status.unwrap_or_default());
        assert!([3, 5].contains(&error["exit_code"].as_i64().unwrap()), "{when}: {error:#}");
        assert!(error["message"].as_str().unwrap().contains("image.raw"), "{when}: {error:#}");
        assert_eq!(rig.names(), Vec::<String>::new(), "{when}");
        return;
    }
    let sha256 = run.item()["sha256"].clone();
    assert!(sha256.is_null() || sha256 == digest, "{when}: {sha256}");
    let same = match compressed {
        true => format!("qemu-img compare -q -f raw -F qcow2 good.raw {volume}"),
        false => format!("cmp good.raw {volume}"),
    };
    assert_eq!(rig.shell(&same).status, Some(0), "{when}: another image, with the good digest");
}

/// Makes each change at each step of an import. `DIGEST` in the command line is the digest of the source.
fn walk(line: &str, changes: &[Change], compressed: bool) {
    let (rig, digest) = rig_with_source();
    let line = line.replace("DIGEST", &digest);
    // The first run creates the directory of locks.
    restore(&rig);
    rig.shell(&line).document();
    restore(&rig);
    let undisturbed = rig.walk(&line, None);
    check(&rig, &undisturbed, &digest, compressed, "undisturbed");
    assert_eq!(undisturbed.run.status, Some(0), "{undisturbed:#?}");
    let (mut refused, mut done) = (0, 0);
    for moment in moments(&undisturbed.steps, false) {
        for kind in changes {
            restore(&rig);
            let folder = rig.scratch();
            let act = || change(folder, *kind);
            let walk = rig.walk_beside(&line, moment.clone(), &act);
            let when = format!("{kind:?} at {moment:?}");
            assert!(walk.struck || moment.step.contains("virStreamSend"), "{when}: {walk:#?}");
            check(&rig, &walk, &digest, compressed, &when);
            if walk.run.status == Some(0) { done += 1 } else { refused += 1 }
        }
    }
    assert!(refused > 0 && done > 0, "{refused} were refused, {done} done");
}

#[test]
#[ignore = "needs root"]
fn import_of_a_source_that_changes_has_the_promised_bytes_or_fails() {
    let changes = [Change::Rename, Change::Header, Change::Data];
    walk("tdx-pool import image.raw", &changes, false);
}

#[test]
#[ignore = "needs root"]
fn compressed_import_of_a_source_that_changes_has_the_promised_disk_or_fails() {
    let changes = [Change::Rename, Change::Header];
    walk("tdx-pool import image.raw --compress --sha256 DIGEST", &changes, true);
}

#[test]
#[ignore = "needs root"]
fn upload_of_a_source_that_changes_has_the_promised_bytes_or_fails() {
    let changes = [Change::Rename, Change::Header];
    walk(
        "tdx-pool -c qemu+tcp://127.0.0.1/system import image.raw --sha256 DIGEST",
        &changes,
        false,
    );
}

/// A page that is written through a mapping while it is dirty changes no time: only the header of the copy
/// shows what was copied.
#[test]
#[ignore = "needs root"]
fn import_judges_the_copied_header_if_a_mapping_changes_the_source() {
    let (rig, _) = rig_with_source();
    restore(&rig);
    let line = "tdx-pool import image.raw";
    let steps = rig.walk(line, None).steps;
    let at_copy = steps.iter().find(|step| step.starts_with("create pool/import")).unwrap();
    restore(&rig);
    let mapping = Mutex::new(Mapping::of(rig.scratch()));
    let times = || {
        let metadata = fs::metadata(rig.scratch().join("image.raw")).unwrap();
        (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
    };
    let before = times();
    let toggle = || mapping.lock().unwrap().toggle();
    let moment = Moment { step: at_copy.clone(), nth: 1, after: true };
    let walk = rig.walk_beside(line, moment, &toggle);
    assert_eq!(times(), before, "the change can be told by its time");
    let error = walk.run.error(3);
    assert!(error["message"].as_str().unwrap().contains("is an overlay of"), "{error:#}");
    assert_eq!(rig.names(), Vec::<String>::new());
}

/// A process that has the first page of `image.raw` mapped and dirty. It writes `header` into the page when
/// it gets a line.
struct Mapping {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Mapping {
    /// On amd64 mmap(2) is 9 and read(2) is 0. Reading into a mapping writes through it.
    const SCRIPT: &str = "$| = 1; open I, '+<', 'image.raw'; open H, '<', 'header'; \
        my $at = syscall(9, 0, 4096, 3, 1, fileno(I), 0); \
        syscall(0, fileno(I), $at, 4096) == 4096 or die; print qq(dirty\\n); <STDIN>; \
        syscall(0, fileno(H), $at, 4096) == 4096 or die; print qq(written\\n); <STDIN>";

    fn of(folder: &Path) -> Self {
        let mut process = Command::new("perl")
            .args(["-e", Self::SCRIPT])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut mapping = Self { process, answers };
        assert_eq!(mapping.answer(), "dirty\n");
        mapping
    }

    fn toggle(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.answer(), "written\n");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

#[test]
#[ignore = "needs root"]
fn import_compares_a_compressed_volume_with_the_source_that_it_opened() {
    let (rig, _) = rig_with_source();
    let digest = rig.shell("sha256sum evil.raw").text()[..64].to_owned();
    // Without attributes only qemu-img can find that a volume equals the image.
    rig.shell("mkdir plain; mount -t ramfs ramfs plain").text();
    rig.pool("ensure --pool plain --path plain").document();
    restore(&rig);
    rig.shell("tdx-pool import image.raw --compress --pool plain").document();
    let line = "tdx-pool import image.raw --compress --pool plain";
    let steps = rig.walk(line, None).steps;
    let start = steps.iter().find(|step| step.ends_with("start qemu-img")).unwrap().clone();
    // Another image gets the name of the source at the moment of the comparison.
    for moment in [false, true].map(|after| Moment { step: start.clone(), nth: 1, after }) {
        rig.shell("cp evil.raw image.raw; cp good.raw evil").text();
        let line = format!("{line} --sha256 {digest}");
        let folder = rig.scratch();
        let walk = rig.walk_beside(&line, moment, &|| change(folder, Change::Rename));
        assert!(walk.struck, "{walk:#?}");
        let message = walk.run.error(5)["message"].to_string();
        assert!(message.contains("exists and differs") || message.contains("changed"), "{message}");
        assert_eq!(rig.shell("ls plain").text(), "image.raw\n");
    }
    rig.shell("umount plain").text();
}

#[test]
#[ignore = "needs root"]
fn new_uses_the_planned_image_or_fails_if_the_image_changes() {
    let (rig, _) = rig_with_source();
    let line = "tdx-td new -i image.raw --security none --memory 64M --vcpus 1 --name x";
    restore(&rig);
    let undisturbed = rig.walk(line, None);
    undisturbed.run.document();
    let at_copy = undisturbed.steps.iter().find(|step| step.starts_with("create pool/import"));
    let moment = Moment { step: at_copy.unwrap().clone(), nth: 1, after: false };
    rig.shell("tdx-td delete x --yes --timeout 0; qemu-img create -q -f qcow2 whole 1M").document();
    restore(&rig);
    rig.virsh(["pool-refresh", "tdvirsh-pool"]);
    let before = rig.state();
    // A raw disk becomes a qcow2 image while it is copied: it is rewritten in place, or replaced.
    let folder = rig.scratch();
    let act = || {
        let file = fs::OpenOptions::new().write(true).open(folder.join("image.raw")).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&fs::read(folder.join("whole")).unwrap(), 0).unwrap();
        file.set_modified(time).unwrap();
    };
    let walk = rig.walk_beside(line, moment, &act);
    let error = walk.run.error(5);
    assert!(
        error["message"].as_str().unwrap().contains("was changed while this command ran"),
        "{error:#}"
    );
    assert_eq!(rig.state(), before);
}
