//! Files as ffmpeg writes them, and what comes out of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

fn clip(frames: usize, key_every: usize) -> Clip {
    let layer = |width: u16| Layer {
        width,
        height: width / 2,
        frames: (0..frames)
            .map(|at| Frame {
                bytes: vec![u8::try_from(at).unwrap(); 10].into(),
                key: at.is_multiple_of(key_every),
            })
            .collect(),
    };
    Clip {
        codec: Codec::Vp8,
        frames_per_second: 10,
        layers: vec![layer(320), layer(640)],
        temporal: &[0, 2, 1, 2],
    }
}

fn ivf(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = b"DKIF\0\0\x20\0VP80".to_vec();
    file.extend_from_slice(&[0x40, 1, 180, 0, 15, 0, 0, 0, 1, 0, 0, 0]);
    file.resize(32, 0);
    for frame in frames {
        file.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(frame);
    }
    file
}

#[test]
fn ivf_gives_frames() {
    let path = Path::new("a.ivf");
    let file = ivf(&[&[0x10, 1, 2], &[0x11]]);
    let parsed = ivf::parse(path, &file).unwrap();
    assert_eq!((parsed.codec, parsed.frames_per_second), (Codec::Vp8, 15));
    assert_eq!((parsed.layer.width, parsed.layer.height), (320, 180));
    let keys: Vec<bool> = parsed.layer.frames.iter().map(|frame| frame.key).collect();
    assert_eq!(keys, [true, false]);
    assert!(ivf::parse(path, &file[..file.len() - 1]).is_err());
    assert!(ivf::parse(path, b"RIFF").is_err());
}

#[test]
fn opus_comes_out_of_pages() {
    let page = |lacing: &[u8], body: &[u8]| {
        let mut page = b"OggS".to_vec();
        page.resize(26, 0);
        page.push(u8::try_from(lacing.len()).unwrap());
        [page.as_slice(), lacing, body].concat()
    };
    // A packet of 256 bytes that goes on over two pages, then one of 2.
    let toc = 0x78;
    let mut long = vec![toc; 255];
    let mut file = page(&[8], b"OpusHead");
    file.extend(page(&[8], b"OpusTags"));
    file.extend(page(&[255], &long));
    file.extend(page(&[1, 2], &[toc, toc, 9]));
    long.push(toc);
    let opus = OpusFile::parse(&file).unwrap();
    assert_eq!(opus.packets, [Bytes::from(long), Bytes::from(vec![toc, 9])]);
    assert!(OpusFile::parse(&page(&[8], b"OpusHead")).is_err());
    assert!(OpusFile::parse(&file[..60]).is_err());
}

#[test]
fn layers_must_fit_together() {
    assert!(clip(16, 8).checked().is_ok());
    assert!(
        clip(18, 8).checked().is_err(),
        "half a temporal period at the end"
    );
    assert!(
        clip(16, 6).checked().is_err(),
        "a keyframe on an upper temporal layer"
    );
    let mut uneven = clip(16, 8);
    uneven.layers[1].frames[8].key = false;
    assert!(uneven.checked().is_err());
    let mut late = clip(16, 8);
    late.layers.truncate(1);
    late.layers[0].frames[0].key = false;
    assert!(late.checked().is_err());
}

#[test]
fn a_player_loops_without_a_gap() {
    let start = Instant::now();
    let mut player = Player::new(Arc::new(clip(16, 8)), start);
    let mut ids = Vec::new();
    for _ in 0..40 {
        let mut out = Vec::new();
        let due = player.due();
        player.next_frame(due, &mut out);
        assert_eq!(
            out.iter().map(|(layer, _)| *layer).collect::<Vec<_>>(),
            [0, 1]
        );
        let (_, payload) = &out[0];
        ids.push((payload.timestamp, payload.bytes[3], payload.bytes[6]));
    }
    let expected: Vec<_> = (0..40)
        .map(|at: u8| (u32::from(at) * 9000, at, at % 16))
        .collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_keyframe_request_jumps_ahead_on_all_layers() {
    let start = Instant::now();
    let mut player = Player::new(Arc::new(clip(16, 8)), start);
    let mut next = || {
        let mut out = Vec::new();
        player.next_frame(start, &mut out);
        player.request_keyframe();
        out.iter()
            .map(|(_, payload)| payload.bytes[6])
            .collect::<Vec<_>>()
    };
    assert_eq!(next(), [0, 0]);
    assert_eq!(next(), [8, 8]);
    assert_eq!(next(), [0, 0], "the end of the clip leads to its start");
}

#[test]
fn a_layer_comes_back_with_a_keyframe() {
    let start = Instant::now();
    let mut player = Player::new(Arc::new(clip(16, 8)), start);
    let next = |player: &mut Player| {
        let mut out = Vec::new();
        player.next_frame(start, &mut out);
        out.into_iter()
            .map(|(layer, payload)| (layer, payload.bytes[6]))
            .collect::<Vec<_>>()
    };
    player.set_active(1, false);
    assert_eq!(next(&mut player), [(0, 0)]);
    assert_eq!(next(&mut player), [(0, 1)]);
    player.set_active(1, true);
    assert_eq!(next(&mut player), [(0, 8), (1, 8)]);
}

#[test]
fn a_schedule_catches_up_a_little_and_skips_the_rest() {
    let start = Instant::now();
    let interval = Duration::from_millis(100);
    let mut schedule = Schedule::new(start, interval);
    assert_eq!(schedule.take(start), 0);
    assert_eq!(schedule.take(start + interval * 4), 1);
    assert_eq!(schedule.due(), start + interval * 2);
    assert_eq!(schedule.take(start + interval * 9), 9);
    assert_eq!(schedule.due(), start + interval * 10);
}

#[test]
fn the_first_frame_of_a_temporal_layer_after_one_of_the_base_layer_is_a_sync_point() {
    let start = Instant::now();
    let mut player = Player::new(Arc::new(clip(16, 8)), start);
    let next = |player: &mut Player| {
        let mut out = Vec::new();
        player.next_frame(start, &mut out);
        // TL0PICIDX, then TID and Y.
        (out[0].1.bytes[4], out[0].1.bytes[5] >> 5)
    };
    let seen: Vec<_> = (0..9).map(|_| next(&mut player)).collect();
    let (plain, sync) = (|tid: u8| tid << 1, |tid: u8| tid << 1 | 1);
    let expected = [
        (1, plain(0)),
        (1, sync(2)),
        (1, sync(1)),
        (1, plain(2)),
        (2, plain(0)),
        (2, sync(2)),
        (2, sync(1)),
        (2, plain(2)),
        (3, plain(0)),
    ];
    assert_eq!(seen, expected);
}
