//! Session descriptions (RFC 8866, JSEP RFC 8829): remote text becomes a typed view, the typed view becomes ours.
//!
//! `rtc-sdp` does lines and fields; what they mean for WebRTC is here. Parsing is tolerant of what it does not know
//! (it drops it) and strict about what would be echoed back.

mod answer;
mod codec;
mod extension;
mod offer;
mod parse;
mod text;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

pub use answer::{LocalTransport, MAX_MESSAGE_BYTES};
pub use codec::{OpusOptions, accepted_codecs};
pub use extension::{MAX_EXTENSION_ID, extension_ids};
pub use offer::{SendParameters, our_codecs};
pub use parse::{MAX_MEDIA, MAX_SDP_BYTES, parse};

/// Why a description cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is longer than [`MAX_SDP_BYTES`].
    #[error("session description of {bytes} bytes is over the limit of {MAX_SDP_BYTES}")]
    TooLarge {
        /// Length of the text.
        bytes: usize,
    },
    /// More m-lines than [`MAX_MEDIA`].
    #[error("session description has more than {MAX_MEDIA} media sections")]
    TooManyMedia,
    /// The text does not follow the grammar.
    #[error("session description cannot be read: {reason}")]
    Syntax {
        /// What the parser says.
        reason: String,
    },
    /// A media section has no usable `a=mid`, so it can be neither bundled nor answered (RFC 8843).
    #[error("media section {index} has no a=mid, or one longer than 32 bytes")]
    BadMid {
        /// Position of the m-line, from 0.
        index: usize,
    },
    /// Two media sections have one name.
    #[error("media sections share a=mid:{mid}")]
    DuplicateMid {
        /// The name.
        mid: String,
    },
}

/// A session description that is understood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The `o=` line's numbers.
    pub origin: Origin,
    /// `a=ice-lite` (RFC 8445 §2.5).
    pub ice_lite: bool,
    /// `a=extmap-allow-mixed` at session level (RFC 8285 §6).
    pub extmap_allow_mixed: bool,
    /// Mids of the first `a=group:BUNDLE` (RFC 8843), in order.
    pub bundle: Vec<String>,
    /// The m-lines, in order; their order never changes within a session.
    pub media: Vec<Media>,
}

/// Session id and version of the `o=` line (RFC 8866 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// Stays the same for a connection's life.
    pub session_id: u64,
    /// Grows with every description that the same side sends.
    pub session_version: u64,
}

/// One m-line and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// `a=mid`, unique within the description, 1 to 32 bytes.
    pub mid: String,
    /// First field of the m-line.
    pub kind: MediaKind,
    /// Transport of the m-line, `UDP/TLS/RTP/SAVPF` or `UDP/DTLS/SCTP` as a rule.
    pub protocol: String,
    /// Port 0 without `a=bundle-only`: the section is refused or retired (RFC 8843 §7.2).
    pub rejected: bool,
    /// Seen from the side that wrote the description.
    pub direction: Direction,
    /// Codecs in order of preference. RTX is folded into the codec that it repairs.
    pub codecs: Vec<CodecParameters>,
    /// Header extensions (RFC 8285).
    pub extensions: Vec<Extension>,
    /// Ids of `a=rid:… send` (RFC 8851), in order.
    pub rids_send: Vec<String>,
    /// Ids of `a=rid:… recv`, in order.
    pub rids_recv: Vec<String>,
    /// `a=simulcast:send` (RFC 8853): the first alternative of each stream, in order.
    pub simulcast_send: Vec<String>,
    /// `a=simulcast:recv`, likewise.
    pub simulcast_recv: Vec<String>,
    /// Signalled streams, in the order of `ssrc-group:SIM` where there is one (RFC 5576).
    pub ssrcs: Vec<SsrcGroup>,
    /// `a=msid` (RFC 8830): stream id and track id; the latter is empty if not given.
    pub msid: Option<(String, String)>,
    /// `a=rtcp-mux` (RFC 5761).
    pub rtcp_mux: bool,
    /// `a=rtcp-rsize` (RFC 5506).
    pub rtcp_rsize: bool,
    /// `a=sctp-port` (RFC 8841), or the port of the older `sctpmap` form.
    pub sctp_port: Option<u16>,
    /// `a=max-message-size` in bytes; 0 means no limit (RFC 8841 §6).
    pub max_message_size: Option<u32>,
    /// ICE and DTLS of this section; what the session level says is already filled in.
    pub transport: TransportAttributes,
}

/// What a media section carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// `audio`
    Audio,
    /// `video`
    Video,
    /// `application`: data channels over SCTP (RFC 8841).
    Application,
    /// `text`, always refused.
    Text,
    /// `message`, always refused.
    Message,
    /// `image`, always refused.
    Image,
}

impl MediaKind {
    /// The token of the m-line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Application => "application",
            Self::Text => "text",
            Self::Message => "message",
            Self::Image => "image",
        }
    }
}

/// Direction of a section or of a header extension (RFC 8866 §6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Both ways; the default when nothing is said.
    #[default]
    SendRecv,
    /// The writer only sends.
    SendOnly,
    /// The writer only receives.
    RecvOnly,
    /// Neither way.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// Whether the writer of the description sends.
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the writer of the description receives.
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same, seen from the other side.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self::of(self.receives(), self.sends())
    }

    /// From its two halves.
    pub fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }
}

