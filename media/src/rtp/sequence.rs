//! Sequence numbers without wrap-around.

/// Extends a 16-bit sequence number to the value nearest to `reference` (RFC 3711 section 3.3.1).
/// Before zero there is nothing: such numbers stay as they are.
#[must_use]
#[inline]
pub fn extend(reference: u64, seq: u16) -> u64 {
    let distance = seq.wrapping_sub((reference & 0xffff) as u16).cast_signed();
    reference
        .checked_add_signed(i64::from(distance))
        .unwrap_or_else(|| u64::from(seq))
}

/// The 16 bits of an extended sequence number that go on the wire.
#[must_use]
#[inline]
pub fn low16(extended: u64) -> u16 {
    (extended & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_cycle() {
        assert_eq!(extend(0x1_fff0, 5), 0x2_0005);
        assert_eq!(extend(0x2_0005, 0xfff0), 0x1_fff0);
        assert_eq!(extend(3, 0xfff0), 0xfff0);
        assert_eq!(low16(0x2_0005), 5);
    }
}
