//! Reading the header of an image, whatever its format.

use std::fs::File;
use std::io;

use super::header::{Header, QCOW_MAGIC, QED_MAGIC, USUAL_BYTES, read_at};
use super::vmdk;

impl Header {
    /// Reads the header of an open image: one small read, and a second one where a name lies further
    /// in than usual. A file that is no image, or a raw one, names nothing.
    ///
    /// Errors: what the kernel says.
    pub fn read(file: &File) -> io::Result<Self> {
        let start = read_at(file, 0, USUAL_BYTES)?;
        if start.starts_with(QCOW_MAGIC) {
            return Self::qcow(file, &start);
        }
        if start.starts_with(QED_MAGIC) {
            return Self::qed(file, &start);
        }
        vmdk::read(file, &start)
    }
}
