//! Definitions as the tools make them, without a host that could run their guests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use clap::{Args, FromArgMatches};
use common::system::sysroot::Host;
use tdx_td::capability::{Security, VirtType};
use tdx_td::create::disk::Disk;
use tdx_td::create::disk_plan::DiskKind;
use tdx_td::create::identity::DomainIdentity;
use tdx_td::create::settings::Settings;
use tdx_td::domain::metadata::Metadata;
use tdx_td::domain_xml::builder;
use tdx_td::passthrough::Devices;
use tdx_td::scenario::library::Scenario;
use tdx_td::scenario::resolve::Choice;
use tdx_td::security::launch::{Launch, LaunchArgs};

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// The scenario's settings for an overlay, protected so.
pub(crate) fn choice(scenario: &str, security: Security) -> Choice {
    let host = Host::new("/nonexistent");
    let layers = |name: &str| Scenario::find(&host, name).unwrap().layers(security).unwrap();
    Choice::settle(&layers(scenario), &layers("default"), security, DiskKind::Overlay).unwrap()
}

/// The definition of a guest of a scenario, protected so, with flags of launch security.
pub(crate) fn xml(
    choice: Choice,
    security: Security,
    virt_type: VirtType,
    flags: &[&str],
) -> String {
    let command = LaunchArgs::augment_args(clap::Command::new("new"));
    let matches = command.get_matches_from([&["new"], flags].concat());
    let settings = Settings {
        launch: Launch::new(security, &LaunchArgs::from_arg_matches(&matches).unwrap()).unwrap(),
        virt_type,
        memory_bytes: choice.profile.guest.memory.map_or(1 << 30, |size| size.0),
        vcpus: choice.profile.guest.vcpus.unwrap_or(1),
        network: "default".to_owned(),
        choice,
        hotplug_ports: 1,
        ssh_port: None,
        passt: false,
        vsock: true,
        warnings: Vec::new(),
    };
    let disk = Disk::Overlay {
        path: "/images/overlay.qcow2".into(),
        base: tdx_pool::volume::overlay::Base {
            path: "/images/base.qcow2".into(),
            format: tdx_pool::image::Format::Qcow2,
            name: "base.qcow2".to_owned(),
            capacity_bytes: 1 << 30,
        },
    };
    let identity = DomainIdentity {
        name: "plain",
        uuid: UUID,
        disk: &disk,
        cdrom: None,
        keep_base_owner: true,
        seed: None,
        devices: &Devices::default(),
        ssh: None,
        metadata: &Metadata::new(UUID, "default", &disk, None, settings.request()),
    };
    builder::Guest { settings: &settings, identity: &identity }.to_xml().unwrap()
}
