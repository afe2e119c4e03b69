//! Reading a stream to its end: bounded, and ended by a signal.

use std::fmt::Display;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::interrupt;
use crate::error::{Error, Result};
use crate::units::Size;

/// How much is read at once. More than the buffer of [`io::Stdin`], which is passed by then.
const PIECE: usize = 64 << 10;

/// Why a stream was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The kernel said no.
    Io(io::Error),
    /// It is larger than the limit, or a signal came in.
    Refused(Error),
}

/// Reads at most `limit` bytes and expects the end after them. `name` is for the message.
///
/// A pipe is waited for as long as a writer has it open, and before the first writer opens it. The wait ends
/// when a signal comes in.
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

/// Waits until the stream has bytes, an end or an error, or a signal comes in.
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

/// Whether the same call may succeed in a moment.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
