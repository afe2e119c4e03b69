//! The built tools, and checks of documents against their schemas.
//!
//! Tests that need root have `#[ignore = "needs root"]`: `make test` runs them as root. As an ordinary user,
//! cargo names and counts them.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The directory of the tools under test: `TDX_BIN_DIR`, or the directory in which cargo built them.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("TDX_BIN_DIR") {
        return folder.into();
    }
    let tool = option_env!("CARGO_BIN_EXE_tdx-td")
        .or(option_env!("CARGO_BIN_EXE_tdx-pool"))
        .or(option_env!("CARGO_BIN_EXE_tdx-gpu"))
        .or(option_env!("CARGO_BIN_EXE_tdx-disk"))
        .or(option_env!("CARGO_BIN_EXE_tdx-iommu"))
        .or(option_env!("CARGO_BIN_EXE_tdx-attest"));
    Path::new(tool.expect("cargo builds the tool")).parent().unwrap().to_owned()
}

/// The names of the tools.
pub(crate) const TOOLS: [&str; 6] =
    ["tdx-attest", "tdx-disk", "tdx-gpu", "tdx-iommu", "tdx-pool", "tdx-td"];

/// The path of a built tool.
pub(crate) fn bin(tool: &str) -> PathBuf {
    let path = bin_dir().join(tool);
    assert!(
        path.exists(),
        "{} is not built: use make test, or cargo test --workspace",
        path.display()
    );
    path
}

/// The directory of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The Rust files below a directory.
pub(crate) fn rust_files(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|name| name == "rs"));
    here.chain(directories.iter().flat_map(|path| rust_files(path))).collect()
}

/// The result of a program.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The command line, for messages.
    pub(crate) line: String,
    /// Exit status; none if a signal ended the program.
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Run {
    /// Runs a command to its end, with `input` on standard input.
    pub(crate) fn of(mut command: Command, input: &[u8]) -> Self {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Self {
            line,
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Expects success: status 0, nothing on standard error, and one document that fits its schema. Returns
    /// it.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        self.answer(0)
    }

    /// Expects the document of a check, which exits with the status of its answer. Returns it.
    #[track_caller]
    pub(crate) fn answer(&self, status: i32) -> Value {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert_eq!(self.stderr, "", "{self:#?}");
        let document: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no document: {error}\n{self:#?}"));
        assert!(self.stdout.ends_with("}\n"), "{self:#?}");
        check_schema(document["kind"].as_str().unwrap_or_default(), &document);
        document
    }

    /// Expects success and returns the only item.
    #[track_caller]
    pub(crate) fn item(&self) -> Value {
        let document = self.document();
        let items = document["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{self:#?}");
        items[0].clone()
    }

    /// Expects failure with this status: nothing on standard output, and a JSON error that fits its schema on
    /// the last line of standard error. Returns the error.
    #[track_caller]
    pub(crate) fn error(&self, status: i32) -> Value {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("no JSON error: {error}\n{self:#?}"));
        check_schema("tdx.error", &error);
        assert_eq!(error["error"]["exit_code"], status, "{self:#?}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.ends_with('.'), "{self:#?}");
        error["error"].clone()
    }

    /// Expects success of a program that prints no document. Returns standard output.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:#?}");
        &self.stdout
    }
}

/// Fails unless the value fits `docs/schema/<kind>.json`.
#[track_caller]
fn check_schema(kind: &str, value: &Value) {
    let path = repository().join("docs/schema").join(format!("{kind}.json"));
    let schema = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<String> = validator.iter_errors(value).map(|e| e.to_string()).collect();
    assert!(problems.is_empty(), "not a {kind}: {problems:#?}\n{value:#}");
}

/// Runs a tool on this machine, outside any rig, with a cleared environment.
pub(crate) fn tool<A: AsRef<OsStr>>(tool: &str, arguments: impl IntoIterator<Item = A>) -> Run {
    tool_with_input(tool, arguments, "")
}

/// Like [`tool`], with `input` on standard input.
pub(crate) fn tool_with_input<A: AsRef<OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
) -> Run {
    Run::of(tool_command(tool, arguments), input.as_bytes())
}

/// The command that [`tool`] runs.
pub(crate) fn tool_command<A: AsRef<OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(bin(tool));
    clear(&mut command).args(arguments);
    command
}

/// The verbs that a tool's help lists, with the verbs below others: `host`, `host check`.
pub(crate) fn verbs(name: &str, above: &[String]) -> Vec<Vec<String>> {
    let help = tool(name, above.iter().map(String::as_str).chain(["--help"]));
    let Some(block) = help.text().split("\nCommands:\n").nth(1) else {
        return Vec::new();
    };
    let block = block.split("\n\n").next().unwrap();
    let words = block.lines().filter(|line| !line.starts_with("   "));
    let words = words.filter_map(|line| line.split_whitespace().next());
    let named = words.filter(|verb| *verb != "help");
    let below = |verb: &str| {
        let verb = [above, &[verb.to_owned()]].concat();
        let below = verbs(name, &verb);
        [vec![verb], below].concat()
    };
    named.flat_map(below).collect()
}

/// A program on this machine, with the tools on PATH.
pub(crate) fn on_path(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", bin_dir().display()));
    command
}

pub(super) fn clear(command: &mut Command) -> &mut Command {
    // No configuration and no language of a user; PATH is needed to find programs.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default())
}
