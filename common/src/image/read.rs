//! Reads the header of an image of any format.

use std::fs::File;
use std::io;

use super::header::{Header, QCOW_MAGIC, QED_MAGIC, USUAL_BYTES, read_at};
use super::vmdk;

impl Header {
    /// Reads the header of an open image: by one small read, and by a second one if a name lies further in
    /// than usual. A raw image, or a file that is not an image, names nothing.
    ///
    /// Errors: the error of the kernel.
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
