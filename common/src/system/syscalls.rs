//! Raw system calls: a write that may never return, handlers that record signals, reads of a device's registers, a
//! query to KVM, and the kernel's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// Why a write did not succeed.
#[derive(Debug)]
pub enum WriteError {
    /// The kernel returned an error.
    Refused(io::Error),
    /// The kernel did not answer in time. The write continues in a process that cannot be killed.
    Stuck,
}

/// Writes to files in sysfs with a time limit, by a separate process.
///
/// Unbinding a driver can block forever in the kernel, when a process has the device open. A process that blocks in
/// the kernel cannot be killed, so another process does the write. That process has none of this process's files
/// open, so that nobody who waits for this process's output, locks or end has to wait for the blocked one. It ends
/// when this process ends, or when this value is dropped.
#[derive(Debug)]
pub struct Writer {
    child: Pid,
    orders: File,
    answers: File,
    /// Whether a write has timed out, so that the process may be blocked in the kernel.
    stuck: bool,
}

/// The longest order: path, NUL and text. A pipe transfers this much atomically. Unit: bytes.
const ORDER: usize = libc::PIPE_BUF;

impl Writer {
    /// Starts the process that writes.
    pub fn start() -> io::Result<Self> {
        let (their_orders, orders) = pipe2(OFlag::O_CLOEXEC)?;
        let (answers, their_answers) = pipe2(OFlag::O_CLOEXEC)?;
        // A signal that a terminal sends to both must not interrupt the write: the child inherits the mask.
        let unblocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // SAFETY: the child of a process with threads may make async-signal-safe calls only: here plain
        // system calls on numbers and memory that were there before, up to _exit.
        let forked = unsafe { fork() };
        if !matches!(forked, Ok(ForkResult::Child)) {
            unblocked.thread_set_mask()?;
        }
        match forked? {
            ForkResult::Parent { child } => {
                let (orders, answers) = (orders.into(), answers.into());
                Ok(Self { child, orders, answers, stuck: false })
            }
            ForkResult::Child => carry_out(their_orders.as_raw_fd(), their_answers.as_raw_fd()),
        }
    }

    /// Writes `text` to a file in one write(2), within the given time.
    ///
    /// Errors: [`WriteError`].
    pub fn write(&mut self, path: &Path, text: &str, limit: Duration) -> Result<(), WriteError> {
        let order = [path.as_os_str().as_bytes(), &[0], text.as_bytes()].concat();
        let refused = WriteError::Refused;
        match () {
            () if self.stuck => return Err(WriteError::Stuck),
            () if order.len() > ORDER => return Err(refused(io::ErrorKind::InvalidInput.into())),
            () => self.orders.write_all(&order).map_err(refused)?,
        }
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) => {
                    self.stuck = true;
                    return Err(WriteError::Stuck);
                }
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(refused(error.into())),
            }
        }
        let mut answer = [0; 4];
        // No answer means that the process was killed.
        self.answers.read_exact(&mut answer).map_err(refused)?;
        match i32::from_ne_bytes(answer) {
            0 => Ok(()),
            errno => Err(refused(io::Error::from_raw_os_error(errno))),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.stuck {
            return; // the blocked process cannot be waited for
        }
        // Closing the pipe of orders ends the process. /dev/null replaces the pipe so that it is closed now.
        if let Ok(null) = File::open("/dev/null") {
            self.orders = null;
            let _ = waitpid(self.child, None);
        }
    }
}

/// The main loop of the process that writes: it reads orders and returns error numbers. It never allocates memory.
fn carry_out(orders: RawFd, answers: RawFd) -> ! {
    let (low, high) = (orders.min(answers).unsigned_abs(), orders.max(answers).unsigned_abs());
    let mut order = [0u8; ORDER];
    // SAFETY: plain system calls on the two pipes and on a buffer that lives; the path in it is ended
    // by the NUL that was found.
    unsafe {
        for (first, last) in [(0, low), (low + 1, high), (high + 1, libc::c_uint::MAX)] {
            if first < last {
                let last = if last == libc::c_uint::MAX { last } else { last - 1 };
                libc::close_range(first, last, 0);
            }
        }
        loop {
            let length = libc::read(orders, order.as_mut_ptr().cast(), ORDER);
            let Ok(length @ 1..) = usize::try_from(length) else { libc::_exit(0) };
            let mut end = 0;
            while end < length && order[end] != 0 {
                end += 1;
            }
            if end == length {
                libc::_exit(1);
            }
            let file = libc::open(order.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC);
            let text = order.as_ptr().add(end + 1);
            let done = file >= 0 && libc::write(file, text.cast(), length - end - 1) >= 0;
            let errno: i32 = if done { 0 } else { *libc::__errno_location() };
            if file >= 0 {
                libc::close(file);
            }
            libc::write(answers, errno.to_ne_bytes().as_ptr().cast(), 4);
        }
    }
}

