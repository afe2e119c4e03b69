//! The JSON schemas in `docs/schema` equal those of the code. `TDX_UPDATE=1` writes them again.

use std::path::Path;

use common::code;
use common::document::Document;
use common::error::ErrorDocument;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

fn schema<T: JsonSchema>() -> Schema {
    SchemaSettings::default().for_serialize().into_generator().into_root_schema_for::<T>()
}

#[test]
fn the_schemas_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let schemas = [
        ("tdx.attest.measurements", schema::<Document<tdx_attest::measurement::MeasurementItem>>()),
        ("tdx.attest.replay", schema::<Document<tdx_attest::commands::replay::ReplayItem>>()),
        ("tdx.attest.verify", schema::<Document<tdx_attest::check::Check>>()),
        ("tdx.disk.attach", schema::<Document<tdx_disk::attach::item::AttachItem>>()),
        ("tdx.disk.attached", schema::<Document<tdx_disk::commands::attached::AttachedItem>>()),
        ("tdx.disk.check", schema::<Document<tdx_disk::commands::check::CheckItem>>()),
        ("tdx.disk.detach", schema::<Document<tdx_disk::commands::detach::DetachItem>>()),
        ("tdx.disk.disks", schema::<Document<tdx_disk::commands::list::DiskItem>>()),
        ("tdx.error", schema::<ErrorDocument>()),
        ("tdx.gpu.bind", schema::<Document<tdx_gpu::vfio::candidates::BindItem>>()),
        ("tdx.gpu.cc", schema::<Document<tdx_gpu::commands::cc::CcItem>>()),
        ("tdx.gpu.check", schema::<Document<tdx_gpu::commands::check::GpuCheckItem>>()),
        ("tdx.gpu.devices", schema::<Document<tdx_gpu::commands::list::GpuItem>>()),
        ("tdx.gpu.hostdevs", schema::<Document<tdx_gpu::commands::hostdev::HostdevItem>>()),
        ("tdx.gpu.modes", schema::<Document<tdx_gpu::commands::cc::CcItem>>()),
        ("tdx.gpu.unbind", schema::<Document<tdx_gpu::commands::unbind::UnbindItem>>()),
        ("tdx.iommu.check", schema::<Document<tdx_iommu::commands::check::CheckItem>>()),
        ("tdx.iommu.devices", schema::<Document<tdx_iommu::judge::device_item::DeviceItem>>()),
        (
            "tdx.iommu.resolution",
            schema::<Document<tdx_iommu::resolve::resolution::ResolvedItem>>(),
        ),
        ("tdx.iommu.groups", schema::<Document<tdx_iommu::commands::groups::GroupItem>>()),
        ("tdx.pool.cleanup", schema::<Document<tdx_pool::commands::cleanup::CleanupItem>>()),
        ("tdx.pool.delete", schema::<Document<tdx_pool::commands::delete::DeleteItem>>()),
        ("tdx.pool.ensure", schema::<Document<tdx_pool::commands::ensure::EnsureItem>>()),
        ("tdx.pool.import", schema::<Document<tdx_pool::commands::import::ImportItem>>()),
        ("tdx.pool.pools", schema::<Document<tdx_pool::pool::item::PoolItem>>()),
        ("tdx.pool.volumes", schema::<Document<tdx_pool::volume::survey::VolumeItem>>()),
        ("tdx.td.delete", schema::<Document<tdx_td::remove::DeleteItem>>()),
        ("tdx.td.evidence", schema::<Document<tdx_td::evidence::item::EvidenceItem>>()),
        ("tdx.td.firmware", schema::<Document<tdx_td::commands::firmware::FirmwareItem>>()),
        ("tdx.td.host_check", schema::<Document<tdx_td::host::check::item::CheckItem>>()),
        ("tdx.td.host_restore", schema::<Document<tdx_td::commands::host::restore::RestoreItem>>()),
        ("tdx.td.host_tune", schema::<Document<tdx_td::host::tuning::item::TuneItem>>()),
        ("tdx.td.hostdevs", schema::<Document<tdx_td::passthrough::item::HostdevsItem>>()),
        ("tdx.td.domains", schema::<Document<tdx_td::domain::item::DomainItem>>()),
        ("tdx.td.new", schema::<Document<tdx_td::commands::new::NewItem>>()),
        ("tdx.td.overlay", schema::<Document<tdx_td::commands::overlay::OverlayItem>>()),
        ("tdx.td.render", schema::<Document<tdx_td::commands::render::RenderItem>>()),
        ("tdx.td.scenarios", schema::<Document<tdx_td::commands::scenario::list::ScenarioItem>>()),
        ("tdx.td.settings", schema::<Document<tdx_td::scenario::layers::Setting>>()),
        ("tdx.td.start", schema::<Document<tdx_td::domain::power::PowerItem>>()),
        ("tdx.td.stop", schema::<Document<tdx_td::domain::power::PowerItem>>()),
    ];
    for (kind, mut schema) in schemas.clone() {
        schema.insert("title".to_owned(), kind.into());
        let wanted = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = folder.join(format!("{kind}.json"));
        if std::env::var_os("TDX_UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, wanted, "{} is stale: TDX_UPDATE=1 makes it anew", path.display());
    }
    let count = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(count, schemas.len(), "a schema in docs/schema belongs to no kind");
}

#[test]
fn the_page_of_codes_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/codes.md");
    let wanted = code::page() + &tdx_td::host::check::code::page();
    if std::env::var_os("TDX_UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(there, wanted, "{} is stale: TDX_UPDATE=1 makes it anew", path.display());
}

#[test]
fn every_kind_of_document_is_on_its_page() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = std::fs::read_to_string(docs.join("reference/json.md")).unwrap();
    for schema in std::fs::read_dir(docs.join("schema")).unwrap() {
        let name = schema.unwrap().file_name().into_string().unwrap();
        let is_there = page.contains(&format!("](../schema/{name})"));
        assert!(is_there, "docs/reference/json.md has no link to {name}");
    }
}
