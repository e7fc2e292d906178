//! What we send, and our offers for it (the subscriber connection of the dual-connection path).

use super::{
    CodecParameters, Description, Direction, LocalTransport, Media, MediaKind, Origin, Setup,
    SsrcGroup, answer, extension, text,
};

/// A track as it is announced in one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendParameters {
    /// Stream part of the msid; groups tracks that are played in sync. LiveKit: `PA_x|<stream>`.
    pub stream: String,
    /// Track part of the msid: the track's sid.
    pub track: String,
    /// SSRC of the media stream.
    pub ssrc: u32,
    /// SSRC of its retransmissions; announced only if the section has RTX.
    pub rtx_ssrc: Option<u32>,
    /// RTCP canonical name (RFC 7022), the same for all that is sent in sync.
    pub cname: String,
}

impl Media {
    /// Announces a track in this section and turns our sending on.
    pub fn send(&mut self, track: SendParameters) {
        let rtx = track
            .rtx_ssrc
            .filter(|_| self.codecs.iter().any(|codec| codec.rtx.is_some()));
        self.direction = Direction::of(true, self.direction.receives());
        self.msid = Some((track.stream, track.track));
        self.ssrcs = vec![SsrcGroup {
            ssrc: track.ssrc,
            rtx,
            cname: track.cname,
        }];
    }

    /// Takes the track away again; the section stays and can be used for another.
    pub fn stop_sending(&mut self) {
        self.direction = Direction::of(false, self.direction.receives());
        self.msid = None;
        self.ssrcs.clear();
    }
}

impl Description {
    /// An offer without sections yet. Raise `origin.session_version` for each further one.
    pub fn offer(origin: Origin) -> Self {
        Self {
            origin,
            ice_lite: true,
            extmap_allow_mixed: true,
            ..Self::default()
        }
    }

    /// Adds a section with our codecs, payload types and extension ids that sends one track.
    pub fn offer_track(
        &mut self,
        mid: &str,
        kind: MediaKind,
        local: &LocalTransport,
        track: Option<SendParameters>,
    ) {
        let mut media = Media::new(mid, kind);
        media.direction = Direction::Inactive;
        media.codecs = our_codecs(kind);
        media.extensions = extension::ours(kind);
        if let Some(track) = track {
            media.send(track);
        }
        self.offer_section(media, local);
    }

    /// Adds the section for data channels.
    pub fn offer_data(&mut self, mid: &str, local: &LocalTransport) {
        let mut media = Media::new(mid, MediaKind::Application);
        media.sctp_port = Some(text::SCTP_PORT);
        media.max_message_size = Some(answer::MAX_MESSAGE_BYTES);
        self.offer_section(media, local);
    }

    fn offer_section(&mut self, mut media: Media, local: &LocalTransport) {
        media.transport = local.attributes(Setup::ActPass);
        self.bundle.push(media.mid.clone());
        self.media.push(media);
    }
}

/// The codecs of our own offers, most widely decoded first. Payload types are the mesh's canonical ones
/// (`media::packet::Codec`); RTX has the one above.
pub fn our_codecs(kind: MediaKind) -> Vec<CodecParameters> {
    match kind {
        MediaKind::Audio => vec![
            audio(111, "opus", 48_000, "minptime=10;useinbandfec=1"),
            audio(63, "red", 48_000, "111/111"),
            audio(0, "PCMU", 8_000, ""),
            audio(8, "PCMA", 8_000, ""),
        ],
        MediaKind::Video => vec![
            video(96, "VP8", ""),
            video(98, "VP9", "profile-id=0"),
            video(
                102,
                "H264",
                "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            ),
            video(45, "AV1", "level-idx=5;profile=0;tier=0"),
            video(
                104,
                "H265",
                "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST",
            ),
        ],
        MediaKind::Application | MediaKind::Text | MediaKind::Message | MediaKind::Image => {
            Vec::new()
        }
    }
}

fn audio(pt: u8, name: &str, clock_rate: u32, fmtp: &str) -> CodecParameters {
    CodecParameters {
        pt,
        name: name.to_owned(),
        clock_rate,
        channels: if clock_rate == 48_000 { 2 } else { 1 },
        fmtp: fmtp.to_owned(),
        feedback: vec!["transport-cc".to_owned(), "nack".to_owned()],
        rtx: None,
    }
}

fn video(pt: u8, name: &str, fmtp: &str) -> CodecParameters {
    let feedback = ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"];
    CodecParameters {
        pt,
        name: name.to_owned(),
        clock_rate: 90_000,
        channels: 1,
        fmtp: fmtp.to_owned(),
        feedback: feedback.map(str::to_owned).to_vec(),
        rtx: Some(pt + 1),
    }
}
