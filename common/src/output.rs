//! Rendering a document as JSON, a table or bare names, and writing it whole.

use std::fmt;
use std::io::{self, IsTerminal, Write as _};

use clap::ValueEnum;

use crate::document::{Action, Document, Item};
use crate::text;

/// How a document is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table on a terminal, JSON elsewhere
    Auto,
    /// One JSON object
    Json,
    /// Aligned columns for people
    Table,
    /// The natural keys (names, BDFs, devices), one a line
    Name,
    /// Metrics for Prometheus, of the verbs that have them
    Prometheus,
}

impl Format {
    /// What `auto` means for a standard output that is, or is not, a terminal.
    fn resolve(self) -> Self {
        match self {
            Self::Auto if io::stdout().is_terminal() => Self::Table,
            Self::Auto => Self::Json,
            chosen => chosen,
        }
    }
}

/// What a verb hands back to the frame.
pub struct Outcome {
    /// The text for each format; built only when asked for.
    report: Box<dyn Report>,
    /// The exit status: 0, or 10 for a `check` whose answer is no.
    pub(crate) status: u8,
}

impl Outcome {
    /// Bytes that go to standard output as they are: `--xml` and its like.
    pub fn raw(text: String) -> Self {
        Self::raw_with_warnings(text, Vec::new())
    }

    /// The same with warnings, which are told whatever the format.
    pub fn raw_with_warnings(text: String, warnings: Vec<String>) -> Self {
        Self { report: Box::new(Raw { text, warnings }), status: 0 }
    }

    /// What a `check` found: exit 0 when the answer is yes, else 10.
    pub fn answer<T: Item + 'static>(document: Document<T>, yes: bool) -> Self {
        Self { report: Box::new(document), status: if yes { 0 } else { 10 } }
    }

    /// The changes that were made, for an error that comes after them.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.report.applied()
    }

    /// The whole text of standard output and the warnings for standard error.
    pub(crate) fn render(&self, format: Format) -> (String, Vec<String>) {
        let format = format.resolve();
        (self.report.render(format), self.report.warnings(format))
    }
}

impl<T: Item + 'static> From<Document<T>> for Outcome {
    fn from(document: Document<T>) -> Self {
        Self { report: Box::new(document), status: 0 }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome").field("status", &self.status).finish_non_exhaustive()
    }
}

trait Report {
    fn render(&self, format: Format) -> String;
    /// What the text itself does not tell.
    fn warnings(&self, format: Format) -> Vec<String>;
    /// What was done to each item.
    fn applied(&self) -> Vec<String> {
        Vec::new()
    }
}

struct Raw {
    text: String,
    warnings: Vec<String>,
}

impl Report for Raw {
    fn render(&self, _: Format) -> String {
        self.text.clone()
    }
    fn warnings(&self, _: Format) -> Vec<String> {
        self.warnings.clone()
    }
}

impl<T: Item> Report for Document<T> {
    fn render(&self, format: Format) -> String {
        match format {
            Format::Name => self.items.iter().fold(String::new(), |mut names, item| {
                names.push_str(&text::one_line(&item.key()));
                names.push('\n');
                names
            }),
            Format::Table => {
                let mut rows = vec![T::COLUMNS.iter().map(|&c| c.to_owned()).collect()];
                rows.extend(self.items.iter().map(Item::row));
                table(&rows)
            }
            Format::Prometheus => T::metrics(&self.items).iter().map(ToString::to_string).collect(),
            Format::Json | Format::Auto => {
                // Serialising our own structs cannot fail: no maps with odd keys, no failing impls.
                let mut json = serde_json::to_string(self).unwrap_or_default();
                json.push('\n');
                json
            }
        }
    }

    fn warnings(&self, format: Format) -> Vec<String> {
        match format {
            Format::Table | Format::Name | Format::Prometheus => self.warnings.clone(),
            Format::Json | Format::Auto => Vec::new(),
        }
    }

    fn applied(&self) -> Vec<String> {
        let done = |item: &T| {
            let action = item.action().filter(|action| *action != Action::NONE)?;
            Some(format!("{} {}", action.0, item.key()))
        };
        self.items.iter().filter(|_| !self.dry_run).filter_map(done).collect()
    }
}

/// Aligns cells in columns two spaces apart. Empty cells show as `-`, control characters as escapes.
fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // A width in a format string has 16 bits.
            let padding = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    text::one_line(cell).into_owned()
}

/// Writes `text` to standard output whole. A reader that went away is no error.
pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes `text` to standard error. Nobody can be told when that fails.
pub(crate) fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_any_length_is_shown() {
        let long = "x".repeat(70_000);
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec![long.clone(), "b".to_owned()]];
        assert_eq!(table(&rows), format!("A{}  B\n{long}  b\n", " ".repeat(69_999)));
    }

    #[test]
    fn tables_align_and_show_what_would_break_them() {
        let rows = [vec!["NAME", "STATE"], vec!["a\nb", ""], vec!["longer-name", "running"]]
            .map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "NAME         STATE\na\\nb         -\nlonger-name  running\n");
    }
}
