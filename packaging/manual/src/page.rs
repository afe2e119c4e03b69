//! One manual page, in roff.

use std::io;

use clap::builder::StyledStr;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::documentation;
use crate::subject::{Entry, Subject, verbs};

const SECTION: &str = "1";
/// The exit status of a check whose answer is no.
const CHECKED: &str = "10";

/// The most examples of a page.
const EXAMPLES: usize = 10;

/// A page about a tool or one of its verbs.
pub(crate) struct Page<'a> {
    /// The tool.
    pub(crate) subject: &'a Subject,
    /// The command line of the tool or verb.
    pub(crate) command: &'a Command,
    /// All tools, for references and examples.
    pub(crate) subjects: &'a [Subject],
    /// The date of the last change, such as `2026-11-21`; empty when unknown.
    pub(crate) date: &'a str,
}

impl Page<'_> {
    /// The name of the page's file.
    pub(crate) fn file(&self) -> String {
        format!("{}.{SECTION}", self.name())
    }

    /// The text of the page in roff.
    pub(crate) fn render(&self) -> io::Result<Vec<u8>> {
        let mut command = self.command.clone();
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim().to_owned();
        let mut text = Vec::new();
        let man = Man::new(command.override_usage(usage).subcommand_help_heading("VERBS"))
            .section(SECTION)
            .date(self.date)
            .source(format!("tdx-tools {}", env!("CARGO_PKG_VERSION")))
            .manual("TDX tools");
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        self.conduct().to_writer(&mut text)?;
        man.render_options_section(&mut text)?;
        if self.command.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        let mut rest = Roff::new();
        self.statuses(&mut rest);
        self.examples(&mut rest);
        let environment = [&FORMAT, self.subject.environment.as_slice()].concat();
        entries(&mut rest, "ENVIRONMENT", &environment);
        entries(&mut rest, "FILES", &self.subject.files);
        self.see_also(&mut rest);
        rest.to_writer(&mut text)?;
        Ok(text)
    }

    fn name(&self) -> &str {
        self.command.get_display_name().unwrap_or(self.command.get_name())
    }

    fn is_tool(&self) -> bool {
        self.command.get_name() == self.subject.name()
    }

    fn has(&self, argument: &str) -> bool {
        self.command.get_arguments().any(|known| known.get_id() == argument)
    }

    /// Paragraphs about the behaviour that all tools share, if the arguments of the page's command have it.
    fn conduct(&self) -> Roff {
        let mut roff = Roff::new();
        let mut paragraph = |text: &str| {
            roff.control("PP", []).text([roman(text)]);
        };
        if self.is_tool() {
            paragraph(DOCUMENT);
            paragraph(ERRORS);
        }
        if self.has("dry_run") {
            paragraph(CHANGE);
        }
        let reads = |help: &StyledStr| help.to_string().contains("standard input");
        if self.command.get_arguments().filter_map(Arg::get_help).any(reads) {
            paragraph(INPUT);
        }
        roff
    }

    fn statuses(&self, roff: &mut Roff) {
        roff.control("SH", ["EXIT STATUS"]);
        if let "console" | "ssh" | "virsh" = self.command.get_name() {
            roff.text([roman(CHILD)]);
        }
        for (status, meaning) in documentation::exit_statuses() {
            if status != CHECKED || self.has_check() {
                entry(roff, status, meaning);
            }
        }
    }

    /// Whether the command is a verb `check`, or a tool with such a verb.
    fn has_check(&self) -> bool {
        self.command.get_name() == "check" || self.command.find_subcommand("check").is_some()
    }

    /// The examples of a tool; for a verb, the first ten lines of all helps and pages that use the verb.
    fn examples(&self, roff: &mut Roff) {
        let known = match self.is_tool() {
            true => help(self.command),
            false => {
                let commands = self.subjects.iter().flat_map(Subject::commands);
                commands
                    .map(help)
                    .chain(documentation::examples().map(|line| format!("{line}\n")))
                    .collect()
            }
        };
        let name = self.command.get_bin_name().unwrap_or(self.name());
        let mut shown: Vec<&str> = Vec::new();
        for line in known.lines().map(str::trim) {
            if shown.len() < EXAMPLES && mentions(line, name) && !shown.contains(&line) {
                shown.push(line);
            }
        }
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in shown {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }

    fn see_also(&self, roff: &mut Roff) {
        let mut names: Vec<&str> = self.subjects.iter().map(Subject::name).collect();
        names.sort_by_key(|name| *name != self.subject.name());
        names.extend(verbs(self.command).filter_map(Command::get_display_name));
        if self.subject.libvirt {
            names.push("virsh");
        }
        names.retain(|name| *name != self.name());
        let last = names.len().saturating_sub(1);
        roff.control("SH", ["SEE ALSO"]);
        for (index, name) in names.into_iter().enumerate() {
            let comma = if index == last { "" } else { "," };
            roff.text([bold(name), roman(format!("({SECTION}){comma}"))]);
        }
    }
}

/// Whether the line contains `name` as complete words.
fn mentions(line: &str, name: &str) -> bool {
    let joined = |c: char| c.is_alphanumeric() || c == '-' || c == '/';
    line.match_indices(name).any(|(at, _)| {
        !line[..at].ends_with(joined) && !line[at + name.len()..].starts_with(joined)
    })
}

/// The examples in the help of a command.
fn help(command: &Command) -> String {
    command.get_after_help().map(|help| format!("{help}\n")).unwrap_or_default()
}

fn entry(roff: &mut Roff, name: &str, meaning: &str) {
    roff.control("TP", []).text([bold(name)]).text([roman(meaning.replace('`', ""))]);
}

fn entries(roff: &mut Roff, title: &str, entries: &[Entry]) {
    if !entries.is_empty() {
        roff.control("SH", [title]);
    }
    for (name, meaning) in entries {
        entry(roff, name, meaning);
    }
}

const FORMAT: [Entry; 2] = [
    ("TDX_FORMAT", "The output format, if neither --format nor --json is given."),
    ("NO_COLOR", "If set and not empty, diffs are printed without colours."),
];

const DOCUMENT: &str = "On success, the command prints one complete JSON document to standard output, or a table \
    if standard output is a terminal. On failure, it prints nothing there. Errors, warnings and progress go to \
    standard error.";

const ERRORS: &str = "Errors are text on a terminal. Otherwise the last line of standard error is one JSON object \
    with the message, its causes, a hint, and the changes that remain.";

const CHANGE: &str = "The command makes a plan before it changes anything, and undoes its steps if it fails half \
    way. A second run changes nothing and prints \"changed\":false.";

const INPUT: &str = "Standard input can be the document of another of these tools, a JSON array of items, or a \
    sequence of items such as jq(1) prints.";

const CHILD: &str = "After the other program has started, its exit status. Before:";
