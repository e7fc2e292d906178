//! Keyframes of H.264 (RFC 6184 section 5) and H.265 (RFC 7798 section 4.4) by NAL unit types.

/// Whether a packet begins a keyframe: it has a sequence parameter set or the start of an IDR
/// slice.
pub(super) fn h264_key(payload: &[u8]) -> bool {
    let is_key = |unit_type: u8| matches!(unit_type, 5 | 7);
    let Some((&first, rest)) = payload.split_first() else {
        return false;
    };
    match first & 0x1f {
        // STAP-A.
        24 => units(rest).any(|unit| unit.first().is_some_and(|header| is_key(header & 0x1f))),
        // FU-A, FU-B: the S bit marks the first fragment.
        28 | 29 => rest
            .first()
            .is_some_and(|fu| fu & 0x80 != 0 && is_key(fu & 0x1f)),
        unit_type => is_key(unit_type),
    }
}

/// Whether a packet begins a keyframe: it has a parameter set or the start of an IRAP slice.
pub(super) fn h265_key(payload: &[u8]) -> bool {
    let is_key = |unit_type: u8| matches!(unit_type, 16..=21 | 32 | 33);
    let Some((&[first, _], rest)) = payload.split_first_chunk::<2>() else {
        return false;
    };
    match first >> 1 & 0x3f {
        // Aggregation packet.
        48 => units(rest).any(|unit| {
            unit.first()
                .is_some_and(|header| is_key(header >> 1 & 0x3f))
        }),
        // Fragmentation unit.
        49 => rest
            .first()
            .is_some_and(|fu| fu & 0x80 != 0 && is_key(fu & 0x3f)),
        unit_type => is_key(unit_type),
    }
}

/// Units of an aggregation packet: 16 bits of size before each.
fn units(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        rest = after;
        Some(unit)
    })
}
