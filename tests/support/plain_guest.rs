//! Definitions that the tools write, without a host that could run the guests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use clap::{Args, FromArgMatches};
use common::system::sysroot::Host;
use tdx_td::capability::{Security, VirtType};
use tdx_td::commands::args::launch::LaunchArgs;
use tdx_td::create::disk::Disk;
use tdx_td::create::identity::DomainIdentity;
use tdx_td::create::settings::Settings;
use tdx_td::domain::metadata::Metadata;
use tdx_td::domain_xml::builder;
use tdx_td::passthrough::Devices;
use tdx_td::scenario::disk_kind::DiskKind;
use tdx_td::scenario::library::Scenario;
use tdx_td::scenario::resolve::ResolvedSettings;
use tdx_td::security::launch::Launch;

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// The settings of a scenario for an overlay, with this protection.
pub(crate) fn choice(scenario: &str, security: Security) -> ResolvedSettings {
    let host = Host::new("/nonexistent");
    let layers = |name: &str| Scenario::find(&host, name).unwrap().layers(security).unwrap();
    ResolvedSettings::from_layers(
        &layers(scenario),
        &layers("default"),
        security,
        DiskKind::Overlay,
    )
    .unwrap()
}

/// The definition of a guest of a scenario, with this protection and flags of launch security.
pub(crate) fn xml(
    choice: ResolvedSettings,
    security: Security,
    virt_type: VirtType,
    flags: &[&str],
) -> String {
    let command = LaunchArgs::augment_args(clap::Command::new("new"));
    let matches = command.get_matches_from([&["new"], flags].concat());
    let options = LaunchArgs::from_arg_matches(&matches).unwrap().options();
    let settings = Settings {
        launch: Launch::new(security, &options).unwrap(),
        virt_type,
        memory_bytes: choice.profile.guest.memory.map_or(1 << 30, |size| size.0),
        vcpus: choice.profile.guest.vcpus.unwrap_or(1),
        network: "default".to_owned(),
        resolved: choice,
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
    builder::GuestDefinition { settings: &settings, identity: &identity }.to_xml().unwrap()
}
