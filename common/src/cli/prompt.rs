//! Questions to the user on a terminal. A signal or the end of input ends a question.

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::cli::interrupt;
use crate::document::output::write_stderr;
use crate::document::reader;
use crate::document::reader::ReadError;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::text;

/// The longest answer. A terminal returns no longer line. Unit: bytes. Source: termios(3).
const LIMIT: usize = 4096;

/// Whether standard input and standard error are terminals, so that the user can be asked.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a yes-or-no question. Returns true for yes; the end of input counts as no.
///
/// Errors: `interrupted`; `io` for a terminal that went away.
pub(crate) fn is_confirmed(question: &str) -> Result<bool> {
    write_stderr(&format!("{} [y/N] ", text::one_line(question)));
    let read = read_line();
    if !matches!(read, Ok((_, false))) {
        write_stderr("\n");
    }
    let (answer, _) = read?;
    let answer = String::from_utf8_lossy(answer.as_bytes()).trim().to_ascii_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}

/// Asks for a line with the echo of the terminal off. Returns none if the input ends before the first byte.
///
/// Errors: `interrupted`, with the terminal as it was before; `io`.
pub(crate) fn ask_secret(question: &str) -> Result<Option<Secret>> {
    // A signal must not end the process while the echo of the terminal is off.
    interrupt::guard();
    let terminal = io::stdin();
    let shown = tcgetattr(&terminal).map_err(cannot_ask)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden).map_err(cannot_ask)?;
    write_stderr(question);
    let read = read_line();
    write_stderr("\n");
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &shown).map_err(cannot_ask)?;
    let (mut answer, ended) = read?;
    if answer.as_bytes().ends_with(b"\r") {
        answer.truncate(answer.as_bytes().len() - 1);
    }
    Ok((!ended || !answer.as_bytes().is_empty()).then_some(answer))
}

/// Reads a line without its line break. The second value says whether the input ended before a line break.
fn read_line() -> Result<(Secret, bool)> {
    let stdin = io::stdin();
    let mut terminal = Unbuffered(stdin.as_fd());
    let mut line = Secret::with_capacity(LIMIT);
    loop {
        reader::wait_until_readable(&terminal).map_err(|error| match error {
            ReadError::Refused(error) => error,
            ReadError::Io(error) => cannot_ask(error),
        })?;
        let mut byte = [0];
        match terminal.read(&mut byte) {
            Ok(0) => return Ok((line, true)),
            Ok(_) if byte == *b"\n" => return Ok((line, false)),
            Ok(_) if line.push(byte[0]) => {}
            Ok(_) => {
                let message = format!("the answer is longer than {LIMIT} bytes");
                return Err(Error::invalid_input(message));
            }
            Err(error) if reader::is_temporary(&error) => {}
            Err(error) => return Err(cannot_ask(error)),
        }
    }
}

/// Standard input without a buffer, which would keep a copy of passwords and of input that was typed ahead.
struct Unbuffered<'f>(std::os::fd::BorrowedFd<'f>);

impl AsFd for Unbuffered<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0
    }
}

impl Read for Unbuffered<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(self.0, bytes)?)
    }
}

fn cannot_ask(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, "cannot read an answer from the terminal").because(error)
}
