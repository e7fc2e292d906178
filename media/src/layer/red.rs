//! Redundant audio (RFC 2198 section 3).

/// The primary block of a RED payload as `(payload type, block)`; `None` when it is malformed.
#[must_use]
pub fn primary_block(payload: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = payload;
    let mut redundant = 0;
    loop {
        let (&first, after) = rest.split_first()?;
        if first & 0x80 == 0 {
            return Some((first, after.get(redundant..)?));
        }
        // 14 bits of timestamp offset, 10 bits of length.
        let (&[_, high, low], after) = after.split_first_chunk::<3>()?;
        redundant += usize::from(u16::from_be_bytes([high & 0x03, low]));
        rest = after;
    }
}
