//! Finds other boot configuration files that override the settings of the files of these tools.

use common::Result;
use common::system::sysfs::names;
use common::system::sysroot::Host;

use crate::host::tuning::persist::{Line, MODPROBE, SYSCTL, TMPFILES};
use crate::host::tuning::tunable::normalized_option;

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: String,
    text: String,
}

/// All boot configuration files, in the order in which they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootFiles {
    sysctl: Vec<Source>,
    modprobe: Vec<Source>,
    tmpfiles: Vec<Source>,
}

/// A line of another file that overrides a line of these tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrulingLine {
    /// File and line number, such as `/etc/sysctl.d/99-sysctl.conf:3`.
    pub place: String,
    /// The value in that line.
    pub value: String,
}

impl BootFiles {
    /// Reads all boot configuration files.
    ///
    /// A file in `/etc` hides one of the same name in `/run`, which hides one in `/usr/local/lib`, and so on. All
    /// files are read in the order of their names. Without systemd, `sysctl --system` reads `/etc/sysctl.conf`
    /// after all others.
    /// Source: sysctl.d(5), modprobe.d(5), tmpfiles.d(5), sysctl(8).
    /// Errors: `permission`, `io`.
    pub fn read(host: &Host) -> Result<Self> {
        let mut boot = Self {
            sysctl: sources(host, "sysctl.d")?,
            modprobe: sources(host, "modprobe.d")?,
            tmpfiles: sources(host, "tmpfiles.d")?,
        };
        let by_systemd = ["/usr/lib", "/lib"]
            .iter()
            .any(|lib| host.has(&format!("{lib}/systemd/systemd-sysctl")));
        let last = "/etc/sysctl.conf".to_owned();
        if let Some(text) = host.read(&last)?.filter(|_| !by_systemd) {
            boot.sysctl.push(Source { path: last, text });
        }
        Ok(boot)
    }

    /// Returns the line of another file that overrides a line of these tools at boot; `None` if there is none.
    ///
    /// For a kernel parameter and a module option the last line counts. For a file that systemd-tmpfiles writes
    /// the first line counts, and in addition every line with a `+`. Patterns are ignored: they do not apply to a
    /// parameter that has its own line.
    pub fn overruling_line(&self, line: &Line) -> Option<OverrulingLine> {
        let words: Vec<&str> = line.start.split_whitespace().collect();
        let found = match (line.file, &words[..]) {
            (SYSCTL, [key, ..]) => last(after(&self.sysctl, SYSCTL), |text| parameter(text, key)),
            (MODPROBE, ["options", module, option]) => {
                let name = option.trim_end_matches('=');
                last(after(&self.modprobe, MODPROBE), |text| module_option(text, module, name))
            }
            (TMPFILES, ["w", path, ..]) => {
                let added = |text: &str| written(text, path).filter(|(added, _)| *added);
                let value = |(_, value)| value;
                last(after(&self.tmpfiles, TMPFILES), |text| added(text).map(value)).or_else(|| {
                    first(before(&self.tmpfiles, TMPFILES), |text| written(text, path).map(value))
                })
            }
            _ => None,
        };
        let same = |value: &str| normalized_option(value) == normalized_option(&line.rest);
        found.filter(|found| !same(&found.value))
    }
}

fn sources(host: &Host, folder: &str) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for above in ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"] {
        let folder = format!("{above}/{folder}");
        for name in names(host, &folder) {
            let is_hidden = sources.iter().any(|other| file_name(&other.path) == name);
            let path = format!("{folder}/{name}");
            if name.ends_with(".conf") && !is_hidden {
                // A dangling symbolic link, or one to /dev/null, hides other files as well.
                let text = host.read(&path)?.unwrap_or_default();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| file_name(&a.path).cmp(file_name(&b.path)));
    Ok(sources)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the files that are read after the file of these tools. `/etc/sysctl.conf` is always one of them.
fn after<'s>(sources: &'s [Source], ours: &str) -> &'s [Source] {
    let at = sources.iter().position(|source| file_name(&source.path) > file_name(ours));
    at.map_or(&[], |at| &sources[at..])
}

/// Returns the files that are read before the file of these tools.
fn before<'s>(sources: &'s [Source], ours: &str) -> &'s [Source] {
    let at = sources.iter().position(|source| file_name(&source.path) >= file_name(ours));
    &sources[..at.unwrap_or(sources.len())]
}

fn all<'s>(
    sources: &'s [Source],
    value: impl Fn(&str) -> Option<String> + 's,
) -> impl DoubleEndedIterator<Item = OverrulingLine> + 's {
    let lines = |source: &'s Source| {
        let lines: Vec<(usize, &str)> = source.text.lines().enumerate().collect();
        lines.into_iter().map(move |(at, text)| (source, at, text))
    };
    sources.iter().flat_map(lines).filter_map(move |(source, at, text)| {
        let place = format!("{}:{}", source.path, at + 1);
        Some(OverrulingLine { place, value: value(text.trim())? })
    })
}

fn last(sources: &[Source], value: impl Fn(&str) -> Option<String>) -> Option<OverrulingLine> {
    all(sources, value).next_back()
}

fn first(sources: &[Source], value: impl Fn(&str) -> Option<String>) -> Option<OverrulingLine> {
    all(sources, value).next()
}

