//! The files that `make install` and `make deb` produce, and the packages in minimal Debian systems.
//!
//! The tools are built with the profile `quick`, or with the profile in `TDX_PROFILE`: `make test-full` tests
//! the released one. A profile changes how a tool is compiled, never which files are installed or which
//! libraries are linked.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::support::tools::{Run, TOOLS, repository};

/// Serialises tests that write or read the same files.
fn alone() -> MutexGuard<'static, ()> {
    static BUILD: Mutex<()> = Mutex::new(());
    BUILD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make(target: &str, variables: &[String]) {
    let mut make = Command::new("make");
    make.arg("-C").arg(repository()).arg(target).args(variables);
    make.arg(format!("PROFILE={}", profile()));
    make.env_remove("MAKEFLAGS").env_remove("DESTDIR");
    Run::of(make, b"").text();
}

fn shell(line: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-ec", line]);
    Run::of(command, b"").text().to_owned()
}

fn profile() -> String {
    std::env::var("TDX_PROFILE").unwrap_or_else(|_| "quick".to_owned())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or(repository().join("target"), PathBuf::from)
}

/// The files below a directory, without their sizes.
fn files(folder: &Path) -> BTreeSet<String> {
    let list = shell(&format!("cd {} && find . ! -type d -printf '%m %P\\n'", folder.display()));
    list.lines().map(str::to_owned).collect()
}

/// The files that belong below a prefix.
fn expected(zsh: &str) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for tool in TOOLS {
        expected.insert(format!("755 bin/{tool}"));
        expected.insert(format!("644 share/bash-completion/completions/{tool}"));
        expected.insert(format!("644 share/{zsh}/_{tool}"));
        expected.insert(format!("644 share/fish/vendor_completions.d/{tool}.fish"));
    }
    let pages = std::fs::read_dir(target().join("man")).unwrap();
    let pages = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    expected.extend(pages.map(|page| format!("644 share/man/man1/{page}")));
    for document in ["README.md", "CHANGELOG.md", "LICENSE", "THIRD-PARTY.md"] {
        expected.insert(format!("644 share/doc/tdx-tools/{document}"));
    }
    let tracked = shell(&format!("git -C {} ls-files --stage examples", repository().display()));
    for line in tracked.lines().filter(|line| !line.ends_with("examples/demo")) {
        let (mode, name) = (&line[3..6], line.split('\t').nth(1).unwrap());
        expected.insert(format!("{mode} share/doc/tdx-tools/{name}"));
    }
    expected
}

/// PATH contains cargo and the programs that make needs, but neither a compiler nor pkg-config.
#[test]
fn a_build_without_its_libraries_names_the_packages_before_cargo_starts() {
    let programs = tempfile::tempdir().unwrap();
    let link = |name: &str, to: &str| {
        std::os::unix::fs::symlink(to, programs.path().join(name)).unwrap();
    };
    for name in ["sh", "sed", "sort", "head", "cut", "basename", "cargo"] {
        link(name, shell(&format!("command -v {name}")).trim());
    }
    let lacking = |target: &str| {
        let mut make = Command::new(shell("command -v make").trim());
        make.arg("-C").arg(repository()).arg(target).env("PATH", programs.path());
        make.env_remove("MAKEFLAGS");
        let run = Run::of(make, b"");
        assert_eq!((run.status, run.stderr.contains("Compiling")), (Some(2), false), "{run:#?}");
        run.stderr
    };
    let says = "tdx-tools needs packages that are not installed: ";
    let on_fedora = "dnf install gcc pkgconf-pkg-config libvirt-devel";
    let error = lacking("build");
    assert!(error.contains(&format!("{says}{on_fedora}\n")), "{error}");
    link("apt-get", "/bin/true");
    let on_debian = "apt-get install gcc libc6-dev pkg-config libvirt-dev";
    for target in ["build", "release", "man", "install", "deb"] {
        let error = lacking(target);
        assert!(error.contains(&format!("{says}{on_debian}\n")), "{target}: {error}");
    }
}

#[test]
#[ignore = "needs root"]
fn install_writes_the_expected_files_and_uninstall_removes_them() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let variables = [format!("DESTDIR={}", folder.path().display()), "PREFIX=/opt/tdx".to_owned()];
    make("install", &variables);
    let prefix = folder.path().join("opt/tdx");
    assert_eq!(files(&prefix), expected("zsh/site-functions"));
    assert_eq!(files(folder.path()).len(), files(&prefix).len());
    make("uninstall", &variables);
    assert_eq!(files(folder.path()), BTreeSet::new());
}

#[test]
#[ignore = "needs root"]
fn only_the_tools_that_use_libvirt_link_it() {
    let _alone = alone();
    make("release", &[]);
    for tool in TOOLS {
        let path = target().join(profile()).join(tool);
        let needed = shell(&format!("objdump -p {} | grep NEEDED", path.display()));
        let libvirt = matches!(tool, "tdx-disk" | "tdx-pool" | "tdx-td");
        assert_eq!(needed.contains("libvirt.so.0"), libvirt, "{tool}: {needed}");
    }
}

/// The packages, which are built once.
static PACKAGES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let _alone = alone();
    make("deb", &[]);
    let found = std::fs::read_dir(target().join("deb")).unwrap().map(|entry| entry.unwrap().path());
    let found = found.filter(|path| path.extension().is_some_and(|kind| kind == "deb"));
    found
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().split('_').next().unwrap();
            (name.to_owned(), path.clone())
        })
        .collect()
});

