use proptest::prelude::*;

use super::cipher::Cipher;
use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

const PROFILES: [Profile; 3] = [
    Profile::AeadAes128Gcm,
    Profile::AeadAes256Gcm,
    Profile::Aes128CmHmacSha1_80,
];

fn pair(profile: Profile) -> (Outbound, Inbound) {
    let material: Vec<u8> = (0..profile.keying_material_len())
        .map(|i| u8::try_from(i * 7 % 256).unwrap())
        .collect();
    let client = SessionKeys::from_keying_material(profile, &material, false).unwrap();
    let server = SessionKeys::from_keying_material(profile, &material, true).unwrap();
    assert_eq!(client.local, server.remote);
    (
        Outbound::new(&client).unwrap(),
        Inbound::new(&server).unwrap(),
    )
}

fn packet(seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96, 0, 0, 0, 0, 0, 1, 0xca, 0xfe, 0xba, 0xbe];
    packet[2..4].copy_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn seal(outbound: &Outbound, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut buffer = packet(rtp_seq(index), payload);
    let len = buffer.len();
    buffer.resize(len + OVERHEAD_MAX, 0);
    let sealed = outbound.seal_rtp(&mut buffer, 12, len, index).unwrap();
    buffer.truncate(sealed);
    buffer
}

fn rtp_seq(index: u64) -> u16 {
    crate::rtp::low16(index)
}

/// RFC 7714 sections 16.1.1 and 16.2.1.
#[test]
fn gcm_rtp_vectors() {
    let plain = hex(
        "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 \
         61727465 73207472 6573",
    );
    let cases = [
        (
            Profile::AeadAes128Gcm,
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f \
             42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        ),
        (
            Profile::AeadAes256Gcm,
            "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 \
             b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
        ),
    ];
    for (profile, expected) in cases {
        let make = || gcm_session(profile);
        let outbound = Outbound::from_ciphers(make(), make(), 0);
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + OVERHEAD_MAX, 0);
        let len = outbound
            .seal_rtp(&mut buffer, 12, plain.len(), 0xf17b)
            .unwrap();
        assert_eq!(buffer[..len], hex(expected));
        let mut apart = plain[..12].to_vec();
        apart.resize(len, 0);
        let sealed = outbound.seal_rtp_from(&mut apart, 12, &plain[12..], 0xf17b);
        assert_eq!((sealed, &apart), (Ok(len), &buffer[..len].to_vec()));
        let mut inbound = Inbound::from_ciphers(make(), make());
        assert_eq!(inbound.open_rtp(&mut buffer[..len]).unwrap(), plain);
    }
}

fn gcm_session(profile: Profile) -> Cipher {
    let key: Vec<u8> = (0..u8::try_from(profile.key_len()).unwrap()).collect();
    let mut salt = [0; 14];
    salt[..12].copy_from_slice(b"Quid pro quo");
    Cipher::from_session(profile, &key, &salt, &[]).unwrap()
}

/// RFC 7714 section 17.1.
#[test]
fn gcm_rtcp_vector() {
    let plain = hex(
        "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef \
         deadbeef deadbeef deadbeef",
    );
    let expected = hex(
        "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda \
         4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
    );
    let make = || gcm_session(Profile::AeadAes128Gcm);
    let mut outbound = Outbound::from_ciphers(make(), make(), 0x5d4);
    let mut buffer = plain.clone();
    buffer.resize(plain.len() + OVERHEAD_MAX, 0);
    let len = outbound.seal_rtcp(&mut buffer, plain.len()).unwrap();
    assert_eq!(buffer[..len], expected);
    let mut inbound = Inbound::from_ciphers(make(), make());
    assert_eq!(inbound.open_rtcp(&mut buffer[..len]).unwrap(), plain);
}

/// RFC 3711 appendix B.2: the key stream itself.
#[test]
fn counter_mode_vector() {
    let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
    let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().unwrap();
    let cipher = Cipher::from_session(Profile::Aes128CmHmacSha1_80, &key, &salt, &[0; 20]).unwrap();
    let Cipher::Cm(cm) = cipher else {
        panic!("counter mode")
    };
    let mut stream = [0; 48];
    cm.crypt(cipher::Position { ssrc: 0, index: 0 }, &mut stream)
        .unwrap();
    assert_eq!(
        stream.to_vec(),
        hex(
            "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB \
             41E95B3BB0A2E8DD477901E4FCA894C0"
        )
    );
}

