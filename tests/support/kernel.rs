//! Rig 2: a real kernel with a real IOMMU and devices for guests; see `tests/rig/kernel`.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "a failing test shows the kernel's log")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use super::tools::{Run, bin, bin_dir, repository};

/// The directories of programs, in the rig as on this machine.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A kernel that runs until this value is dropped or the test dies.
#[derive(Debug)]
pub(crate) struct Kernel {
    holder: Child,
    folder: tempfile::TempDir,
    /// The PID of process 1 of the libvirt in the rig, in the rig's PID namespace.
    libvirt: Option<String>,
}

impl Kernel {
    /// Boots the kernel.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Boots the kernel with additional arguments on its command line.
    pub(crate) fn start_with(arguments: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tdx-kernel.").tempdir().unwrap();
        let mut holder = Command::new(repository().join("tests/rig/kernel"))
            .arg(folder.path())
            .env("TDX_RIG_APPEND", arguments)
            // The rig removes its files itself, because a shared kernel is never dropped.
            .env("TDX_RIG_REMOVE", "yes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready "), "rig: {ready:?}");
        Self { holder, folder, libvirt: None }
    }

    /// Boots the kernel and starts a libvirtd in it, as in rig 1, whose guests do not boot. All commands run beside that libvirtd.
    pub(crate) fn start_with_libvirt() -> Self {
        Self::start().with_libvirt("")
    }

    /// Boots the kernel with AppArmor, starts a libvirtd in it that Debian's profiles confine, and writes
    /// every denial into the kernel's log.
    pub(crate) fn start_with_apparmor() -> Self {
        let kernel = Self::start_with("lsm=capability,apparmor audit=1 log_buf_len=8M");
        kernel.shell("echo 0 >/proc/sys/kernel/printk_ratelimit").text();
        kernel.with_libvirt("TDX_RIG_APPARMOR=1")
    }

    /// Starts a libvirtd in the kernel, with variables for `tests/rig/libvirt`.
    fn with_libvirt(mut self, variables: &str) -> Self {
        let rig = repository().join("tests/rig/libvirt");
        // No udev runs here that could load the modules that guests need.
        let line = format!(
            "modprobe -a tun vhost_net vhost_vsock && mkfifo libvirt.in && \
             {{ sleep 1000000 >libvirt.in & }} && \
             {{ TDX_RIG_HALT=1 {variables} {} /tmp/libvirt <libvirt.in >libvirt.out 2>&1 & }} && \
             for _ in $(seq 600); do grep -q . libvirt.out && break; sleep 0.1; done; cat libvirt.out",
            rig.display()
        );
        let ready = self.shell(&line).text().to_owned();
        let pid = ready.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("{ready}"));
        self.libvirt = Some(pid.to_owned());
        self
    }

    /// A command in the rig, with nothing but PATH in its environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(repository().join("tests/rig/kernel-run"));
        command.arg(self.folder.path()).arg(format!("PATH={}:{PATH}", bin_dir().display()));
        if let Some(pid) = &self.libvirt {
            command.args(["nsenter", "-t", pid, "-m", "-n", "-p", "-u", "-i", "-W", "/tmp", "--"]);
        }
        command.arg(program);
        command
    }

    /// Runs one of the tools in the rig.
    pub(crate) fn tool<A: AsRef<OsStr>>(
        &self,
        tool: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Run {
        self.pipe(tool, arguments, b"")
    }

    /// Runs one of the tools in the rig with `input` on standard input.
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

    /// Runs a shell line in the rig, with the tools on PATH and `pipefail` set.
    pub(crate) fn shell(&self, line: &str) -> Run {
        let mut command = self.command("bash");
        command.args(["-o", "pipefail", "-c", line]);
        Run::of(command, b"")
    }

    /// Runs a shell line and returns its lines, sorted here: that saves a process in the rig.
    #[track_caller]
    pub(crate) fn sorted(&self, line: &str) -> String {
        let run = self.shell(line);
        let mut lines: Vec<&str> = run.text().lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// Runs one test of the current test file in the rig. The variable tells the test that it runs there.
    pub(crate) fn this_test(&self, variable: &str, module: &str, test: &str) -> Run {
        let mut command = self.command(variable);
        command.arg(format!("TDX_BIN_DIR={}", bin_dir().display()));
        command.args(std::env::var("TDX_CRASH").map(|how| format!("TDX_CRASH={how}")));
        command.arg(std::env::current_exe().unwrap());
        let (_, module) = module.split_once("::").unwrap();
        let name = format!("{module}::{test}");
        command.args(["--exact", &name, "--include-ignored", "--nocapture"]);
        let run = Run::of(command, b"");
        assert!(run.text().contains("1 passed"), "there is no test {name}: {run:#?}");
        run
    }

    /// The address of the NVMe disk with this serial number.
    #[track_caller]
    pub(crate) fn nvme(&self, serial: &str) -> String {
        let find = format!("grep -l '^{serial} *$' /sys/bus/pci/devices/*/nvme/*/serial");
        self.shell(&find).text().split('/').nth(5).unwrap().to_owned()
    }

    /// Binds a device to vfio-pci by the kernel's own interface.
    #[track_caller]
    pub(crate) fn bind(&self, bdf: &str) {
        let line = format!(
            "cd /sys/bus/pci/devices/{bdf} && echo vfio-pci >driver_override && \
             {{ [ ! -e driver ] || echo {bdf} >driver/unbind; }} && \
             echo {bdf} >/sys/bus/pci/drivers_probe && \
             [ \"$(basename $(readlink driver))\" = vfio-pci ]"
        );
        self.shell(&line).text();
    }

    /// Holds a device open that is bound to vfio-pci, as a virtual machine does, until the returned value is
    /// dropped.
    #[track_caller]
    pub(crate) fn hold(&self, bdf: &str) -> Held<'_> {
        let line = format!(
            "f=$(mktemp -d) && mkfifo $f/in && \
             group=$(basename $(readlink /sys/bus/pci/devices/{bdf}/iommu_group)) && \
             {{ /run/rig/hold $group {bdf} <$f/in >$f/out 2>&1 & }} && exec 3>$f/in && \
             {{ sleep 1000000 & }} && echo $! && \
             for _ in $(seq 500); do grep -q held $f/out && exit; sleep 0.02; done; \
             cat $f/out >&2; exit 1"
        );
        let holder = self.shell(&line).text().trim().to_owned();
        Held { kernel: self, holder }
    }
}

