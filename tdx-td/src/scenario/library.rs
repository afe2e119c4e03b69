//! The library of scenarios: built-in ones, those in `/etc/tdx/scenarios`, and those in the user's directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::cli::config;
use common::document::input;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, IoContext, Result, yaml};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::capability::Security;
use crate::scenario::layers::{Layers, Sections};

/// The scenario with the default settings. They apply without a scenario, and every scenario overrides some.
pub const DEFAULT: &str = "default";

const BUILT_IN: [(&str, &str); 5] = [
    ("computation", include_str!("../../scenarios/computation.yaml")),
    (DEFAULT, include_str!("../../scenarios/default.yaml")),
    ("desktop", include_str!("../../scenarios/desktop.yaml")),
    ("securevm", include_str!("../../scenarios/securevm.yaml")),
    ("td", include_str!("../../scenarios/td.yaml")),
];

/// The largest size of a file, in bytes.
const LIMIT: usize = 1 << 20;

/// A scenario: a named set of settings for a kind of guest.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name of the scenario.
    pub name: String,
    /// Description of the scenario, in one line.
    pub description: String,
    /// Protections that the scenario allows, the best first.
    pub security: Vec<Security>,
    /// Files that define or change the scenario, besides the built-in one.
    pub files: Vec<PathBuf>,
    /// The default settings.
    defaults: Sections,
    defaults_by_security: BTreeMap<Security, Sections>,
    /// The settings of the scenario.
    sections: Sections,
    /// The settings that differ for one protection.
    by_security: BTreeMap<Security, Sections>,
}

/// The content of a file: a whole scenario, or the differences from one of that name in a less specific place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    description: Option<String>,
    security: Option<Vec<Security>>,
    #[serde(default)]
    under: BTreeMap<Security, Sections>,
    #[serde(default)]
    guest: Map<String, Value>,
    #[serde(default)]
    storage: Map<String, Value>,
    #[serde(default)]
    host: Map<String, Value>,
}

impl Scenario {
    /// Finds the scenario of this name.
    ///
    /// Errors: `not_found`, with the nearest name; `invalid_input` for a file that is not a valid scenario.
    pub fn find(host: &Host, name: &str) -> Result<Self> {
        let texts = scenario_texts(host, name)?;
        if texts.is_empty() {
            let names = names(host)?;
            let nearest = common::nearest(name, names.iter().map(String::as_str));
            let error = Error::not_found(format!("scenario '{name}' not found"));
            return Err(match nearest {
                Some(nearest) => error.hint(format!("did you mean {nearest}?")),
                None => error.hint("to see all scenarios, run tdx-td scenario list"),
            });
        }
        let mut scenario = Self::empty(name);
        for (file, text) in scenario_texts(host, DEFAULT)? {
            scenario.merge_file(file, &text)?;
        }
        scenario.defaults = std::mem::take(&mut scenario.sections);
        scenario.defaults_by_security = std::mem::take(&mut scenario.by_security);
        if name != DEFAULT {
            scenario.files.clear();
            scenario.description.clear();
            for (file, text) in texts {
                scenario.merge_file(file, &text)?;
            }
        }
        Ok(scenario)
    }

    fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            security: Vec::new(),
            files: Vec::new(),
            defaults: Sections::default(),
            defaults_by_security: BTreeMap::new(),
            sections: Sections::default(),
            by_security: BTreeMap::new(),
        }
    }

    /// Returns the built-in default settings, without changes by files. Requests of domains are compared with
    /// them.
    ///
    /// Errors: none, because the tests check the built-in file.
    pub fn built_in(security: Security) -> Result<Layers> {
        let mut scenario = Self::empty(DEFAULT);
        for (_, text) in BUILT_IN.iter().filter(|(name, _)| *name == DEFAULT) {
            scenario.merge_file(None, text)?;
        }
        scenario.defaults = std::mem::take(&mut scenario.sections);
        scenario.layers(security)
    }

    /// Returns the settings for a guest with this protection.
    ///
    /// Errors: `invalid_input` for unknown settings and invalid values.
    pub fn layers(&self, security: Security) -> Result<Layers> {
        let mut ground = self.defaults.clone();
        ground.put(self.defaults_by_security.get(&security).cloned().unwrap_or_default());
        let mut sections = self.sections.clone();
        sections.put(self.by_security.get(&security).cloned().unwrap_or_default());
        Layers::new(&self.name, ground, sections)
    }

    fn merge_file(&mut self, file: Option<PathBuf>, text: &str) -> Result<()> {
        let place = || {
            file.as_ref().map_or("the built-in text".to_owned(), |file| file.display().to_string())
        };
        let text: Text = yaml::from_str(text).map_err(|error| {
            Error::invalid_input(format!("{} is not a valid scenario", place())).because(error)
        })?;
        self.description = text.description.unwrap_or(std::mem::take(&mut self.description));
        self.security = text.security.unwrap_or(std::mem::take(&mut self.security));
        let Text { guest, storage, host, .. } = text;
        self.sections.put(Sections { guest, storage, host });
        for (security, sections) in text.under {
            self.by_security.entry(security).or_default().put(sections);
        }
        self.files.extend(file);
        Ok(())
    }
}

