//! The `main` function that all tools share: parses the command line, runs the verb, prints one document or one
//! error, and exits.

pub(crate) mod completions;
pub mod config;
pub mod interrupt;
pub mod log;
pub(crate) mod prompt;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::error::ErrorKind as ClapKind;
use clap::{Args, Parser};

use crate::document::output::{Format, Layout, Outcome, write_stderr, write_stdout};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::system::syscalls;
use crate::system::sysroot::Host;
use crate::text;

/// The options that every verb of every tool accepts.
#[derive(Debug, Args)]
pub struct Globals {
    /// Output format: auto (a table on a terminal, otherwise JSON), json, table, name (only names, one per line), or
    /// prometheus (metrics; only tdx-td list and tdx-pool info)
    #[arg(long, global = true, value_enum, default_value = "auto", env = "TDX_FORMAT")]
    #[arg(hide_env_values = true, hide_possible_values = true, hide_default_value = true)]
    #[arg(help_heading = "Global options")]
    pub format: Format,
    /// Same as --format json; takes precedence over --format
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print only these columns of the table, in this order; implies --format table. Without this option, a terminal
    /// that is too narrow shows fewer columns
    #[arg(long, global = true, value_name = "NAME,…", value_delimiter = ',')]
    #[arg(help_heading = "Global options")]
    pub columns: Option<Vec<String>>,
    /// Print no column titles; implies --format table
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_headings: bool,
    /// Print each change to standard error; -vv also prints each connection and each program that is run
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    #[arg(help_heading = "Global options")]
    pub verbose: u8,
    /// Print no warnings and no progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Use DIR/sys, DIR/proc, DIR/dev, DIR/run and DIR/etc instead of /sys, /proc, /dev, /run and /etc
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    #[arg(hide_default_value = true, help_heading = "Global options")]
    pub sysroot: PathBuf,
}

/// The options of every verb that changes something.
#[derive(Debug, Clone, Copy, Args)]
pub struct Change {
    /// Print what would be done and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    pub yes: bool,
}

/// The parser of a number of seconds to wait: one year at most, so that every clock can add it to the current time.
pub fn seconds() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(0..=365 * 24 * 60 * 60)
}

/// What a verb receives besides its own arguments: the machine, the progress setting and the questions to the user.
#[derive(Debug)]
pub struct Context {
    /// The files of the machine, below `--sysroot`.
    pub host: Host,
    /// Whether a progress bar may be drawn.
    pub progress: bool,
    /// Set when the libvirt connection leads to another machine: the name of that machine, if known.
    remote: OnceLock<Option<String>>,
}

impl Context {
    /// The name of the machine that the verb works on, for the document. This is the remote machine if the
    /// libvirt connection is remote, otherwise the machine of [`Context::host`]. None when the name is unknown.
    pub fn host_name(&self) -> Option<String> {
        self.remote.get().cloned().unwrap_or_else(|| self.host.name())
    }

    /// Records that the verb works on another machine, and the name that libvirt gives for that machine.
    #[cfg(feature = "libvirt")]
    pub(crate) fn set_remote(&self, name: Option<String>) {
        // A verb has one connection. A connection that is reopened leads to the same machine.
        let _ = self.remote.set(name);
    }
}

impl Context {
    /// Asks the user to confirm a destructive change. `--yes` and `--dry-run` skip the question.
    ///
    /// Errors: `conflict` (exit 5) when the answer is no or the input ends, or when there is no terminal and
    /// `--yes` is missing; `interrupted` for a signal.
    pub fn confirm(&self, change: Change, question: &str) -> Result<()> {
        if change.yes || change.dry_run {
            return Ok(());
        }
        let refused = || Error::conflict(format!("not confirmed: {question}"));
        if !prompt::is_possible() {
            return Err(
                refused().hint("add --yes to confirm, or --dry-run to see what would be done")
            );
        }
        match prompt::is_confirmed(question)? {
            true => Ok(()),
            false => Err(refused()),
        }
    }
}

