//! The few raw system calls: a write that may never return, and a look at a device's registers.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Why a write did not succeed.
#[derive(Debug)]
pub enum WriteError {
    /// The kernel said no.
    Refused(io::Error),
    /// The kernel did not answer in time. The write goes on, in a process that nothing can end.
    Stuck,
}

/// Writes `text` to a file of sysfs in one go, and waits for the kernel no longer than `limit`.
///
/// Unbinding a driver can wait forever, for a process that has the device open, and a process that waits
/// in the kernel cannot be killed. So another process writes; it has nothing of this one open, and
/// whoever waits for this one's output, lock or end does not wait for that one.
///
/// Errors: [`WriteError`].
pub fn write_within(path: &Path, text: &str, limit: Duration) -> Result<(), WriteError> {
    let file = OpenOptions::new().write(true).open(path).map_err(WriteError::Refused)?;
    let fd = file.as_raw_fd();
    // SAFETY: the child of a process with threads may make async-signal-safe calls only: here plain
    // system calls on numbers and memory that were there before, up to _exit.
    let child = match unsafe { fork() } {
        Err(error) => return Err(WriteError::Refused(error.into())),
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            // SAFETY: see above; close_range cannot fail for a range in order, and the buffer lives.
            unsafe {
                if fd > 0 {
                    libc::close_range(0, fd.unsigned_abs() - 1, 0);
                }
                libc::close_range(fd.unsigned_abs() + 1, libc::c_uint::MAX, 0);
                let written = libc::write(fd, text.as_ptr().cast(), text.len());
                libc::_exit(if written < 0 { *libc::__errno_location() } else { 0 })
            }
        }
    };
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(100);
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => {
                return Err(WriteError::Refused(io::Error::from_raw_os_error(errno)));
            }
            Ok(WaitStatus::Signaled(..)) => {
                return Err(WriteError::Refused(io::ErrorKind::Interrupted.into()));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Ok(_) => return Err(WriteError::Stuck),
            Err(error) => return Err(WriteError::Refused(error.into())),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_kernels_answer_comes_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attribute");
        let absent = write_within(&path, "x", SECOND);
        assert!(
            matches!(absent, Err(WriteError::Refused(e)) if e.kind() == io::ErrorKind::NotFound)
        );
        std::fs::write(&path, "old text").unwrap();
        write_within(&path, "new", SECOND).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new text");
        let full = write_within(Path::new("/dev/full"), "x", SECOND);
        assert!(matches!(full, Err(WriteError::Refused(e)) if e.raw_os_error() == Some(28)));
    }

    #[test]
    fn a_write_that_hangs_is_left_behind() {
        // A pipe that nobody reads takes 64 KiB and no more.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let began = Instant::now();
        let stuck = write_within(&pipe, &"x".repeat(1 << 17), Duration::from_millis(50));
        assert!(matches!(stuck, Err(WriteError::Stuck)), "{stuck:?}");
        assert!(began.elapsed() < SECOND * 10);
        drop(reader); // the last reader: the writer dies of that
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
