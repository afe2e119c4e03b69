//! MRTD: the measurement of the memory that a trust domain begins with.
//!
//! Source: Intel TDX Module Base specification, "MRTD: Build-Time Measurement Register"; Intel TDX Module ABI
//! specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND.

use std::fmt::{self, Display, Formatter};

use clap::ValueEnum;
use sha2::{Digest as _, Sha384};

use crate::register::Digest;
use crate::tdvf::image::Tdvf;
use crate::tdvf::metadata::{PAGE, Section};

/// The part of a page that one TDH.MR.EXTEND measures. Unit: bytes.
const CHUNK: usize = 256;

/// The order in which a host adds and measures the pages of a section. It changes MRTD, and nothing that a guest can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PageOrder {
    /// Each page is added and then measured: KVM of Linux 6.16 and newer
    Page,
    /// All pages of a section are added, then all are measured: QEMU 8.2 of Canonical's and Intel's preview packages
    Section,
}

impl Display for PageOrder {
    /// Writes the order as `--page-order` takes it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Page => "page",
            Self::Section => "section",
        })
    }
}

impl Tdvf {
    /// The MRTD of a trust domain that a host starts with this image.
    pub fn mrtd(&self, order: PageOrder) -> Digest {
        let mut hash = Sha384::new();
        for section in self.sections() {
            for page in section.pages() {
                add(&mut hash, page);
                if order == PageOrder::Page {
                    self.extend(&mut hash, section, page);
                }
            }
            if order == PageOrder::Section {
                section.pages().for_each(|page| self.extend(&mut hash, section, page));
            }
        }
        Digest(hash.finalize().into())
    }

    /// Measures the content of a page, if its section is measured.
    fn extend(&self, hash: &mut Sha384, section: &Section, page: u64) {
        if !section.is_measured {
            return;
        }
        // A measured section has as many bytes in the image as in memory.
        let start = (page - section.address) as usize;
        let content = &self.content(section)[start..start + PAGE as usize];
        for (address, chunk) in (page..).step_by(CHUNK).zip(content.chunks_exact(CHUNK)) {
            hash.update(block(b"MR.EXTEND", address));
            hash.update(chunk);
        }
    }
}

/// Measures that a page was added.
fn add(hash: &mut Sha384, page: u64) {
    hash.update(block(b"MEM.PAGE.ADD", page));
}

/// The 128 bytes that stand for a function of the TDX module and a guest-physical address.
fn block(function: &[u8], address: u64) -> [u8; 128] {
    let mut block = [0; 128];
    block[..function.len()].copy_from_slice(function);
    block[16..24].copy_from_slice(&address.to_le_bytes());
    block
}
