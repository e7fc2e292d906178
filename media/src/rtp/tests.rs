use proptest::prelude::*;

use super::*;

#[test]
fn reads_csrcs_extension_and_padding() {
    // V=2 P=1 X=1 CC=1, M=1 PT=96, seq 0x1234, ts 1, ssrc 2, one CSRC, one-byte block of one word.
    let packet = [
        0xb1, 0xe0, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9, 0xbe, 0xde, 0, 1, 0x31, 7, 8,
        0, 0xaa, 0xbb, 0, 2,
    ];
    let view = View::parse(&packet).unwrap();
    assert_eq!(view.header.seq, 0x1234);
    assert_eq!(view.header.payload_type, 96);
    assert!(view.header.marker);
    assert_eq!(view.payload(), [0xaa, 0xbb]);
    assert_eq!(view.padding(), 2);
    assert_eq!(view.extensions().collect::<Vec<_>>(), [(3, &[7, 8][..])]);
}

#[test]
fn refuses_truncation_version_and_padding() {
    assert_eq!(
        View::parse(&[0x80; 5]).unwrap_err(),
        Error::Truncated { len: 5 }
    );
    assert_eq!(
        View::parse(&[0x40; 12]).unwrap_err(),
        Error::Version { version: 1 }
    );
    let mut padded = [0u8; 13];
    padded[0] = 0xa0;
    padded[12] = 2;
    assert_eq!(
        View::parse(&padded).unwrap_err(),
        Error::Padding { padding: 2 }
    );
}

#[test]
fn second_byte_tells_rtcp_from_rtp() {
    assert!(is_rtcp(&[0x80, 200]));
    assert!(!is_rtcp(&[0x80, 0xe0]));
    assert!(!is_rtcp(&[0x80]));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(view) = View::parse(&bytes) {
            let total: usize = view.extensions().map(|(_, value)| value.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn writes_what_it_reads(
        marker in any::<bool>(),
        payload_type in 0u8..128,
        seq in any::<u16>(),
        timestamp in any::<u32>(),
        ssrc in any::<u32>(),
        two_byte in any::<bool>(),
        values in proptest::collection::vec((1u8..15, proptest::collection::vec(any::<u8>(), 1..17)), 0..6),
    ) {
        let header = Header { marker, payload_type, seq, timestamp, ssrc };
        let form = if two_byte { Form::TwoByte } else { Form::OneByte };
        let mut out = [0u8; 256];
        let mut writer = Writer::new(&mut out, &header, form).unwrap();
        for (id, value) in &values {
            writer.extension(*id, value).unwrap();
        }
        let len = writer.finish().unwrap();
        out[len] = 0x55;
        let view = View::parse(&out[..=len]).unwrap();
        prop_assert_eq!(view.header, header);
        prop_assert_eq!(view.payload(), &[0x55]);
        let read: Vec<_> = view.extensions().map(|(id, value)| (id, value.to_vec())).collect();
        prop_assert_eq!(read, values);
    }
}
