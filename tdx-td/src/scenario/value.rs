//! The values of settings.

use common::units::Size;
use serde_json::Value;

/// Returns a size as the value of a setting.
pub fn size_value(size: Size) -> Value {
    Value::from(size.0)
}

/// Returns a value for a table or message.
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
