//! The variables of Secure Boot, which the firmware measures one by one.
//!
//! Source: edk2 `OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`, `MeasureAllSecureVariables`;
//! `SecurityPkg/Library/AuthVariableLib/AuthVariableLib.c`; TCG PC Client Platform Firmware Profile,
//! UEFI_VARIABLE_DATA.

use crate::rtmr0::event::PredictedEvent;
use crate::tdvf::{Guid, VariableStore};

/// The vendor of `SecureBoot`, `PK` and `KEK`.
const GLOBAL: Guid = Guid::new(0x8be4_df61, 0x93ca, 0x11d2, 0xaa0d_00e0_9803_2b8c);
/// The vendor of `db`, `dbx` and `dbt`.
const SECURITY: Guid = Guid::new(0xd719_b2cb, 0x3d3a, 0x4596, 0xa3bc_dad0_0e67_656f);
/// The vendor of `SecureBootEnable`.
const ENABLE: Guid = Guid::new(0xf0a3_0bc7, 0xaf08, 0x4556, 0x99c4_0010_09c9_3a44);

const SUPPORT: &str = "the firmware was built with support for Secure Boot";

/// The variables that the firmware measures even if they are absent, in this order, after `SecureBoot`.
const VARIABLES: [(Guid, &str); 4] =
    [(GLOBAL, "PK"), (GLOBAL, "KEK"), (SECURITY, "db"), (SECURITY, "dbx")];

/// The variable that the firmware measures last, and only if it exists.
const LAST: (Guid, &str) = (SECURITY, "dbt");

/// The events of the variables in a store, or in a store that could not be read for this reason.
pub(super) fn events(store: Result<&VariableStore<'_>, &String>) -> Vec<PredictedEvent> {
    let store = match store {
        Ok(store) => store,
        Err(why) => {
            let names = ["SecureBoot"].into_iter().chain(VARIABLES.map(|(_, name)| name));
            return names.map(|name| unknown(name, why)).collect();
        }
    };
    let is_enrolled = store.get(GLOBAL, "PK").is_some();
    let stored = |(vendor, name)| {
        let event = event(vendor, name, store.get(vendor, name)?);
        // Firmware without support for Secure Boot ignores the store. Only firmware with support has a PK in it.
        Some(if is_enrolled { event } else { event.assuming(SUPPORT) })
    };
    let mut events = vec![secure_boot(store, is_enrolled)];
    // An absent variable is measured as an empty one.
    events.extend(
        VARIABLES.map(|(vendor, name)| {
            stored((vendor, name)).unwrap_or_else(|| event(vendor, name, &[]))
        }),
    );
    events.extend(stored(LAST));
    events
}

/// The event of `SecureBoot`, which the firmware sets at each start.
fn secure_boot(store: &VariableStore<'_>, is_enrolled: bool) -> PredictedEvent {
    if !is_enrolled {
        let reason = "without a platform key (PK), the variable is 0, or absent if the firmware was built without \
                      support for Secure Boot";
        return unknown("SecureBoot", reason);
    }
    let is_on = store.get(ENABLE, "SecureBootEnable").is_none_or(|data| data.first() == Some(&1));
    event(GLOBAL, "SecureBoot", &[u8::from(is_on)])
}

/// The event of a variable with this data.
fn event(vendor: Guid, name: &str, data: &[u8]) -> PredictedEvent {
    let characters: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [characters.len() as u64 / 2, data.len() as u64].map(u64::to_le_bytes);
    let bytes = [&vendor.0[..], &lengths.concat(), &characters, data].concat();
    PredictedEvent::exact(description(name), &bytes).of_variable(name)
}

/// The event of a variable that is not predicted, for this reason.
fn unknown(name: &str, reason: &str) -> PredictedEvent {
    PredictedEvent::unknown(description(name), reason).of_variable(name)
}

fn description(name: &str) -> String {
    format!("variable {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmr0::event::Certainty;
    use crate::tdvf::synthetic::{CFV, ENABLE as SWITCH, GLOBAL as PLATFORM, Parts, Variable};

    /// The digests of the events in logs of real trust domains, by their first 8 digits: of confidential-containers
    /// (SecureBoot is 1), of Container-Optimized OS (0), and of dstack (no variables).
    const IS_1: &str = "2cded0c6";
    const IS_0: &str = "cfa4e2c6";
    const ABSENT: [&str; 4] = ["6f2e3cbc", "d607c0ef", "08a74f89", "18cc6e01"];

    fn predicted(variables: Vec<Variable>) -> Vec<PredictedEvent> {
        let image = Parts { variables, ..Parts::new() }.build();
        events(VariableStore::parse(&image[..CFV]).as_ref())
    }

    fn digest(event: &PredictedEvent) -> &str {
        &event.digest.as_deref().unwrap_or("-none-none")[..8]
    }

    fn pk() -> Variable {
        (PLATFORM, "PK", 0x3f, vec![1, 2, 3])
    }

    #[test]
    fn absent_variables_have_the_digests_of_a_real_log() {
        let events = predicted(Vec::new());
        assert_eq!(events[1..].iter().map(digest).collect::<Vec<_>>(), ABSENT);
        assert_eq!(
            (events[0].certainty, events[1].certainty),
            (Certainty::Unknown, Certainty::Exact)
        );
    }

    #[test]
    fn secure_boot_is_on_with_a_platform_key_unless_it_was_disabled() {
        let switch = |value| (SWITCH, "SecureBootEnable", 0x3f, vec![value]);
        for (variables, expected) in [
            (vec![pk()], IS_1),
            (vec![switch(1), pk()], IS_1),
            (vec![pk(), switch(0)], IS_0),
            (vec![switch(1)], "-none-no"),
        ] {
            assert_eq!(digest(&predicted(variables.clone())[0]), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_valid_value_of_a_variable_is_measured() {
        let value = |state, data: u8| (PLATFORM, "PK", state, vec![data]);
        let expected = predicted(vec![value(0x3f, 1)]);
        for before in [value(0x3e, 2), value(0x3c, 2), value(0x3d, 2), value(0x7f, 2)] {
            let events = predicted(vec![before, value(0x3f, 1)]);
            assert_eq!(digest(&events[1]), digest(&expected[1]));
        }
        let transition = predicted(vec![value(0x3e, 1)]);
        assert_eq!(digest(&transition[1]), digest(&expected[1]));
        let deleted = predicted(vec![value(0x3c, 1)]);
        assert_eq!(digest(&deleted[1]), ABSENT[0]);
        let other =
            predicted(vec![(SWITCH, "PK", 0x3f, vec![1]), (PLATFORM, "PKx", 0x3f, vec![1])]);
        assert_eq!(digest(&other[1]), ABSENT[0]);
    }

    #[test]
    fn dbt_is_measured_only_where_it_exists() {
        use crate::tdvf::synthetic::SECURITY as VENDOR;
        let names = |variables| -> Vec<String> {
            predicted(variables).into_iter().map(|event| event.description).collect()
        };
        assert_eq!(names(vec![pk()]).len(), 5);
        assert_eq!(names(vec![(VENDOR, "dbt", 0x3f, vec![0])])[5], "variable dbt");
    }

    #[test]
    fn variables_without_a_platform_key_assume_support_for_secure_boot() {
        let events = predicted(vec![(PLATFORM, "KEK", 0x3f, vec![9])]);
        assert_eq!(
            (events[2].certainty, &events[2].assumes[..]),
            (Certainty::Conditional, &[SUPPORT.to_owned()][..])
        );
        assert_eq!(events[1].certainty, Certainty::Exact);
    }
}
