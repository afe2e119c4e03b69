//! The things of a host that tuning can change, with reading and writing their values.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fmt, fs};

use common::cli::log;
use common::system::exec::Runner;
use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, IoContext, Result};
use serde::{Deserialize, Serialize};

use crate::host::tuning::{directory, kernel_files};

/// The value of [`Tunable::Options`] for a module that is not loaded.
pub const UNLOADED: &str = "not loaded";

/// Something that tuning can change. Its value is text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tunable {
    /// A kernel file that lists all allowed words, the current one in brackets.
    Choice(String),
    /// A kernel file with a number.
    Number(String),
    /// A file of these tools. The value is its text, which is empty if the file does not exist.
    File(String),
    /// Whether a systemd unit runs, `active` or `inactive`.
    Running(String),
    /// Whether a systemd unit starts at boot, `enabled` or `disabled`.
    Enabled(String),
    /// Whether a kernel module is loaded, `yes` or `no`.
    Loaded(String),
    /// Options of a loaded kernel module, such as `sev=1 sev_es=1`.
    Options {
        /// Name of the module.
        module: String,
        /// Names of the options.
        names: Vec<String>,
    },
}

impl Tunable {
    /// Returns the path of a file; `None` for a tunable that a program changes.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Choice(path) | Self::Number(path) | Self::File(path) => Some(path),
            _ => None,
        }
    }

    /// Whether the value survives a reboot.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::File(_) | Self::Enabled(_))
    }

    /// Reads the value; `None` if the tunable does not exist.
    ///
    /// Errors: `permission`, `io`; those of systemctl.
    pub fn read(&self, host: &Host) -> Result<Option<String>> {
        Ok(match self {
            Self::Choice(path) => host.read(path)?.map(|text| ValueList::parse(&text).current),
            Self::Number(path) => host.read(path)?.map(|text| text.trim().to_owned()),
            Self::File(path) => Some(host.read(path)?.unwrap_or_default()),
            Self::Running(name) => Unit::find(host, name)?.map(|unit| unit.running().to_owned()),
            Self::Enabled(name) => Unit::find(host, name)?.map(|unit| unit.file_state),
            Self::Loaded(module) => {
                Some(if is_module_loaded(host, module) { "yes" } else { "no" }.to_owned())
            }
            Self::Options { module, .. } if !is_module_loaded(host, module) => {
                Some(UNLOADED.to_owned())
            }
            Self::Options { module, names } => {
                let mut options = Vec::new();
                for name in names {
                    options.push(format!(
                        "{name}={}",
                        module_option(host, module, name)?.unwrap_or_default()
                    ));
                }
                Some(options.join(" "))
            }
        })
    }

    /// Fails unless the tunable can be written. Nothing is written.
    ///
    /// Errors: `permission`, `io`, with the path.
    pub fn check_writable(&self, host: &Host) -> Result<()> {
        let (Self::Choice(path) | Self::Number(path)) = self else { return Ok(()) };
        let file = host.path(path);
        let mode = file.metadata().at("examine", &file)?.permissions().mode();
        if mode & 0o222 == 0 {
            return Err(Error::permission(format!("{} is read-only", file.display())));
        }
        OpenOptions::new().write(true).open(&file).at("write", &file).map(drop)
    }

    /// Writes a value, and checks that the tunable has it.
    ///
    /// Errors: `permission`, `io`; `failed` if the tunable has another value afterwards; those of
    /// systemctl and modprobe.
    pub fn write(&self, host: &Host, value: &str) -> Result<()> {
        log::step(format_args!("set {self} to {}", value.lines().next().unwrap_or("nothing")));
        if self.file().is_none() && !host.is_this_machine() {
            return Err(Error::unsupported(format!("{self} cannot be changed with --sysroot")));
        }
        match self {
            Self::Choice(path) | Self::Number(path) => write_attribute(host, path, self, value)?,
            Self::File(path) => return write_file(&host.path(path), value),
            Self::Running(unit) => {
                let verb = if value == "active" { "start" } else { "stop" };
                return systemctl([verb, unit]).map(drop);
            }
            Self::Enabled(unit) => {
                let verb = if value == "enabled" { "enable" } else { "disable" };
                return systemctl([verb, unit]).map(drop);
            }
            Self::Loaded(module) if value == "yes" => modprobe([module.as_str()])?,
            Self::Loaded(module) => modprobe(["-r", module])?,
            Self::Options { module, .. } => {
                modprobe(["-r", module])?;
                modprobe([module.as_str()].into_iter().chain(value.split(' ')))?;
            }
        }
        match self.read(host)? {
            Some(now) if now == value => Ok(()),
            now => Err(self.refused(value, &now.unwrap_or_default())),
        }
    }

    fn refused(&self, value: &str, now: &str) -> Error {
        let error = Error::failed(format!("{self} is {now}, although {value} was written"));
        match self.file() {
            Some(path) if path.ends_with("nr_hugepages") => error.hint(
                "free memory is too small or fragmented: reserve huge pages at boot, with hugepages=N on the \
                 kernel command line",
            ),
            _ => error,
        }
    }
}