/// RFC 3711 appendix B.3: derived key, salt and authentication key.
#[test]
fn key_derivation_vectors() {
    let profile = Profile::Aes128CmHmacSha1_80;
    let master = MasterKey::new(
        profile,
        &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
        &hex("0EC675AD498AFEEBB6960B3AABE6"),
    )
    .unwrap();
    let derived = Cipher::derive(profile, &master, cipher::RTP).unwrap();
    let salt: [u8; 14] = hex("30CBBC08863D8C85D49DB34A9AE1").try_into().unwrap();
    let expected = Cipher::from_session(
        profile,
        &hex("C61E7A93744F39EE10734AFE3FF7A087"),
        &salt,
        &hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"),
    )
    .unwrap();
    let plain = packet(1, b"as derived, so given");
    let mut sealed = Vec::new();
    for cipher in [derived, expected] {
        let rtcp = gcm_session(Profile::AeadAes128Gcm);
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + OVERHEAD_MAX, 0);
        let outbound = Outbound::from_ciphers(cipher, rtcp, 0);
        let len = outbound.seal_rtp(&mut buffer, 12, plain.len(), 1).unwrap();
        sealed.push(buffer[..len].to_vec());
    }
    assert_eq!(sealed[0], sealed[1]);
}

#[test]
fn the_rollover_counter_follows_the_sender() {
    for profile in PROFILES {
        let (outbound, mut inbound) = pair(profile);
        // Reordered around two wraps.
        for index in [
            0xfffe, 0x1_0001, 0xffff, 0x1_0000, 0x1_7000, 0x1_e000, 0x2_0003, 0x1_ffff,
        ] {
            let mut sealed = seal(&outbound, index, b"payload");
            let opened = inbound.open_rtp(&mut sealed).unwrap();
            assert_eq!(
                opened,
                packet(rtp_seq(index), b"payload"),
                "{profile:?} {index:x}"
            );
        }
    }
}

#[test]
fn a_replay_is_refused() {
    for profile in PROFILES {
        let (mut outbound, mut inbound) = pair(profile);
        let sealed = seal(&outbound, 5, b"once");
        inbound.open_rtp(&mut sealed.clone()).unwrap();
        assert_eq!(
            inbound.open_rtp(&mut sealed.clone()),
            Err(Error::Replay { index: 5 })
        );
        let mut report = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
        report.resize(8 + OVERHEAD_MAX, 0);
        let len = outbound.seal_rtcp(&mut report, 8).unwrap();
        inbound.open_rtcp(&mut report.clone()[..len]).unwrap();
        assert_eq!(
            inbound.open_rtcp(&mut report[..len]),
            Err(Error::Replay { index: 0 })
        );
    }
}

#[test]
fn key_material_of_the_wrong_length_is_refused() {
    for profile in PROFILES {
        let len = profile.keying_material_len() - 1;
        let refused = SessionKeys::from_keying_material(profile, &vec![0; len], true);
        assert_eq!(refused, Err(Error::KeyLength { len }));
        assert_eq!(Profile::from_id(profile.id()), Some(profile));
    }
}

proptest! {
    #[test]
    fn sealed_packets_open(payload in proptest::collection::vec(any::<u8>(), 0..1300), index in 0u64..0xffff) {
        for profile in PROFILES {
            let (mut outbound, mut inbound) = pair(profile);
            let mut sealed = seal(&outbound, index, &payload);
            prop_assert_eq!(inbound.open_rtp(&mut sealed).unwrap(), &packet(rtp_seq(index), &payload));
            let mut report = packet(0, &payload);
            let len = report.len();
            report.resize(len + OVERHEAD_MAX, 0);
            let sealed = outbound.seal_rtcp(&mut report, len).unwrap();
            prop_assert_eq!(inbound.open_rtcp(&mut report[..sealed]).unwrap(), &packet(0, &payload));
        }
    }

    #[test]
    fn a_changed_bit_is_noticed(bit in 0usize..(12 + 20 + 10) * 8) {
        for profile in PROFILES {
            let (outbound, mut inbound) = pair(profile);
            let mut sealed = seal(&outbound, 3, &[7; 20]);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(inbound.open_rtp(&mut sealed).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        for profile in PROFILES {
            let (_, mut inbound) = pair(profile);
            prop_assert!(inbound.open_rtp(&mut bytes.clone()).is_err());
            prop_assert!(inbound.open_rtcp(&mut bytes.clone()).is_err());
        }
    }
}
