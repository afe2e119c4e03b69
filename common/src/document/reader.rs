//! Reads a stream to its end, up to a size limit. A signal ends the read.

use std::fmt::Display;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::interrupt;
use crate::error::{Error, Result};
use crate::units::Size;

/// How much is read at once. Larger than the buffer of [`io::Stdin`], so that reads bypass the buffer. Unit: bytes.
const PIECE: usize = 64 << 10;

/// Why a stream could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// A system call failed.
    Io(io::Error),
    /// The stream is larger than the limit, or a signal was received.
    Refused(Error),
}

/// Reads a stream to its end, which must come within `limit` bytes. `name` names the stream in messages.
///
/// The read waits for a pipe as long as a writer has the pipe open, and before the first writer opens it. A signal
/// ends the wait.
pub(crate) fn read_to_end(
    mut stream: impl Read + AsFd,
    limit: usize,
    name: impl Display,
) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        wait_until_readable(&stream)?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(length) if bytes.len() + length > limit => {
                let message = format!("{name} is larger than {}", Size(limit as u64));
                return Err(ReadError::Refused(Error::invalid_input(message)));
            }
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
}

/// Waits until the stream has bytes, an end or an error, or a signal is received.
pub(crate) fn wait_until_readable(stream: &impl AsFd) -> Result<(), ReadError> {
    loop {
        interrupt::check().map_err(ReadError::Refused)?;
        let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::from(100u8)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(ReadError::Io(error.into())),
        }
    }
}

/// Whether the call failed only for now and can be repeated (EINTR, EAGAIN).
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
