//! Runs the commands that a page of the documentation shows, at their place, and compares their output.
//!
//! The info string of a block is `LANGUAGE [PLACE or FILE]`. Each line of a `sh` block is a command that must succeed.
//! A `console` block has commands after `$ `, each with its output; an output line `...` stands for any lines, and
//! `$ echo $?` for the exit status of the command before it. A block with a file name is written to that file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use regex::Regex;

use super::tools::{Run, repository};

/// Whether the output in the pages is to be written again.
fn is_update() -> bool {
    std::env::var_os("TDX_UPDATE").is_some()
}

/// A fenced block of a page.
#[derive(Debug, Clone)]
struct Block {
    language: String,
    /// The place where its commands run, or the name of the file that it contains.
    place: String,
    text: String,
}

/// A page of the documentation.
#[derive(Debug)]
pub(crate) struct Page {
    path: PathBuf,
    blocks: Vec<Block>,
}

/// A function that runs a shell line at a place and returns the run.
pub(crate) type Shell<'a> = &'a dyn Fn(&str) -> Run;

/// The names of the README and of all pages below docs, in order.
pub(crate) fn all() -> BTreeSet<String> {
    let directories = ["docs", "docs/guide", "docs/reference", "docs/internals"];
    let files = directories.iter().flat_map(|directory| {
        let entries = std::fs::read_dir(repository().join(directory)).unwrap();
        entries.map(move |entry| format!("{directory}/{}", entry.unwrap().file_name().display()))
    });
    files.filter(|file| file.ends_with(".md")).chain(["README.md".to_owned()]).collect()
}

impl Page {
    /// Reads a page; `name` is its path in the repository.
    pub(crate) fn read(name: &str) -> Self {
        let path = repository().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut blocks = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(info) = line.strip_prefix("```") else { continue };
            let (language, place) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
            let mut text = String::new();
            for line in lines.by_ref().take_while(|line| *line != "```") {
                writeln!(text, "{line}").unwrap();
            }
            blocks.push(Block { language: language.into(), place: place.into(), text });
        }
        Self { path, blocks }
    }

    /// Whether the page shows commands that run at one of these places.
    pub(crate) fn has_commands_at(&self, places: &[&str]) -> bool {
        self.blocks.iter().any(|block| block.is_command() && places.contains(&&*block.place))
    }

    /// The language of each block.
    pub(crate) fn languages(&self) -> impl Iterator<Item = &str> {
        self.blocks.iter().map(|block| &*block.language)
    }

    /// Runs every command that the page shows for these places, in order, after `settings`, and writes its files first.
    ///
    /// With `TDX_UPDATE` set, output that differs is written into the page.
    #[track_caller]
    pub(crate) fn run(&self, places: &[(&str, &str, Shell<'_>)]) {
        for block in &self.blocks {
            if block.place.contains('.') {
                let (_, _, shell) = places[0];
                shell(&format!(
                    "cat >'{}' <<'END OF FILE'\n{}END OF FILE",
                    block.place, block.text
                ))
                .text();
            }
            let place = places.iter().find(|(place, ..)| *place == block.place);
            let Some((_, settings, shell)) = place.filter(|_| block.is_command()) else { continue };
            match &*block.language {
                "sh" => run_lines(&block.text, settings, shell),
                _ => self.compare(&block.text, settings, shell),
            }
        }
    }

    #[track_caller]
    fn compare(&self, shown: &str, settings: &str, shell: Shell<'_>) {
        let mut seen = String::new();
        let mut status = None;
        let colours = Regex::new(r"\x1b\[[0-9;]*m").unwrap();
        let commands = shown.strip_prefix("$ ").expect("a console block begins with a command");
        for command in commands.split("\n$ ") {
            let (line, output) = command.split_once('\n').unwrap_or((command, ""));
            let printed = if line == "echo $?" {
                format!("{}\n", status.unwrap())
            } else {
                let run = on_terminal(line, settings, shell);
                status = run.status;
                colours.replace_all(&run.stdout.replace("\r\n", "\n"), "").into_owned()
            };
            let is_same = is_shown(output, &printed);
            assert!(is_same || is_update(), "{}:\n$ {line}\n{printed}", self.path.display());
            let output = if is_same { output } else { &printed };
            writeln!(seen, "$ {line}\n{}", output.trim_end()).unwrap();
        }
        if is_update() {
            let page = std::fs::read_to_string(&self.path).unwrap();
            std::fs::write(&self.path, page.replace(shown, &seen.replace("\n\n$ ", "\n$ ")))
                .unwrap();
        }
    }
}

impl Block {
    fn is_command(&self) -> bool {
        matches!(&*self.language, "sh" | "console")
    }
}

/// Runs each line as a command of its own. A line that ends in a backslash continues on the next line.
#[track_caller]
fn run_lines(text: &str, settings: &str, shell: Shell<'_>) {
    let text = text.replace("\\\n", " ");
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        shell(&format!("{settings}; {line}")).text();
    }
}

/// Runs a command with a terminal of 100 columns for its output.
fn on_terminal(line: &str, settings: &str, shell: Shell<'_>) -> Run {
    const SPAWN: &str = "import os, pty, sys; \
        sys.exit(os.waitstatus_to_exitcode(pty.spawn(['bash', '-c', sys.argv[1]])))";
    let command = format!("stty cols 100; {settings}; {line}").replace('\'', r"'\''");
    shell(&format!("TERM=dumb python3 -c \"{SPAWN}\" '{command}' </dev/null"))
}

/// Whether output is what a page shows; random names, sizes, addresses and times may differ.
fn is_shown(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (stable(shown), stable(printed));
    let mut parts = shown.split(|line| line == "...");
    let first = parts.next().unwrap();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let at = match parts.peek() {
            // The last part must be at the end of the output.
            None => rest.len().checked_sub(part.len()).filter(|at| rest[*at..] == *part),
            Some(_) => (0..=rest.len()).find(|at| rest[*at..].starts_with(part)),
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// The lines of an output without values that differ from run to run, and without their effect on column
/// widths.
fn stable(output: &str) -> Vec<String> {
    let differs = Regex::new(
        r"(?x) [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}
        | \b192\.168\.122\.\d+
        | \b(overlay|cidata|import|disk)\.[0-9A-Za-z]{15}
        | \d{4}-\d\d-\d\d[T\ ][\d:.]+Z?",
    );
    let differs = differs.unwrap();
    let without_numbers = |word: &str| {
        let is_number = word.trim_end_matches(',').parse::<f64>().is_ok() || word.ends_with("iB");
        if is_number { "*".to_owned() } else { word.to_owned() }
    };
    let words = |line: &str| {
        let line = differs.replace_all(line, "*");
        line.split_whitespace().map(without_numbers).collect::<Vec<_>>().join(" ")
    };
    output.trim_end().lines().map(words).collect()
}
