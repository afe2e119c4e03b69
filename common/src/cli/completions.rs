//! The verb `completions` of every tool: a shell's completion script, made of the command line.
//!
//! It stands in no help, since packages and `make install` put the scripts where shells look for them.

use clap::{Arg, ArgMatches, Command, ValueEnum, value_parser};
use clap_complete::aot::{self, generate};

const VERB: &str = "completions";
const SHELL: &str = "shell";

/// The shells there is a script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The verb, for a tool's command line.
pub(crate) fn verb() -> Command {
    let shell = Arg::new(SHELL).value_name("SHELL").required(true);
    Command::new(VERB)
        .about("Print the completion script of a shell")
        .hide(true)
        .arg(shell.value_parser(value_parser!(Shell)))
}

/// The shell whose script is asked for, if one is.
pub(crate) fn asked_for(matches: &ArgMatches) -> Option<Shell> {
    matches.subcommand_matches(VERB)?.get_one(SHELL).copied()
}

/// The shell's script for the tool with this command line.
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
