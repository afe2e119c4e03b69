//! Simultaneous commands of `tdx-gpu` on one device, on a real kernel with a real IOMMU (rig 2).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::KERNEL;
use crate::support::kernel::Kernel;

/// The rounds of each pair of commands, unless `TDX_ROUNDS` sets another number.
const ROUNDS: usize = 10;

fn rounds() -> usize {
    std::env::var("TDX_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

/// Runs commands simultaneously, `rounds` times in the rig. Returns one line for each round: the exit
/// statuses in the order of the commands, the driver, the driver override, and the record.
///
/// One script runs all rounds, because starting a program in the rig takes longer than the race.
fn race(kernel: &Kernel, bdf: &str, commands: &[&str], rounds: usize) -> Vec<String> {
    let started: String = commands
        .iter()
        .enumerate()
        .map(|(n, command)| format!("{command} >/tmp/out.{n} 2>/tmp/err.{n} & pid[{n}]=$!; "))
        .collect();
    let line = format!(
        "device=/sys/bus/pci/devices/{bdf}; \
         for round in $(seq {rounds}); do {started} said=; \
         for p in \"${{pid[@]}}\"; do wait $p; said=$said,$?; done; \
         driver=$(readlink $device/driver); record=$(cat /run/tdx/bound/{bdf} 2>/dev/null | tr -d '\\n '); \
         echo \"${{said#,}}|${{driver##*/}}|$(<$device/driver_override)|$record|$(ls -A /run/tdx/bound 2>/dev/null | tr '\\n' ' ')\"; \
         done"
    );
    kernel.shell(&line).text().lines().map(str::to_owned).collect()
}

/// Fails unless the device is on vfio-pci with a record of nvme, or on nvme without a record.
fn assert_legal(line: &str, bdf: &str, commands: &[&str]) {
    let parts: Vec<&str> = line.split('|').collect();
    let [statuses, driver, driver_override, record, files] = parts[..] else {
        panic!("{line}");
    };
    for status in statuses.split(',') {
        assert!(matches!(status, "0" | "5"), "exit {status} in {commands:?}: {line}");
    }
    match driver {
        "vfio-pci" => {
            let record: Value = serde_json::from_str(record).unwrap_or_default();
            let expected = (Some("nvme"), true, Some(true));
            let recorded = (
                record["driver"].as_str(),
                record["driver_override"].is_null(),
                record["committed"].as_bool(),
            );
            assert_eq!(recorded, expected, "{commands:?}: {line}");
            assert_eq!((driver_override, files.trim()), ("vfio-pci", bdf), "{commands:?}: {line}");
        }
        "nvme" => {
            assert_eq!(
                (driver_override, record, files),
                ("(null)", "", ""),
                "{commands:?}: {line}"
            );
        }
        _ => panic!("the device is on '{driver}' after {commands:?}: {line}"),
    }
}

#[test]
#[ignore = "needs root"]
fn commands_on_one_device_at_once_leave_it_bound_with_a_record_or_given_back() {
    let kernel = KERNEL.lock();
    let bdf = kernel.nvme("rig-0");
    let bind = format!("tdx-gpu bind {bdf} --memory 64M");
    let unbind = format!("tdx-gpu unbind {bdf}");
    let stale = "tdx-gpu unbind --stale";
    let mut ends = BTreeMap::<String, usize>::new();
    for commands in [
        &[bind.as_str(), &bind, &unbind][..],
        &[&bind, &unbind, &unbind],
        &[&bind, stale, stale],
        &[&bind, &unbind, stale],
    ] {
        for line in race(&kernel, &bdf, commands, rounds()) {
            assert_legal(&line, &bdf, commands);
            *ends.entry(line.split('|').take(2).collect::<Vec<_>>().join(" ")).or_default() += 1;
        }
    }
    println!("{ends:#?}");
}
