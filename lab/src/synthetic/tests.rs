//! What an SFU will read out of synthetic media.

use super::*;

#[test]
fn a_stamp_survives_its_payload() {
    let stamp = Stamp {
        source: 7,
        counter: 1 << 40,
        sent_ns: 123_456_789,
    };
    let mut payload = vec![0; 100];
    stamp.write(&mut payload);
    assert_eq!(Stamp::read(&payload), Some(stamp));
    assert_eq!(Stamp::read(&payload[..99]), None);
    assert_eq!(Stamp::read(&[]), None);
    Stamp { ..stamp }.write(&mut [0; 8]);
}

#[test]
fn the_stream_starts_with_a_keyframe_and_gives_one_on_request() {
    let mut video = Video::new(VideoConfig::default());
    let mut frame = Vec::new();
    assert!(video.next_frame(&mut frame));
    let first = &frame[0].bytes;
    assert_eq!(first[0], 0x90, "X and S, partition 0");
    assert_eq!(first[6] & 1, 0, "P bit of a keyframe");
    assert_eq!(first[9..12], [0x9d, 0x01, 0x2a]);
    assert_eq!(u16::from_le_bytes([first[12], first[13]]), 1280);
    assert_eq!(u16::from_le_bytes([first[14], first[15]]), 720);
    assert!(!video.next_frame(&mut frame));
    assert_eq!(frame[0].bytes[6] & 1, 1);
    video.request_keyframe();
    assert!(video.next_frame(&mut frame));
}

#[test]
fn rate_and_packet_sizes_are_those_of_an_encoder() {
    let mut video = Video::new(VideoConfig::default());
    let mut frame = Vec::new();
    let (mut bytes, mut packets) = (0, 0);
    for index in 0..900_u32 {
        video.next_frame(&mut frame);
        assert!(frame.iter().all(|packet| packet.bytes.len() <= 1150));
        assert_eq!(frame.iter().filter(|packet| packet.marker).count(), 1);
        assert!(frame.last().unwrap().marker);
        assert!(frame.iter().all(|packet| packet.timestamp == index * 3000));
        let sizes = || frame.iter().map(|packet| packet.bytes.len());
        assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
        bytes += sizes().sum::<usize>();
        packets += frame.len();
    }
    let rate = bytes as f64 * 8.0 / 30.0;
    assert!((1.9e6..2.1e6).contains(&rate), "{rate} bit/s");
    assert!((6000..8500).contains(&packets), "{packets} packets in 30 s");
}

#[test]
fn picture_ids_count_frames_in_fifteen_bits() {
    let mut video = Video::new(VideoConfig {
        bitrate_bps: 100_000,
        ..VideoConfig::default()
    });
    let mut frame = Vec::new();
    for index in 0..40_000_u32 {
        video.next_frame(&mut frame);
        let id = u16::from_be_bytes([frame[0].bytes[2], frame[0].bytes[3]]);
        assert_eq!(id, 0x8000 | u16::try_from(index & 0x7fff).unwrap());
        assert_eq!(frame[0].bytes[4], (index & 0xff) as u8);
    }
}

#[test]
fn audio_is_fifty_packets_per_second_of_one_size() {
    let mut audio = Audio::default();
    let (a, b) = (audio.next_packet(), audio.next_packet());
    assert_eq!(b.timestamp - a.timestamp, 960);
    assert_eq!((a.bytes.len(), b.bytes.len()), (80, 80));
    assert!(a.marker && !b.marker);
}
