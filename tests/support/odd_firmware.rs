//! Unusual directories of firmware descriptors: builds of every kind, masks, leftovers of editors and
//! packages, files that are not descriptors.

#![expect(clippy::print_stdout, reason = "a failed test shows the directory")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::firmware::{Request, compare_arguments, compare_started, expected, listed};
use super::rig::Rig;

/// Pseudorandom numbers that are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % sides
    }

    /// Whether a throw of a die with this number of sides is zero.
    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }
}

/// File names: valid ones, and those that packages and editors leave behind.
const NAMES: [&str; 12] = [
    "10-first.json",
    "20-second.json",
    "20-second.json.dpkg-old",
    "30-third.json",
    "30-third.json~",
    "40-fourth.json",
    "40-fourth.json.rpmsave",
    ".50-hidden.json",
    "60-sixth",
    "70-seventh.json",
    "#80-eighth.json#",
    "90-ninth.json",
];

const FEATURES: [&str; 10] = [
    "acpi-s3",
    "amd-sev",
    "amd-sev-es",
    "enrolled-keys",
    "intel-tdx",
    "requires-smm",
    "secure-boot",
    "verbose-dynamic",
    "host-uefi-vars",
    "of-tomorrow",
];

/// Texts that are not descriptors, or only for some versions of libvirt.
const DAMAGE: [&str; 8] = [
    "{",
    "\n",
    "[]",
    "not JSON",
    r#"{"interface-types":["uefi"],"targets":[],"features":[]}"#,
    r#"{"interface-types":["efi"],"targets":[],"features":[],"mapping":{"device":"memory","filename":"/x"}}"#,
    r#"{"interface-types":["uefi"],"targets":[],"mapping":{"device":"memory","filename":"/x"}}"#,
    r#"{"interface-types":["uefi"],"targets":[],"features":[],"mapping":{"device":"igvm","filename":"/x"}}"#,
];

/// The two directories that a rig's libvirtd reads, replaced for this rig alone.
pub(crate) struct OddDirectories {
    scratch: PathBuf,
}

impl OddDirectories {
    /// Mounts new directories over those of the rig.
    pub(crate) fn mount(rig: &Rig) -> Self {
        // Rig 3 has its own /etc. Rig 1 has the /etc of the machine, which must not change: an overlay with
        // the directory is mounted on it, and the rig's own mounts in it are repeated.
        let place = "if [ -e /run/rig/host ]; then mkdir -p /etc/qemu/firmware; \
            elif [ ! -d /etc/qemu/firmware ]; then \
                mkdir -p fw/etc/qemu/firmware fw/libvirt && mount --bind /etc/libvirt fw/libvirt && \
                mount -t overlay -o lowerdir=$PWD/fw/etc:/etc overlay /etc && \
                mount --bind fw/libvirt /etc/libvirt && mount --bind /run/rig/hosts /etc/hosts; fi";
        let mount = "mkdir -p fw/system fw/admin fw/builds && truncate -s 2M fw/builds/vars && \
            mount --bind fw/system /usr/share/qemu/firmware && mount --bind fw/admin /etc/qemu/firmware";
        rig.shell(&format!("set -e; {place}; {mount}")).text();
        Self { scratch: rig.scratch().join("fw") }
    }

    pub(crate) fn system(&self) -> PathBuf {
        self.scratch.join("system")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.scratch.join("admin")
    }

    /// The path of the file of a build; creates the file.
    pub(crate) fn build(&self, name: &str) -> String {
        let path = self.scratch.join("builds").join(name);
        fs::File::create(&path).unwrap().set_len(2 << 20).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Empties both directories.
    pub(crate) fn clear(&self) {
        for directory in [self.system(), self.admin()] {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.symlink_metadata().unwrap().is_dir() {
                    true => fs::remove_dir_all(path).unwrap(),
                    false => fs::remove_file(path).unwrap(),
                }
            }
        }
    }

