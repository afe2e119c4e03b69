//! Tables on terminals: which columns fit, wrap, or are omitted.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]

use std::process::Command;

use unicode_width::UnicodeWidthStr;

use crate::support::hosts;
use crate::support::kvm_hosts;
use crate::support::rig::Rig;
use crate::support::td::{define, foreign};
use crate::support::tools::{Run, bin, tool};
use crate::support::tree::Tree;

/// Runs a shell command on a terminal with this number of columns.
///
/// script(1) provides the terminal. `stdout` contains what the command wrote to both of its streams.
fn on_terminal(mut command: Command, columns: usize, line: &str) -> Run {
    command.args(["-qec", &format!("stty cols {columns}; {line}"), "/dev/null"]);
    let mut run = Run::of(command, b"");
    run.stdout = run.stdout.replace('\r', "");
    run
}

/// Runs a tool on a machine made of files, on a terminal.
fn on_tree(host: &Tree, columns: usize, name: &str, line: &str) -> Run {
    let (tool, root) = (bin(name), host.path("/"));
    let line = format!("{} --sysroot {} {line}", tool.display(), root.display());
    on_terminal(Command::new("script"), columns, &line)
}

#[track_caller]
fn expect_width(run: &Run, columns: usize) {
    assert!(!run.stdout.is_empty(), "{run:#?}");
    // A warning is a sentence on standard error, which the terminal wraps.
    let table = run.stdout.lines().filter(|line| !line.contains(": warning: "));
    for line in table {
        assert!(line.width() <= columns, "{} columns: {line:?}\n{run:#?}", line.width());
    }
}

#[test]
fn tables_of_every_host_fit_terminals_of_80_columns_and_more() {
    for host in [hosts::server(), hosts::desktop(), hosts::laptop()] {
        for columns in [80, 100, 132] {
            for line in ["scan", "groups", "check 0000:00:02.0"] {
                expect_width(&on_tree(&host, columns, "tdx-iommu", line), columns);
            }
            expect_width(&on_tree(&host, columns, "tdx-gpu", "list"), columns);
            expect_width(&on_tree(&host, columns, "tdx-disk", "list"), columns);
        }
    }
}

#[test]
fn a_table_on_a_terminal_below_80_columns_has_80_columns() {
    let host = hosts::server();
    let narrow = on_tree(&host, 40, "tdx-iommu", "scan");
    assert_eq!(narrow.stdout, on_tree(&host, 80, "tdx-iommu", "scan").stdout);
}

#[test]
fn host_check_shows_failures_first_then_warnings_each_with_its_fix_below() {
    let mut shown = Vec::new();
    for host in [kvm_hosts::off_in_bios(), kvm_hosts::no_iommu(), kvm_hosts::container()] {
        let capabilities = host.path("capabilities.xml");
        let line = match capabilities.exists() {
            true => {
                format!("host check --for tdx --for vfio --capabilities {}", capabilities.display())
            }
            false => "host check --for tdx --for vfio".to_owned(),
        };
        let run = on_tree(&host, 80, "tdx-td", &line);
        assert_eq!(run.status, Some(10), "{run:#?}");
        expect_width(&run, 80);
        let mut order = Vec::new();
        let mut lines = run.stdout.lines().skip(1).peekable();
        while let Some(line) = lines.next() {
            let status = line.split_whitespace().nth(1).unwrap_or_default();
            let place = ["FAIL", "warn", "unknown"].iter().position(|known| *known == status);
            let Some(place) = place.filter(|_| !line.starts_with(' ')) else { continue };
            order.push(place);
            // The finding may wrap; the fix is on the line below it.
            while lines.next_if(|line| line.starts_with("      ")).is_some() {}
            assert_eq!(lines.peek().unwrap().starts_with("  fix: "), place < 2, "{run:#?}");
        }
        assert!(order.is_sorted() && order.contains(&0), "{run:#?}");
        assert!(run.stdout.contains(" more checks passed or do not apply (--all shows them)"));
        shown.extend(order);
        let all = on_tree(&host, 80, "tdx-td", &format!("{line} --all"));
        expect_width(&all, 80);
        let passed = all.stdout.lines().any(|line| line.split_whitespace().nth(1) == Some("ok"));
        assert!(passed && !all.stdout.contains("--all"), "{all:#?}");
    }
    assert!(shown.contains(&1), "no host has warnings");
}

#[test]
fn columns_that_do_not_fit_are_omitted_and_named_unless_requested() {
    let host = hosts::server();
    let left_out = "tdx-iommu: columns that do not fit the terminal: ";
    let run = on_tree(&host, 80, "tdx-iommu", "scan");
    assert!(run.stdout.contains(left_out), "{run:#?}");
    assert!(!run.stdout.lines().next().unwrap().contains("NUMA"), "{run:#?}");
    let run = on_tree(&host, 80, "tdx-iommu", "scan --columns numa,bdf,NAME");
    expect_width(&run, 80);
    assert!(!run.stdout.contains(left_out), "{run:#?}");
    let titles: Vec<&str> = run.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(titles, ["NUMA", "BDF", "NAME"]);
    let wide = on_tree(&host, 400, "tdx-iommu", "scan");
    assert!(!wide.stdout.contains(left_out), "{wide:#?}");
}

#[test]
fn columns_and_no_headings_also_apply_to_tables_in_pipes() {
    let host = hosts::server();
    let run = host.run("tdx-iommu", "scan --columns bdf --no-headings");
    let names = host.run("tdx-iommu", "scan --format name");
    assert_eq!(run.text(), names.text());
    let disks = host.run("tdx-disk", "list --columns device,in_use,mounted_on");
    let titles = disks.text().lines().next().unwrap().split("  ").map(str::trim);
    assert_eq!(
        titles.filter(|t| !t.is_empty()).collect::<Vec<_>>(),
        ["DEVICE", "IN USE", "MOUNTED ON"]
    );
}

#[test]
fn unknown_columns_and_columns_of_other_formats_are_usage_errors() {
    for (name, line, says) in [
        ("tdx-iommu", "scan --columns bdf,bogus", "unknown column \"bogus\""),
        ("tdx-iommu", "scan --columns=", "unknown column \"\""),
        ("tdx-td", "virsh --columns name list", "unknown column \"name\""),
        (
            "tdx-td",
            "scenario list --columns name --json",
            "--columns and --no-headings apply only to tables, but another format was chosen",
        ),
        (
            "tdx-td",
            "scenario list --no-headings --format name",
            "--columns and --no-headings apply only to tables, but another format was chosen",
        ),
    ] {
        let error = tool(name, line.split(' ')).error(2);
        assert_eq!(error["message"], says, "{line}");
    }
}

#[test]
#[ignore = "needs root"]
fn long_names_of_domains_wrap_in_their_own_column() {
    let rig = Rig::start();
    let long = format!("tdvirsh-trust_domain-{}-日本語", "0123456789".repeat(9));
    for name in ["a", &long] {
        define(&rig, &foreign(name, ""));
    }
    let line = format!("{} list", bin("tdx-td").display());
    let run = on_terminal(rig.command("script"), 80, &line);
    assert_eq!(run.status, Some(0), "{run:#?}");
    expect_width(&run, 80);
    let joined: String = run.stdout.split_whitespace().collect();
    assert!(joined.contains("shutoff"), "{run:#?}");
    for part in ["tdvirsh-trust_domain-", "日本語"] {
        assert!(run.stdout.contains(part), "{run:#?}");
    }
}
