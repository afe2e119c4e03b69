//! The first events of RTMR0: TD HOB, configuration volume, variables of Secure Boot.
//!
//! Source: edk2 `OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c`, `TdxHelperMeasureTdHob` and
//! `TdxHelperMeasureCfvImage`. Between the configuration volume and the variables, edk2 202505 and newer measures
//! files of QEMU's firmware configuration, which are not predicted.

use crate::rtmr0::event::PredictedEvent;
use crate::rtmr0::ram::GuestMemory;
use crate::rtmr0::{secure_boot, td_hob};
use crate::tdvf::{SectionKind, Tdvf, VariableStore};

/// Predicts the events of OVMF in a guest with this memory, or with a memory that is unknown for this reason.
pub fn first_events(firmware: &Tdvf, memory: Result<GuestMemory, String>) -> Vec<PredictedEvent> {
    let list = memory.and_then(|memory| td_hob::measured(firmware.sections(), memory));
    let hob = event("TD HOB", list.as_deref());
    let volume = volume(firmware);
    let volume_event = event("configuration firmware volume (CFV)", volume.as_deref());
    let store = volume.and_then(VariableStore::parse);
    [hob, volume_event].into_iter().chain(secure_boot::events(store.as_ref())).collect()
}

fn event(description: &str, bytes: Result<&[u8], &String>) -> PredictedEvent {
    match bytes {
        Ok(bytes) => PredictedEvent::exact(description, bytes),
        Err(why) => PredictedEvent::unknown(description, why),
    }
}

/// The content of the only configuration volume.
fn volume(firmware: &Tdvf) -> Result<&[u8], String> {
    let mut volumes = firmware.sections().iter().filter(|section| section.kind == SectionKind::Cfv);
    match (volumes.next(), volumes.next()) {
        (Some(volume), None) => Ok(firmware.content(volume)),
        (None, _) => Err("the firmware has no CFV".to_owned()),
        (Some(_), Some(_)) => Err("the firmware has more than one CFV".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmr0::event::Certainty;
    use crate::tdvf::synthetic::{Parts, Section};

    fn predicted(parts: &Parts, memory: u64) -> Vec<PredictedEvent> {
        first_events(&Tdvf::parse(parts.build()).unwrap(), Ok(GuestMemory(memory)))
    }

    /// The digests are those of logs of real trust domains: of dstack and of confidential-containers. Both ran OVMF,
    /// whose areas those of the synthetic image are.
    #[test]
    fn the_td_hob_has_the_digest_of_real_logs() {
        for (memory, digest) in [
            (64 << 30, "8ae1e425351df7992c444586eff99d35af3b779aa2b0e981cb4b73bc5b279f2a"),
            (10 << 30, "05dc148f05a035080b22372d049c35ef8026005051"),
        ] {
            let events = predicted(&Parts::new(), memory);
            assert!(events[0].digest.as_deref().unwrap().starts_with(digest), "{events:?}");
            assert_eq!(
                (&*events[0].description, events[0].certainty),
                ("TD HOB", Certainty::Exact)
            );
        }
    }

    #[test]
    fn events_that_cannot_be_predicted_say_why() {
        let reason = |events: &[PredictedEvent], at: usize| events[at].reason.clone().unwrap();
        let image = Tdvf::parse(Parts::new().build()).unwrap();
        let events = first_events(&image, Err("no memory".to_owned()));
        assert_eq!(reason(&events, 0), "no memory");
        let without = |kind| {
            let mut parts = Parts::new();
            parts.sections.retain(|section: &Section| section.kind != kind);
            let count = u32::try_from(parts.sections.len()).unwrap();
            parts.descriptor = (*b"TDVF", 16 + 32 * count, 1, count);
            predicted(&parts, 1 << 30)
        };
        assert_eq!(reason(&without(2), 0), "the firmware has no section for the TD HOB");
        let events = without(1);
        for at in 1..events.len() {
            assert_eq!(reason(&events, at), "the firmware has no CFV");
        }
        let small = predicted(&Parts::new(), 8 << 20);
        assert!(reason(&small, 0).starts_with("the memory of the guest does not contain"));
    }
}
