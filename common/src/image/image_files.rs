//! Follows the names in the headers of images to every file that an image consists of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::file_key::{self, FileKey, canonical, keys};
use super::header::{Header, Role};
use super::local_files::LocalFiles;
use crate::system::sysroot::Host;

/// The number of paths that are followed from one image. A longer list is reported as unknown.
const MAX_PATHS: usize = 1 << 16;

/// The files below images. Each image is read once.
///
/// Named pipes, sockets and character devices are never opened. A cycle ends; the depth of an image chain is
/// not limited.
#[derive(Debug)]
pub struct Images {
    host: Host,
    /// The root directory of the host, with every link resolved.
    root: PathBuf,
    reads_files: bool,
    reads_devices: bool,
    images: HashMap<PathBuf, Arc<Image>>,
    directories: HashMap<PathBuf, PathBuf>,
    /// libvirt's description of an image, by canonical path: the image that backs it, if any.
    described: HashMap<PathBuf, Option<PathBuf>>,
}

/// A file and the names in its header.
#[derive(Debug)]
struct Image {
    /// The canonical path.
    path: PathBuf,
    keys: Vec<FileKey>,
    names: Vec<(Role, LocalFiles)>,
    unknown: Option<UnknownReason>,
}

/// Everything below an image, without the image itself.
#[derive(Debug, Default)]
pub struct Below {
    /// Canonical paths, nearest first.
    pub paths: Vec<PathBuf>,
    /// All keys of these files.
    pub keys: HashSet<FileKey>,
    /// Canonical paths of directories of which QEMU uses every file.
    pub directories: Vec<PathBuf>,
    /// Images, including the given one, that may need files which are not known.
    pub unknown: Vec<Unknown>,
}

/// An image that may need files which are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Its canonical path.
    pub path: PathBuf,
    /// The reason why they are not known.
    pub reason: UnknownReason,
}

/// The reason why the files that an image needs are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownReason {
    /// The image cannot be read.
    Unreadable(String),
    /// The header says that the data is in another file, and does not name that file.
    UnnamedDataFile,
    /// The header has a name that could not be parsed.
    StrangeName,
    /// The names lead to too many files.
    TooMany,
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(cause) => write!(f, "the image cannot be read ({cause})"),
            Self::UnnamedDataFile => f.write_str("the image's header does not name its data file"),
            Self::StrangeName => {
                f.write_str("the image's header contains a file name that cannot be parsed")
            }
            Self::TooMany => write!(f, "the image's header refers to more than {MAX_PATHS} files"),
        }
    }
}

impl Images {
    /// The images of a machine. Block devices are read like files.
    pub fn new(host: &Host) -> Self {
        let root =
            if host.is_this_machine() { PathBuf::from("/") } else { canonical(&host.path("/")) };
        Self {
            host: host.clone(),
            root,
            reads_files: true,
            reads_devices: true,
            images: HashMap::new(),
            directories: HashMap::new(),
            described: HashMap::new(),
        }
    }

    /// The images of another machine, known only through [`Images::describe`].
    pub fn unread() -> Self {
        Self { reads_files: false, ..Self::new(&Host::new("/")) }
    }

    /// Excludes block devices: reading one would start a sleeping disk.
    #[must_use]
    pub fn without_devices(self) -> Self {
        Self { reads_devices: false, ..self }
    }

    /// Records libvirt's description of an image: the image that backs it, or none. The description counts
    /// only if the header cannot be read or names no image.
    pub fn describe(&mut self, path: &Path, backing: Option<&Path>) {
        let path = self.image(path).path.clone();
        self.described.insert(path, backing.map(Path::to_owned));
    }

    /// The image chain below `path`, as canonical paths, nearest first.
    pub fn backing_chain(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut chain: Vec<PathBuf> = Vec::new();
        let mut next = self.backing(path);
        while let Some(below) = next {
            let found = self.image(&below).path.clone();
            if chain.contains(&found) {
                break; // a cycle, which QEMU refuses
            }
            chain.push(found);
            next = self.backing(&below);
        }
        chain
    }

    /// The path of the image that backs `path`, as the header spells it.
    fn backing(&mut self, path: &Path) -> Option<PathBuf> {
        let (image, children) = self.children(path);
        let named = children.into_iter().filter(|child| child.role == Role::Backing);
        let named: Vec<PathBuf> = named.map(|child| child.path).collect();
        let there = named.iter().find(|path| named.len() == 1 || self.host.path(path).exists());
        there.or(named.first()).filter(|below| self.image(below).path != image.path).cloned()
    }

    /// Everything below `path`.
    pub fn below(&mut self, path: &Path) -> Below {
        let mut below = Below::default();
        let mut seen = HashSet::new();
        let mut listed = HashSet::new();
        let mut left = VecDeque::from([path.to_owned()]);
        while let Some(path) = left.pop_front() {
            let spelling = self.normalise(&path);
            if !seen.insert(spelling.clone()) {
                continue;
            }
            let (image, children) = self.children(&spelling);
            let is_new = listed.insert(image.path.clone());
            let mut unknown = self.unknown(&image).filter(|_| is_new).cloned();
            // The first path is the image itself.
            if is_new && listed.len() > 1 {
                below.paths.push(image.path.clone());
                below.keys.extend(image.keys.iter().cloned());
            }
            if seen.len() + left.len() + children.len() > MAX_PATHS {
                unknown = Some(UnknownReason::TooMany);
            } else {
                for child in children {
                    match child.is_directory {
                        true => below.directories.push(canonical(&self.host.path(&child.path))),
                        false => left.push_back(child.path),
                    }
                }
            }
            let path = &image.path;
            below.unknown.extend(unknown.map(|reason| Unknown { path: path.clone(), reason }));
        }
        below
    }

