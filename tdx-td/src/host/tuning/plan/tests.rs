//! Plans for hosts in different states.

use common::document::Action;

use crate::host::tuning::apply::in_order;
use crate::host::tuning::change::Change;
use crate::host::tuning::disks::{Disk, Disks};
use crate::host::tuning::kernel_files::{HUGEPAGES, KSM_MERGER, KSM_TUNER, SWAPPINESS};
use crate::host::tuning::ksm::Ksm;
use crate::host::tuning::observed::{Module, ObservedHost};
use crate::host::tuning::ownership::updated_records;
use crate::host::tuning::plan::{DesiredValue, Options, SettingsPlan, plan_settings};
use crate::host::tuning::record::Records;
use crate::host::tuning::tunable::{Tunable, Unit};
use crate::scenario::layers::{Layers, Origin, parse_set};
use crate::scenario::library::Scenario;
use crate::scenario::profile;

/// Returns the host settings of a scenario, overridden by others.
fn wanted(scenario: &str, set: &[&str]) -> profile::Host {
    let root = tempfile::tempdir().unwrap();
    let scenario =
        Scenario::find(&common::system::sysroot::Host::new(root.path()), scenario).unwrap();
    let mut layers: Layers = scenario.layers(scenario.security[0]).unwrap();
    for text in set {
        layers.put(&Origin::Flag("--set".to_owned()), parse_set(text).unwrap()).unwrap();
    }
    layers.profile().unwrap().host
}

/// Returns a host that supports all settings.
fn host() -> ObservedHost {
    let unit = |name: &str, is_running, file_state: &str| Unit {
        name: name.to_owned(),
        is_running,
        file_state: file_state.to_owned(),
    };
    let disk = Disk {
        name: "nvme0n1".to_owned(),
        scheduler: Some("[none] mq-deadline".to_owned()),
        rule: "ATTR{wwid}==\"eui.1\"".to_owned(),
    };
    let options = [("tdx".to_owned(), "0".to_owned())].into();
    ObservedHost {
        transparent_hugepages: Some("always [madvise] never".to_owned()),
        ksm: Some(Ksm { run: "1".to_owned(), merge: Some("1".to_owned()), shared: 3 }),
        units: vec![unit(KSM_MERGER, true, "enabled"), unit(KSM_TUNER, false, "masked")],
        has_systemd: true,
        swappiness: Some("60".to_owned()),
        hugepages: Some((HUGEPAGES[0], "0".to_owned())),
        disks: Disks { found: vec![disk], elsewhere: Vec::new() },
        loadable: [("bfq".to_owned(), "bfq".to_owned())].into(),
        modules: [("kvm_intel".to_owned(), Module { users: Some(0), options })].into(),
        ..ObservedHost::default()
    }
}

/// Returns the changes of a plan in one line, in order.
fn changes_in_a_line(observed: &ObservedHost, draft: &SettingsPlan) -> String {
    let change = |want: &DesiredValue| Change {
        tunable: want.tunable.clone(),
        before: want.now.clone(),
        after: if want.holds { want.now.clone() } else { want.value.clone() },
    };
    let changes = in_order(observed.ksm.as_ref(), draft.desired.iter().map(change).collect());
    let word = |change: &Change| {
        let place = change.tunable.to_string();
        let value = if matches!(change.tunable, Tunable::File(_)) { "…" } else { &change.after };
        format!("{}={value}", place.rsplit('/').next().unwrap_or_default())
    };
    changes.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn in_order_returns_changes_in_an_order_that_the_kernel_accepts() {
    let persist = Options { persist: true, ..Options::default() };
    let reload = Options { reload_modules: true, ..Options::default() };
    for (scenario, set, options, changes) in [
        (
            "td",
            &[][..],
            Options::default(),
            "enabled=always ksm.service=inactive run=2 merge_across_nodes=0 run=0 swappiness=0",
        ),
        ("td", &["host.ksm=", "host.ksm_merge_across_nodes="], reload, {
            "options of module kvm_intel=tdx=1 enabled=always swappiness=0"
        }),
        (
            "securevm",
            &["host.ksm=on", "host.ksm_merge_across_nodes=on"],
            Options::default(),
            "enabled=always swappiness=0 module bfq=yes scheduler=bfq",
        ),
        (
            "desktop",
            &["host.transparent_hugepages=", "host.ksm=off", "host.hugepages=2"],
            persist,
            "ksm.service=inactive ksm.service at boot=disabled run=0 nr_hugepages=2 swappiness=35 \
             scheduler=mq-deadline 90-tdx.conf=… tdx.conf=… 90-tdx.rules=…",
        ),
    ] {
        let observed = host();
        let draft = plan_settings(&observed, &wanted(scenario, set), options).unwrap();
        assert_eq!(changes_in_a_line(&observed, &draft), changes, "{scenario} {set:?}");
    }
}

#[test]
fn plan_notes_each_setting_that_the_host_does_not_support() {
    let observed = ObservedHost::default();
    let draft =
        plan_settings(&observed, &wanted("td", &["host.hugepages=1"]), Options::default()).unwrap();
    assert!(draft.desired.is_empty() && draft.items.len() == 7, "{draft:#?}");
    for item in &draft.items {
        assert!(!item.in_force && item.note.is_some() && item.action == Action::None, "{item:?}");
    }
}

#[test]
fn plan_refuses_to_reload_a_module_in_use_or_built_in() {
    let reload = Options { reload_modules: true, ..Options::default() };
    for (users, kind) in [
        (Some(0), None),
        (Some(2), Some(common::ErrorKind::Conflict)),
        (None, Some(common::ErrorKind::Unsupported)),
    ] {
        let mut observed = host();
        observed.modules.get_mut("kvm_intel").unwrap().users = users;
        let planned = plan_settings(&observed, &wanted("td", &[]), reload);
        assert_eq!(planned.err().map(|error| error.kind()), kind, "{users:?}");
        // An option that has the wanted value already needs no reload.
        let module = observed.modules.get_mut("kvm_intel").unwrap();
        module.options.insert("tdx".to_owned(), "1".to_owned());
        plan_settings(&observed, &wanted("td", &[]), reload).unwrap();
    }
}

#[test]
fn updated_records_keep_scenarios_and_the_first_previous_value() {
    let replace = Options { replace: true, ..Options::default() };
    let mut observed = host();
    let asks = |observed: &ObservedHost, old: &Records, scenario: &str, options: Options| {
        let draft = plan_settings(observed, &wanted(scenario, &[]), options).unwrap();
        updated_records(&draft.desired, options, old, scenario)
    };
    let none = Records::default();
    let first = asks(&observed, &none, "computation", Options::default()).unwrap();
    assert!(first.lasting.is_empty());
    let entry = |records: &Records| {
        let tunable = Tunable::Number(SWAPPINESS.to_owned());
        records
            .entry_for(&tunable)
            .map(|e| (e.before.clone(), e.written_values.clone(), e.scenarios.clone()))
            .unwrap()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(entry(&first), ("60".to_owned(), words(&["0"]), words(&["computation"])));
    observed.swappiness = Some("0".to_owned());
    let error = asks(&observed, &first, "desktop", Options::default()).unwrap_err();
    assert!(
        error.message().contains("scenario computation set /proc/sys/vm/swappiness to 0"),
        "{error}"
    );
    let second = asks(&observed, &first, "desktop", replace).unwrap();
    assert_eq!(entry(&second), ("60".to_owned(), words(&["0", "35"]), words(&["desktop"])));
    let again = asks(&observed, &second, "desktop", Options::default()).unwrap();
    assert_eq!(again, second);
}
