//! The request to import an image: its path, and the name that it gets in the pool.

use std::path::{Path, PathBuf};

use common::{Error, Result};

use crate::image::{Format, StatedFormat};
use crate::import::source::Source;
use crate::volume::names::check_volume_name;

/// The options of an import.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// The name of the volume; none for the file name of the image.
    pub name: Option<String>,
    /// The format that `--image-format` states.
    pub format: Option<Format>,
    /// The expected SHA-256 digest of the source, in lowercase hexadecimal digits.
    pub sha256: Option<String>,
    /// Whether a different image of the same name may be replaced.
    pub replace: bool,
    /// Whether to recompress the image.
    pub compress: bool,
    /// Whether this is a dry run, in which the digest is checked during planning.
    pub dry_run: bool,
}

/// An opened image, and the name and directory of its new volume.
#[derive(Debug)]
pub(crate) struct ImportRequest {
    /// The name of the volume.
    pub(crate) name: String,
    /// The pool's directory.
    pub(crate) directory: PathBuf,
    pub(crate) source: Source,
    pub(crate) options: ImportOptions,
}

impl ImportRequest {
    /// Opens the image, and checks it and the name.
    ///
    /// Errors: those of [`Source::open`]; `invalid_input` for an image whose header contradicts its stated format;
    /// `usage` for an invalid name.
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

    /// The path of the volume, which may not exist yet.
    pub(crate) fn target(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The format of the new volume.
    pub(crate) fn format(&self) -> Format {
        if self.options.compress { Format::Qcow2 } else { self.source.image.format }
    }

    /// Fails if the digest of the source differs from the expected digest.
    pub(crate) fn check_sha256(&self, found: &str) -> Result<()> {
        match &self.options.sha256 {
            Some(wanted) if wanted != found => Err(Error::invalid_input(format!(
                "{} has the SHA-256 digest {found}, expected {wanted}",
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
