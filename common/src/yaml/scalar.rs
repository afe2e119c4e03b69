//! What plain scalars mean where no type says that they are text.

/// A scalar without quotes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    /// Reads one.
    ///
    /// Source: YAML 1.2.2, 10.3.2, without what JSON has no number for; YAML 1.1's words for booleans. Digits
    /// after a zero are text, since they are octal to some and decimal to others.
    pub(super) fn of(text: String) -> Self {
        if is_null(&text) {
            return Self::Null;
        }
        if let Some(word) = boolean(&text) {
            return Self::Bool(word);
        }
        integer(&text).or_else(|| float(&text)).unwrap_or(Self::Text(text))
    }
}

/// Whether nothing is said.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// What a word of YAML 1.1 for a boolean says, in whatever case: `yes`, `True`, `on`; none for other text.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" => Some(true),
        "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<Scalar> {
    let radix = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix)?;
        let plain = digits.chars().all(|c| c.is_digit(radix));
        u64::from_str_radix(digits, radix).ok().filter(|_| plain).map(Scalar::Unsigned)
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Some(number);
    }
    if is_ambiguous(text) {
        return None;
    }
    text.parse().map(Scalar::Unsigned).or_else(|_| text.parse().map(Scalar::Signed)).ok()
}

fn float(text: &str) -> Option<Scalar> {
    let numeric = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let digit = text.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
    if !digit || !text.chars().all(numeric) || is_ambiguous(text) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Float)
}

/// Whether more digits follow a zero that comes first.
fn is_ambiguous(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.strip_prefix('0').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