/// One payload type with all that is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecParameters {
    /// RTP payload type, 0..=127.
    pub pt: u8,
    /// Encoding name as written; compare without case.
    pub name: String,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Audio channels; 1 where nothing is said and for video.
    pub channels: u16,
    /// Format parameters as written, without the payload type; empty if there are none.
    pub fmtp: String,
    /// `a=rtcp-fb` values (RFC 4585 §4.2), for example `nack pli`.
    pub feedback: Vec<String>,
    /// Payload type of its RTX (RFC 4588).
    pub rtx: Option<u8>,
}

impl CodecParameters {
    /// Whether the feedback message is negotiated, for example `ccm fir`.
    pub fn has_feedback(&self, feedback: &str) -> bool {
        self.feedback.iter().any(|f| f == feedback)
    }

    /// Value of a format parameter. Names are compared without case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One `a=extmap` (RFC 8285 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Local id, 1..=255; those over 14 exist only in the two-byte form.
    pub id: u8,
    /// Which extension it is.
    pub uri: String,
    /// Who may send it, seen from the writer.
    pub direction: Direction,
}

/// A signalled stream and the stream that repairs it (RFC 5576, RFC 4588 §8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SsrcGroup {
    /// The media stream.
    pub ssrc: u32,
    /// Its retransmission stream (`ssrc-group:FID`).
    pub rtx: Option<u32>,
    /// `cname` of the source; empty if not given.
    pub cname: String,
}

/// DTLS role (RFC 4145, RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setup {
    /// DTLS client.
    Active,
    /// DTLS server.
    Passive,
    /// Either; only in offers.
    ActPass,
}

impl Setup {
    /// The attribute's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        }
    }
}

/// ICE and DTLS attributes of one section. Its `Debug` shows neither password nor addresses.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TransportAttributes {
    /// `a=ice-ufrag` (RFC 8839 §5.4).
    pub ufrag: Option<String>,
    /// `a=ice-pwd`.
    pub pwd: Option<String>,
    /// `a=fingerprint` values, `sha-256 AB:CD:…` (RFC 8122).
    pub fingerprints: Vec<String>,
    /// `a=setup`.
    pub setup: Option<Setup>,
    /// Values of `a=candidate` (RFC 8839 §5.1) without the attribute's name.
    pub candidates: Vec<String>,
    /// `a=end-of-candidates` (RFC 8840).
    pub end_of_candidates: bool,
}

impl fmt::Debug for TransportAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportAttributes")
            .field("ufrag", &self.ufrag)
            .field("pwd", &self.pwd.as_ref().map(|_| "…"))
            .field("fingerprints", &self.fingerprints)
            .field("setup", &self.setup)
            .field("candidates", &self.candidates.len())
            .field("end_of_candidates", &self.end_of_candidates)
            .finish()
    }
}

impl Description {
    /// The section of that name.
    pub fn section(&self, mid: &str) -> Option<&Media> {
        self.media.iter().find(|media| media.mid == mid)
    }

    /// The section of that name, to change it.
    pub fn section_mut(&mut self, mid: &str) -> Option<&mut Media> {
        self.media.iter_mut().find(|media| media.mid == mid)
    }

    /// ICE and DTLS of the bundle: those of the first section that is not refused and has credentials.
    pub fn transport(&self) -> Option<&TransportAttributes> {
        self.media
            .iter()
            .filter(|media| !media.rejected)
            .map(|media| &media.transport)
            .find(|transport| transport.ufrag.is_some() && transport.pwd.is_some())
    }
}

impl Media {
    /// A live section with nothing in it.
    pub fn new(mid: impl Into<String>, kind: MediaKind) -> Self {
        let data = kind == MediaKind::Application;
        Self {
            mid: mid.into(),
            kind,
            protocol: if data {
                "UDP/DTLS/SCTP"
            } else {
                "UDP/TLS/RTP/SAVPF"
            }
            .to_owned(),
            rejected: false,
            direction: Direction::default(),
            codecs: Vec::new(),
            extensions: Vec::new(),
            rids_send: Vec::new(),
            rids_recv: Vec::new(),
            simulcast_send: Vec::new(),
            simulcast_recv: Vec::new(),
            ssrcs: Vec::new(),
            msid: None,
            rtcp_mux: !data,
            rtcp_rsize: !data,
            sctp_port: None,
            max_message_size: None,
            transport: TransportAttributes::default(),
        }
    }

    /// The codec of a payload type; an RTX payload type finds the codec that it repairs.
    pub fn codec(&self, pt: u8) -> Option<&CodecParameters> {
        self.codecs
            .iter()
            .find(|codec| codec.pt == pt || codec.rtx == Some(pt))
    }

    /// Whether this is RTP audio or video over DTLS-SRTP.
    pub fn is_rtp(&self) -> bool {
        matches!(self.kind, MediaKind::Audio | MediaKind::Video)
            && matches!(
                self.protocol.as_str(),
                "UDP/TLS/RTP/SAVPF" | "TCP/TLS/RTP/SAVPF" | "RTP/SAVPF"
            )
    }

    /// Whether this is SCTP over DTLS, the data channels' transport.
    pub fn is_data(&self) -> bool {
        self.kind == MediaKind::Application
            && matches!(
                self.protocol.as_str(),
                "UDP/DTLS/SCTP" | "TCP/DTLS/SCTP" | "DTLS/SCTP"
            )
    }
}