    /// The reason why the files that an image needs are not known, unless libvirt has described them.
    fn unknown<'i>(&self, image: &'i Image) -> Option<&'i UnknownReason> {
        let is_described = self.described.contains_key(&image.path);
        let is_settled =
            |reason: &UnknownReason| is_described && matches!(reason, UnknownReason::Unreadable(_));
        image.unknown.as_ref().filter(|reason| !is_settled(reason))
    }

    /// The keys of the file at `path`.
    pub fn keys(&mut self, path: &Path) -> Vec<FileKey> {
        self.image(path).keys.clone()
    }

    /// The files that the image at `path` names. A relative name is resolved from the directory of `path` as
    /// spelt, like in QEMU, and from the directory of the file that a link leads to.
    fn children(&mut self, path: &Path) -> (Arc<Image>, Vec<Child>) {
        let spelling = self.normalise(path);
        let image = self.image(&spelling);
        let mut children: Vec<Child> = Vec::new();
        let mut directories = vec![spelling.parent(), image.path.parent()];
        directories.dedup();
        for (role, local) in &image.names {
            for directory in directories.iter().copied().flatten() {
                for file in &local.files {
                    let (role, is_directory) = (*role, file.is_directory);
                    let paths = file.paths_from(directory);
                    let child = paths.map(|path| Child { role, path, is_directory });
                    children.extend(child);
                }
            }
        }
        if !children.iter().any(|child| child.role == Role::Backing)
            && let Some(Some(backing)) = self.described.get(&image.path)
        {
            let path = backing.clone();
            children.push(Child { role: Role::Backing, path, is_directory: false });
        }
        (image, children)
    }

    /// The path with the links in its directory resolved, so that each meaning of the relative names in an
    /// image has one spelling.
    fn normalise(&mut self, path: &Path) -> PathBuf {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return path.to_owned();
        };
        if let Some(known) = self.directories.get(directory) {
            return known.join(name);
        }
        let real = canonical(&self.host.path(directory));
        let resolved = self.machine_path(real);
        let path = resolved.join(name);
        self.directories.insert(resolved.clone(), resolved.clone());
        self.directories.insert(directory.to_owned(), resolved);
        path
    }

    fn image(&mut self, path: &Path) -> Arc<Image> {
        let spelling = self.normalise(path);
        if let Some(image) = self.images.get(&spelling) {
            return Arc::clone(image);
        }
        let image = Arc::new(self.read(&spelling));
        self.images.insert(spelling, Arc::clone(&image));
        image
    }

    fn read(&self, path: &Path) -> Image {
        let real = self.host.path(path);
        let read = match self.reads_files {
            true => self.read_names(&real),
            false => Ok(None),
        };
        let unknown = match read {
            Ok(Some(image)) => return image,
            Ok(None) => None,
            Err(error) if is_absent(&error) => None,
            Err(error) => Some(UnknownReason::Unreadable(cause(&error))),
        };
        let path = self.machine_path(canonical(&real));
        let inode = keys(&real).filter(|key| matches!(key, FileKey::Inode(..)));
        let keys = [FileKey::Path(path.clone())].into_iter().chain(inode).collect();
        Image { path, keys, names: Vec::new(), unknown }
    }

    /// Reads the names in the header of an image; none for a file that cannot be an image.
    fn read_names(&self, path: &Path) -> io::Result<Option<Image>> {
        // Opening a device that is not a disk can have an effect.
        if !self.is_readable(&path.metadata()?) {
            return Ok(None);
        }
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        if !self.is_readable(&metadata) {
            return Ok(None);
        }
        let header = Header::read(&file)?;
        let path = self.path_of(&file, path);
        let names: Vec<(Role, LocalFiles)> = header
            .references
            .iter()
            .map(|reference| match reference.role {
                Role::Backing => (Role::Backing, LocalFiles::parse(&reference.name)),
                Role::Data => (Role::Data, LocalFiles::parse_data_file(&reference.name)),
            })
            .collect();
        let unknown = match header.is_data_file_unnamed {
            true => Some(UnknownReason::UnnamedDataFile),
            false if names.iter().any(|(_, local)| local.is_incomplete) => {
                Some(UnknownReason::StrangeName)
            }
            false => None,
        };
        let keys = vec![FileKey::Path(path.clone()), FileKey::from(&metadata)];
        Ok(Some(Image { path, keys, names, unknown }))
    }

    fn is_readable(&self, metadata: &Metadata) -> bool {
        let kind = metadata.file_type();
        kind.is_file() || (kind.is_block_device() && self.reads_devices)
    }

    fn path_of(&self, file: &File, path: &Path) -> PathBuf {
        let open =
            file_key::path_of(file).filter(|path| !path.to_string_lossy().ends_with(DELETED));
        self.machine_path(open.unwrap_or_else(|| canonical(path)))
    }

    /// Converts a real path to a path of the machine.
    fn machine_path(&self, real: PathBuf) -> PathBuf {
        match real.strip_prefix(&self.root) {
            Ok(inside) if self.root != Path::new("/") => Path::new("/").join(inside),
            _ => real,
        }
    }
}

/// The suffix that the kernel adds to the path of an open file that was deleted.
const DELETED: &str = " (deleted)";

/// A file that an image names, with the path as spelt there.
#[derive(Debug)]
struct Child {
    role: Role,
    path: PathBuf,
    is_directory: bool,
}

/// The text of an error without its number.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Whether the file does not exist and therefore names no other files.
fn is_absent(error: &io::Error) -> bool {
    let absent =
        [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG, Errno::NXIO, Errno::NODEV, Errno::LOOP];
    let code = error.raw_os_error();
    error.kind() == io::ErrorKind::InvalidInput
        || absent.iter().any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
#[path = "image_files_tests.rs"]
mod tests;
