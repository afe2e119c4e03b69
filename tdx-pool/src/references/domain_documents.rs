//! Reads every definition that libvirt has of every domain.

use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::Document;
use common::{ErrorKind, Result, parallel};
use virt::domain::Domain;
use virt::sys;

/// Calls `visit` with a domain's name and a definition, for all definitions of all domains: the running one, the
/// persistent one, those of snapshots, and that of the saved state. A domain that is deleted during the call is
/// skipped.
///
/// Errors: those of libvirt and of `visit`.
pub(crate) fn visit_all(
    libvirt: &Libvirt,
    mut visit: impl FnMut(&str, &Document) -> Result<()>,
) -> Result<()> {
    let mut visit_each = |read: Result<(String, Vec<Document>)>| {
        let visited = read.and_then(|(name, documents)| {
            documents.iter().try_for_each(|document| visit(&name, document))
        });
        visited.or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    };
    let definitions = parallel::map(list(libvirt, 0)?, parallel::DOMAINS, definitions);
    definitions.into_iter().try_for_each(&mut visit_each)?;
    for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)? {
        visit_each(snapshots(&domain))?;
    }
    for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)? {
        visit_each(saved_state(libvirt, &domain))?;
    }
    Ok(())
}

fn list(libvirt: &Libvirt, flags: u32) -> Result<Vec<Domain>> {
    libvirt.connect().list_all_domains(flags).context("list domains")
}

fn name_of(domain: &Domain) -> Result<String> {
    domain.name().context("read the name of a domain")
}

/// The running definition of a domain, and the persistent definition if it may differ.
fn definitions(domain: Domain) -> Result<(String, Vec<Document>)> {
    let name = name_of(&domain)?;
    let doing = format_args!("read domain '{name}'");
    let mut documents = vec![Document::parse(domain.xml_desc(0).context(doing)?)?];
    if domain.id().is_some() && domain.is_persistent().context(doing)? {
        let next = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?;
        documents.push(Document::parse(next)?);
    }
    Ok((name, documents))
}

fn snapshots(domain: &Domain) -> Result<(String, Vec<Document>)> {
    let name = name_of(domain)?;
    let doing = format_args!("read the snapshots of domain '{name}'");
    let mut documents = Vec::new();
    for snapshot in domain.list_all_snapshots(0).context(doing)? {
        match snapshot.xml_desc(0) {
            Err(error) if is_gone(&error) => {}
            xml => documents.push(Document::parse(xml.context(doing)?)?),
        }
    }
    Ok((name, documents))
}

fn saved_state(libvirt: &Libvirt, domain: &Domain) -> Result<(String, Vec<Document>)> {
    let name = name_of(domain)?;
    let saved = libvirt.managed_save_xml(domain)?.map(Document::parse).transpose()?;
    Ok((name, saved.into_iter().collect()))
}