#[test]
#[ignore = "needs root"]
fn packages_hold_each_installed_file_once_and_are_reproducible() {
    let packages = &*PACKAGES;
    let _alone = alone();
    let names: Vec<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(names, [&TOOLS[..], &["tdx-tools"]].concat());
    let field = |name: &str, field: &str| {
        shell(&format!("dpkg-deb -f {} {field}", packages[name].display())).trim().to_owned()
    };
    let mut all = BTreeSet::new();
    for (name, path) in packages {
        let folder = tempfile::tempdir().unwrap();
        shell(&format!("dpkg-deb -x {} {}", path.display(), folder.path().display()));
        let files = files(&folder.path().join("usr"));
        assert!(files.contains(&format!("644 share/doc/{name}/copyright")), "{name}: {files:?}");
        let notices = format!("644 share/doc/{name}/THIRD-PARTY.md");
        assert!(files.contains(&notices), "{name}: {files:?}");
        let of_each = |file: &String| file.ends_with("/copyright") || *file == notices;
        for file in files.into_iter().filter(|file| !of_each(file)) {
            assert!(all.insert(file.trim_end_matches(".gz").to_owned()), "{name}: {file}");
        }
        let depends = field(name, "Depends");
        let libvirt = matches!(name.as_str(), "tdx-disk" | "tdx-pool" | "tdx-td");
        assert_eq!(depends.contains("libvirt0 (>= "), libvirt, "{name}: {depends}");
        assert_eq!(depends.contains("libc6 (>= "), name != "tdx-tools", "{name}: {depends}");
    }
    // Every package contains this file.
    all.insert("644 share/doc/tdx-tools/THIRD-PARTY.md".to_owned());
    assert_eq!(all, expected("zsh/vendor-completions"));
    let version = field("tdx-td", "Version");
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
    assert!(field("tdx-tools", "Depends").contains(&format!("tdx-td (= {version})")));

    let again = tempfile::tempdir().unwrap();
    let line = format!(
        "until [ $(date +%s) -gt $(stat -c %Y {target}/deb/*.deb | sort -n | tail -n 1) ]; do sleep 0.1; done; \
         umask 077; export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct); \
         find {root} -exec touch {{}} +; packaging/deb/build {root} {version} {out}; \
         for deb in {out}/*.deb; do cmp $deb {target}/deb/${{deb##*/}}; done; ls {out} | wc -l",
        root = target().join("deb/root").display(),
        out = again.path().display(),
        target = target().display(),
    );
    let count = format!("{}\n", packages.len());
    assert_eq!(shell(&format!("cd {}; {line}", repository().display())), count);
}

/// Installs, in a minimal Debian, the tools that need no libvirt, then all tools, and then removes them.
const SCRIPT: &str = r#"
set -euo pipefail
look() {
    dpkg-query -W
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /mnt -o -path /tmp -o -path /run \
        -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache \) -prune -o -print
}
apt() { apt-get -q -y --no-install-recommends "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; exit 1; }; }
mkdir -p /tmp
look | sort >/tmp/before
apt install /mnt/tdx-iommu_*.deb /mnt/tdx-gpu_*.deb
! dpkg-query -W libvirt0 2>/dev/null
tdx-iommu scan --json | grep -q '"kind":"tdx.iommu.devices"'
tdx-gpu list --json | grep -q '"kind":"tdx.gpu.devices"'
apt install /mnt/*.deb
for tool in tdx-attest tdx-disk tdx-gpu tdx-iommu tdx-pool tdx-td; do
    $tool --version | grep -q "^$tool "
    $tool --help | grep -q Examples
    [ "$(man -w $tool)" = /usr/share/man/man1/$tool.1.gz ]
    bash -c "source /usr/share/bash-completion/bash_completion
        if declare -F _comp_load >/dev/null; then _comp_load $tool; else _completion_loader $tool; fi
        complete -p $tool" | grep -q -- "-F _.* $tool\$"
done
man tdx-td-new | grep -q '^EXAMPLES'
status=0; tdx-td list 2>/dev/null || status=$?
[ $status = 6 ]
[ -x /usr/share/doc/tdx-tools/examples/tdvirsh ]
mkdir -p /etc/tdx/bind.d /etc/systemd/system/multi-user.target.wants
touch /etc/tdx/bind.d/x /etc/systemd/system/tdx-gpu-bind.service
apt purge 'tdx-*'
apt autoremove --purge -o APT::AutoRemove::SuggestsImportant=false -o APT::AutoRemove::RecommendsImportant=false
rmdir --ignore-fail-on-non-empty /etc/systemd/system/multi-user.target.wants /etc/systemd/system /etc/systemd
look | sort | diff /tmp/before - >&2
echo clean
"#;

fn install_in(suite: &str) {
    assert_eq!(PACKAGES.len(), TOOLS.len() + 1);
    let cache = std::env::var_os("TDX_RIG_CACHE")
        .map_or(repository().join("target/rig"), PathBuf::from)
        .join("debian");
    let mut root = Command::new(repository().join("tests/rig/debian-root"));
    root.arg(&cache).arg(suite);
    Run::of(root, b"").text();
    let mut run = Command::new(repository().join("tests/rig/debian-run"));
    run.arg(cache.join(suite)).arg(target().join("deb")).args(["bash", "-c", SCRIPT]);
    assert_eq!(Run::of(run, b"").text(), "clean\n", "{suite}");
}

#[test]
#[ignore = "needs root"]
fn packages_install_in_a_bare_debian_12_and_leave_nothing() {
    install_in("bookworm");
}

#[test]
#[ignore = "needs root"]
fn packages_install_in_a_bare_debian_13_and_leave_nothing() {
    install_in("trixie");
}
