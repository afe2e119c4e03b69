//! Fields of binary formats, taken from the front of a byte slice. Numbers are little-endian.

/// Takes `length` bytes; none, and nothing taken, if there are fewer.
pub fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    bytes.split_off(..length)
}

/// Takes `N` bytes; none, and nothing taken, if there are fewer.
pub fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    array_ref(bytes).copied()
}

/// Takes `N` bytes without copying them; none, and nothing taken, if there are fewer.
pub fn array_ref<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head)
}

/// Takes a number of two bytes.
pub fn u16(bytes: &mut &[u8]) -> Option<u16> {
    array(bytes).map(u16::from_le_bytes)
}

/// Takes a number of four bytes.
pub fn u32(bytes: &mut &[u8]) -> Option<u32> {
    array(bytes).map(u32::from_le_bytes)
}

/// Takes a number of eight bytes.
pub fn u64(bytes: &mut &[u8]) -> Option<u64> {
    array(bytes).map(u64::from_le_bytes)
}

/// Takes a size of four bytes, then that many bytes.
pub fn sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = u32(bytes)?;
    take(bytes, usize::try_from(size).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_in_order_and_never_beyond_the_end() {
        let mut bytes: &[u8] = &[1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 7];
        assert_eq!((u16(&mut bytes), u32(&mut bytes)), (Some(1), Some(2)));
        assert_eq!(sized(&mut bytes), Some(&[9][..]));
        assert_eq!((u16(&mut bytes), u64(&mut bytes), take(&mut bytes, 2)), (None, None, None));
        assert_eq!(bytes, [7]);
        let mut bytes: &[u8] = &[255, 255, 255, 255, 1];
        assert_eq!(sized(&mut bytes), None);
    }
}
