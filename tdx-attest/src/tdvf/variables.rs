//! The store of UEFI variables in a configuration firmware volume (CFV).
//!
//! Source: edk2 `MdeModulePkg/Include/Guid/VariableFormat.h`, and `OvmfPkg/Library/PlatformInitLib/Platform.c`,
//! `PlatformValidateNvVarStore`; UEFI Platform Initialization specification, volume 3, "Firmware Volume Header".

use common::fields;

use crate::tdvf::guid::Guid;

/// The signature of a store of authenticated variables, the only kind that OVMF reads.
const AUTHENTICATED: Guid = Guid::new(0xaaf3_2c78, 0x947b, 0x439a, 0xa180_2e14_4ec3_7792);

/// The size of the store's header. Unit: bytes.
const HEADER: usize = 28;

/// The mark at the start of a variable.
const START: u16 = 0x55aa;

/// The state of a variable that is valid, and that of one which its new value is about to replace.
const ADDED: u8 = 0x3f;
const IN_TRANSITION: u8 = ADDED & 0xfe;

/// The variables in a store.
#[derive(Debug)]
pub struct VariableStore<'a> {
    variables: Vec<Variable<'a>>,
}

#[derive(Debug)]
struct Variable<'a> {
    vendor: Guid,
    /// The name in UTF-16, with a zero at its end.
    name: &'a [u8],
    data: &'a [u8],
    state: u8,
}

impl<'a> VariableStore<'a> {
    /// Reads the store in a CFV.
    ///
    /// Errors: the reason why OVMF would not accept the store.
    pub fn parse(cfv: &'a [u8]) -> Result<Self, String> {
        let mut rest = store(cfv)?;
        let mut variables = Vec::new();
        while rest.first_chunk() == Some(&START.to_le_bytes()) {
            let before = rest.len();
            let number = variables.len();
            let variable = Variable::take(&mut rest);
            variables.push(
                variable.ok_or_else(|| format!("variable {number} of the store is cut off"))?,
            );
            // Variables begin at multiples of 4 bytes.
            let padding = (before - rest.len()).next_multiple_of(4) - (before - rest.len());
            rest = rest.get(padding..).unwrap_or_default();
        }
        match rest.iter().all(|byte| *byte == 0xff) {
            true => Ok(Self { variables }),
            false => Err("the store contains something other than variables".to_owned()),
        }
    }

    /// The data of a variable; none if the store has no valid variable of this vendor and name.
    pub fn get(&self, vendor: Guid, name: &str) -> Option<&'a [u8]> {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let find = |state| {
            let mut variables = self.variables.iter().filter(|variable| variable.state == state);
            variables.find(|variable| variable.vendor == vendor && variable.name == name)
        };
        find(ADDED).or_else(|| find(IN_TRANSITION)).map(|variable| variable.data)
    }
}

impl<'a> Variable<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let _start = fields::u16(bytes)?;
        let [state, _reserved] = fields::array(bytes)?;
        // Attributes, monotonic count, time stamp, index of the public key.
        fields::take(bytes, 4 + 8 + 16 + 4)?;
        let (name, data) = (fields::u32(bytes)?, fields::u32(bytes)?);
        let vendor = Guid(fields::array(bytes)?);
        let name = fields::take(bytes, usize::try_from(name).ok()?)?;
        let data = fields::take(bytes, usize::try_from(data).ok()?)?;
        Some(Self { vendor, name, data, state })
    }
}

/// Returns the part of a CFV that contains the variables.
fn store(cfv: &[u8]) -> Result<&[u8], String> {
    let not_a_volume = "the CFV does not begin with a firmware volume";
    let mut header = cfv.get(40..56).ok_or(not_a_volume)?;
    let signature: Option<[u8; 4]> = fields::array(&mut header);
    if signature != Some(*b"_FVH") {
        return Err(not_a_volume.to_owned());
    }
    let length = header.get(4..6).and_then(|mut length| fields::u16(&mut length));
    let store = length.and_then(|length| cfv.get(usize::from(length)..));
    let store = store.ok_or("the header of the firmware volume is longer than the CFV")?;
    let cut_off = "the CFV is too short for its variable store";
    let mut header = store.get(..HEADER).ok_or(cut_off)?;
    if fields::array(&mut header).map(Guid) != Some(AUTHENTICATED) {
        return Err("the firmware volume has no store of authenticated variables".to_owned());
    }
    let size = fields::u32(&mut header).and_then(|size| usize::try_from(size).ok());
    let variables = size.and_then(|size| store.get(HEADER..size)).ok_or(cut_off)?;
    match fields::u16(&mut header).map(u16::to_le_bytes) {
        Some([0x5a, 0xfe]) => Ok(variables),
        _ => Err("the variable store is not formatted or not healthy".to_owned()),
    }
}