/// Returns the value that a line of sysctl.d gives to this parameter.
///
/// `vm.swappiness` can also be written `vm/swappiness`: the first separator in the name decides.
fn parameter(text: &str, key: &str) -> Option<String> {
    if text.starts_with(['#', ';']) {
        return None;
    }
    let (name, value) = text.split_once('=')?;
    let name = name.trim().trim_start_matches('-').trim();
    let name = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => name.chars().map(|c| if c == '/' { '.' } else { c }).collect(),
        _ => name.to_owned(),
    };
    (name == key).then(|| value.trim().to_owned())
}

/// Returns the value that a line of modprobe.d gives to an option of a module.
fn module_option(text: &str, module: &str, option: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let same = |name: &str| name.replace('-', "_") == module.replace('-', "_");
    if words.next() != Some("options") || !words.next().is_some_and(same) {
        return None;
    }
    let mut values = words.filter_map(|word| {
        let (name, value) = word.split_once('=').unwrap_or((word, "1"));
        (name == option).then(|| value.trim_matches('"').to_owned())
    });
    values.next_back()
}

/// Returns the value that a line of tmpfiles.d writes to this file, and whether the line has a `+`.
fn written(text: &str, path: &str) -> Option<(bool, String)> {
    let mut words = text.split_whitespace();
    let kind = words.next().filter(|kind| kind.starts_with('w'))?;
    let argument: Vec<&str> = if words.next()?.trim_matches('"') == path {
        words.skip(4).collect()
    } else {
        return None;
    };
    Some((kind.contains('+'), argument.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    /// Who overrules a line on a host of these files.
    fn by(line: &Line, these: &[(&str, &str)]) -> Option<(String, String)> {
        let (_root, host) = files(these);
        let found = BootFiles::read(&host).unwrap().overruling_line(line);
        found.map(|found| (found.place, found.value))
    }

    fn at(place: &str, value: &str) -> Option<(String, String)> {
        Some((place.to_owned(), value.to_owned()))
    }

    #[test]
    fn overruling_line_is_the_last_one_of_a_parameter() {
        let line = Line::sysctl("vm.swappiness", "0");
        let ours = ("etc/sysctl.d/90-tdx.conf", "vm.swappiness = 0\n");
        let earlier = ("etc/sysctl.d/10-x.conf", "vm.swappiness = 10\n");
        let later = ("usr/lib/sysctl.d/99-y.conf", "#\nvm/swappiness=20\n; vm.swappiness = 1\n");
        let place = "/usr/lib/sysctl.d/99-y.conf:2";
        assert_eq!(by(&line, &[ours, earlier]), None);
        assert_eq!(by(&line, &[ours, earlier, later]), at(place, "20"));
        // Hidden by one of the same name; the same value; another parameter; a later one yet.
        assert_eq!(by(&line, &[ours, later, ("etc/sysctl.d/99-y.conf", "")]), None);
        assert_eq!(by(&line, &[ours, ("run/sysctl.d/99-z.conf", "-vm.swappiness = 0")]), None);
        assert_eq!(by(&line, &[ours, ("run/sysctl.d/99-z.conf", "vm.swap = 3")]), None);
        assert_eq!(by(&line, &[ours, ("run/sysctl.d/99-z", "vm.swappiness = 3")]), None);
        let both = [later, ("run/sysctl.d/99-z.conf", "vm.swappiness = 3")];
        assert_eq!(by(&line, &both), at("/run/sysctl.d/99-z.conf:1", "3"));
        // Read last, but not by systemd.
        let conf = ("etc/sysctl.conf", "vm.swappiness = 5\n");
        assert_eq!(by(&line, &[ours, conf]), at("/etc/sysctl.conf:1", "5"));
        let systemd = ("usr/lib/systemd/systemd-sysctl", "");
        assert_eq!(by(&line, &[ours, conf, systemd]), None);
    }

    #[test]
    fn overruling_line_is_the_last_one_of_a_module_option() {
        let line = Line::option("kvm_amd", "sev", "1");
        let zz = |text| by(&line, &[("etc/modprobe.d/zz.conf", text)]);
        let place = "/etc/modprobe.d/zz.conf:1";
        assert_eq!(zz("options kvm-amd nested=1 sev=0\n"), at(place, "0"));
        assert_eq!(zz("options kvm_amd sev=N\n"), at(place, "N"));
        for same in ["options kvm_amd sev", "options kvm_amd sev=Y", "options kvm sev=0", "# sev=0"]
        {
            assert_eq!(zz(same), None, "{same}");
        }
        assert_eq!(by(&line, &[("etc/modprobe.d/a.conf", "options kvm_amd sev=0\n")]), None);
    }

    #[test]
    fn overruling_line_is_the_first_one_of_a_file_or_one_with_a_plus() {
        let path = "/sys/kernel/mm/ksm/run";
        let line = Line::attribute(path, "0");
        let file = |name, kind| {
            let path = format!("etc/tmpfiles.d/{name}.conf");
            let text = format!("{kind} {path} - - - - 1\n", path = "/sys/kernel/mm/ksm/run");
            by(&line, &[(path.as_str(), text.as_str())])
        };
        assert_eq!(file("a", "w!"), at("/etc/tmpfiles.d/a.conf:1", "1"));
        assert_eq!(file("zz", "w"), None);
        assert_eq!(file("zz", "w+"), at("/etc/tmpfiles.d/zz.conf:1", "1"));
        assert_eq!(file("a", "d"), None);
    }
}