/// The first signal that was recorded, 0 for none.
static NOTED: AtomicI32 = AtomicI32::new(0);

/// When the first signal was received. Unit: milliseconds of the monotonic clock.
static NOTED_AT: AtomicI64 = AtomicI64::new(0);

/// How long after the first signal another signal counts as the same request: timeout(1) signals its child and then
/// the child's process group, and systemd(1) can send SIGHUP right after SIGTERM.
const SAME_REQUEST_MS: i64 = 500;

/// Records the given signals instead of dying of them. A second signal kills the process if it comes at least half a
/// second after the first.
///
/// System calls that a recorded signal interrupts are resumed. Started programs get the default action.
///
/// Errors: that of the kernel.
pub(crate) fn note_signals(signals: &SigSet) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in signals {
        // SAFETY: the handler makes async-signal-safe calls only, and touches nothing but atomics.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Ignores SIGXFSZ, so that a write beyond RLIMIT_FSIZE fails with EFBIG and the verb can undo its steps. By default,
/// the signal kills the process.
pub(crate) fn fail_at_file_size_limit() {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &action) };
}

/// The first signal that was recorded.
pub(crate) fn noted_signal() -> Option<Signal> {
    Signal::try_from(NOTED.load(Ordering::Acquire)).ok()
}

/// Ends the process by this signal, with the default action.
pub(crate) fn die_of(signal: Signal) {
    default_action_and_raise(signal as libc::c_int);
    let _ = SigSet::from(signal).thread_unblock();
}

extern "C" fn note(signal: libc::c_int) {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a struct that lives; async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // Never 0, which means that no signal was received.
    let now = (now.tv_sec * 1000 + now.tv_nsec / 1_000_000).max(1);
    match NOTED_AT.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => NOTED.store(signal, Ordering::Release),
        Err(first) if now - first >= SAME_REQUEST_MS => default_action_and_raise(signal),
        Err(_) => {}
    }
}

/// Sends this process the signal with its default action. In a handler, the signal is delivered when the handler
/// returns.
fn default_action_and_raise(signal: libc::c_int) {
    // SAFETY: both calls take numbers only and are async-signal-safe.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Overwrites bytes with zeros, in a way that the compiler does not optimize away.
pub(crate) fn wipe(bytes: &mut [u8]) {
    for byte in bytes {
        // SAFETY: a write through a reference, of a type that any value fits.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
}

/// Reads 32 bits of a device's memory at `offset` bytes into a BAR, which sysfs shows as `resourceN`.
///
/// Errors: that of the kernel, such as under lockdown or when a driver uses the BAR exclusively; `InvalidInput` for an
/// offset outside the BAR.
/// Source: Linux `Documentation/PCI/sysfs-pci.rst`: the file `resourceN` can be mapped, but not read.
pub fn read_register(resource: &Path, offset: u64) -> io::Result<u32> {
    const PAGE: u64 = 4096;
    let file = File::open(resource)?;
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "the register is outside the BAR");
    if !offset.is_multiple_of(4) || offset.saturating_add(4) > file.metadata()?.len() {
        return Err(outside());
    }
    let start = offset / PAGE * PAGE;
    let length = NonZeroUsize::MIN.saturating_add(PAGE as usize - 1);
    let start = libc::off_t::try_from(start).map_err(|_| outside())?;
    // SAFETY: a new mapping at an address of the kernel's choice, of a page that the file has, since the
    // register is in it; it is read once, as the device wants it, and unmapped.
    unsafe {
        let page = mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, start)?;
        let register = page.cast::<u8>().add((offset % PAGE) as usize).cast::<u32>();
        let value = register.read_volatile();
        munmap(page, length.get())?;
        Ok(u32::from_le(value))
    }
}

