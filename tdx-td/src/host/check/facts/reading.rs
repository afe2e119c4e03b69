//! A fact, or why it is unknown.

use common::Result;

/// What was read; the error is why it could not be, in words.
pub type Fact<T> = std::result::Result<T, String>;

/// An error as why something is unknown.
pub fn fact<T>(result: Result<T>) -> Fact<T> {
    result.map_err(|error| {
        let causes = error.causes();
        let causes = causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
        format!("{error}{causes}")
    })
}
