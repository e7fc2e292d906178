//! Codecs that the mesh carries.

/// What an RTP payload is, mesh-wide. Its discriminant is the canonical payload type on links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// Opus (RFC 7587), mono or stereo.
    Opus = 111,
    /// Redundant audio (RFC 2198) whose blocks are Opus.
    Red = 63,
    /// VP8 (RFC 7741).
    Vp8 = 96,
    /// VP9 (RFC 9628).
    Vp9 = 98,
    /// H.264 (RFC 6184).
    H264 = 102,
    /// H.265 (RFC 7798).
    H265 = 104,
    /// AV1 (AV1 RTP specification).
    Av1 = 45,
    /// G.711 mu-law (RFC 3551).
    Pcmu = 0,
    /// G.711 A-law (RFC 3551).
    Pcma = 8,
}

impl Codec {
    /// All codecs.
    pub const ALL: [Self; 9] = [
        Self::Opus,
        Self::Red,
        Self::Vp8,
        Self::Vp9,
        Self::H264,
        Self::H265,
        Self::Av1,
        Self::Pcmu,
        Self::Pcma,
    ];

    /// RTP clock rate in Hz.
    #[must_use]
    pub fn clock_rate(self) -> u32 {
        match self {
            Self::Opus | Self::Red => 48_000,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::H265 | Self::Av1 => 90_000,
            Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// Whether this is an audio codec.
    #[must_use]
    pub fn is_audio(self) -> bool {
        matches!(self, Self::Opus | Self::Red | Self::Pcmu | Self::Pcma)
    }

    /// By the encoding name of `a=rtpmap`, without case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// Encoding name as registered for `a=rtpmap`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Red => "red",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// The canonical payload type on links, 0 to 127.
    #[must_use]
    pub fn payload_type(self) -> u8 {
        self as u8
    }

    /// By canonical payload type.
    #[must_use]
    pub fn from_payload_type(payload_type: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.payload_type() == payload_type)
    }
}
