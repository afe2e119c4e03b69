//! The command-line frame: parse, run, print one document or one error, exit.

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

/// Flags every verb of every tool takes.
#[derive(Debug, Args)]
pub struct Globals {
    /// How to print: auto (a table on a terminal, else JSON), json, table, name (keys, one a line), or prometheus (tdx-td list, tdx-pool info)
    #[arg(long, global = true, value_enum, default_value = "auto", env = "TDX_FORMAT")]
    #[arg(hide_env_values = true, hide_possible_values = true, hide_default_value = true)]
    #[arg(help_heading = "Global options")]
    pub format: Format,
    /// Short for --format json, and stronger than it
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Columns of a table, in this order; implies --format table. On a terminal, columns that do not fit are left out unless they are named here
    #[arg(long, global = true, value_name = "NAME,…", value_delimiter = ',')]
    #[arg(help_heading = "Global options")]
    pub columns: Option<Vec<String>>,
    /// No column titles above a table; implies --format table
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_headings: bool,
    /// Say on standard error what is done (-vv: and what is asked)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    #[arg(help_heading = "Global options")]
    pub verbose: u8,
    /// No warnings and no progress on standard error
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Read and write /sys, /proc, /dev, /run and /etc below this folder
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    #[arg(hide_default_value = true, help_heading = "Global options")]
    pub sysroot: PathBuf,
}

/// Flags of every verb that changes something.
#[derive(Debug, Clone, Copy, Args)]
pub struct Change {
    /// Print the plan and touch nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub yes: bool,
}

/// Reads a number of seconds to wait: a year at most, which every clock can add to the present.
pub fn seconds() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(0..=365 * 24 * 60 * 60)
}

/// What the frame hands a verb besides its own arguments.
#[derive(Debug)]
pub struct Context {
    /// The machine, below `--sysroot`.
    pub host: Host,
    /// Whether a progress bar may be drawn.
    pub progress: bool,
    /// The other machine that a connection leads to; its name, where that is known.
    remote: OnceLock<Option<String>>,
}

impl Context {
    /// Name of the machine whose things the verb is about: the one that libvirt runs on once there is a
    /// connection to another one, else that of [`Context::host`]. None when it is unknown.
    pub fn host_name(&self) -> Option<String> {
        self.remote.get().cloned().unwrap_or_else(|| self.host.name())
    }

    /// Says that the verb is about the things of another machine, which libvirt names so.
    #[cfg(feature = "libvirt")]
    pub(crate) fn set_remote(&self, name: Option<String>) {
        // A verb has one connection; one that is opened again leads to the same machine.
        let _ = self.remote.set(name);
    }
}

impl Context {
    /// Asks before something that destroys.
    ///
    /// Errors: `conflict` (exit 5) when the answer is no, or when nobody can be asked and `--yes` is
    /// missing; `interrupted` for a signal. End of input is no.
    pub fn confirm(&self, change: Change, question: &str) -> Result<()> {
        if change.yes || change.dry_run {
            return Ok(());
        }
        let refused = || Error::conflict(format!("not confirmed: {question}"));
        if !prompt::is_possible() {
            return Err(refused().hint("add --yes, or --dry-run to see the plan"));
        }
        match prompt::is_confirmed(question)? {
            true => Ok(()),
            false => Err(refused()),
        }
    }
}

impl Context {
    /// Asks for something that is not shown while it is typed; none when the input ends instead.
    ///
    /// Errors: `usage` when there is no terminal to ask on; `interrupted`; `io`.
    pub fn ask_secret(&self, question: &str) -> Result<Option<Secret>> {
        if !prompt::is_possible() {
            return Err(Error::usage("there is no terminal to ask for a passphrase on"));
        }
        prompt::ask_secret(question)
    }
}

impl Context {
    /// Shows a unified diff to the person at the terminal, if there is one, in colours unless `NO_COLOR`
    /// is set. What a program wants of it stands in the document.
    pub fn show_diff(&self, diff: &str) {
        if !self.progress {
            return;
        }
        // Source: https://no-color.org.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        write_stderr(&if plain { diff.to_owned() } else { coloured(diff) });
    }
}

/// A unified diff with ANSI colours: removed red, added green, places cyan.
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

/// Whether this process is root's.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tool: its command line and what it does.
pub trait Tool: Parser {
    /// The program's name.
    const NAME: &'static str;

    /// The flags every verb takes.
    fn globals(&self) -> &Globals;

    /// Whether the verb that was asked for shows something that has metrics.
    fn has_metrics(&self) -> bool {
        false
    }

    /// Titles of the columns that a table of the verb's items has; none for a verb without items.
    fn columns(&self) -> &'static [&'static str];

    /// Runs the verb that was asked for.
    fn run(self, context: &Context) -> Result<Outcome>;
}

/// The whole `main` of a tool.
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

/// What a command line asks for.
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

/// Prints what is no document; the exit status is 0.
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
        return Err(Error::usage("there are no metrics of this")
            .hint("--format prometheus is for tdx-td list and tdx-pool info"));
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
            write_stderr(&format!("{}: columns left out for lack of room: {titles}\n", T::NAME));
        }
    }
    Ok(outcome.status)
}

/// The titles of the columns that these names stand for: `in_use` and `"in use"` for `IN USE`.
///
/// Errors: `usage` for a name that no column has.
fn find_columns(names: &[String], titles: &[&'static str]) -> Result<Vec<&'static str>> {
    let column_names = || match titles {
        [] => "this verb prints no table".to_owned(),
        _ => format!("the columns are {}", titles.join(",").to_lowercase().replace(' ', "_")),
    };
    let find = |name: &String| {
        let title = name.trim().replace('_', " ");
        let mut titles = titles.iter().copied();
        titles.find(|known| known.eq_ignore_ascii_case(&title)).ok_or_else(|| {
            Error::usage(format!("no column is named {name:?}")).hint(column_names())
        })
    };
    names.iter().map(find).collect()
}

fn cannot_print(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write to standard output").because(error)
}

/// Prints the error in the form its reader can use and returns the exit status.
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

/// Whether JSON was asked for by name. Looked at before parsing: usage errors are JSON too.
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

/// Turns clap's paragraphs into a message and a hint.
fn usage_error<T: Tool>(error: &clap::Error) -> Error {
    let help = format!("see {} --help", T::NAME);
    if error.kind() == ClapKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("a verb is missing").hint(help);
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
    fn changed_lines_have_colours() {
        assert_eq!(
            coloured("@@ 1 @@\n a\n-b\n+c\n"),
            "\x1b[36m@@ 1 @@\x1b[0m\n a\n\x1b[31m-b\x1b[0m\n\x1b[32m+c\x1b[0m\n"
        );
    }

    #[test]
    fn json_is_noticed_before_parsing() {
        let asks = |line: &str| asks_for_json(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert!(asks("tdx-pool list --json"));
        assert!(asks("tdx-pool --format json lisst"));
        assert!(asks("tdx-pool --format=json"));
        assert!(!asks("tdx-pool list --format table"));
        assert!(!asks("tdx-td virsh -- list --json"));
    }
}
