//! The verb `completions` of every tool: prints a shell's completion script, generated from the command line.
//!
//! The verb is hidden from the help, because packages and `make install` install the scripts.

use clap::{Arg, ArgMatches, Command, ValueEnum, value_parser};
use clap_complete::aot::{self, generate};

const VERB: &str = "completions";
const SHELL: &str = "shell";

/// The shells that have a completion script.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The definition of the verb, for a tool's command line.
pub(crate) fn verb() -> Command {
    let shell = Arg::new(SHELL).value_name("SHELL").required(true);
    Command::new(VERB)
        .about("Print the completion script of a shell")
        .hide(true)
        .arg(shell.value_parser(value_parser!(Shell)))
}

/// The shell whose completion script the command line asks for, if it asks for one.
pub(crate) fn asked_for(matches: &ArgMatches) -> Option<Shell> {
    matches.subcommand_matches(VERB)?.get_one(SHELL).copied()
}

/// The completion script of `shell` for the tool with this command line.
pub(crate) fn script(shell: Shell, mut command: Command) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(aot::Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(aot::Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(aot::Fish, &mut command, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}
