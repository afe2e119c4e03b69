//! Examples from the README.

const README: &str = include_str!("../../../README.md");

/// The blocks of commands in the README.
pub(crate) fn examples() -> impl Iterator<Item = &'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("sh\n").or(block.strip_prefix("bash\n")))
}
