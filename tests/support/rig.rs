//! Rig 1, a private test host: a libvirtd with real guests in namespaces of its own. And the images of the guests.

#![expect(clippy::print_stderr, reason = "a failing test shows the daemon's log")]
#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tools::{Run, bin, bin_dir, clear, repository};

/// The guest image, built at its first use. `deaf` selects one that ignores the power button.
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

/// The Debian guest with cloud-init, sshd and the guest agent, built at its first use.
pub(crate) fn debian_image() -> PathBuf {
    let image = repository().join("target/rig/debian.qcow2");
    let mut script = Command::new(repository().join("tests/rig/debian-image"));
    let built = script.arg(&image).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    image
}

/// A private libvirtd with its own namespaces and directories. The rig ends, with all its processes, when
/// this value is dropped or the test dies.
#[derive(Debug)]
pub(crate) struct Rig {
    holder: Child,
    pid: String,
    folder: tempfile::TempDir,
    loops: std::sync::Mutex<Vec<(String, Option<String>)>>,
}

impl Rig {
    /// Starts rig 1. Its guests run, but do not boot: firmware in software emulation would use all processors.
    pub(crate) fn start() -> Self {
        Self::start_with("tests/rig/libvirt", &[("TDX_RIG_HALT", "1")])
    }

    /// Starts rig 1 for guests that boot.
    pub(crate) fn start_for_booted_guests() -> Self {
        Self::start_with("tests/rig/libvirt", &[])
    }

    /// Starts rig 3, whose libvirt detects TDX on the host.
    pub(crate) fn start_tdx() -> Self {
        Self::start_with("tests/rig/tdx", &[])
    }

    fn start_with(script: &str, variables: &[(&str, &str)]) -> Self {
        // Tests have priority over guests, which are sessions of their own. See tests/rig/libvirtd.
        std::fs::write("/proc/self/autogroup", "-10").ok();
        let folder = tempfile::Builder::new().prefix("tdx-rig.").tempdir().unwrap();
        // QEMU runs as an ordinary user and must reach its files.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let mut holder = Command::new(repository().join(script))
            .arg(folder.path().join("rig"))
            .env("TDX_BIN_DIR", bin_dir())
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let pid = ready.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("rig: {ready:?}"));
        Self { pid: pid.to_owned(), holder, folder, loops: Default::default() }
    }

    /// The scratch directory, which has the same path inside and outside of the rig.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The path outside of the rig of a path inside of it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(&self.pid).join("root").join(inside.trim_start_matches('/'))
    }

    /// A path in the `/proc` directory of the first process of the rig.
    pub(crate) fn process_path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(&self.pid).join(name)
    }

    /// A command inside the rig, in the scratch directory, with a cleared environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // SIGINT has its default action, also if the tests run in the background of a shell, which ignores
        // SIGINT for them.
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

    /// Creates a loop device over a file of the rig. The device is detached with the rig, however the test
    /// ends.
    #[track_caller]
    pub(crate) fn loop_device(&self, file: &str) -> String {
        let device = self.shell(&format!("losetup -f --show '{file}'")).text().trim().to_owned();
        self.release(&device);
        device
    }

    /// Creates a small disk: a link of this name in the scratch directory to a loop device over `NAME.disk`.
    #[track_caller]
    pub(crate) fn disk(&self, name: &str) {
        self.shell(&format!("head -c 1M /dev/urandom >{name}.disk")).text();
        let device = self.loop_device(&format!("{name}.disk"));
        std::os::unix::fs::symlink(device, self.scratch().join(name)).unwrap();
    }

    /// Detaches this loop device with the rig, unless another file backs it by then: another test may have
    /// the number of a device that a test has detached itself.
    pub(crate) fn release(&self, device: &str) {
        self.loops.lock().unwrap().push((device.to_owned(), backing_file(device)));
    }

    /// Stops, kills or restarts libvirtd; guests continue to run.
    #[track_caller]
    pub(crate) fn libvirtd(&self, verb: &str) {
        let mut command = self.command(repository().join("tests/rig/libvirtd"));
        command.arg(verb);
        Run::of(command, b"").text();
    }

    /// Everything that a domain can leave behind, except leases: definitions, volumes, files, firmware
    /// variables. For comparing the state before and after.
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
            eprintln!("the end of libvirtd's log, newest first:\n{}", tail.join("\n"));
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

/// The file that backs a loop device, as the kernel names it.
fn backing_file(device: &str) -> Option<String> {
    let name = device.trim_start_matches("/dev/");
    std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}