    /// Fills both directories, differently for each seed. Returns a listing, for messages.
    pub(crate) fn fill(&self, seed: u64) -> String {
        self.clear();
        let mut dice = Dice(seed);
        let mut number = 0;
        for directory in [self.system(), self.admin()] {
            for _ in 0..=dice.roll(7) {
                let path = directory.join(dice.pick(&NAMES));
                if path.symlink_metadata().is_err() {
                    self.put(&mut dice, &path, &mut number);
                }
            }
        }
        // One bad file stops an old libvirt, so only few directories may have one.
        if dice.one_in(8) {
            let path = self.admin().join(dice.pick(&NAMES));
            if path.symlink_metadata().is_err() {
                match dice.roll(10) {
                    0 => symlink("nowhere", path).unwrap(),
                    at => fs::write(path, DAMAGE[at % DAMAGE.len()]).unwrap(),
                }
            }
        }
        self.listing()
    }

    /// Creates a file that every libvirt accepts.
    fn put(&self, dice: &mut Dice, path: &Path, number: &mut usize) {
        match dice.roll(20) {
            0 => fs::write(path, "").unwrap(),
            1 => symlink("/dev/null", path).unwrap(),
            2 => fs::create_dir(path).unwrap(),
            3 => {
                *number += 1;
                let elsewhere = self.scratch.join(format!("builds/{number}.descriptor"));
                fs::write(&elsewhere, self.descriptor(dice, *number)).unwrap();
                symlink(elsewhere, path).unwrap();
            }
            4 => {
                *number += 1;
                fs::write(path, self.descriptor(dice, *number) + "\0and more").unwrap();
            }
            _ => {
                *number += 1;
                fs::write(path, self.descriptor(dice, *number)).unwrap();
            }
        }
    }

    /// The descriptor of a build of any kind.
    fn descriptor(&self, dice: &mut Dice, number: usize) -> String {
        let path = match dice.one_in(12) {
            true => format!("/nowhere/{number}.fd"),
            false => self.build(&format!("{number}.fd")),
        };
        let mut features: Vec<&str> = Vec::new();
        for feature in FEATURES {
            if dice.one_in(3) {
                features.push(feature);
            }
        }
        let mapping = self.mapping(dice, &path);
        // libvirt 9.0 crashes on such a build.
        features.retain(|feature| mapping["device"] != "kernel" || *feature != "requires-smm");
        let interfaces: &[&[&str]] = &[
            &["uefi"],
            &["uefi"],
            &["uefi"],
            &["uefi"],
            &["uefi"],
            &["bios", "uefi"],
            &["bios"],
            &["uboot"],
            &[],
        ];
        let q35 = json!({"architecture": "x86_64", "machines": ["pc-q35-*"]});
        let pc = json!({"architecture": "x86_64", "machines": ["pc-i440fx-*"]});
        let both = json!({"architecture": "x86_64", "machines": ["pc-q35-*", "pc-i440fx-*"]});
        let other = json!({"architecture": "aarch64", "machines": ["virt-*", "*"]});
        let exact = json!({"architecture": "x86_64", "machines": ["q35", "pc-q35-7.2", 5]});
        let any = json!({"architecture": "x86_64", "machines": ["pc-?35-?*"]});
        let targets = [
            json!([q35]),
            json!([both]),
            json!([both]),
            json!([both]),
            json!([both]),
            json!([both]),
            json!([both]),
            json!([q35]),
            json!([q35]),
            json!([other, q35]),
            json!([other]),
            json!([exact]),
            json!([any]),
            json!([pc]),
            json!([]),
        ];
        let mut written = json!({
            "interface-types": dice.pick(interfaces), "mapping": mapping,
            "targets": dice.pick(&targets), "features": features,
        });
        if dice.one_in(3) {
            written["description"] = json!("a build");
            written["tags"] = json!(["-D X"]);
            written["of-tomorrow"] = json!({});
        }
        if dice.one_in(8) {
            written["description"] = json!(5);
            written["tags"] = json!("none");
        }
        written.to_string()
    }

