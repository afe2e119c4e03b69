//! An image that is to be imported: where it is, and the name that it gets in the pool.

use std::path::{Path, PathBuf};

use common::{Error, Result};

use crate::image::{Format, StatedFormat};
use crate::import::source::Source;
use crate::volume::names::check_volume_name;

/// How to import.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// The volume's name; the file's without it.
    pub name: Option<String>,
    /// The image's format, as `--image-format` states it.
    pub format: Option<Format>,
    /// What the source's bytes must hash to, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Whether a different image of that name may go.
    pub replace: bool,
    /// Whether to recompress.
    pub compress: bool,
    /// Whether this plan is only looked at: then the digest is checked while planning.
    pub dry_run: bool,
}

/// An opened image, and the volume that it is to become.
#[derive(Debug)]
pub(crate) struct ImportRequest {
    /// The volume's name.
    pub(crate) name: String,
    /// The pool's directory.
    pub(crate) directory: PathBuf,
    pub(crate) source: Source,
    pub(crate) options: ImportOptions,
}

impl ImportRequest {
    /// Opens the image, and checks it and the name.
    ///
    /// Errors: those of [`Source::open`]; `invalid_input` for an image that is not what its format is
    /// stated to be; `usage` for a name that no volume can have.
    pub(crate) fn new(directory: PathBuf, image: &Path, options: ImportOptions) -> Result<Self> {
        let source = Source::open(image)?;
        if let Some(format) = options.format {
            StatedFormat::by_flag(format).check(source.image.format, &source.path)?;
        }
        let name = match &options.name {
            Some(name) => name.clone(),
            None => file_name(image)?,
        };
        check_volume_name(&name)?;
        Ok(Self { name, directory, source, options })
    }

    /// The path that the volume has, or will have.
    pub(crate) fn target(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The format of the volume that is written.
    pub(crate) fn format(&self) -> Format {
        if self.options.compress { Format::Qcow2 } else { self.source.image.format }
    }

    /// Fails when the source's digest is not the one that was promised.
    pub(crate) fn check_sha256(&self, found: &str) -> Result<()> {
        match &self.options.sha256 {
            Some(wanted) if wanted != found => Err(Error::invalid_input(format!(
                "{} has SHA-256 {found}, not {wanted}",
                self.source.path.display()
            ))),
            _ => Ok(()),
        }
    }
}

fn file_name(image: &Path) -> Result<String> {
    let name = image.file_name().unwrap_or_default();
    name.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the file name of {} is not UTF-8", image.display()))
            .hint("choose the volume's name with --name")
    })
}
