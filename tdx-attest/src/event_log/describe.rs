//! Puts the data of events into words.
//!
//! Sources: TCG PC Client Platform Firmware Profile, "Event Types"; UEFI, "Device Path Protocol" and "Load Options".

use common::fields;
use common::text::hex;

use crate::event_log::event_type::EventType;
use crate::event_log::log::LoggedEvent;

/// What an event measured, in words; none if its data is no text and of no known structure.
pub fn text(event: &LoggedEvent<'_>) -> Option<String> {
    structure(event.event_type, event.data).or_else(|| plain(event.data))
}

fn structure(event_type: EventType, data: &[u8]) -> Option<String> {
    match event_type {
        EventType::SEPARATOR if data.len() == 4 => Some(hex(data)),
        EventType::EVENT_TAG => tagged(data),
        EventType::EFI_BOOT_SERVICES_APPLICATION
        | EventType::EFI_BOOT_SERVICES_DRIVER
        | EventType::EFI_RUNTIME_SERVICES_DRIVER => image(data),
        EventType::EFI_GPT_EVENT => partitions(data),
        EventType::EFI_PLATFORM_FIRMWARE_BLOB2 | EventType::EFI_HANDOFF_TABLES2 => labelled(data),
        event_type if event_type.has_variable() => variable(data).map(|v| v.describe()),
        _ => None,
    }
}

/// A UEFI variable in an event's data (`UEFI_VARIABLE_DATA`).
pub(crate) struct Variable<'a> {
    pub(crate) name: String,
    pub(crate) value: &'a [u8],
}

/// The variable in an event's data; none if the sizes in it do not add up to the size of the data.
pub(crate) fn variable(mut data: &[u8]) -> Option<Variable<'_>> {
    let _vendor: [u8; 16] = fields::array(&mut data)?;
    let (name, value) = (fields::u64(&mut data)?, fields::u64(&mut data)?);
    let name = utf16(fields::take(&mut data, usize::try_from(name.checked_mul(2)?).ok()?)?)?;
    (usize::try_from(value) == Ok(data.len())).then_some(Variable { name, value: data })
}

impl Variable<'_> {
    fn describe(&self) -> String {
        let name = &self.name;
        match self.value {
            [] => format!("{name} is not set"),
            [byte] => format!("{name}={byte}"),
            order if name == "BootOrder" => {
                let entries = order.as_chunks::<2>().0.iter().map(|e| u16::from_le_bytes(*e));
                let entries: Vec<String> = entries.map(|entry| format!("{entry:04X}")).collect();
                format!("{name}={}", entries.join(","))
            }
            value => match load_option(value).filter(|_| self.is_boot_option()) {
                Some(option) => format!("{name}={option}"),
                None => format!("{name}, {} bytes", value.len()),
            },
        }
    }

    /// Whether the name is `Boot` and four hexadecimal digits.
    fn is_boot_option(&self) -> bool {
        let number = self.name.strip_prefix("Boot").unwrap_or_default();
        number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// The description in a load option (`EFI_LOAD_OPTION`).
fn load_option(mut option: &[u8]) -> Option<String> {
    let (_attributes, _path_size) = (fields::u32(&mut option)?, fields::u16(&mut option)?);
    utf16_string(option)
}

/// The path of the image in an `UEFI_IMAGE_LOAD_EVENT`; none if the device path names no file.
fn image(mut data: &[u8]) -> Option<String> {
    let [_location, _size, _link_time_address]: [[u8; 8]; 3] =
        [fields::array(&mut data)?, fields::array(&mut data)?, fields::array(&mut data)?];
    let length = usize::try_from(fields::u64(&mut data)?).ok()?;
    let mut path = fields::take(&mut data, length)?;
    let mut parts = Vec::new();
    while let Some([node_type, subtype]) = fields::array(&mut path) {
        let node_size = usize::from(fields::u16(&mut path)?).checked_sub(4)?;
        let node = fields::take(&mut path, node_size)?;
        match (node_type, subtype) {
            // Media: vendor-defined, file path, file of a firmware volume.
            (4, 3) => parts.push(format!("VenMedia({})", guid(node.first_chunk()?))),
            (4, 4) => parts.push(utf16_string(node)?),
            (4, 6) => parts.push(format!("FvFile({})", guid(node.first_chunk()?))),
            _ => {}
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

/// A GUID in its usual form. Source: UEFI, "EFI_GUID".
fn guid(bytes: &[u8; 16]) -> String {
    let [a3, a2, a1, a0, b1, b0, c1, c0, rest @ ..] = *bytes;
    let parts = [&[a0, a1, a2, a3][..], &[b0, b1], &[c0, c1], &rest[..2], &rest[2..]];
    parts.map(hex).join("-")
}

/// The number of partitions in an `UEFI_GPT_DATA`, which begins with a header of 92 bytes.
fn partitions(mut data: &[u8]) -> Option<String> {
    fields::take(&mut data, 92).filter(|header| header.starts_with(b"EFI PART"))?;
    let count = fields::u64(&mut data)?;
    Some(format!("GPT, {count} {}", if count == 1 { "partition" } else { "partitions" }))
}

/// The text of a tagged event (`TCG_PCClientTaggedEvent`).
fn tagged(mut data: &[u8]) -> Option<String> {
    let _id = fields::u32(&mut data)?;
    let text = fields::sized(&mut data)?;
    plain(text).filter(|_| data.is_empty())
}

/// The text at the front of data, after its size in one byte.
fn labelled(mut data: &[u8]) -> Option<String> {
    let [size] = fields::array(&mut data)?;
    plain(fields::take(&mut data, size.into())?)
}

/// Data that is text itself, in UTF-8 or in UTF-16, without the NULs at its end. In UTF-16, only ASCII characters count
/// as text, because most other data of even size is UTF-16 of some characters.
fn plain(data: &[u8]) -> Option<String> {
    let text = |text: &str| {
        let text = text.trim_end_matches('\0');
        let is_text = text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t'));
        (is_text && !text.is_empty()).then(|| text.to_owned())
    };
    let utf8 = str::from_utf8(data).ok().and_then(text);
    utf8.or_else(|| utf16(data).filter(|text| text.is_ascii()).as_deref().and_then(text))
}

/// UTF-16; none for other bytes.
pub(crate) fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    rest.is_empty().then(|| char::decode_utf16(units).collect::<Result<_, _>>().ok())?
}

/// UTF-16 up to its NUL.
fn utf16_string(bytes: &[u8]) -> Option<String> {
    let end = bytes.as_chunks::<2>().0.iter().position(|unit| *unit == [0, 0])?;
    utf16(&bytes[..2 * end])
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