    fn mapping(&self, dice: &mut Dice, path: &str) -> Value {
        let vars = self.scratch.join("builds/vars");
        let formats = ["raw", "raw", "raw", "raw", "raw", "raw", "qcow2", "vdi"];
        let executable = json!({"filename": path, "format": dice.pick(&formats)});
        let template = json!({"filename": vars, "format": dice.pick(&formats)});
        let flash = |mode: &str| json!({"device": "flash", "mode": mode, "executable": executable, "nvram-template": template});
        let without =
            |mode: &str| json!({"device": "flash", "mode": mode, "executable": executable});
        match dice.roll(16) {
            0 | 1 => flash("stateless"),
            2 => without("stateless"),
            3 => flash("combined"),
            4 => without("combined"),
            5 | 6 => json!({"device": "memory", "filename": path}),
            7 => json!({"device": "memory", "filename": path, "uefi-vars": {"template": vars}}),
            8 => json!({"device": "kernel", "filename": path}),
            9 | 10 => flash("split"),
            _ => json!({"device": "flash", "executable": executable, "nvram-template": template}),
        }
    }

    /// The descriptor of a build in flash that names a template for its variables in every mode.
    pub(crate) fn flash(&self, name: &str, mode: &str, features: &[&str]) -> String {
        let template = json!({"filename": self.scratch.join("builds/vars"), "format": "raw"});
        json!({
            "interface-types": ["uefi"], "features": features,
            "mapping": {
                "device": "flash", "mode": mode, "nvram-template": template,
                "executable": {"filename": self.build(name), "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        })
        .to_string()
    }

    /// The files and their content.
    fn listing(&self) -> String {
        let mut lines = Vec::new();
        for directory in [self.system(), self.admin()] {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let text = match path.is_file() {
                    true => fs::read_to_string(&path).unwrap(),
                    false => "not a file".to_owned(),
                };
                lines.push(format!(
                    "{}: {text:?}",
                    path.strip_prefix(&self.scratch).unwrap().display()
                ));
            }
        }
        lines.sort_unstable();
        lines.join("\n")
    }
}

/// The number of directories that a test tries: `TDX_ROUNDS`, or this number.
fn rounds(usual: u64) -> u64 {
    let said = std::env::var("TDX_ROUNDS").ok();
    said.map_or(usual, |rounds| rounds.parse().expect("TDX_ROUNDS is a number"))
}

/// Fails unless the tool lists the loaders that libvirt lists, and predicts the build that libvirt gives,
/// over odd directories.
///
/// `loaders` says what libvirt lists without a valid descriptor.
pub(crate) fn compare_choices(rig: &Rig, requests: &[Request<'_>], loaders: Loaders) {
    let directories = OddDirectories::mount(rig);
    let (mut asked, mut given) = (0, 0);
    for seed in 0..rounds(12) {
        let files = directories.fill(seed);
        println!("seed {seed}:\n{files}");
        let expected = expected(rig, "pc-q35-7.2");
        if loaders == Loaders::Described || !expected.is_empty() {
            let listed = listed(rig, "pc-q35-7.2");
            assert!(
                listed.as_ref().is_none_or(|listed| *listed == expected),
                "{listed:?} {expected:?}"
            );
        }
        given += compare_arguments(rig, requests);
        asked += requests.len();
        compare_started(rig, &requests[usize::try_from(seed).unwrap() % requests.len()]);
    }
    // The directories are odd, but not all useless.
    assert!(asked / 5 < given && given < asked, "{given} of {asked}");
}

/// The loaders that a libvirt lists without a valid descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaders {
    /// No loader.
    Described,
    /// The loaders that libvirt was built with.
    BuiltIn,
}
