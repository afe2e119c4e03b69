//! A table of text, fitted to the width of the terminal.
//!
//! Rows that are too wide are made to fit in this order:
//!
//! 1. columns of prose and lists get narrower, down to 24 characters each, and their text wraps;
//! 2. columns are omitted, in the order of [`Item::DROPPED`](crate::document::Item::DROPPED);
//! 3. the widest of the other columns get narrower, down to 8 characters each, and their text wraps.
//!
//! Wrapped text continues under its own column. Without a width (output to a file or a pipe), rows stay as they are.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::text;

/// The space between two columns.
const GAP: usize = 2;
/// The narrowest that a column of prose gets. Unit: characters.
const PROSE: usize = 24;
/// The narrowest that any other column gets. Unit: characters.
const NARROWEST: usize = 8;

/// The content of a table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The columns' titles.
    pub(crate) titles: Vec<&'static str>,
    /// The rows, one cell for each title.
    pub(crate) rows: Vec<Vec<String>>,
    /// The titles of the columns that wrap first.
    pub(crate) wrapped: &'static [&'static str],
    /// The titles of the columns that may be omitted, in this order.
    pub(crate) dropped: &'static [&'static str],
    /// The title of the column whose text is printed on separate lines below each row.
    pub(crate) below: Option<&'static str>,
    /// A line that is printed below the rows.
    pub(crate) closing: Option<String>,
}

/// How a table is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Whether the titles are printed.
    pub(crate) headings: bool,
    /// The width of the terminal in characters; none when the output is not a terminal.
    pub(crate) width: Option<usize>,
}

impl Table {
    /// Keeps only the given columns, in the given order.
    pub(crate) fn select(&mut self, titles: &[&'static str]) {
        let places: Vec<usize> = titles.iter().filter_map(|title| self.place(title)).collect();
        let pick = |row: &Vec<String>| places.iter().map(|&place| row[place].clone()).collect();
        self.rows = self.rows.iter().map(pick).collect();
        self.titles = titles.to_vec();
        self.below = None;
        self.dropped = &[];
    }

    fn place(&self, title: &str) -> Option<usize> {
        self.titles.iter().position(|known| *known == title)
    }

    /// Renders the table. Returns the text and the titles of the columns that were omitted.
    pub(crate) fn render(&self, style: Style) -> (String, Vec<&'static str>) {
        let below = self.below.and_then(|title| self.place(title));
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let natural = |place: usize| {
            let cells = rows.iter().map(|row| row[place].width());
            let title = if style.headings { self.titles[place].width() } else { 0 };
            cells.max().unwrap_or(0).max(title)
        };
        let all = (0..self.titles.len()).filter(|place| Some(*place) != below);
        let mut columns: Vec<Column> =
            all.map(|place| Column { place, width: natural(place) }).collect();
        let left_out = style.width.map(|width| self.fit(&mut columns, width)).unwrap_or_default();
        let mut text = String::new();
        if style.headings {
            let titles: Vec<String> = self.titles.iter().map(|&title| title.to_owned()).collect();
            push_row(&mut text, &columns, &titles);
        }
        for row in &rows {
            push_row(&mut text, &columns, row);
            if let (Some(place), Some(title)) = (below, self.below)
                && row[place] != "-"
            {
                push_below(&mut text, title, &row[place], style.width);
            }
        }
        for line in
            self.closing.iter().flat_map(|line| wrap(line, style.width.unwrap_or(usize::MAX)))
        {
            text.push_str(&line);
            text.push('\n');
        }
        (text, left_out)
    }

    /// Makes the columns fit the width, by the steps in the description of this module.
    fn fit(&self, columns: &mut Vec<Column>, width: usize) -> Vec<&'static str> {
        let mut left_out = Vec::new();
        let mut droppable = self.dropped.iter().filter(|title| self.titles.contains(title));
        let prose = |column: &Column| self.wrapped.contains(&self.titles[column.place]);
        loop {
            let mut fitted = columns.clone();
            if narrow(&mut fitted, width, PROSE, prose) {
                *columns = fitted;
                return left_out;
            }
            let Some(&title) = droppable.next() else { break };
            columns.retain(|column| self.titles[column.place] != title);
            left_out.push(title);
        }
        narrow(columns, width, PROSE, prose);
        narrow(columns, width, NARROWEST, |_| true);
        left_out
    }
}

