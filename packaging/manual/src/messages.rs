//! The words that the tools say beside their help: every string of the sources that is a sentence, as one page.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

const HEAD: &str = "# Messages\n\n\
    Every message in the sources of the tools: errors, their causes and hints, warnings, questions and progress. \
    `{name}` stands for a value.\nThe help of the verbs is on [pages of its own](verbs). \
    `make reference` writes this page.\n";

/// Returns the page of all messages of the crates in a repository, as Markdown.
///
/// Errors: a source file that cannot be read.
pub(crate) fn messages(repository: &Path) -> Result<String, Box<dyn Error>> {
    let mut page = HEAD.to_owned();
    for name in ["common", "tdx-attest", "tdx-disk", "tdx-gpu", "tdx-iommu", "tdx-pool", "tdx-td"] {
        write!(page, "\n## {name}\n")?;
        for file in rust_files(&repository.join(name).join("src"))? {
            let source = fs::read_to_string(&file)?;
            let found = strings(&source);
            let mut sentences = found.iter().filter(|found| found.is_message()).peekable();
            if sentences.peek().is_some() {
                let file = file.strip_prefix(repository)?.display();
                write!(page, "\n[{file}](../../{file})\n\n| kind | message |\n|---|---|\n")?;
            }
            for Literal { kind, text } in sentences {
                writeln!(page, "| {kind} | {} |", text.replace('|', "\\|").replace('<', "&lt;"))?;
            }
        }
    }
    Ok(page)
}

/// The Rust files below a directory that are not tests, in order.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let is_test = |name: &OsStr| {
        let name = name.to_string_lossy();
        name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs")
    };
    let entries = WalkDir::new(directory).sort_by_file_name().into_iter();
    let paths = entries
        .filter_entry(|entry| !is_test(entry.file_name()))
        .map(|entry| entry.map(DirEntry::into_path))
        .collect::<Result<Vec<_>, _>>()?;
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|name| name == "rs");
    Ok(paths.into_iter().filter(is_rust).collect())
}

/// A string literal, and what the call that takes it makes of it.
#[derive(Debug, PartialEq)]
struct Literal {
    kind: &'static str,
    text: String,
}

impl Literal {
    /// Whether the text is a message, not a name, path, pattern or data format. A text of one word is a message only
    /// if a call that reports something takes the text.
    fn is_message(&self) -> bool {
        let is_word = |word: &&str| {
            word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        let is_data = self.text.starts_with(['<', '/', '#', '^', '"']);
        let words = self.text.split_whitespace().filter(is_word).count();
        !is_data && words >= if self.kind == "text" { 2 } else { 1 }
    }
}

/// The string literals of a source file, without those of attributes, comments and tests.
fn strings(source: &str) -> Vec<Literal> {
    let source = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or(source);
    let mut found = Vec::new();
    // The code so far, with strings and comments left out.
    let mut code = String::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("#[") || rest.starts_with("#![") {
            attribute(rest)
        } else if let Some((text, length)) = literal(rest) {
            found.push(Literal { kind: kind(&code), text });
            code.push('s');
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(next);
            next.len_utf8()
        };
        rest = &rest[skipped..];
    }
    found
}

/// The length of the attribute that a text begins with.
fn attribute(source: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while let Some(next) = source[at..].chars().next() {
        let rest = &source[at..];
        at += literal(rest)
            .map(|(_, length)| length)
            .or_else(|| character(rest))
            .unwrap_or_else(|| next.len_utf8());
        match next {
            '[' => depth += 1,
            ']' if depth == 1 => return at,
            ']' => depth -= 1,
            _ => {}
        }
    }
    at
}

/// The string literal that a text begins with, as it reads, and how long it is in the source.
fn literal(source: &str) -> Option<(String, usize)> {
    for (start, end) in [("r\"", "\""), ("r#\"", "\"#")] {
        if let Some(rest) = source.strip_prefix(start) {
            let length = rest.find(end)?;
            return Some((rest[..length].to_owned(), start.len() + length + end.len()));
        }
    }
    let rest = source.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let words: Vec<&str> = text.split_whitespace().collect();
                return Some((words.join(" "), at + 2));
            }
            '\\' => match characters.next()?.1 {
                // The string goes on where the next line's text begins.
                '\n' | 'n' | 't' => text.push(' '),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

/// The length of the character literal that a text begins with; a lifetime is none.
fn character(source: &str) -> Option<usize> {
    let rest = source.strip_prefix('\'')?;
    if rest.starts_with('\\') {
        return rest[2..].find('\'').map(|at| at + 4);
    }
    let length = rest.chars().next()?.len_utf8();
    rest[length..].starts_with('\'').then_some(length + 2)
}

/// What a string is, by the call nearest before it in the same statement.
fn kind(code: &str) -> &'static str {
    let statement = code.rsplit([';', '{', '}']).next().unwrap_or(code);
    let calls = [
        ("Error::", "error"),
        (".hint(", "hint"),
        (".because(", "cause"),
        (".context(", "action"),
        ("log::", "progress"),
        ("confirm(", "question"),
        ("warning", "warning"),
    ];
    let nearest = calls.iter().filter_map(|(call, kind)| Some((statement.rfind(call)?, *kind)));
    nearest.max().map_or("text", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_finds_literals_with_the_call_that_takes_them() {
        let source = r##"
            // "a comment is no message"
            #[expect(dead_code, reason = "an attribute [0] is no message]")]
            macro_rules! codes { ($(#[doc = $meaning] $name,)*) => { "a message behind an attribute" } }
            fn f<'a>(x: &'a str) -> char {
                Err(Error::usage(format!("no volume \"{x}\" \
                    is there")).hint("list the volumes: tdx-pool volumes"));
                let quote = '"';
                r"raw \ text"
            }
        "##;
        let literal = |kind, text: &str| Literal { kind, text: text.to_owned() };
        let expected = [
            literal("text", "a message behind an attribute"),
            literal("error", "no volume \"{x}\" is there"),
            literal("hint", "list the volumes: tdx-pool volumes"),
            literal("text", r"raw \ text"),
        ];
        assert_eq!(strings(source), expected);
    }

    #[test]
    fn names_and_data_are_not_messages() {
        let is_message = |kind, text: &str| Literal { kind, text: text.to_owned() }.is_message();
        assert!(is_message("text", "domain '{name}' is running"));
        assert!(is_message("error", "{} is read-only"));
        assert!(is_message("error", "--fix-template needs --xml-template"));
        for text in ["virtio", "/sys/bus/pci/devices", "<a b='c'>", "{bdf} {driver}"] {
            assert!(!is_message("text", text), "{text}");
        }
    }
}