/// Returns the names of all scenarios, in order.
///
/// Errors: `permission`, `io` for a directory that cannot be read.
pub fn names(host: &Host) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in folders(host) {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.at("read", &folder)?,
        };
        for entry in entries {
            let name = entry.at("read", &folder)?.file_name();
            names.extend(
                name.to_str().and_then(|name| name.strip_suffix(".yaml")).map(str::to_owned),
            );
        }
    }
    Ok(names)
}

/// Reads the texts of a scenario, the most specific last, with the file of each.
fn scenario_texts(host: &Host, name: &str) -> Result<Vec<(Option<PathBuf>, String)>> {
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    let mut texts: Vec<_> =
        built_in.map(|(_, text)| (None, (*text).to_owned())).into_iter().collect();
    let plain = !name.starts_with('.') && !name.contains('/');
    for folder in folders(host).into_iter().filter(|_| plain) {
        let file = folder.join(format!("{name}.yaml"));
        match read_text(&file) {
            // No file; a dangling symbolic link is an error.
            Err(error)
                if error.kind() == ErrorKind::NotFound && file.symlink_metadata().is_err() => {}
            text => texts.push((Some(file.clone()), text?)),
        }
    }
    Ok(texts)
}

/// Reads a small text file.
///
/// Errors: `not_found`, `permission`; `invalid_input` for a large file or one that is not text.
pub fn read_text(file: &Path) -> Result<String> {
    let text = String::from_utf8(input::file(file, LIMIT)?);
    text.map_err(|error| {
        Error::invalid_input(format!("{} is not UTF-8", file.display())).because(error)
    })
}

