//! What the end-to-end tests stand on: the tools as built, documents held against their schemas, and
//! rig 1, a private libvirtd with real guests.
//!
//! Tests that need root carry `#[ignore = "needs root"]`: `make test` runs them as root, and as an
//! ordinary user cargo names and counts them.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![expect(clippy::print_stderr, reason = "a failing test shows the daemon's log")]
#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The folder of the tools under test: that of the one cargo built for this test, or `TDX_BIN_DIR`.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("TDX_BIN_DIR") {
        return folder.into();
    }
    let tool = option_env!("CARGO_BIN_EXE_tdx-td")
        .or(option_env!("CARGO_BIN_EXE_tdx-pool"))
        .or(option_env!("CARGO_BIN_EXE_tdx-gpu"))
        .or(option_env!("CARGO_BIN_EXE_tdx-disk"))
        .or(option_env!("CARGO_BIN_EXE_tdx-iommu"));
    Path::new(tool.expect("cargo builds the tool")).parent().unwrap().to_owned()
}

/// The tools.
pub(crate) const TOOLS: [&str; 5] = ["tdx-disk", "tdx-gpu", "tdx-iommu", "tdx-pool", "tdx-td"];

/// A tool as built.
pub(crate) fn bin(tool: &str) -> PathBuf {
    let path = bin_dir().join(tool);
    assert!(
        path.exists(),
        "{} is not built: use make test, or cargo test --workspace",
        path.display()
    );
    path
}

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The guest image, built at the first use. `--deaf` gives one that ignores the power button.
pub(crate) fn guest_image(deaf: bool) -> PathBuf {
    let name = if deaf { "deaf.qcow2" } else { "guest.qcow2" };
    let image = repository().join("target/rig").join(name);
    let built = Command::new(repository().join("tests/rig/guest-image"))
        .args(deaf.then_some("--deaf"))
        .arg(&image)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    image
}

/// The Debian guest with cloud-init, sshd and the guest agent, built at the first use.
pub(crate) fn debian_image() -> PathBuf {
    let image = repository().join("target/rig/debian.qcow2");
    let mut script = Command::new(repository().join("tests/rig/debian-image"));
    let built = script.arg(&image).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    image
}