/// The types of guests that KVM supports, as a bit mask of `KVM_X86_*_VM`. Bit 5 is a trust domain.
///
/// Errors: that of the kernel for the query on the open `/dev/kvm`.
/// Source: Linux `Documentation/virt/kvm/api.rst`, `KVM_CAP_VM_TYPES`; `include/uapi/linux/kvm.h`.
pub fn kvm_vm_types(kvm: &File) -> io::Result<u32> {
    const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
    const KVM_CAP_VM_TYPES: libc::c_ulong = 235;
    // SAFETY: a request that takes a number and writes to no memory of ours, on an open file.
    let types = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CHECK_EXTENSION as _, KVM_CAP_VM_TYPES) };
    u32::try_from(types).map_err(|_| io::Error::last_os_error())
}

/// The messages in the kernel's log buffer, the oldest first.
///
/// Errors: that of the kernel, which may refuse users other than root.
/// Source: Linux `Documentation/ABI/testing/dev-kmsg`: each read returns one record: fields, `;` and the message.
pub fn kernel_log() -> io::Result<Vec<String>> {
    let mut options = OpenOptions::new();
    let mut log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    let mut messages = Vec::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(messages),
            Ok(length) => {
                let record = String::from_utf8_lossy(&record[..length]);
                let message = record.split_once(';').map_or("", |(_, message)| message);
                messages.push(message.lines().next().unwrap_or_default().to_owned());
            }
            // The record was overwritten during the read, or a signal was received.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn write_returns_the_error_of_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attribute");
        let mut writer = Writer::start().unwrap();
        let absent = writer.write(&path, "x", SECOND);
        assert!(
            matches!(absent, Err(WriteError::Refused(e)) if e.kind() == io::ErrorKind::NotFound)
        );
        std::fs::write(&path, "old text").unwrap();
        writer.write(&path, "new", SECOND).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new text");
        let full = writer.write(Path::new("/dev/full"), "x", SECOND);
        assert!(matches!(full, Err(WriteError::Refused(e)) if e.raw_os_error() == Some(28)));
        let long = writer.write(&path, &"x".repeat(ORDER), SECOND);
        assert!(
            matches!(long, Err(WriteError::Refused(e)) if e.kind() == io::ErrorKind::InvalidInput)
        );
        writer.write(&path, "", SECOND).unwrap();
    }

    #[test]
    fn write_returns_when_the_kernel_does_not_answer_in_time() {
        // A pipe that nobody reads opens for no writer.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let began = Instant::now();
        let mut writer = Writer::start().unwrap();
        for _ in 0..2 {
            let stuck = writer.write(&pipe, "x", Duration::from_millis(50));
            assert!(matches!(stuck, Err(WriteError::Stuck)), "{stuck:?}");
        }
        drop(writer);
        assert!(began.elapsed() < SECOND * 10);
        // It goes on by itself, and ends.
        assert_eq!(std::fs::read_to_string(&pipe).unwrap(), "x");
    }

    #[test]
    fn a_writer_ends_when_it_is_dropped() {
        let writer = Writer::start().unwrap();
        let process = format!("/proc/{}", writer.child);
        assert!(Path::new(&process).exists());
        drop(writer);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn kvm_vm_types_fails_for_another_file() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(kvm_vm_types(&null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn kernel_log_returns_after_the_last_message() {
        match File::open("/dev/kmsg") {
            Ok(_) => {
                let messages = kernel_log().unwrap();
                assert!(!messages.is_empty(), "the kernel has logged its start");
                assert!(messages.iter().all(|message| !message.contains('\n')));
            }
            Err(refused) => assert_eq!(kernel_log().unwrap_err().kind(), refused.kind()),
        }
    }

    #[test]
    fn read_register_reads_at_the_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resource0");
        let file = File::create(&path).unwrap();
        file.set_len(0x20_0000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1, 2, 3, 4], 0x1182cc).unwrap();
        assert_eq!(read_register(&path, 0x1182cc).unwrap(), 0x0403_0201);
        assert_eq!(read_register(&path, 0x590).unwrap(), 0);
        for offset in [2, 0x20_0000, u64::MAX - 3] {
            assert!(read_register(&path, offset).is_err(), "{offset:#x}");
        }
    }
}