fn folders(host: &Host) -> Vec<PathBuf> {
    let user = config::home().map(|folder| folder.join("tdx/scenarios"));
    [Some(host.path(Path::new("/etc/tdx/scenarios"))), user].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use clap::ValueEnum;

    use super::*;
    use crate::scenario::layers::{Origin, parse_set};
    use crate::scenario::profile::OnOff;

    #[test]
    fn built_in_scenarios_have_all_settings_under_every_protection() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        for name in names(&host).unwrap() {
            let scenario = Scenario::find(&host, &name).unwrap();
            assert!(!scenario.description.is_empty() && !scenario.security.is_empty(), "{name}");
            for security in Security::value_variants() {
                let layers = scenario.layers(*security).unwrap();
                layers.profile().unwrap();
                assert!(layers.settings().iter().all(|setting| !setting.differs()), "{name}");
            }
        }
        let securevm = Scenario::find(&host, "securevm").unwrap();
        let profile = |security| securevm.layers(security).unwrap().profile().unwrap();
        assert_eq!(profile(Security::Sev).storage.encryption, OnOff(true));
        assert_eq!(profile(Security::Tdx).storage.encryption, OnOff(false));
        assert_eq!(profile(Security::Tdx).guest.tpm, None);
    }

    #[test]
    fn scenario_file_adds_or_changes_a_scenario() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        let place = host.path("/etc/tdx/scenarios");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("desktop.yaml"), "guest: {vcpus: 8}\n").unwrap();
        fs::write(place.join("ci.yaml"), "description: CI\nsecurity: [none]\n").unwrap();
        assert!(names(&host).unwrap().contains("ci"));
        let desktop = Scenario::find(&host, "desktop").unwrap();
        assert_eq!(
            (desktop.description.as_str(), desktop.files.len()),
            ("A desktop with a shared directory, unprotected", 1)
        );
        let profile = desktop.layers(Security::None).unwrap().profile().unwrap();
        assert_eq!((profile.guest.vcpus, profile.host.swappiness.unwrap().0), (Some(8), 35));

        for (text, says) in [
            ("guest: {vcpu: 8}\n", "guest"),
            ("guests: {}\n", "guests"),
            ("security: [tdxx]\n", "tdxx"),
            ("- a\n", ""),
            ("guest: {vcpus: many}\n", "many"),
            ("host: {swappiness: 201}\n", "201"),
            ("guest: [\n", ""),
        ] {
            fs::write(place.join("ci.yaml"), text).unwrap();
            let error =
                Scenario::find(&host, "ci").and_then(|ci| ci.layers(Security::None)).unwrap_err();
            assert_eq!(error.kind().exit_code(), 3, "{text}");
            let told = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(told.contains("ci") && told.contains(says), "{text}: {told}");
        }
        assert_eq!(Scenario::find(&host, "../x").unwrap_err().kind().exit_code(), 4);
    }

    #[test]
    fn assigned_setting_overrides_the_scenario_and_has_its_origin() {
        let host = Host::new("/nonexistent");
        let mut layers = Scenario::find(&host, "desktop").unwrap().layers(Security::None).unwrap();
        let flag = Origin::Flag("--set".to_owned());
        for text in [
            "guest.video=none",
            "guest.features=[acpi]",
            "host.modules.kvm_amd.sev=1",
            "guest.host_filesystem.fmode=600",
            "guest.cpu_migratable=off",
            "guest.memory=1.5G",
            "host.swappiness=",
        ] {
            layers.put(&flag, parse_set(text).unwrap()).unwrap();
        }
        let settings = layers.settings();
        let differ: Vec<_> = settings.iter().filter(|setting| setting.differs()).collect();
        assert_eq!(differ.len(), 7, "{differ:?}");
        assert!(differ.iter().all(|setting| setting.origin == "--set"));
        assert!(
            settings
                .iter()
                .filter(|setting| !setting.differs())
                .all(|s| s.origin == "scenario desktop")
        );
        let profile = layers.profile().unwrap();
        assert_eq!(profile.guest.host_filesystem.unwrap().source_dir, "/tmp/");
        assert_eq!(profile.host.modules["kvm_amd"]["sev"].0, "1");

        for (text, says) in [
            ("guest.vidio=none", "guest.vidio"),
            ("guest.video=4k", "guest.video"),
            ("host.modules={kvm_amd: {sev: \"1\\ninstall kvm_amd /bin/evil\"}}", "host.modules"),
            ("host.modules={../../etc: {a: 1}}", "host.modules"),
            ("host.modules={kvm: {a: 1 b=2}}", "host.modules"),
            ("host.io_scheduler=a b", "host.io_scheduler"),
            ("host.kernel_arguments=[a b]", "host.kernel_arguments"),
            ("guest.watchdog=i6300esb", "guest.watchdog"),
            ("host.swappiness=300", "host.swappiness"),
        ] {
            let error = layers.put(&flag, parse_set(text).unwrap()).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{text}: {error:?}");
            assert!(error.message().contains(says), "{text}: {error}");
        }
        for text in ["video=none", "guest", "guests.video=none", "guest.video=[", "=", "guest=1"] {
            assert!(parse_set(text).is_err(), "{text}");
        }
    }

    static DESKTOP: LazyLock<Layers> = LazyLock::new(|| {
        let desktop = Scenario::find(&Host::new("/no/such"), "desktop").unwrap();
        desktop.layers(Security::None).unwrap()
    });

    proptest::proptest! {
        #[test]
        fn parse_set_does_not_panic_on_any_text(
            text in "\\PC*",
            name in "(guest|storage|host)\\.[a-z_]{0,20}",
            value in "\\PC{0,10}",
        ) {
            let _ = parse_set(&text);
            if let Ok(sections) = parse_set(&format!("{name}={value}")) {
                let mut layers = DESKTOP.clone();
                let _ = layers.put(&Origin::Flag(String::new()), sections);
                layers.profile().unwrap();
            }
        }
    }
}