impl fmt::Display for Tunable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(path) | Self::Number(path) | Self::File(path) => f.write_str(path),
            Self::Running(unit) => f.write_str(unit),
            Self::Enabled(unit) => write!(f, "{unit} at boot"),
            Self::Loaded(module) => write!(f, "module {module}"),
            Self::Options { module, .. } => write!(f, "options of module {module}"),
        }
    }
}

/// The content of a kernel file that lists all allowed words, such as `always [madvise] never`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueList {
    /// The current word.
    pub current: String,
    /// All allowed words.
    pub offered: Vec<String>,
}

impl ValueList {
    /// Parses the content. A single word is the current one.
    pub fn parse(text: &str) -> Self {
        let plain = |word: &str| word.trim_matches(['[', ']']).to_owned();
        let mut words = text.split_whitespace();
        let current = words.clone().find(|word| word.starts_with('[')).or_else(|| words.next());
        Self {
            current: current.map(plain).unwrap_or_default(),
            offered: text.split_whitespace().map(plain).collect(),
        }
    }

    /// Returns the content with `value` as the current word.
    fn with_selected(&self, value: &str) -> String {
        let word = |word: &String| if word == value { format!("[{word}]") } else { word.clone() };
        self.offered.iter().map(word).collect::<Vec<_>>().join(" ") + "\n"
    }
}

/// Writes a value to a kernel file. In a captured tree, writes the content that the kernel would then show.
fn write_attribute(host: &Host, path: &str, tunable: &Tunable, value: &str) -> Result<()> {
    let file = host.path(path);
    if host.is_this_machine() {
        let written = OpenOptions::new().write(true).open(&file);
        let written = written.and_then(|mut file| file.write_all(value.as_bytes()));
        return written.at("write", &file).map_err(|error| match path {
            kernel_files::KSM_MERGE => {
                error.hint("pages were merged at the same time: run the command again")
            }
            _ => error,
        });
    }
    let text = match tunable {
        Tunable::Choice(_) => {
            ValueList::parse(&host.read(path)?.unwrap_or_default()).with_selected(value)
        }
        _ => format!("{value}\n"),
    };
    directory::exchange(host, &file, &text)
}

/// Writes a file of these tools; removes it if the text is empty.
fn write_file(file: &Path, text: &str) -> Result<()> {
    if text.is_empty() {
        return sysroot::remove(file).map(drop);
    }
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).at("create", folder)?;
    sysroot::replace(file, text, 0o644)
}

/// A systemd unit.
///
/// Source: systemctl(1), `show`; org.freedesktop.systemd1(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Name of the unit.
    pub name: String,
    /// Whether the unit runs.
    pub is_running: bool,
    /// State of the unit file: `enabled`, `disabled`, `static`, `masked`, ….
    pub file_state: String,
}