impl Context {
    /// Asks for a secret with the echo of the terminal off. Returns none when the input ends instead.
    ///
    /// Errors: `usage` when there is no terminal; `interrupted`; `io`.
    pub fn ask_secret(&self, question: &str) -> Result<Option<Secret>> {
        if !prompt::is_possible() {
            return Err(Error::usage(
                "cannot ask for a passphrase: standard input is not a terminal",
            ));
        }
        prompt::ask_secret(question)
    }
}

impl Context {
    /// Prints a unified diff to standard error if that is a terminal, in colour unless `NO_COLOR` is set.
    /// Programs read the same change from the document.
    pub fn show_diff(&self, diff: &str) {
        if !self.progress {
            return;
        }
        // Source: https://no-color.org.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        write_stderr(&if plain { diff.to_owned() } else { coloured(diff) });
    }
}

/// A unified diff with ANSI colours: removed lines red, added lines green, hunk headers cyan.
fn coloured(diff: &str) -> String {
    let line = |line: &str| {
        let colour = match line.as_bytes().first() {
            Some(b'-') => "31",
            Some(b'+') => "32",
            Some(b'@') => "36",
            _ => return format!("{line}\n"),
        };
        format!("\x1b[{colour}m{line}\x1b[0m\n")
    };
    diff.lines().map(line).collect()
}

/// Whether the effective user of this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tool: its command line and the code that runs its verbs.
pub trait Tool: Parser {
    /// The program's name.
    const NAME: &'static str;

    /// The options that every verb accepts.
    fn globals(&self) -> &Globals;

    /// Whether the given verb supports `--format prometheus`.
    fn has_metrics(&self) -> bool {
        false
    }

    /// The column titles of the given verb's table; empty for a verb that prints no table.
    fn columns(&self) -> &'static [&'static str];

    /// Runs the given verb.
    fn run(self, context: &Context) -> Result<Outcome>;
}

/// The complete `main` function of a tool.
pub fn main<T: Tool>() -> ExitCode {
    syscalls::fail_at_file_size_limit();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let wants_json = asks_for_json(&arguments);
    let done = match parse::<T>(&arguments) {
        Ok(Asked::Verb(tool)) => run(tool),
        Ok(Asked::Completions(shell)) => print(&completions::script(shell, T::command())),
        Err(error) if !error.use_stderr() => print(&error.render().to_string()),
        Err(error) => Err(usage_error::<T>(&error)),
    };
    let status = done.unwrap_or_else(|error| report::<T>(&error, wants_json));
    interrupt::die_if_received();
    ExitCode::from(status)
}

/// What a command line asks for: a verb of the tool, or a completion script.
enum Asked<T> {
    Verb(T),
    Completions(completions::Shell),
}

fn parse<T: Tool>(arguments: &[OsString]) -> Result<Asked<T>, clap::Error> {
    let mut command = T::command().subcommand(completions::verb());
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    if let Some(shell) = completions::asked_for(&matches) {
        return Ok(Asked::Completions(shell));
    }
    let tool = T::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok(Asked::Verb(tool))
}

/// Prints text that is not a document, such as help. The exit status is 0.
fn print(text: &str) -> Result<u8> {
    write_stdout(text).map_err(cannot_print)?;
    Ok(0)
}

fn run<T: Tool>(tool: T) -> Result<u8> {
    let globals = tool.globals();
    let format = if globals.json { Format::Json } else { globals.format };
    let columns = globals.columns.as_deref().map(|names| find_columns(names, tool.columns()));
    let layout = Layout::new(format, columns.transpose()?, !globals.no_headings)?;
    if format == Format::Prometheus && !tool.has_metrics() {
        return Err(Error::usage("this command does not support --format prometheus")
            .hint("use --format prometheus with tdx-td list or tdx-pool info"));
    }
    let quiet = globals.quiet;
    log::set_level(if quiet { 0 } else { globals.verbose });
    let context = Context {
        host: Host::new(&globals.sysroot),
        progress: !quiet && io::stderr().is_terminal(),
        remote: OnceLock::new(),
    };
    let mut outcome = tool.run(&context)?;
    outcome.set_host(context.host_name());
    let printed = outcome.render(&layout);
    write_stdout(&printed.text).map_err(|error| cannot_print(error).applied(outcome.applied()))?;
    if !quiet {
        for warning in printed.warnings {
            write_stderr(&format!("{}: warning: {}\n", T::NAME, text::lines(&warning)));
        }
        if !printed.left_out.is_empty() && io::stderr().is_terminal() {
            let titles = printed.left_out.join(", ");
            write_stderr(&format!("{}: columns that do not fit the terminal: {titles}\n", T::NAME));
        }
        if printed.dry_run && io::stderr().is_terminal() {
            write_stderr(&format!("{}: dry run: nothing was changed\n", T::NAME));
        }
    }
    Ok(outcome.status)
}

