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

/// A page: on a tool, or on one of its verbs.
pub(crate) struct Page<'a> {
    /// The tool.
    pub(crate) subject: &'a Subject,
    /// Its command line, or that of the verb.
    pub(crate) command: &'a Command,
    /// All tools, which the page refers to.
    pub(crate) subjects: &'a [Subject],
    /// The day of the last change, `2026-11-21`; empty when unknown.
    pub(crate) date: &'a str,
}

impl Page<'_> {
    /// Name of its file.
    pub(crate) fn file(&self) -> String {
        format!("{}.{SECTION}", self.name())
    }

    /// Its text.
    pub(crate) fn render(&self) -> io::Result<Vec<u8>> {
        let mut command = self.command.clone();
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim().to_owned();
        let mut text = Vec::new();
        let man = Man::new(command.override_usage(usage).subcommand_help_heading("VERBS"))
            .section(SECTION)
            .date(self.date)
            .source(format!("tdx-tools {}", env!("CARGO_PKG_VERSION")))
            .manual("Trust domains and guests");
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

    /// What all tools do alike, as far as this one's arguments say that it does.
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
        let reads = |help: &StyledStr| help.to_string().contains("on standard input");
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

    /// Whether this is the verb that answers a question, or a tool that has it.
    fn has_check(&self) -> bool {
        self.command.get_name() == "check" || self.command.find_subcommand("check").is_some()
    }

    /// A tool's own examples; for a verb the first ten lines of all helps and pages that it is in.
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

/// Whether the words of `name` stand in the line one after another, and nothing is joined to them.
fn mentions(line: &str, name: &str) -> bool {
    let joined = |c: char| c.is_alphanumeric() || c == '-' || c == '/';
    line.match_indices(name).any(|(at, _)| {
        !line[..at].ends_with(joined) && !line[at + name.len()..].starts_with(joined)
    })
}

/// The lines that end a command's help.
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
    ("TDX_FORMAT", "How to print, where neither --format nor --json says it."),
    ("NO_COLOR", "When set and not empty, differences are shown without colours."),
];

const DOCUMENT: &str = "Standard output carries one JSON document, whole, or nothing when the command fails; \
    a table instead on a terminal. Errors, warnings and progress go to standard error.";

const ERRORS: &str = "An error is text on a terminal and one JSON line elsewhere, the last of standard error, \
    with a message, its causes, a hint, and what was done in spite of it.";

const CHANGE: &str = "The change is planned before it is made, and undone when it fails half way. It is safe \
    to repeat: a second run finds nothing to do, and its document says \"changed\":false.";

const INPUT: &str = "On standard input can be the document of another of these tools, a JSON array, or items \
    one after another, as jq(1) lets them through.";

const CHILD: &str = "That of the program it hands over to, once that has started. Before:";
