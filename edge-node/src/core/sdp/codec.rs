//! Which codecs and feedback an edge negotiates.

use super::{CodecParameters, Media, MediaKind};

/// The codecs of an offered section that an edge forwards, in the offer's order of preference, with RTX and with the
/// feedback cut down to what the edge does. Format parameters stay as offered.
///
/// Refused are what it cannot forward layer by layer (VP9 profiles 1 and 3, AV1 profiles other than main, H.264 in
/// single-NAL mode), forward error correction, comfort noise and telephone events.
pub fn accepted_codecs(offer: &Media) -> Vec<CodecParameters> {
    let opus = |pt: &str| {
        pt.parse().is_ok_and(|pt: u8| {
            offer
                .codecs
                .iter()
                .any(|c| c.pt == pt && c.name.eq_ignore_ascii_case("opus"))
        })
    };
    offer
        .codecs
        .iter()
        .filter(|codec| match offer.kind {
            MediaKind::Audio => match lower(codec).as_str() {
                "opus" => codec.clock_rate == 48_000,
                "pcmu" | "pcma" => codec.clock_rate == 8_000,
                // RFC 2198: the parameters name the payload type of each block.
                "red" => codec.clock_rate == 48_000 && codec.fmtp.split('/').all(opus),
                _ => false,
            },
            MediaKind::Video => is_forwardable_video(codec),
            MediaKind::Application | MediaKind::Text | MediaKind::Message | MediaKind::Image => {
                false
            }
        })
        .map(|codec| CodecParameters {
            feedback: accepted_feedback(offer.kind, &codec.feedback),
            ..codec.clone()
        })
        .collect()
}

fn lower(codec: &CodecParameters) -> String {
    codec.name.to_ascii_lowercase()
}

fn is_forwardable_video(codec: &CodecParameters) -> bool {
    codec.clock_rate == 90_000
        && match lower(codec).as_str() {
            "vp8" | "h265" => true,
            // Missing means 0 (RFC 9628 §6).
            "vp9" => matches!(codec.parameter("profile-id"), None | Some("0" | "2")),
            // Missing means 0 (RFC 6184 §8.1).
            "h264" => codec.parameter("packetization-mode") == Some("1"),
            // Missing means 0, main (AV1 RTP specification §7.2.3).
            "av1" => matches!(codec.parameter("profile"), None | Some("0")),
            _ => false,
        }
}

fn accepted_feedback(kind: MediaKind, offered: &[String]) -> Vec<String> {
    let ours: &[&str] = if kind == MediaKind::Audio {
        &["transport-cc", "goog-remb", "nack"]
    } else {
        &["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"]
    };
    let mut accepted: Vec<String> = Vec::new();
    for feedback in offered {
        if ours.contains(&feedback.as_str()) && !accepted.contains(feedback) {
            accepted.push(feedback.clone());
        }
    }
    accepted
}

/// What a section asks the other side's Opus encoder to do (RFC 7587 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpusOptions {
    /// `stereo=1`: the writer likes to receive stereo.
    pub stereo: bool,
    /// `sprop-stereo=1`: the writer is likely to send stereo.
    pub sends_stereo: bool,
    /// `usedtx=1`: silence need not be sent.
    pub dtx: bool,
}

impl Media {
    /// Replaces the format parameters of a payload type. False if the section does not have it.
    pub fn set_fmtp(&mut self, pt: u8, fmtp: impl Into<String>) -> bool {
        let codec = self.codecs.iter_mut().find(|codec| codec.pt == pt);
        codec.map(|codec| codec.fmtp = fmtp.into()).is_some()
    }

    /// Sets the Opus parameters of this section, keeping those that are not named here. In-band FEC is always asked for:
    /// it costs only what the encoder decides to spend on the loss that we report.
    pub fn set_opus_options(&mut self, options: OpusOptions) {
        for codec in &mut self.codecs {
            if !codec.name.eq_ignore_ascii_case("opus") {
                continue;
            }
            let wanted = [
                ("useinbandfec", true),
                ("stereo", options.stereo),
                ("sprop-stereo", options.sends_stereo),
                ("usedtx", options.dtx),
            ];
            let mut pairs: Vec<String> = codec
                .fmtp
                .split(';')
                .map(str::trim)
                .filter(|pair| !pair.is_empty())
                .filter(|pair| {
                    let name = pair.split('=').next().unwrap_or_default();
                    !wanted
                        .iter()
                        .any(|(known, _)| known.eq_ignore_ascii_case(name))
                })
                .map(str::to_owned)
                .collect();
            pairs.extend(
                wanted
                    .iter()
                    .filter(|(_, on)| *on)
                    .map(|(name, _)| format!("{name}=1")),
            );
            codec.fmtp = pairs.join(";");
        }
    }
}
