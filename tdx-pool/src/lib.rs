//! The storage pool of TDX guests: make it, import base images, show it, clean orphans.
//!
//! ```sh
//! tdx-pool import guest.qcow2 | tdx-td new --base -
//! ```
//!
//! One module a verb; the nouns under them are [`pool`], [`volume`], [`overlay`], [`image`] and
//! [`usage`], the answer to "who needs this file?".

mod chains;
mod cli;
mod domain_documents;
mod domain_files;
mod holders;
pub mod identity;
mod upload;
mod volume_head;
mod volume_identity;
mod writers;

pub mod base_image;
pub mod checked_file;
pub mod cleanup;
pub mod copy;
pub mod delete;
pub mod disk;
pub mod ensure;
pub mod image;
pub mod import;
pub mod inflight;
pub mod info;
pub mod list;
pub mod names;
pub mod needs;
pub mod overlay;
pub mod owner;
pub mod pool;
pub mod reach;
pub mod record;
pub mod references;
pub mod secret;
pub mod seed;
mod truncated;
pub mod usage;
pub mod volume;
pub mod volumes;
pub mod wanted;

pub use cli::Cli;
