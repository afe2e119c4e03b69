//! The values of settings.

use common::units::Size;
use serde_json::Value;

/// A size as settings have it.
pub fn size_value(size: Size) -> Value {
    Value::from(size.0)
}

/// A value as people write it.
pub fn display_value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(display_value).collect::<Vec<_>>().join(","),
        Value::Object(values) => {
            let pairs = values.iter().map(|(key, value)| format!("{key}={}", display_value(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
