use media::router::ExtensionIds;
use proptest::prelude::*;

use super::*;

/// First offer of a single-connection client: 3 + 3 receiving sections and data (Chromium 156).
const CHROMIUM_JOIN: &str = include_str!("fixtures/chromium-join.sdp");
/// Microphone, camera with three simulcast streams, data (Chromium 156).
const CHROMIUM_PUBLISH: &str = include_str!("fixtures/chromium-publish.sdp");
/// In the manner of Firefox: credentials and fingerprint at session level, restricted extensions, wildcard feedback.
const FIREFOX_PUBLISH: &str = include_str!("fixtures/firefox-publish.sdp");

fn local() -> LocalTransport {
    LocalTransport {
        ufrag: "edge".to_owned(),
        pwd: "0123456789abcdefghijkl".to_owned(),
        fingerprint: "sha-256 AA:BB".to_owned(),
        candidates: vec!["1 1 udp 2130706431 127.0.0.1 7882 typ host".to_owned()],
    }
}

fn camera() -> SendParameters {
    SendParameters {
        stream: "PA_a|camera".to_owned(),
        track: "TR_v".to_owned(),
        ssrc: 1000,
        rtx_ssrc: Some(1001),
        cname: "PA_a".to_owned(),
    }
}

fn answer(offer: &str) -> Description {
    Description::answer_to(&parse(offer).unwrap(), &local())
}

fn names(media: &Media) -> Vec<(u8, &str, Option<u8>)> {
    media
        .codecs
        .iter()
        .map(|c| (c.pt, c.name.as_str(), c.rtx))
        .collect()
}

/// A one-section offer with these lines in it.
fn audio_offer(lines: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n{lines}"
    )
}

#[test]
fn reads_a_chromium_publisher() {
    let offer = parse(CHROMIUM_PUBLISH).unwrap();
    assert_eq!(offer.origin.session_version, 2);
    assert_eq!(offer.bundle, ["0", "1", "2"]);
    assert!(offer.extmap_allow_mixed && !offer.ice_lite);
    let transport = offer.transport().unwrap();
    assert_eq!(transport.ufrag.as_deref(), Some("09pb"));
    assert_eq!(transport.setup, Some(Setup::ActPass));
    assert!(
        transport
            .fingerprints
            .iter()
            .all(|f| f.starts_with("sha-256 A7:BF"))
    );

    let [audio, video, data] = offer.media.as_slice() else {
        panic!("three sections")
    };
    assert_eq!(
        (audio.kind, audio.direction),
        (MediaKind::Audio, Direction::SendOnly)
    );
    assert_eq!(audio.ssrcs.len(), 1);
    assert_eq!(audio.ssrcs[0].ssrc, 3_454_295_283);
    assert_eq!(audio.ssrcs[0].cname, "5MGuhVYZaQmNpwzX");
    assert_eq!(
        audio.msid.as_ref().unwrap().1,
        "a19909f6-8069-4af1-b509-dd23434499ad"
    );
    assert_eq!(video.rids_send, ["q", "h", "f"]);
    assert_eq!(video.simulcast_send, ["q", "h", "f"]);
    assert_eq!(video.codec(97).unwrap().name, "VP8");
    assert!(
        video
            .codecs
            .iter()
            .all(|c| !c.name.eq_ignore_ascii_case("rtx"))
    );
    assert!(data.is_data());
    assert_eq!(
        (data.sctp_port, data.max_message_size),
        (Some(5000), Some(262_144))
    );
}

