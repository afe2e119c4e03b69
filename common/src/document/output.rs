//! Rendering a document as JSON, a table or bare names, and writing it whole.

use std::fmt;
use std::io::{self, IsTerminal, Write as _};

use clap::ValueEnum;

use crate::document::table::{Style, Table};
use crate::document::{Action, Document, Item};
use crate::error::{Error, Result};
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
    /// The natural keys (names, BDFs, devices), one per line
    Name,
    /// Prometheus metrics; only some verbs have them
    Prometheus,
}

/// How a document is printed, after `auto` was resolved.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    format: Format,
    /// The titles of the columns to print; none to print all columns that fit.
    columns: Option<Vec<&'static str>>,
    style: Style,
}

/// The narrowest terminal that tables are fitted to. Unit: characters.
const NARROWEST: usize = 80;

impl Layout {
    /// Resolves `auto`: a table on a terminal or with `--columns` or `--no-headings`, otherwise JSON.
    ///
    /// Errors: `usage` for `--columns` or `--no-headings` with a format other than a table.
    pub(crate) fn new(
        format: Format,
        columns: Option<Vec<&'static str>>,
        headings: bool,
    ) -> Result<Self> {
        let terminal = io::stdout().is_terminal();
        let shaped = columns.is_some() || !headings;
        let format = match format {
            Format::Auto if terminal || shaped => Format::Table,
            Format::Auto => Format::Json,
            Format::Table => Format::Table,
            _ if shaped => {
                return Err(Error::usage(
                    "--columns and --no-headings apply only to tables, but another format was chosen",
                )
                .hint("remove --json, --format and TDX_FORMAT, or use --format table"));
            }
            chosen => chosen,
        };
        // A terminal that does not know its width returns 0.
        let width = || rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
        let width = terminal.then(|| usize::from(width()).max(NARROWEST));
        Ok(Self { format, columns, style: Style { headings, width } })
    }
}

/// A document, rendered for printing.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    /// The text for standard output.
    pub(crate) text: String,
    /// Warnings that the text does not contain; they go to standard error.
    pub(crate) warnings: Vec<String>,
    /// The titles of the columns that do not fit the terminal.
    pub(crate) left_out: Vec<&'static str>,
    /// Whether the text is a table of a dry run, which looks like that of a change.
    pub(crate) dry_run: bool,
}

/// What a verb returns: the document or text to print, and the exit status.
pub struct Outcome {
    /// Renders the text for the requested format.
    report: Box<dyn Report>,
    /// The exit status: 0, or 10 for a `check` whose answer is no.
    pub(crate) status: u8,
}

impl Outcome {
    /// Text that is printed as it is, such as the output of `--xml`.
    pub fn raw(text: String) -> Self {
        Self::raw_with_warnings(text, Vec::new())
    }

    /// Text that is printed as it is, with warnings for standard error.
    pub fn raw_with_warnings(text: String, warnings: Vec<String>) -> Self {
        Self { report: Box::new(Raw { text, warnings }), status: 0 }
    }

    /// The result of a `check`: exit status 0 when the answer is yes, otherwise 10.
    pub fn answer<T: Item + 'static>(document: Document<T>, yes: bool) -> Self {
        Self { report: Box::new(document), status: if yes { 0 } else { 10 } }
    }

    /// Sets the name of the machine in the document.
    pub(crate) fn set_host(&mut self, host: Option<String>) {
        self.report.set_host(host);
    }

    /// The changes that were made, for an error that occurs after them.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.report.applied()
    }

    /// Renders the text for standard output, and the warnings for standard error.
    pub(crate) fn render(&self, layout: &Layout) -> Printed {
        self.report.render(layout)
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
    fn set_host(&mut self, host: Option<String>);
    fn render(&self, layout: &Layout) -> Printed;
    /// A line for each item that was changed.
    fn applied(&self) -> Vec<String> {
        Vec::new()
    }
}

struct Raw {
    text: String,
    warnings: Vec<String>,
}

impl Report for Raw {
    fn set_host(&mut self, _: Option<String>) {}
    fn render(&self, _: &Layout) -> Printed {
        let (text, warnings) = (self.text.clone(), self.warnings.clone());
        Printed { text, warnings, ..Printed::default() }
    }
}

impl<T: Item> Report for Document<T> {
    fn set_host(&mut self, host: Option<String>) {
        Self::set_host(self, host);
    }

    fn render(&self, layout: &Layout) -> Printed {
        let warnings = self.warnings.clone();
        let text = match layout.format {
            Format::Table => {
                let (text, left_out) = table(self, layout).render(layout.style);
                return Printed { text, warnings, left_out, dry_run: self.dry_run };
            }
            Format::Name => {
                self.items.iter().map(|item| format!("{}\n", text::one_line(&item.key()))).collect()
            }
            Format::Prometheus => T::metrics(&self.items).iter().map(ToString::to_string).collect(),
            Format::Json | Format::Auto => {
                // Serialising our own structs cannot fail: they have no maps with non-string keys and no failing
                // implementations.
                let text = serde_json::to_string(self).unwrap_or_default() + "\n";
                return Printed { text, ..Printed::default() };
            }
        };
        Printed { text, warnings, ..Printed::default() }
    }

    fn applied(&self) -> Vec<String> {
        let done = |item: &T| {
            let action = item.action().filter(|action| *action != Action::None)?;
            Some(format!("{} {}", action, item.key()))
        };
        self.items.iter().filter(|_| !self.dry_run).filter_map(done).collect()
    }
}

fn table<T: Item>(document: &Document<T>, layout: &Layout) -> Table {
    let mut items: Vec<&T> = document.items.iter().collect();
    items.sort_by_key(|item| item.table_order());
    let mut closing = None;
    if let Some(folded) = &document.folded {
        let shown = items.len();
        items.retain(|item| !(folded.is_folded)(item));
        closing = (folded.closing)(shown - items.len());
    }
    let mut table = Table {
        titles: T::COLUMNS.to_vec(),
        rows: items.into_iter().map(Item::row).collect(),
        wrapped: T::WRAPPED,
        dropped: T::DROPPED,
        below: T::BELOW,
        closing,
    };
    if let Some(columns) = &layout.columns {
        table.select(columns);
    }
    table
}

/// Writes all of `text` to standard output. A closed pipe is not an error.
pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes `text` to standard error. A failure is ignored, because it cannot be reported.
pub(crate) fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
