//! The item of a register in a document of `tdx-attest measure`.

use std::borrow::Cow;
use std::cmp::Ordering;

use common::document::Item;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::register::Register;
use crate::rtmr0::{Certainty, PredictedEvent};

/// The predicted value of a register.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MeasurementItem {
    /// The register.
    pub register: Register,
    /// The value in hexadecimal digits, in the order of the bytes in a quote; null when it is not predicted.
    pub value: Option<String>,
    /// The values in both page orders, one of which is `value`; null for a register other than MRTD, because only MRTD
    /// depends on the page order.
    pub value_by_page_order: Option<ValueByPageOrder>,
    /// How certain the value is.
    pub certainty: Certainty,
    /// What must be true for the value to be right. An exact value also names the firmware and the page order that it
    /// is for.
    pub assumes: Vec<String>,
    /// The events that are measured into the register, in their order, as far as they are predicted. The register may
    /// have more events. Empty without `--events`.
    pub events: Vec<PredictedEvent>,
}

/// The values of MRTD, in hexadecimal digits: which of them a host computes depends on the host, not on the guest.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ValueByPageOrder {
    /// The value if the host adds each page and then measures it.
    pub page: String,
    /// The value if the host adds all pages of a section and then measures them.
    pub section: String,
}

impl Item for MeasurementItem {
    const COLUMNS: &'static [&'static str] =
        &["REGISTER", "CERTAINTY", "VALUE", "EVENTS", "ASSUMES"];
    const IS_ON_HOST: bool = false;
    const WRAPPED: &'static [&'static str] = &["VALUE", "EVENTS"];
    const BELOW: Option<&'static str> = Some("ASSUMES");

    fn key(&self) -> Cow<'_, str> {
        self.register.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.register.cmp(&other.register)
    }

    fn row(&self) -> Vec<String> {
        let digest = |event: &PredictedEvent| match &event.digest {
            Some(digest) => format!("{} {digest}", event.description),
            None => format!("{} not predicted", event.description),
        };
        vec![
            self.register.to_string(),
            self.certainty.as_str().to_owned(),
            self.value.clone().unwrap_or_default(),
            self.events.iter().map(digest).collect::<Vec<_>>().join("; "),
            self.assumes.join("; "),
        ]
    }
}