#[test]
fn answers_a_chromium_publisher() {
    let answer = answer(CHROMIUM_PUBLISH);
    let [audio, video, data] = answer.media.as_slice() else {
        panic!("three sections")
    };
    assert_eq!(
        names(audio),
        [
            (111, "opus", None),
            (63, "red", None),
            (0, "PCMU", None),
            (8, "PCMA", None)
        ]
    );
    assert_eq!(
        names(video),
        [
            (96, "VP8", Some(97)),
            (102, "H264", Some(103)),
            (108, "H264", Some(109)),
            (116, "H264", Some(117)),
            (45, "AV1", Some(46)),
            (98, "VP9", Some(99)),
            (100, "VP9", Some(101)),
        ]
    );
    assert_eq!(
        (audio.direction, video.direction),
        (Direction::RecvOnly, Direction::RecvOnly)
    );
    assert!(!data.rejected);
    let text = answer.to_sdp();
    for line in [
        "a=ice-lite",
        "a=group:BUNDLE 0 1 2",
        "a=setup:passive",
        "a=rid:q recv",
        "a=simulcast:recv q;h;f",
        "a=fmtp:63 111/111",
        "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f",
        "a=sctp-port:5000",
        "a=end-of-candidates",
        "a=extmap:12 https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
    assert!(!text.contains("toffset") && !text.contains("ulpfec"));
    assert_eq!(text.matches("a=candidate:").count(), 1);
    assert_eq!(text.matches("a=ice-ufrag:edge\r\n").count(), 3);
}

#[test]
fn placeholders_accept_simulcast_extensions_for_later() {
    let offer = parse(CHROMIUM_JOIN).unwrap();
    let answer = Description::answer_to(&offer, &local());
    assert_eq!(answer.media.len(), 7);
    let videos = answer.media.iter().filter(|m| m.kind == MediaKind::Video);
    for video in videos.clone() {
        assert_eq!(video.direction, Direction::Inactive);
        let ids = extension_ids(video);
        assert!(ids.rid.is_some() && ids.repaired_rid.is_some() && ids.mid.is_some());
        assert!(ids.transport_cc.is_some());
        assert!(video.rids_recv.is_empty() && video.simulcast_recv.is_empty());
    }
    assert_eq!(videos.count(), 3);
    assert_eq!(
        offer.receive_extension_ids().rid,
        extension_ids(&offer.media[4]).rid
    );
}

#[test]
fn reads_and_answers_firefox() {
    let offer = parse(FIREFOX_PUBLISH).unwrap();
    let [audio, video, _] = offer.media.as_slice() else {
        panic!("three sections")
    };
    assert!(audio.transport.fingerprints[0].starts_with("sha-256 0F:1E"));
    assert_eq!(video.simulcast_send, ["f", "q"]);
    assert_eq!(video.ssrcs.len(), 1);
    assert_eq!(video.ssrcs[0].rtx, Some(4_047_551_021));
    assert!(video.codec(121).unwrap().has_feedback("nack"));

    let mut answer = Description::answer_to(&offer, &local());
    let video = &answer.media[1];
    assert_eq!(
        names(video),
        [
            (120, "VP8", Some(124)),
            (121, "VP9", Some(125)),
            (126, "H264", Some(127))
        ]
    );
    assert_eq!(answer.media[0].direction, Direction::RecvOnly);
    answer.media[1].send(camera());
    assert_eq!(answer.media[1].direction, Direction::SendRecv);
    let text = answer.to_sdp();
    // What the client only sends, we only receive, and the other way round.
    assert!(text.contains("a=extmap:8/recvonly urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n"));
    assert!(text.contains("a=extmap:6/sendonly http://www.webrtc.org"));
    assert!(text.contains("a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1\r\n"));
    assert!(!text.contains("rtpmap:9 ") && !text.contains("rtpmap:97 "));
}

#[test]
fn descriptions_survive_a_round_trip() {
    for offer in [CHROMIUM_JOIN, CHROMIUM_PUBLISH, FIREFOX_PUBLISH] {
        let mut answer = answer(offer);
        answer.media[1].send(camera());
        let mut read = parse(&answer.to_sdp()).unwrap();
        // Candidates are written once for the bundle.
        for media in &mut read.media[1..] {
            media.transport.candidates = local().candidates;
            media.transport.end_of_candidates = true;
        }
        assert_eq!(read, answer);
    }
}

#[test]
fn sending_announces_the_track_and_stops_again() {
    let mut answer = answer(CHROMIUM_JOIN);
    let mid = answer
        .media
        .iter()
        .find(|m| m.kind == MediaKind::Video)
        .unwrap()
        .mid
        .clone();
    answer.section_mut(&mid).unwrap().send(camera());
    let text = answer.to_sdp();
    for line in [
        "a=msid:PA_a|camera TR_v",
        "a=ssrc-group:FID 1000 1001",
        "a=ssrc:1000 cname:PA_a",
        "a=ssrc:1000 msid:PA_a|camera TR_v",
        "a=ssrc:1001 cname:PA_a",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
    assert_eq!(text.matches("a=sendonly").count(), 1);
    answer.section_mut(&mid).unwrap().stop_sending();
    assert!(!answer.to_sdp().contains("PA_a"));
}

#[test]
fn opus_options_replace_what_was_there() {
    let mut answer = answer(FIREFOX_PUBLISH);
    answer.media[0].set_opus_options(OpusOptions {
        dtx: true,
        ..OpusOptions::default()
    });
    assert_eq!(
        answer.media[0].codec(109).unwrap().fmtp,
        "maxplaybackrate=48000;useinbandfec=1;usedtx=1"
    );
    let stereo = OpusOptions {
        stereo: true,
        sends_stereo: true,
        dtx: false,
    };
    answer.media[0].set_opus_options(stereo);
    assert_eq!(
        answer.media[0].codec(109).unwrap().fmtp,
        "maxplaybackrate=48000;useinbandfec=1;stereo=1;sprop-stereo=1"
    );
    assert!(answer.media[0].set_fmtp(109, "stereo=1"));
    assert!(!answer.media[0].set_fmtp(1, "stereo=1"));
}

#[test]
fn our_offer_for_a_subscriber() {
    let mut offer = Description::offer(Origin {
        session_id: 7,
        session_version: 3,
    });
    offer.offer_data("data", &local());
    offer.offer_track("0", MediaKind::Video, &local(), Some(camera()));
    offer.offer_track("1", MediaKind::Audio, &local(), None);
    let text = offer.to_sdp();
    assert!(text.starts_with("v=0\r\no=- 7 3 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n"));
    assert!(text.contains("a=group:BUNDLE data 0 1\r\n"));
    assert!(text.contains("a=setup:actpass\r\n") && !text.contains("a=setup:passive"));
    assert!(text.contains("a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"));
    let read = parse(&text).unwrap();
    assert_eq!(read.media[1].direction, Direction::SendOnly);
    assert_eq!(read.media[2].direction, Direction::Inactive);
    assert_eq!(
        accepted_codecs(&read.media[1]),
        our_codecs(MediaKind::Video)
    );
    let ids = extension_ids(&read.media[1]);
    assert_eq!(ids.mid, extension_ids(&read.media[2]).mid);
    assert_eq!((ids.mid, ids.rid), (Some(4), None));
}

#[test]
fn refuses_sections_it_cannot_serve() {
    let offer = "v=0\no=- 1 2 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE a v\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:a\na=rtpmap:111 opus/48000/2\n\
        m=video 9 UDP/TLS/RTP/SAVPF 35\na=mid:v\na=rtpmap:35 MPV/90000\n\
        m=text 9 RTP/AVP 98\na=mid:t\na=rtpmap:98 t140/1000\n\
        m=audio 9 RTP/AVP 0\na=mid:plain\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\na=mid:gone\na=rtpmap:96 VP8/90000\n";
    let answer = answer(offer);
    let rejected: Vec<bool> = answer.media.iter().map(|m| m.rejected).collect();
    assert_eq!(rejected, [false, true, true, true, true]);
    assert_eq!(answer.bundle, ["a"]);
    let text = answer.to_sdp();
    assert!(text.contains("m=video 0 UDP/TLS/RTP/SAVPF 35\r\n"));
    assert!(text.contains("m=text 0 RTP/AVP 98\r\n"));
}

#[test]
fn without_bundle_only_the_first_section_lives() {
    let offer = CHROMIUM_PUBLISH.replace("a=group:BUNDLE 0 1 2\r\n", "");
    let answer = answer(&offer);
    let rejected: Vec<bool> = answer.media.iter().map(|m| m.rejected).collect();
    assert_eq!(rejected, [false, true, true]);
    assert!(!answer.to_sdp().contains("BUNDLE"));
}

#[test]
fn bundle_only_sections_are_alive() {
    let offer = CHROMIUM_PUBLISH
        .replace("m=video 9 ", "m=video 0 ")
        .replace("a=mid:1\r\n", "a=mid:1\r\na=bundle-only\r\n");
    assert!(!answer(&offer).media[1].rejected);
}

#[test]
fn old_data_channel_form_is_mirrored() {
    let offer = "v=0\no=- 1 2 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE d\n\
        m=application 9 DTLS/SCTP 5001\na=mid:d\na=sctpmap:5001 webrtc-datachannel 1024\n";
    let text = answer(offer).to_sdp();
    assert!(text.contains("m=application 9 DTLS/SCTP 5001\r\n"));
    assert!(text.contains("a=sctpmap:5001 webrtc-datachannel 65535\r\n"));
}

#[test]
fn extension_ids_over_14_are_only_for_receiving() {
    let uri = extension::DEPENDENCY_DESCRIPTOR;
    for (direction, expected) in [
        ("sendonly", Some(15)),
        ("recvonly", None),
        ("sendrecv", None),
    ] {
        let offer = CHROMIUM_PUBLISH
            .replace(&format!("a=extmap:12 {uri}"), &format!("a=extmap:15 {uri}"))
            .replace("a=sendonly", &format!("a={direction}"));
        // 15 has no meaning in the one-byte form, but in the two-byte form it has.
        let offer = parse(&offer).unwrap();
        assert_eq!(
            extension_ids(&offer.media[1]).dependency_descriptor,
            expected
        );
        let answer = Description::answer_to(&offer, &local());
        assert_eq!(
            answer.to_sdp().contains(&format!("a=extmap:15 {uri}")),
            expected.is_some()
        );
    }
}

#[test]
fn simulcast_by_ssrc_group_is_ordered() {
    let lines = "a=ssrc-group:SIM 3 1 2\r\na=ssrc-group:FID 1 11\r\na=ssrc-group:FID 3 13\r\n\
        a=ssrc:1 cname:c\r\na=ssrc:11 cname:c\r\na=ssrc:2 cname:c\r\na=ssrc:3 cname:c\r\n\
        a=ssrc:13 cname:c\r\na=ssrc:1 msid:s t\r\n";
    let offer = parse(&audio_offer(lines)).unwrap();
    let ssrcs: Vec<_> = offer.media[0]
        .ssrcs
        .iter()
        .map(|s| (s.ssrc, s.rtx))
        .collect();
    assert_eq!(ssrcs, [(3, Some(13)), (1, Some(11)), (2, None)]);
    assert_eq!(offer.media[0].msid, Some(("s".to_owned(), "t".to_owned())));
}

#[test]
fn unknown_and_broken_lines_are_dropped() {
    let lines = "x=what\r\nno equals sign\r\nb=AS:many\r\nc=IN IP9 nowhere\r\na=rtpmap:bad\r\n\
        a=fmtp:200 x=1\r\na=extmap:0 urn:a\r\na=extmap:15 urn:b\r\na=extmap:300 urn:c\r\n\
        a=rid:has space send\r\na=rid:ok! send\r\na=ssrc:word cname:c\r\na=simulcast:send\r\n";
    let offer = parse(&audio_offer(lines)).unwrap();
    assert_eq!(names(&offer.media[0]), [(111, "opus", None)]);
    // 15 is kept: whether it is usable depends on the direction.
    assert!(offer.media[0].extensions.iter().all(|e| e.uri == "urn:b"));
    assert!(offer.media[0].rids_send.is_empty());
    assert_eq!(extension_ids(&offer.media[0]), ExtensionIds::default());
}

#[test]
fn a_lone_carriage_return_cannot_smuggle_a_line() {
    let offer = parse(&audio_offer("a=msid:stream track\ra=ice-lite\r\n")).unwrap();
    assert_eq!(
        offer.media[0].msid,
        Some(("stream".to_owned(), "track".to_owned()))
    );
}

#[test]
fn limits_and_errors_say_what_is_wrong() {
    let long = "a".repeat(MAX_SDP_BYTES + 1);
    assert_eq!(
        parse(&long),
        Err(Error::TooLarge {
            bytes: MAX_SDP_BYTES + 1
        })
    );
    let many = "m=audio 9 RTP/AVP 0\n".repeat(MAX_MEDIA + 1);
    assert_eq!(parse(&many), Err(Error::TooManyMedia));
    assert!(matches!(parse("hello"), Err(Error::Syntax { .. })));
    assert!(matches!(parse(""), Err(Error::Syntax { .. })));
    let nameless = CHROMIUM_PUBLISH.replace("a=mid:1\r\n", "");
    assert_eq!(parse(&nameless), Err(Error::BadMid { index: 1 }));
    let twins = CHROMIUM_PUBLISH.replace("a=mid:1\r\n", "a=mid:0\r\n");
    assert_eq!(
        parse(&twins),
        Err(Error::DuplicateMid {
            mid: "0".to_owned()
        })
    );
}

#[test]
fn a_client_that_wants_to_be_the_dtls_server_is() {
    for (offered, ours) in [
        ("actpass", Setup::Passive),
        ("active", Setup::Passive),
        ("passive", Setup::Active),
    ] {
        let answer = answer(&CHROMIUM_PUBLISH.replace("actpass", offered));
        let setups = answer.media.iter().map(|m| m.transport.setup);
        assert!(setups.into_iter().all(|setup| setup == Some(ours)));
    }
}

#[test]
fn debug_shows_no_password() {
    let shown = format!("{:?} {:?}", answer(CHROMIUM_PUBLISH), local());
    assert!(!shown.contains(&local().pwd) && !shown.contains("127.0.0.1"));
}

/// Lines that mean something, put together at random.
fn line() -> impl Strategy<Value = String> {
    let known = CHROMIUM_PUBLISH
        .lines()
        .chain(FIREFOX_PUBLISH.lines())
        .collect::<Vec<_>>();
    prop_oneof![
        6 => proptest::sample::select(known).prop_map(str::to_owned),
        1 => "[vostamcbx]=.{0,40}",
        1 => "a=(mid|rid|ssrc|fmtp|rtpmap|extmap|simulcast|msid|ssrc-group|rtcp-fb|group):.{0,30}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,400}") {
        drop(parse(&text).map(|d| d.to_sdp()));
    }

    #[test]
    fn answers_to_anything_can_be_read(lines in proptest::collection::vec(line(), 0..80)) {
        let head = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE 0 1 2\n";
        if let Ok(offer) = parse(&format!("{head}{}", lines.join("\n"))) {
            let answer = Description::answer_to(&offer, &local());
            let read = parse(&answer.to_sdp()).unwrap();
            prop_assert_eq!(read.media.len(), offer.media.len());
            for (ours, theirs) in read.media.iter().zip(&offer.media) {
                prop_assert_eq!(&ours.mid, &theirs.mid);
                prop_assert_eq!(ours.kind, theirs.kind);
                prop_assert!(!ours.direction.receives() || theirs.direction.sends());
            }
        }
    }
}