/// A kernel that several tests use one after another, because a boot takes longer than most tests. A test
/// that uses the kernel restores what it changes.
#[derive(Debug)]
pub(crate) struct SharedKernel {
    start: fn() -> Kernel,
    kernel: Mutex<Option<Kernel>>,
}

impl SharedKernel {
    /// A kernel that `start` boots when the first test needs it.
    pub(crate) const fn new(start: fn() -> Kernel) -> Self {
        Self { start, kernel: Mutex::new(None) }
    }

    /// Waits until no other test uses the kernel. After a failed test another kernel is booted.
    pub(crate) fn lock(&self) -> KernelGuard<'_> {
        let mut kernel = self.kernel.lock().unwrap_or_else(|failed| {
            self.kernel.clear_poison();
            let mut kernel = failed.into_inner();
            kernel.take();
            kernel
        });
        kernel.get_or_insert_with(self.start);
        KernelGuard(kernel)
    }
}

/// The use of a shared kernel by one test.
#[derive(Debug)]
pub(crate) struct KernelGuard<'k>(MutexGuard<'k, Option<Kernel>>);

impl Deref for KernelGuard<'_> {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().unwrap()
    }
}

/// A device that is held open.
#[derive(Debug)]
pub(crate) struct Held<'k> {
    kernel: &'k Kernel,
    /// The process that holds the device. Its standard input ends with this process.
    holder: String,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.kernel.shell(&format!("kill {}", self.holder));
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.folder.path().join("console.log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            eprintln!("the kernel's last words, newest first:\n{}", tail.join("\n"));
        }
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}
