//! Completion scripts: the tools print them, shells load them, and their completions are correct.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use crate::support::tools::{Run, TOOLS, tool};

fn script(name: &str, shell: &str) -> String {
    let run = tool(name, ["completions", shell]);
    assert_eq!(run.stderr, "");
    run.text().to_owned()
}

/// Runs this line in a shell that has read the script.
fn shell(shell: &str, script: &str, line: &str) -> String {
    let mut command = Command::new(shell);
    // fish creates directories in the home directory.
    let home = tempfile::tempdir().unwrap();
    match shell {
        "bash" => command.args(["--norc", "--noprofile"]),
        "zsh" => command.arg("-f"),
        _ => command.arg("--no-config"),
    };
    let run = Run::of(
        {
            command.args(["-c", line]).env("HOME", home.path());
            command
        },
        script.as_bytes(),
    );
    assert_eq!(run.stderr, "", "{run:#?}");
    run.text().to_owned()
}

/// The completions that bash offers for the last of these words.
fn bash(name: &str, words: &[&str]) -> Vec<String> {
    let line = format!(
        "source /dev/stdin && set -- {} && COMP_WORDS=(\"$@\") && COMP_CWORD=$(($# - 1)) && \
         function=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/') && \
         \"$function\" {name} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    );
    shell("bash", &script(name, "bash"), &line).lines().map(str::to_owned).collect()
}

/// The completions that fish offers for the end of a line, without descriptions.
fn fish(name: &str, line: &str) -> Vec<String> {
    let complete = format!("source - && complete -C '{line}'");
    let offered = shell("fish", &script(name, "fish"), &complete);
    offered.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_verbs_flags_and_values() {
    assert_eq!(bash("tdx-td", &["tdx-td", "st"]), ["start", "stop"]);
    assert_eq!(bash("tdx-td", &["tdx-td", "delete", "--ye"]), ["--yes"]);
    assert_eq!(
        bash("tdx-td", &["tdx-td", "new", "--security", "se"]),
        ["sev", "sev-es", "sev-snp"]
    );
    assert_eq!(bash("tdx-pool", &["tdx-pool", "vol"]), ["volumes"]);
    assert_eq!(bash("tdx-gpu", &["tdx-gpu", "cc", "--set", "d"]), ["devtools"]);
    // The verb completions is hidden: it is for scripts that install the completions.
    assert_eq!(bash("tdx-td", &["tdx-td", "compl"]), [""]);
}

#[test]
fn fish_completes_verbs_flags_and_values() {
    assert_eq!(fish("tdx-td", "tdx-td st"), ["start", "stop"]);
    assert_eq!(fish("tdx-td", "tdx-td delete --ye"), ["--yes"]);
    assert_eq!(fish("tdx-gpu", "tdx-gpu cc --set d"), ["devtools"]);
    assert_eq!(fish("tdx-disk", "tdx-disk att"), ["attach", "attached"]);
}

#[test]
fn zsh_loads_the_completion_scripts() {
    for name in TOOLS {
        let line = format!(
            "autoload -U compinit && compinit -D && source /dev/stdin && \
             [[ ${{_comps[{name}]}} == _{name} ]] && print -l ${{(k)functions[(I)_{name}_commands]}}"
        );
        assert_eq!(shell("zsh", &script(name, "zsh"), &line), format!("_{name}_commands\n"));
    }
}

#[test]
fn completions_refuses_an_unknown_shell() {
    let error = tool("tdx-td", ["completions", "csh"]).error(2);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("csh")), "{error}");
    tool("tdx-td", ["completions"]).error(2);
    let help = tool("tdx-td", ["--help"]);
    assert!(!help.text().contains("completions"), "{help:#?}");
}
