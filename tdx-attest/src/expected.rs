//! The expected values of registers, from a document of `tdx-attest measure` or from items of the same form.

use std::collections::BTreeMap;
use std::path::Path;

use common::document::input;
use common::{Error, Result};
use serde::Deserialize;

use crate::register::Register;

/// The most that is read of a file with expected values. Unit: bytes.
const LIMIT: usize = 64 << 20;

/// The expected value of each register. A register without an entry is not compared. A register whose value is none
/// was not predicted.
#[derive(Debug, Default)]
pub struct Expected(pub BTreeMap<Register, Option<Vec<u8>>>);

#[derive(Debug, Deserialize)]
struct Item {
    register: Register,
    value: Option<String>,
}

impl Expected {
    /// Reads expected values from a file, or from standard input if the path is `-`.
    ///
    /// Errors: those of [`input::items_from`]; `invalid_input` for a value that is not hexadecimal or of another
    /// length than the register, and for a register with two values.
    pub fn read(path: &Path) -> Result<Self> {
        let expected = "the output of tdx-attest measure";
        let items: Vec<Item> =
            input::items_from(path, LIMIT, &["tdx.attest.measurements"], expected)?;
        let mut values = BTreeMap::new();
        for Item { register, value } in items {
            let value = value.map(|value| bytes(register, &value)).transpose()?;
            let former = values.insert(register, value);
            if former.is_some() {
                let message = format!("{} contains two values of {register}", path.display());
                return Err(Error::invalid_input(message));
            }
        }
        Ok(Self(values))
    }
}

/// The bytes that a register's value in hexadecimal digits stands for.
fn bytes(register: Register, value: &str) -> Result<Vec<u8>> {
    let bytes = common::text::from_hex(value).filter(|bytes| bytes.len() == register.size());
    bytes.ok_or_else(|| {
        Error::invalid_input(format!(
            "the expected value of {register} is not {} hexadecimal digits: {value:?}",
            2 * register.size()
        ))
    })
}
