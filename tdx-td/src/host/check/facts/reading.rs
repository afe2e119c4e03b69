//! A fact, or the reason why it is unknown.

use common::Result;

/// A fact; the error is the reason why it is unknown.
pub type Fact<T> = std::result::Result<T, String>;

/// Turns an error, with its causes, into the reason why a fact is unknown.
pub fn fact<T>(result: Result<T>) -> Fact<T> {
    result.map_err(|error| {
        let causes = error.causes();
        let causes = causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
        format!("{error}{causes}")
    })
}