/// What a program did.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// What was run, for messages.
    pub(crate) line: String,
    /// Exit status; none when a signal ended it.
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Run {
    /// Runs a command to its end, with `input` on standard input.
    pub(crate) fn of(mut command: Command, input: &[u8]) -> Self {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Self {
            line,
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Expects success: status 0, nothing on standard error, one document that fits its schema.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        self.answer(0)
    }

    /// The same of a check, which exits as its answer says.
    #[track_caller]
    pub(crate) fn answer(&self, status: i32) -> Value {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert_eq!(self.stderr, "", "{self:#?}");
        let document: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no document: {error}\n{self:#?}"));
        assert!(self.stdout.ends_with("}\n"), "{self:#?}");
        check_schema(document["kind"].as_str().unwrap_or_default(), &document);
        document
    }

    /// Expects success and returns the only item.
    #[track_caller]
    pub(crate) fn item(&self) -> Value {
        let document = self.document();
        let items = document["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{self:#?}");
        items[0].clone()
    }

    /// Expects failure with this status: nothing on standard output, a JSON error that fits its
    /// schema on the last line of standard error.
    #[track_caller]
    pub(crate) fn error(&self, status: i32) -> Value {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("no JSON error: {error}\n{self:#?}"));
        check_schema("tdx.error", &error);
        assert_eq!(error["error"]["exit_code"], status, "{self:#?}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.ends_with('.'), "{self:#?}");
        error["error"].clone()
    }

    /// Expects success of a program that prints no document.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:#?}");
        &self.stdout
    }
}

/// Fails unless the value fits `docs/schema/<kind>.json`.
#[track_caller]
fn check_schema(kind: &str, value: &Value) {
    let path = repository().join("docs/schema").join(format!("{kind}.json"));
    let schema = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<String> = validator.iter_errors(value).map(|e| e.to_string()).collect();
    assert!(problems.is_empty(), "not a {kind}: {problems:#?}\n{value:#}");
}

/// A tool run on this machine, outside any rig, with a cleared environment.
pub(crate) fn tool<A: AsRef<OsStr>>(tool: &str, arguments: impl IntoIterator<Item = A>) -> Run {
    tool_with_input(tool, arguments, "")
}

/// The same with `input` on standard input.
pub(crate) fn tool_with_input<A: AsRef<OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
) -> Run {
    let mut command = Command::new(bin(tool));
    clear(&mut command).args(arguments);
    Run::of(command, input.as_bytes())
}

/// The verbs that a tool's help lists, and those below them: `host`, `host check`.
pub(crate) fn verbs(name: &str, above: &[String]) -> Vec<Vec<String>> {
    let help = tool(name, above.iter().map(String::as_str).chain(["--help"]));
    let Some(block) = help.text().split("\nCommands:\n").nth(1) else {
        return Vec::new();
    };
    let block = block.split("\n\n").next().unwrap();
    let words = block.lines().filter(|line| !line.starts_with("   "));
    let words = words.filter_map(|line| line.split_whitespace().next());
    let named = words.filter(|verb| *verb != "help");
    let below = |verb: &str| {
        let verb = [above, &[verb.to_owned()]].concat();
        let below = verbs(name, &verb);
        [vec![verb], below].concat()
    };
    named.flat_map(below).collect()
}

/// A program on this machine, with the tools on PATH.
pub(crate) fn on_path(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", bin_dir().display()));
    command
}

fn clear(command: &mut Command) -> &mut Command {
    // No user's configuration, no user's language; the PATH is how programs are found.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default())
}

/// A private libvirtd with its own namespaces and folders. It ends, with all that runs in it, when
/// this is dropped, or when the test dies.
#[derive(Debug)]
pub(crate) struct Rig {
    holder: Child,
    pid: String,
    folder: tempfile::TempDir,
    loops: std::sync::Mutex<Vec<(String, Option<String>)>>,
}

impl Rig {
    /// Starts rig 1.
    pub(crate) fn start() -> Self {
        Self::start_with("tests/rig/libvirt")
    }

    /// Starts rig 3, whose libvirt believes that the host has TDX.
    pub(crate) fn start_tdx() -> Self {
        Self::start_with("tests/rig/tdx")
    }

    fn start_with(script: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tdx-rig.").tempdir().unwrap();
        // QEMU runs as an ordinary user and has to get to its files.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let mut holder = Command::new(repository().join(script))
            .arg(folder.path().join("rig"))
            .env("TDX_BIN_DIR", bin_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let pid = ready.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("rig: {ready:?}"));
        Self { pid: pid.to_owned(), holder, folder, loops: Default::default() }
    }

    /// A scratch folder that is the same inside and outside.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Where a path inside the rig lies outside of it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(&self.pid).join("root").join(inside.trim_start_matches('/'))
    }

    /// A command inside the rig, in the scratch folder, with a cleared environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // Also where the tests run in the background of a shell, which ignores SIGINT for them.
        let mut command = Command::new("env");
        clear(&mut command)
            .args(["--default-signal", "nsenter"])
            .args(["-t", &self.pid, "-r", "-m", "-n", "-p", "-u", "-i", "--", "env", "-C"])
            .arg(self.scratch())
            .arg(program);
        command
    }

    /// Runs one of the tools inside.
    pub(crate) fn tool<A: AsRef<OsStr>>(
        &self,
        tool: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Run {
        self.pipe(tool, arguments, b"")
    }

    /// Runs one of the tools inside with `input` on standard input.
    pub(crate) fn pipe<A: AsRef<OsStr>>(
        &self,
        tool: &str,
        arguments: impl IntoIterator<Item = A>,
        input: impl AsRef<[u8]>,
    ) -> Run {
        let mut command = self.command(bin(tool));
        command.args(arguments);
        Run::of(command, input.as_ref())
    }

    /// Runs a shell line inside, with the tools on PATH and `pipefail` set.
    pub(crate) fn shell(&self, line: &str) -> Run {
        let mut command = self.command("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-o", "pipefail", "-c", line])
            .env("PATH", format!("{}:{path}", bin_dir().display()));
        Run::of(command, b"")
    }

    /// Runs virsh inside and returns what it printed.
    #[track_caller]
    pub(crate) fn virsh<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = self.command("virsh");
        command.args(arguments);
        Run::of(command, b"").text().trim().to_owned()
    }

    /// A loop device over a file of the rig, which goes with the rig however the test ends.
    #[track_caller]
    pub(crate) fn loop_device(&self, file: &str) -> String {
        let device = self.shell(&format!("losetup -f --show '{file}'")).text().trim().to_owned();
        self.release(&device);
        device
    }

    /// A small disk of this name in the scratch folder, and what is on it beside it in `NAME.disk`.
    #[track_caller]
    pub(crate) fn disk(&self, name: &str) {
        self.shell(&format!("head -c 1M /dev/urandom >{name}.disk")).text();
        let device = self.loop_device(&format!("{name}.disk"));
        std::os::unix::fs::symlink(device, self.scratch().join(name)).unwrap();
    }

    /// Detaches this loop device with the rig, unless it is backed by another file by then: the number of a
    /// device that a test detaches itself may be another test's.
    pub(crate) fn release(&self, device: &str) {
        self.loops.lock().unwrap().push((device.to_owned(), backing_file(device)));
    }

    /// Stops, kills or restarts the daemon; guests run on.
    #[track_caller]
    pub(crate) fn libvirtd(&self, verb: &str) {
        let mut command = self.command(repository().join("tests/rig/libvirtd"));
        command.arg(verb);
        Run::of(command, b"").text();
    }

    /// Everything a domain can leave behind: definitions, volumes, files, firmware variables, leases
    /// aside. For comparing before with after.
    pub(crate) fn state(&self) -> String {
        let listing = "virsh list --all --name | sort; virsh pool-list --all --name | sort; \
            cd /var/lib/libvirt && find images qemu/nvram qemu/save qemu/snapshot qemu/channel \
            qemu/dump -printf '%p %y %m %U:%G %s\\n' 2>/dev/null | \
            grep -v '^[^ ]* d ' | sort; \
            find /run/lock/tdx /run/tdx-pool /etc/libvirt/qemu -type f 2>/dev/null | sort; true";
        self.shell(listing).text().to_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.folder.path().join("rig/log/libvirtd.log");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("libvirtd's last words, newest first:\n{}", tail.join("\n"));
        }
        for (device, file) in self.loops.lock().iter().flat_map(|loops| loops.iter()) {
            if file.is_some() && backing_file(device) == *file {
                Command::new("losetup").args(["-d", device]).output().ok();
            }
        }
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}

/// The file that a loop device is backed by, as the kernel names it.
fn backing_file(device: &str) -> Option<String> {
    let name = device.trim_start_matches("/dev/");
    std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

/// Waits until `ready` gives something, or fails after `limit`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not happen within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