impl Unit {
    /// Reads the unit of this name; `None` if systemd does not run or does not have the unit.
    ///
    /// Errors: those of systemctl.
    pub fn find(host: &Host, name: &str) -> Result<Option<Self>> {
        if !has_systemd(host) {
            return Ok(None);
        }
        let properties = "--property=LoadState,ActiveState,UnitFileState";
        let text = systemctl(["show", properties, name])?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value).unwrap_or_default()
        };
        Ok((value("LoadState") == "loaded").then(|| Self {
            name: name.to_owned(),
            is_running: matches!(value("ActiveState"), "active" | "activating" | "reloading"),
            file_state: value("UnitFileState").to_owned(),
        }))
    }

    /// Returns the value of [`Tunable::Running`].
    pub fn running(&self) -> &'static str {
        if self.is_running { "active" } else { "inactive" }
    }
}

/// Whether systemd runs on this machine. False with `--sysroot`.
///
/// Source: sd_booted(3).
pub fn has_systemd(host: &Host) -> bool {
    host.is_this_machine() && host.has("/run/systemd/system")
}

fn systemctl<const N: usize>(arguments: [&str; N]) -> Result<Vec<u8>> {
    Runner::new("systemctl", "systemd").args(arguments).run()
}

fn modprobe<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let run = Runner::new("modprobe", "kmod").args(arguments).run();
    run.map(drop).map_err(|error| match error.kind() {
        ErrorKind::CommandFailed => error.hint("see the kernel log: dmesg | tail"),
        _ => error,
    })
}

/// Whether a kernel module is loaded or built in.
pub fn is_module_loaded(host: &Host, module: &str) -> bool {
    host.has(&format!("/sys/module/{}", module.replace('-', "_")))
}

/// Returns the value of an option of a loaded module; `None` if the module has no such option. A boolean is 1 or
/// 0.
///
/// Errors: `permission`, `io`.
pub fn module_option(host: &Host, module: &str, name: &str) -> Result<Option<String>> {
    let module = module.replace('-', "_");
    let text = host.read(&format!("/sys/module/{module}/parameters/{name}"))?;
    Ok(text.map(|text| normalized_option(text.trim()).to_owned()))
}

/// Returns the value of an option with booleans written as 1 or 0.
///
/// Source: Linux `lib/kstrtox.c`, kstrtobool.
pub fn normalized_option(value: &str) -> &str {
    match value {
        "Y" | "y" | "on" | "true" => "1",
        "N" | "n" | "off" | "false" => "0",
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_list_takes_the_word_in_brackets() {
        for (text, current, offered) in [
            ("always [madvise] never\n", "madvise", &["always", "madvise", "never"][..]),
            ("[none] mq-deadline \n", "none", &["none", "mq-deadline"]),
            ("none\n", "none", &["none"]),
            ("", "", &[]),
        ] {
            let choice = ValueList::parse(text);
            assert_eq!(
                (choice.current.as_str(), &choice.offered[..]),
                (current, &offered.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..])
            );
        }
        assert_eq!(
            ValueList::parse("always [madvise] never").with_selected("never"),
            "always madvise [never]\n"
        );
    }

    #[test]
    fn write_leaves_the_kernels_content_in_a_captured_tree() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        for (name, text) in [("choice", "[always] madvise never\n"), ("number", "60\n")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let choice = Tunable::Choice("/choice".to_owned());
        choice.write(&host, "never").unwrap();
        assert_eq!(host.read("/choice").unwrap().unwrap(), "always madvise [never]\n");
        let error = choice.write(&host, "maybe").unwrap_err();
        assert!(error.message().contains("although maybe was written"), "{error}");
        let number = Tunable::Number("/number".to_owned());
        number.write(&host, "0").unwrap();
        assert_eq!(host.read("/number").unwrap().unwrap(), "0\n");
        assert_eq!(Tunable::Number("/none".to_owned()).read(&host).unwrap(), None);
        number.check_writable(&host).unwrap();
        fs::set_permissions(root.path().join("number"), fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(number.check_writable(&host).unwrap_err().kind(), ErrorKind::Permission);
    }
}
