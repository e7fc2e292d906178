//! WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep) without HTTP: what one offer, made once, means for a participant that has no
//! signalling connection.
//!
//! A publisher ([`publisher::Publisher`]) is an ordinary session whose announcements are read from its offer ([`announce`]). A player is
//! a [`player::Player`]: its sections are fixed by its only offer, and what plays on them changes behind them.

pub mod fragment;
pub mod headers;
pub mod player;
pub mod publisher;
#[cfg(test)]
mod tests;

use livekit_protocol as lk;

use super::sdp::{self, CodecParameters, Description, Media, MediaKind, accepted_codecs};
use super::token::Permissions;

/// Longest body of a request, bytes. Chromium's offer with two sections takes 10 kB.
pub const MAX_BODY_BYTES: usize = 256 << 10;
/// Sections of one kind that an offer may have: camera and screen.
const MAX_SECTIONS: usize = 8;

/// Why an offer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("the offer cannot be read: {0}")]
    Unreadable(sdp::Error),
    /// It is not what the protocol asks for; the text says what to change.
    #[error("the offer cannot be used: {0}")]
    Unusable(&'static str),
    /// The token does not allow it.
    #[error("the access token does not allow it: {0}")]
    NotGranted(&'static str),
}

/// Reads an offer and checks what both protocols ask of it: ICE credentials, a certificate's fingerprint, one bundled transport,
/// RTCP on the same port (RFC 9725 section 4.4).
///
/// # Errors
/// [`Error::Unreadable`], [`Error::Unusable`]
pub fn read_offer(text: &str) -> Result<Description, Error> {
    let offer = sdp::parse(text).map_err(Error::Unreadable)?;
    let live = || offer.media.iter().filter(|m| !m.rejected);
    if live().next().is_none() {
        return Err(Error::Unusable("it has no media sections"));
    }
    let transport = offer.transport().ok_or(Error::Unusable(
        "it has no ICE credentials (a=ice-ufrag, a=ice-pwd)",
    ))?;
    if transport.fingerprints.is_empty() {
        return Err(Error::Unusable("it has no a=fingerprint"));
    }
    if live().count() > 1 && offer.bundle.is_empty() {
        return Err(Error::Unusable(
            "its media sections are not bundled (a=group:BUNDLE)",
        ));
    }
    if live().any(|m| m.is_rtp() && !m.rtcp_mux) {
        return Err(Error::Unusable("a media section lacks a=rtcp-mux"));
    }
    if live().filter(|m| m.is_rtp()).count() > MAX_SECTIONS {
        return Err(Error::Unusable(
            "it has more than 8 audio and video sections",
        ));
    }
    Ok(offer)
}

/// The announcements that a client with signalling would have sent for what the offer sends. The sections' `a=msid` is replaced by
/// what the announcements name them by, for publishers may leave it out or give it twice.
///
/// # Errors
/// [`Error::NotGranted`], [`Error::Unusable`]
pub fn announce(
    offer: &mut Description,
    permissions: &Permissions,
) -> Result<Vec<lk::AddTrackRequest>, Error> {
    if !permissions.can_publish {
        return Err(Error::NotGranted("it does not grant canPublish"));
    }
    let mut announcements = Vec::new();
    let (mut audios, mut videos) = (0, 0);
    let mut sends = false;
    for section in &mut offer.media {
        if section.rejected || !section.is_rtp() || !section.direction.sends() {
            continue;
        }
        sends = true;
        let codecs = accepted_codecs(section);
        section.msid = None;
        let Some(codec) = codecs.first() else {
            continue;
        };
        let count = if section.kind == MediaKind::Audio {
            &mut audios
        } else {
            &mut videos
        };
        let source = source(section.kind, *count);
        *count += 1;
        if !permissions.allows_source(source) {
            return Err(Error::NotGranted(
                "its canPublishSources does not list what the offer sends",
            ));
        }
        let cid = format!("whip-{}", section.mid);
        announcements.push(announcement(section, codec, source, &cid));
        section.msid = Some((String::new(), cid));
    }
    match (sends, announcements.is_empty()) {
        (false, _) => Err(Error::Unusable(
            "it sends nothing; media sections must be sendonly",
        )),
        (true, true) => Err(Error::Unusable(
            "it has no codec that is forwarded here (Opus, PCMU, PCMA; VP8, VP9, AV1, H.265, H.264 with packetization-mode=1)",
        )),
        (true, false) => Ok(announcements),
    }
}

/// The first picture is a camera's, the second a screen's; so with sound.
fn source(kind: MediaKind, before: usize) -> lk::TrackSource {
    match (kind, before) {
        (MediaKind::Audio, 0) => lk::TrackSource::Microphone,
        (MediaKind::Audio, 1) => lk::TrackSource::ScreenShareAudio,
        (MediaKind::Video, 0) => lk::TrackSource::Camera,
        (MediaKind::Video, 1) => lk::TrackSource::ScreenShare,
        _ => lk::TrackSource::Unknown,
    }
}

fn announcement(
    section: &Media,
    codec: &CodecParameters,
    source: lk::TrackSource,
    cid: &str,
) -> lk::AddTrackRequest {
    let audio = section.kind == MediaKind::Audio;
    let kind = if audio {
        lk::TrackType::Audio
    } else {
        lk::TrackType::Video
    };
    let rids = section.simulcast_send.len().max(section.rids_send.len());
    let set = |name: &str| codec.parameter(name) == Some("1");
    let mut audio_features = Vec::new();
    if audio && (set("stereo") || set("sprop-stereo")) {
        audio_features.push(lk::AudioTrackFeature::TfStereo as i32);
    }
    if audio && !set("usedtx") {
        // A broadcast encoder that does not offer it is not asked to fall silent.
        audio_features.push(lk::AudioTrackFeature::TfNoDtx as i32);
    }
    lk::AddTrackRequest {
        cid: cid.to_owned(),
        name: name(source).to_owned(),
        r#type: kind as i32,
        source: source as i32,
        layers: if audio { Vec::new() } else { layers(rids) },
        // The offer's order of codecs is the publisher's choice.
        disable_red: codec.name.eq_ignore_ascii_case("opus"),
        audio_features,
        ..Default::default()
    }
}

/// What clients show for a track.
fn name(source: lk::TrackSource) -> &'static str {
    match source {
        lk::TrackSource::Microphone => "microphone",
        lk::TrackSource::Camera => "camera",
        lk::TrackSource::ScreenShare => "screen",
        lk::TrackSource::ScreenShareAudio => "screen_audio",
        lk::TrackSource::Unknown => "",
    }
}

/// Simulcast layers, lowest first. Their sizes are not known before they are sent.
fn layers(rids: usize) -> Vec<lk::VideoLayer> {
    let qualities: &[lk::VideoQuality] = match rids {
        0 | 1 => &[lk::VideoQuality::High],
        2 => &[lk::VideoQuality::Low, lk::VideoQuality::High],
        _ => &[
            lk::VideoQuality::Low,
            lk::VideoQuality::Medium,
            lk::VideoQuality::High,
        ],
    };
    qualities
        .iter()
        .map(|&quality| lk::VideoLayer {
            quality: quality as i32,
            ..Default::default()
        })
        .collect()
}
