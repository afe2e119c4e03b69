//! The progress bar of an import.

use common::cli::Context;
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar for the given number of bytes, hidden if no progress may be shown.
pub(crate) fn progress_bar(context: &Context, total: u64) -> ProgressBar {
    if !context.progress {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
