//! Computes the values of registers from the digests of events.

use sha2::{Digest as _, Sha384};

use crate::register::Digest;

/// The SHA-384 digest of bytes.
pub fn sha384(bytes: impl AsRef<[u8]>) -> Digest {
    Digest(Sha384::digest(bytes).into())
}

/// The value of a register after it was extended with a digest.
///
/// Source: Intel TDX Module Base specification, TDG.MR.RTMR.EXTEND: SHA-384 over the former value, then the digest.
pub fn extend(value: Digest, digest: Digest) -> Digest {
    Digest(Sha384::new().chain_update(value.0).chain_update(digest.0).finalize().into())
}

/// The value of a register after it was extended with each digest, beginning with `value`.
pub fn replay(value: Digest, digests: impl IntoIterator<Item = Digest>) -> Digest {
    digests.into_iter().fold(value, extend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_without_events_is_zero_and_order_matters() {
        let [a, b] = [sha384("a"), sha384("b")];
        assert_eq!(replay(Digest::ZERO, []), Digest::ZERO);
        assert_eq!(replay(Digest::ZERO, [a, b]), extend(extend(Digest::ZERO, a), b));
        assert_ne!(replay(Digest::ZERO, [a, b]), replay(Digest::ZERO, [b, a]));
        assert_eq!(extend(a, b), sha384([a.0, b.0].concat()));
    }
}