/// The titles of the columns that `--columns` names. `in_use` and `"in use"` both name the column `IN USE`.
///
/// Errors: `usage` for a name that no column has.
fn find_columns(names: &[String], titles: &[&'static str]) -> Result<Vec<&'static str>> {
    let column_names = || match titles {
        [] => "this command prints no table".to_owned(),
        _ => format!("known columns: {}", titles.join(",").to_lowercase().replace(' ', "_")),
    };
    let find = |name: &String| {
        let title = name.trim().replace('_', " ");
        let mut titles = titles.iter().copied();
        titles
            .find(|known| known.eq_ignore_ascii_case(&title))
            .ok_or_else(|| Error::usage(format!("unknown column {name:?}")).hint(column_names()))
    };
    names.iter().map(find).collect()
}

fn cannot_print(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write to standard output").because(error)
}

/// Prints the error, as text on a terminal and otherwise as JSON, and returns the exit status.
fn report<T: Tool>(error: &Error, wants_json: bool) -> u8 {
    if wants_json || !io::stderr().is_terminal() {
        // Serialising our own struct cannot fail.
        let json = serde_json::to_string(&error.to_document()).unwrap_or_default();
        write_stderr(&format!("{json}\n"));
    } else {
        write_stderr(&error.to_text(T::NAME));
    }
    error.kind().exit_code()
}

/// Whether the arguments or TDX_FORMAT ask for JSON. Checked before parsing, because usage errors are JSON as well.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let flags: Vec<&str> = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .filter_map(|argument| argument.to_str())
        .collect();
    let by_flag = flags.iter().any(|f| matches!(*f, "--json" | "--format=json"))
        || flags.windows(2).any(|pair| pair == ["--format", "json"]);
    let other = flags.iter().any(|f| f.starts_with("--format"));
    by_flag || (!other && std::env::var_os("TDX_FORMAT").is_some_and(|format| format == "json"))
}

/// Converts an error of clap to a message and a hint.
fn usage_error<T: Tool>(error: &clap::Error) -> Error {
    let help = format!("run {} --help", T::NAME);
    if error.kind() == ClapKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("no command given").hint(help);
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(one_line);
    let message = paragraphs.next().unwrap_or_default();
    // Without the dots of `<NAME>...` at its end.
    let message =
        message.strip_prefix("error: ").unwrap_or(&message).trim_end_matches('.').to_owned();
    let tips = paragraphs.filter_map(|p| p.strip_prefix("tip: ").map(str::to_owned));
    Error::usage(message).hint(tips.chain([help]).collect::<Vec<_>>().join("; "))
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_colours_changed_lines() {
        assert_eq!(
            coloured("@@ 1 @@\n a\n-b\n+c\n"),
            "\x1b[36m@@ 1 @@\x1b[0m\n a\n\x1b[31m-b\x1b[0m\n\x1b[32m+c\x1b[0m\n"
        );
    }

    #[test]
    fn asks_for_json_recognizes_every_spelling() {
        let asks = |line: &str| asks_for_json(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert!(asks("tdx-pool list --json"));
        assert!(asks("tdx-pool --format json lisst"));
        assert!(asks("tdx-pool --format=json"));
        assert!(!asks("tdx-pool list --format table"));
        assert!(!asks("tdx-td virsh -- list --json"));
    }
}
