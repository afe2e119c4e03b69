//! What the manual takes from the README.

const README: &str = include_str!("../../../README.md");

/// The exit statuses and what they mean, in the order of the table.
pub(crate) fn exit_statuses() -> impl Iterator<Item = (&'static str, &'static str)> {
    let table = README.split("| code | meaning |\n").nth(1).unwrap_or_default();
    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(1);
    rows.filter_map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        cells.next().zip(cells.next())
    })
}

/// The blocks of command lines that the README shows.
pub(crate) fn examples() -> impl Iterator<Item = &'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("sh\n").or(block.strip_prefix("bash\n")))
}
