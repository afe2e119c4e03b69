//! Predicts the registers of a trust domain from its definition and firmware.

use std::path::Path;

use common::parallel;
use common::text::hex;

use crate::domain::TrustDomain;
use crate::measurement::item::{MeasurementItem, ValueByPageOrder};
use crate::register::{Digest, Register};
use crate::rtmr0::{Certainty, PredictedEvent, first_events};
use crate::tdvf::{PageOrder, Tdvf};

/// Predicts every register of a trust domain that a host starts with this firmware. `path` names the firmware.
///
/// The values of the RTMRs are not predicted. The item of RTMR0 has its first events.
pub fn predict(
    domain: &TrustDomain,
    firmware: &Tdvf,
    path: &Path,
    order: PageOrder,
) -> Vec<MeasurementItem> {
    let (by_page, (by_section, (sha256, events))) = parallel::both(
        || firmware.mrtd(PageOrder::Page),
        || {
            parallel::both(
                || firmware.mrtd(PageOrder::Section),
                || (firmware.sha256(), first_events(firmware, domain.memory.clone())),
            )
        },
    );
    let raw = raw_assumptions(domain);
    let register = |register, value: &[u8], certainty| MeasurementItem {
        register,
        value: Some(hex(value)),
        value_by_page_order: None,
        certainty: if raw.is_empty() { certainty } else { Certainty::Conditional },
        assumes: raw.clone(),
        events: Vec::new(),
    };
    let exact = |name, Digest(value): Digest| register(name, &value, Certainty::Exact);
    let in_order = match order {
        PageOrder::Page => by_page,
        PageOrder::Section => by_section,
    };
    let mut mrtd = exact(Register::Mrtd, in_order);
    let (page, section) = (by_page.to_string(), by_section.to_string());
    mrtd.value_by_page_order = Some(ValueByPageOrder { page, section });
    mrtd.assumes.extend(basis(&sha256, path, order));
    let attributes = &domain.attributes;
    let certainty =
        if attributes.assumes.is_empty() { Certainty::Exact } else { Certainty::Conditional };
    let mut bits = register(Register::Attributes, &attributes.bits.to_le_bytes(), certainty);
    bits.assumes.extend(attributes.assumes.iter().cloned());
    let assuming =
        |event: PredictedEvent| raw.iter().fold(event, |event, assumed| event.assuming(assumed));
    let rtmr0 = events.into_iter().map(assuming).collect();
    vec![
        mrtd,
        unknown(Register::Rtmr0, rtmr0),
        unknown(Register::Rtmr1, Vec::new()),
        unknown(Register::Rtmr2, Vec::new()),
        unknown(Register::Rtmr3, Vec::new()),
        exact(Register::MrConfigId, domain.owner.mr_config_id),
        exact(Register::MrOwner, domain.owner.mr_owner),
        exact(Register::MrOwnerConfig, domain.owner.mr_owner_config),
        bits,
    ]
}

/// The item of a register whose value is not predicted.
fn unknown(register: Register, events: Vec<PredictedEvent>) -> MeasurementItem {
    let certainty = Certainty::Unknown;
    let assumes = Vec::new();
    MeasurementItem { register, value: None, value_by_page_order: None, certainty, assumes, events }
}

/// What an MRTD is for: the firmware, and the order in which the host adds its pages.
fn basis(sha256: &[u8], path: &Path, order: PageOrder) -> [String; 2] {
    let (sha256, path) = (hex(sha256), path.display());
    let order = match order {
        PageOrder::Page => "the host measures each page after it adds the page",
        PageOrder::Section => "the host measures the pages of a section after it adds all of them",
    };
    [format!("the host loads {path} with SHA-256 {sha256}"), order.to_owned()]
}

/// What the values assume of raw arguments for QEMU, which could change all of them.
fn raw_assumptions(domain: &TrustDomain) -> Vec<String> {
    let assumption = |option: &String| {
        format!("the raw QEMU argument {option} of the domain changes nothing that is measured")
    };
    domain.raw_options.iter().map(assumption).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tdvf::synthetic::Parts;

    fn predicted(inside: &str) -> Vec<MeasurementItem> {
        let xml = format!(
            "<domain><os><type machine='q35'>hvm</type></os><memory unit='GiB'>1</memory>\
             <launchSecurity type='tdx'><policy>0x50000000</policy></launchSecurity>{inside}</domain>"
        );
        let domain = TrustDomain::parse(&xml).unwrap();
        let firmware = Tdvf::parse(Parts::new().build()).unwrap();
        predict(&domain, &firmware, Path::new("/f.fd"), PageOrder::Page)
    }

    #[test]
    fn every_register_has_an_item_and_only_rtmrs_have_no_value() {
        let items = predicted("");
        assert!(items.iter().map(|item| item.register).eq(Register::ALL));
        for item in &items {
            let is_rtmr = item.register.as_str().starts_with("rtmr");
            assert_eq!(item.value.is_none(), is_rtmr, "{item:?}");
            assert_eq!(item.certainty, if is_rtmr { Certainty::Unknown } else { Certainty::Exact });
            assert!(
                item.value.as_ref().is_none_or(|value| value.len() == 2 * item.register.size())
            );
        }
        assert_eq!(items[8].value.as_deref(), Some("0000005000000000"));
        assert_eq!(items[1].events.len(), 7);
    }

    #[test]
    fn raw_arguments_make_all_values_conditional() {
        let items = predicted("<commandline><arg value='-machine'/></commandline>");
        let values = items.iter().filter(|item| item.value.is_some());
        let events = items[1].events.iter().filter(|event| event.digest.is_some());
        let conditional = values
            .map(|item| (item.certainty, &item.assumes))
            .chain(events.map(|event| (event.certainty, &event.assumes)));
        for (certainty, assumes) in conditional {
            assert_eq!(certainty, Certainty::Conditional);
            assert!(assumes[0].contains("-machine"), "{assumes:?}");
        }
    }
}