/// A column that is printed.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// The index of the column's cell in each row.
    place: usize,
    /// The width of the column in characters.
    width: usize,
}

/// Narrows the widest of the columns that may get narrower until the row fits. Returns whether the row fits.
fn narrow(
    columns: &mut [Column],
    width: usize,
    narrowest: usize,
    may: impl Fn(&Column) -> bool,
) -> bool {
    loop {
        let gaps = GAP * columns.len().saturating_sub(1);
        let total = gaps + columns.iter().map(|column| column.width).sum::<usize>();
        if total <= width {
            return true;
        }
        let candidates =
            columns.iter_mut().filter(|column| column.width > narrowest && may(column));
        let Some(widest) = candidates.max_by_key(|column| column.width) else { return false };
        widest.width -= 1;
    }
}

fn push_row(text: &mut String, columns: &[Column], row: &[String]) {
    let cells: Vec<Vec<String>> =
        columns.iter().map(|column| wrap(&row[column.place], column.width)).collect();
    for number in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
        let mut line = String::new();
        for (column, cell) in columns.iter().zip(&cells) {
            let part = cell.get(number).map_or("", String::as_str);
            line.push_str(part);
            line.extend(std::iter::repeat_n(' ', column.width.saturating_sub(part.width()) + GAP));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn push_below(text: &mut String, title: &str, cell: &str, width: Option<usize>) {
    let label = format!("  {}: ", title.to_lowercase());
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(label.width()));
    for (number, line) in wrap(cell, room.max(NARROWEST)).iter().enumerate() {
        match number {
            0 => text.push_str(&label),
            _ => text.extend(std::iter::repeat_n(' ', label.width())),
        }
        text.push_str(line);
        text.push('\n');
    }
}

/// Breaks a line at spaces. A word that is longer than a line is broken after a comma, a slash or a hyphen.
fn wrap(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        let line = lines.last_mut().map(|line| (line.width(), line));
        if let Some((used, line)) = line
            && used > 0
        {
            if used + 1 + word.width() <= width {
                line.push(' ');
                line.push_str(word);
                continue;
            }
            lines.push(String::new());
        }
        while word.width() > width {
            let (head, tail) = word.split_at(break_point(word, width));
            if let Some(line) = lines.last_mut() {
                line.push_str(head);
            }
            lines.push(String::new());
            word = tail;
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// The offset at which a word that is longer than a line is broken. Unit: bytes.
fn break_point(word: &str, width: usize) -> usize {
    let (mut used, mut hard, mut soft) = (0, 0, 0);
    for (at, c) in word.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width && hard > 0 {
            break;
        }
        hard = at + c.len_utf8();
        if matches!(c, ',' | '/' | '-') {
            soft = hard;
        }
    }
    if soft > 0 { soft } else { hard }
}

/// The text of a cell as it is printed: `-` for an empty cell, and escapes for control characters.
fn printable(cell: &str) -> String {
    match cell {
        "" => "-".to_owned(),
        _ => text::one_line(cell).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(titles: &[&'static str], rows: &[&[&str]]) -> Table {
        let row = |row: &&[&str]| row.iter().map(|&cell| cell.to_owned()).collect();
        Table {
            titles: titles.to_vec(),
            rows: rows.iter().map(row).collect(),
            wrapped: &["WHY"],
            dropped: &["SERIAL", "MODEL"],
            below: None,
            closing: None,
        }
    }

    const FILE: Style = Style { headings: true, width: None };

    fn terminal(width: usize) -> Style {
        Style { headings: true, width: Some(width) }
    }

    #[test]
    fn cells_align_and_control_characters_are_escaped() {
        let table = table(&["NAME", "STATE"], &[&["a\nb", ""], &["longer-name", "running"]]);
        let text = "NAME         STATE\na\\nb         -\nlonger-name  running\n";
        assert_eq!(table.render(FILE), (text.to_owned(), vec![]));
    }

    #[test]
    fn wide_characters_count_as_two_columns() {
        let table = table(&["NAME", "STATE"], &[&["日本語", "on"], &["abcdef", "off"]]);
        assert_eq!(table.render(FILE).0, "NAME    STATE\n日本語  on\nabcdef  off\n");
    }

    #[test]
    fn prose_wraps_under_its_own_column_before_a_column_is_omitted() {
        let why = "the disk is mounted on the root of the host and so on";
        let table = table(&["DEVICE", "SERIAL", "WHY"], &[&["/dev/sda", "S-1", why]]);
        let text = "DEVICE    SERIAL  WHY\n\
                    /dev/sda  S-1     the disk is mounted on\n                  \
                                      the root of the host and\n                  so on\n";
        assert_eq!(table.render(terminal(42)), (text.to_owned(), vec![]));
    }

    #[test]
    fn columns_are_omitted_in_the_stated_order() {
        let row = ["/dev/sda", "QEMU HARDDISK", "S-1", "the disk is mounted on the root"];
        let table = table(&["DEVICE", "MODEL", "SERIAL", "WHY"], &[&row]);
        let (text, left_out) = table.render(terminal(49));
        assert_eq!(left_out, ["SERIAL"], "{text}");
        let (text, left_out) = table.render(terminal(40));
        assert_eq!(left_out, ["SERIAL", "MODEL"], "{text}");
        assert_eq!(text.lines().next(), Some("DEVICE    WHY"));
    }

    #[test]
    fn columns_that_cannot_be_omitted_wrap() {
        let path = "/var/lib/libvirt/images/overlay.abcdefghijklmno.qcow2";
        let table = table(&["NAME", "PATH"], &[&["web", path]]);
        let (text, left_out) = table.render(terminal(40));
        assert!(left_out.is_empty());
        assert!(text.lines().all(|line| line.width() <= 40), "{text}");
        assert_eq!(text.split_whitespace().skip(3).collect::<String>(), path);
    }

    #[test]
    fn the_below_column_is_printed_below_its_row() {
        let mut table = table(&["CODE", "FIX"], &[&["KVM", "modprobe kvm"], &["IOMMU", ""]]);
        table.below = Some("FIX");
        table.closing = Some("3 others".to_owned());
        assert_eq!(table.render(FILE).0, "CODE\nKVM\n  fix: modprobe kvm\nIOMMU\n3 others\n");
        table.select(&["FIX", "CODE"]);
        let text = "modprobe kvm  KVM\n-             IOMMU\n3 others\n";
        assert_eq!(table.render(Style { headings: false, width: None }).0, text);
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal_and_no_character_is_lost(
            rows in proptest::collection::vec(["\\PC{0,40}", "[a-z ,/日-]{0,200}", "[a-z]{0,90}"], 1..8),
            width in 80usize..200,
        ) {
            let table = Table {
                titles: vec!["NAME", "WHY", "PATH"],
                rows: rows.into_iter().map(|row| row.to_vec()).collect(),
                wrapped: &["WHY"],
                dropped: &[],
                below: None,
                closing: None,
            };
            let count = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            let cells = table.rows.iter().flatten().map(|cell| count(&printable(cell))).sum::<usize>();
            let (text, _) = table.render(terminal(width));
            for line in text.lines() {
                proptest::prop_assert!(line.width() <= width, "{line:?}");
            }
            proptest::prop_assert_eq!(count(&text), cells + count("NAMEWHYPATH"));
        }

        #[test]
        fn no_text_and_no_width_make_a_table_panic(text: String, width in 0usize..100) {
            wrap(&text, width);
            let table = table(&["NAME", "WHY"], &[&[&text, &text]]);
            table.render(terminal(width));
        }
    }
}
