//! The few raw system calls: a write that may never return, signals that are noted, a look at a device's
//! registers, a question to KVM, and the kernel's log.

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
    /// The kernel said no.
    Refused(io::Error),
    /// The kernel did not answer in time. The write goes on, in a process that nothing can end.
    Stuck,
}

/// Writes to files of sysfs, and waits for the kernel no longer than one can.
///
/// Unbinding a driver can wait forever, for a process that has the device open, and a process that waits
/// in the kernel cannot be killed. So another process writes; it has nothing of this one open, and
/// whoever waits for this one's output, lock or end does not wait for that one. It ends with this one, or
/// when this is dropped.
#[derive(Debug)]
pub struct Writer {
    child: Pid,
    orders: File,
    answers: File,
    /// Whether it is in the kernel and may stay there.
    stuck: bool,
}

/// The longest order: path, NUL and text. A pipe takes so much in one piece.
const ORDER: usize = libc::PIPE_BUF;

impl Writer {
    /// Starts the process.
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

    /// Writes `text` to a file in one go.
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
        // Without an answer it was killed.
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
            return; // nobody can wait for it
        }
        // The end of its orders. /dev/null takes their place so that the pipe is closed now.
        if let Ok(null) = File::open("/dev/null") {
            self.orders = null;
            let _ = waitpid(self.child, None);
        }
    }
}

/// The process that writes: orders come in, error numbers go out. Nothing here allocates.
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

/// The first signal that was noted, 0 for none.
static NOTED: AtomicI32 = AtomicI32::new(0);

/// When it came in, milliseconds of the monotonic clock.
static NOTED_AT: AtomicI64 = AtomicI64::new(0);

/// How soon after the first signal another one is the same request: timeout(1) signals its child and then the
/// child's process group, systemd(1) can send SIGHUP right after SIGTERM.
const SAME_REQUEST_MS: i64 = 500;

/// Notes these signals instead of dying of them. Another one, half a second after the first or later, kills.
///
/// System calls that a noted signal interrupts are resumed. Programs that are started get the default action.
///
/// Errors: whatever the kernel says.
pub(crate) fn note_signals(signals: &SigSet) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in signals {
        // SAFETY: the handler makes async-signal-safe calls only, and touches nothing but atomics.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Has a write beyond the largest file that this process may make (RLIMIT_FSIZE) fail with EFBIG: by default SIGXFSZ
/// kills, and nothing is undone.
pub(crate) fn fail_at_file_size_limit() {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &action) };
}

/// The first signal that was noted.
pub(crate) fn noted_signal() -> Option<Signal> {
    Signal::try_from(NOTED.load(Ordering::Acquire)).ok()
}

/// Ends the process by this signal, as if it had never been noted.
pub(crate) fn die_of(signal: Signal) {
    default_action_and_raise(signal as libc::c_int);
    let _ = SigSet::from(signal).thread_unblock();
}

extern "C" fn note(signal: libc::c_int) {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a struct that lives; async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // Never 0, which stands for none.
    let now = (now.tv_sec * 1000 + now.tv_nsec / 1_000_000).max(1);
    match NOTED_AT.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => NOTED.store(signal, Ordering::Release),
        Err(first) if now - first >= SAME_REQUEST_MS => default_action_and_raise(signal),
        Err(_) => {}
    }
}

/// In a handler, the signal is delivered when the handler returns.
fn default_action_and_raise(signal: libc::c_int) {
    // SAFETY: both calls take numbers only and are async-signal-safe.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Overwrites bytes that are not needed any more, which the compiler would leave out as useless.
pub(crate) fn wipe(bytes: &mut [u8]) {
    for byte in bytes {
        // SAFETY: a write through a reference, of a type that any value fits.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
}

/// Reads 32 bits of a device's memory at `offset` bytes into a BAR, which sysfs shows as `resourceN`.
///
/// Errors: whatever the kernel says (lockdown, a driver that has it for itself); `InvalidInput` for an
/// offset outside of it.
/// Source: Linux `Documentation/PCI/sysfs-pci.rst`: such a file can be mapped, not read.
pub fn read_register(resource: &Path, offset: u64) -> io::Result<u32> {
    const PAGE: u64 = 4096;
    let file = File::open(resource)?;
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "the register is outside of it");
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

/// The kinds of guests that KVM runs: a bit for each `KVM_X86_*_VM`, of which 5 is a trust domain.
///
/// Errors: whatever the kernel says to one who asks through this open `/dev/kvm`.
/// Source: Linux `Documentation/virt/kvm/api.rst`, `KVM_CAP_VM_TYPES`; `include/uapi/linux/kvm.h`.
pub fn kvm_vm_types(kvm: &File) -> io::Result<u32> {
    const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
    const KVM_CAP_VM_TYPES: libc::c_ulong = 235;
    // SAFETY: a request that takes a number and writes to no memory of ours, on an open file.
    let types = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CHECK_EXTENSION as _, KVM_CAP_VM_TYPES) };
    u32::try_from(types).map_err(|_| io::Error::last_os_error())
}

/// What the kernel has logged and still has, the oldest first, a message a line.
///
/// Errors: whatever the kernel says; without root it may refuse.
/// Source: Linux `Documentation/ABI/testing/dev-kmsg`: a record a read, of fields, `;` and the message.
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
            // Overwritten while it was read; or a signal.
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
    fn the_kernels_answer_comes_through() {
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
    fn a_write_that_hangs_is_left_behind() {
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
    fn a_writer_ends_with_whom_it_works_for() {
        let writer = Writer::start().unwrap();
        let process = format!("/proc/{}", writer.child);
        assert!(Path::new(&process).exists());
        drop(writer);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn what_is_no_kvm_says_so() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(kvm_vm_types(&null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn the_kernels_log_ends() {
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
    fn registers_are_read_where_they_are() {
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
