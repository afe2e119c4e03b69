//! The rules of the source tree: which file may import which, and names that were retired.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use walkdir::WalkDir;

use crate::support::tools::repository;

const CRATES: &[&str] =
    &["common", "tdx-attest", "tdx-disk", "tdx-gpu", "tdx-iommu", "tdx-pool", "tdx-td"];

/// A module's path, beginning with the name of the crate: `tdx_td::create::plan`.
type Module = Vec<String>;

/// A source file, as the rules see it.
struct Source {
    /// The path below the repository, for messages.
    path: String,
    /// The code without comments and without its tests.
    code: String,
    /// The modules that the file imports, or names in full.
    imports: BTreeSet<Module>,
}

/// All source files of the crates, by module.
fn sources() -> BTreeMap<Module, Source> {
    let mut sources = BTreeMap::new();
    for name in CRATES {
        let root = repository().join(name).join("src");
        for entry in WalkDir::new(&root) {
            let path = entry.unwrap().into_path();
            let relative = path.strip_prefix(&root).unwrap();
            let stem = relative.with_extension("").display().to_string();
            if path.extension().is_none_or(|e| e != "rs") || stem.ends_with("tests") {
                continue;
            }
            let below = stem.trim_end_matches("/mod").split('/');
            let below = below.filter(|part| !["lib", "main", "tests"].contains(part));
            let module = [name.replace('-', "_")].into_iter().chain(below.map(str::to_owned));
            let source = Source {
                path: format!("{name}/src/{}", relative.display()),
                code: code_of(&path),
                imports: BTreeSet::new(),
            };
            if !stem.contains("/tests/") && stem != "main" {
                sources.insert(module.collect(), source);
            }
        }
    }
    assert!(sources.len() > 200, "looked in the wrong directory");
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    for (module, source) in &mut sources {
        let named = paths(&source.code);
        let targets = named.iter().filter_map(|path| resolve(path, module, &modules));
        source.imports = targets.filter(|target| target != module).collect();
    }
    sources
}

/// A file's code without line comments and without the tests at its end.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path in the code: each leaf of a `use` declaration, and every other path with `::`.
fn paths(code: &str) -> Vec<Vec<String>> {
    static DECLARATION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?use ([^;]+);").unwrap());
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[a-z_]+(?:::\w+)+").unwrap());
    let mut paths = Vec::new();
    for tree in DECLARATION.captures_iter(code) {
        leaves(&tree[1].split_whitespace().collect::<String>(), &[], &mut paths);
    }
    let rest = DECLARATION.replace_all(code, "");
    paths.extend(PATH.find_iter(&rest).map(|path| split(path.as_str())));
    paths
}

fn split(path: &str) -> Vec<String> {
    path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The paths of a `use` tree without spaces, such as `a::{b,c::{d,e}}`.
fn leaves(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let Some((head, tail)) = tree.split_once('{') else {
        paths.push([before, &split(tree)].concat());
        return;
    };
    let before = [before, &split(head)].concat();
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in tail.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if begin < at {
                    leaves(&tail[begin..at], &before, paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that contains the target of a path in `module`.
fn resolve(path: &[String], module: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut full: Module = match path[0].as_str() {
        "crate" => [&module[..1], &path[1..]].concat(),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            [&module[..module.len().checked_sub(up)?], &path[up..]].concat()
        }
        "self" => [&module[..], &path[1..]].concat(),
        name if modules.contains([name.to_owned()].as_slice()) => path.to_vec(),
        name if modules.contains([&module[..], &[name.to_owned()]].concat().as_slice()) => {
            [&module[..], path].concat()
        }
        _ => return None,
    };
    while !modules.contains(&full) {
        full.pop()?;
    }
    Some(full)
}

/// Whether a module belongs to the command line: a verb, or the types of the flags.
fn is_command_line(module: &Module) -> bool {
    module.get(1).is_none_or(|first| first == "commands" || first == "cli")
}

#[test]
fn nouns_import_neither_commands_nor_clap() {
    let mut faults = Vec::new();
    for (module, source) in sources().into_iter().filter(|(module, _)| !is_command_line(module)) {
        let commands = source.imports.iter().filter(|import| {
            import.get(1).is_some_and(|first| first == "commands") && module[0] != "common"
        });
        faults.extend(
            commands.map(|import| format!("{} imports {}", source.path, import.join("::"))),
        );
        // An enum of values may say how its values are written on the command line.
        let clap = source.code.replace("use clap::ValueEnum;", "");
        if module[0] != "common" && clap.contains("use clap") {
            faults.push(format!("{} imports clap", source.path));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let mut faults = Vec::new();
    for (module, source) in &sources {
        // Follows the imports of the file until a path leads back to it.
        let mut ways: Vec<Vec<&Module>> = source.imports.iter().map(|next| vec![next]).collect();
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            let last = way[way.len() - 1];
            if last == module {
                let files: Vec<_> =
                    way.iter().map(|module| sources[*module].path.as_str()).collect();
                // Reports each circle once, with the first of its files.
                if way.iter().all(|other| module <= *other) {
                    faults.push(files.join(" -> "));
                }
                break;
            }
            if seen.insert(last) {
                let next = sources[last].imports.iter();
                ways.extend(next.map(|next| [&way[..], &[next]].concat()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Type names of the first version that no other program of the field uses.
const RETIRED_TYPES: &[&str] = &[
    "Auto",
    "Blueprint",
    "Choice",
    "Drive",
    "Fate",
    "Fitting",
    "Former",
    "Going",
    "Ground",
    "Handed",
    "Handover",
    "Keep",
    "Knob",
    "Lease",
    "Order",
    "Party",
    "Subject",
    "Switch",
    "Tenancy",
    "Tenant",
    "Terms",
    "Wanted",
    "Way",
    "Wish",
    "Wishes",
];

/// Module names of the first version, and its macro.
const RETIRED_MODULES: &[&str] = &[
    "back",
    "blueprint",
    "bound",
    "claims",
    "drive",
    "fitting",
    "handover",
    "held",
    "knob",
    "lease",
    "number",
    "order",
    "subject",
    "wanted",
    "wishes",
    "words",
];

#[test]
fn retired_names_do_not_come_back() {
    let definition = Regex::new(r"\b(?:(struct|enum|trait|type)|mod|macro_rules!) (\w+)").unwrap();
    let mut faults = Vec::new();
    for source in sources().values() {
        for found in definition.captures_iter(&source.code) {
            let retired = if found.get(1).is_some() { RETIRED_TYPES } else { RETIRED_MODULES };
            if retired.contains(&&found[2]) {
                faults.push(format!("{}: {}", source.path, &found[0]));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
