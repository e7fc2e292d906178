//! Which media section carries which track, for both directions of offer and answer (RFC 8829, RFC 9143).
//!
//! A client on one peer connection always offers ([`answerer::Answerer`]), and receives on sections it left open for that. A client
//! on two peer connections offers for what it publishes, and answers our offers ([`offerer::Offerer`]) for what it receives.

pub mod answerer;
pub mod offerer;

use std::sync::Arc;

use media::packet::Codec;
use media::router::{ExtensionIds, SendPayload, SubscriptionConfig, TrackKey};
use proto::TrackSid;

use super::sdp::{CodecParameters, SendParameters};
use super::track::Track;

/// A track somebody wants to receive, and the RTP identity it has on that person's connection.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What is received.
    pub track: Arc<Track>,
    /// SSRC of the media.
    pub ssrc: u32,
    /// SSRC of its retransmissions (RFC 4588), where the codec has them.
    pub rtx_ssrc: u32,
}

impl Wanted {
    /// How the section that carries it announces it.
    fn send_parameters(&self) -> SendParameters {
        SendParameters {
            stream: self.track.stream_id(),
            track: self.track.sid.to_string(),
            ssrc: self.ssrc,
            rtx_ssrc: self.track.is_video().then_some(self.rtx_ssrc),
            cname: self.track.owner.to_string(),
        }
    }
}

/// A subscription that a negotiation brought to life.
#[derive(Debug, Clone)]
pub struct Bound {
    /// What is received.
    pub track: TrackSid,
    /// In which of its codecs.
    pub key: TrackKey,
    /// The receiver cannot decode the track's first codec.
    pub needs_backup: bool,
    /// How it is sent.
    pub config: SubscriptionConfig,
}

/// The payload types that carry `track` on a section that negotiated `codecs`; empty when the receiver cannot decode it.
fn send_payloads(track: &Track, codecs: &[CodecParameters]) -> Vec<SendPayload> {
    // A publisher with redundancy sends plain packets too, and a receiver without it gets the primary block.
    let carried: &[Codec] = if track.codec == Codec::Red {
        &[Codec::Opus, Codec::Red]
    } else {
        std::slice::from_ref(&track.codec)
    };
    carried
        .iter()
        .filter_map(|&codec| {
            let parameters = matching(codec, &track.fmtp, codecs)?;
            Some(SendPayload {
                codec,
                pt: parameters.pt,
                rtx_pt: parameters.rtx,
            })
        })
        .collect()
}

/// The offered parameters that fit a codec best: same profile where the codec has profiles.
fn matching<'a>(
    codec: Codec,
    fmtp: &str,
    codecs: &'a [CodecParameters],
) -> Option<&'a CodecParameters> {
    let mut named = codecs
        .iter()
        .filter(|c| Codec::from_name(&c.name) == Some(codec))
        .peekable();
    let first = *named.peek()?;
    let wanted = profile(codec, fmtp);
    Some(
        named
            .find(|c| profile(codec, &c.fmtp) == wanted)
            .unwrap_or(first),
    )
}

/// What of the format parameters says whether two ends understand each other.
fn profile(codec: Codec, fmtp: &str) -> String {
    let value = |key: &str| {
        fmtp.split(';')
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v.trim().to_ascii_lowercase())
    };
    match codec {
        Codec::H264 => {
            let mode = value("packetization-mode").unwrap_or_else(|| "0".to_owned());
            let level_id = value("profile-level-id").unwrap_or_else(|| "42e01f".to_owned());
            // Profile and constraint bytes; the level is only a ceiling (RFC 6184 section 8.1).
            format!("{mode}/{}", level_id.get(..4).unwrap_or(&level_id))
        }
        Codec::Vp9 => value("profile-id").unwrap_or_else(|| "0".to_owned()),
        Codec::Av1 => value("profile").unwrap_or_else(|| "0".to_owned()),
        Codec::Opus | Codec::Red | Codec::Vp8 | Codec::H265 | Codec::Pcmu | Codec::Pcma => {
            String::new()
        }
    }
}

/// How a wanted track is sent on a section, in the first of its codecs that the receiver decodes; `None` without any.
pub(super) fn bind(
    wanted: &Wanted,
    mid: &str,
    codecs: &[CodecParameters],
    extensions: ExtensionIds,
) -> Option<Bound> {
    let decodable = |track: &Arc<Track>| {
        let payloads = send_payloads(track, codecs);
        (!payloads.is_empty()).then_some((track.key, payloads))
    };
    let (key, payloads) = wanted.track.choices().find_map(decodable)?;
    let red = payloads.iter().any(|p| p.codec == Codec::Red);
    let rtx_ssrc = payloads
        .iter()
        .any(|p| p.rtx_pt.is_some())
        .then_some(wanted.rtx_ssrc);
    Some(Bound {
        track: wanted.track.sid.clone(),
        key,
        needs_backup: key != wanted.track.key && send_payloads(&wanted.track, codecs).is_empty(),
        config: SubscriptionConfig {
            mid: mid.to_owned(),
            ssrc: wanted.ssrc,
            rtx_ssrc,
            payloads,
            extensions,
            target: None,
            red,
        },
    })
}
