//! What the manual takes from the documentation.

const EXIT_CODES: &str = include_str!("../../../docs/reference/exit-codes.md");

/// The pages whose commands are examples in the manual.
const PAGES: [&str; 9] = [
    include_str!("../../../README.md"),
    include_str!("../../../docs/guide/first-guest.md"),
    include_str!("../../../docs/guide/trust-domain.md"),
    include_str!("../../../docs/guide/gpu.md"),
    include_str!("../../../docs/guide/disks.md"),
    include_str!("../../../docs/guide/scenarios.md"),
    include_str!("../../../docs/guide/passthrough.md"),
    include_str!("../../../docs/guide/automation.md"),
    include_str!("../../../docs/guide/migrating.md"),
];

/// The exit statuses and what they mean, in the order of the table.
pub(crate) fn exit_statuses() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = EXIT_CODES.lines().skip_while(|line| !line.starts_with("| code |"));
    rows.skip(2).take_while(|line| line.starts_with('|')).filter_map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let code = cells.next()?;
        cells.nth(1).map(|meaning| (code, meaning))
    })
}

/// The commands that the pages show, a line each.
pub(crate) fn examples() -> impl Iterator<Item = &'static str> {
    let blocks = PAGES.into_iter().flat_map(|page| page.split("```").skip(1).step_by(2));
    blocks.flat_map(|block| {
        let (language, text) = block.split_once('\n').unwrap_or_default();
        let is_sh = language.starts_with("sh");
        let is_console = language.starts_with("console");
        text.lines().filter_map(move |line| match is_console {
            true => line.strip_prefix("$ "),
            false => is_sh.then_some(line),
        })
    })
}
