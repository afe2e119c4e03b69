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
    /// The natural keys (names, BDFs, devices), one a line
    Name,
    /// Metrics for Prometheus, of the verbs that have them
    Prometheus,
}

/// How a document is printed, settled.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    format: Format,
    /// Titles of a table's columns; none for all that fit.
    columns: Option<Vec<&'static str>>,
    style: Style,
}

/// The narrowest terminal that tables are fitted to, columns.
const NARROWEST: usize = 80;

impl Layout {
    /// Settles what `auto` means: a table on a terminal and wherever flags shape a table, else JSON.
    ///
    /// Errors: `usage` for flags that shape a table beside another format.
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
                return Err(Error::usage("--columns and --no-headings are for tables")
                    .hint("use them without --json, --format and TDX_FORMAT"));
            }
            chosen => chosen,
        };
        // A terminal that does not know its width says 0.
        let width = || rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
        let width = terminal.then(|| usize::from(width()).max(NARROWEST));
        Ok(Self { format, columns, style: Style { headings, width } })
    }
}

/// A document as it is printed.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    /// All of standard output.
    pub(crate) text: String,
    /// What the text itself does not tell.
    pub(crate) warnings: Vec<String>,
    /// Titles of the columns that a terminal has no room for.
    pub(crate) left_out: Vec<&'static str>,
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

    /// Says which machine the things of the document live on.
    pub(crate) fn set_host(&mut self, host: Option<String>) {
        self.report.set_host(host);
    }

    /// The changes that were made, for an error that comes after them.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.report.applied()
    }

    /// The whole text of standard output, and what belongs on standard error.
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
                return Printed { text, warnings, left_out };
            }
            Format::Name => {
                self.items.iter().map(|item| format!("{}\n", text::one_line(&item.key()))).collect()
            }
            Format::Prometheus => T::metrics(&self.items).iter().map(ToString::to_string).collect(),
            Format::Json | Format::Auto => {
                // Serialising our own structs cannot fail: no maps with odd keys, no failing impls.
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
