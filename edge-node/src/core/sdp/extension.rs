//! Header extensions that an edge negotiates, by URI.

use media::router::ExtensionIds;

use super::{Description, Direction, Extension, Media, MediaKind};

/// Highest id that we send with: the one-byte form carries 1..=14 (RFC 8285 §4.2).
pub const MAX_EXTENSION_ID: u8 = 14;

/// RFC 9143 §15.
pub(super) const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// RFC 8852 §4.
pub(super) const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// RFC 8852 §4.
pub(super) const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// draft-holmer-rmcat-transport-wide-cc-extensions-01.
pub(super) const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// Send time of 24 bits, 6.18 fixed point seconds.
pub(super) const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// Capture time of 64 bits, NTP format, optionally with a clock offset.
pub(super) const ABS_CAPTURE_TIME: &str =
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
/// RFC 6464.
pub(super) const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
/// 3GPP TS 26.114 §7.4.5.
pub(super) const ORIENTATION: &str = "urn:3gpp:video-orientation";
/// Limits for the receiver's playout delay, 2 × 12 bits of 10 ms.
pub(super) const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
/// AV1 RTP specification, appendix A.
pub(super) const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

const AUDIO: [&str; 5] = [
    MID,
    TRANSPORT_CC,
    ABS_SEND_TIME,
    ABS_CAPTURE_TIME,
    AUDIO_LEVEL,
];
const VIDEO: [&str; 9] = [
    MID,
    RID,
    REPAIRED_RID,
    TRANSPORT_CC,
    ABS_SEND_TIME,
    ABS_CAPTURE_TIME,
    ORIENTATION,
    PLAYOUT_DELAY,
    DEPENDENCY_DESCRIPTOR,
];

fn known(kind: MediaKind) -> &'static [&'static str] {
    match kind {
        MediaKind::Audio => &AUDIO,
        MediaKind::Video => &VIDEO,
        MediaKind::Application | MediaKind::Text | MediaKind::Message | MediaKind::Image => &[],
    }
}

/// The offered extensions that we answer, with their ids. Sections without a sender keep RID and repaired RID as well:
/// Chromium later reuses them for simulcast and fails if they were refused once.
pub(super) fn accepted(offer: &Media) -> Vec<Extension> {
    let ours = known(offer.kind);
    offer
        .extensions
        .iter()
        .filter(|e| usable(offer, e) && ours.contains(&e.uri.as_str()))
        .map(|e| Extension {
            direction: e.direction.reversed(),
            ..e.clone()
        })
        .collect()
}

/// Ids over the one-byte form's are read but never written, so they are good only where the client just sends.
/// livekit-client numbers the dependency descriptor 15 when Chromium has used up the others.
fn usable(client: &Media, extension: &Extension) -> bool {
    extension.id <= MAX_EXTENSION_ID || client.direction == Direction::SendOnly
}

/// The extensions of our own offers. Audio and video share ids as BUNDLE requires (RFC 8843 §9.1); ids as in Chromium.
pub(super) fn ours(kind: MediaKind) -> Vec<Extension> {
    known(kind)
        .iter()
        .filter(|uri| ![RID, REPAIRED_RID].contains(*uri))
        .map(|uri| Extension {
            id: our_id(uri),
            uri: (*uri).to_owned(),
            direction: Direction::SendRecv,
        })
        .collect()
}

fn our_id(uri: &str) -> u8 {
    match uri {
        AUDIO_LEVEL => 1,
        ABS_SEND_TIME => 2,
        TRANSPORT_CC => 3,
        MID => 4,
        PLAYOUT_DELAY => 5,
        ABS_CAPTURE_TIME => 6,
        DEPENDENCY_DESCRIPTOR => 8,
        RID => 10,
        REPAIRED_RID => 11,
        _ => 13,
    }
}

/// The numbering in one section of a client's description; `None` where an extension is not there or has an id that
/// could not be used in that section's direction.
pub fn extension_ids(client: &Media) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    merge(&mut ids, client);
    ids
}

impl Description {
    /// The numbering over all live sections of a client's description, for what it sends to us: within a bundle an id
    /// means the same in every section (RFC 8843 §9.1), but audio sections do not list what only video has.
    pub fn receive_extension_ids(&self) -> ExtensionIds {
        let mut ids = ExtensionIds::default();
        for media in self.media.iter().filter(|media| !media.rejected) {
            merge(&mut ids, media);
        }
        ids
    }
}

/// Adds what `client` numbers and `ids` does not have yet.
fn merge(ids: &mut ExtensionIds, client: &Media) {
    for extension in client.extensions.iter().filter(|e| usable(client, e)) {
        let slot = match extension.uri.as_str() {
            MID => &mut ids.mid,
            RID => &mut ids.rid,
            REPAIRED_RID => &mut ids.repaired_rid,
            TRANSPORT_CC => &mut ids.transport_cc,
            ABS_SEND_TIME => &mut ids.abs_send_time,
            ABS_CAPTURE_TIME => &mut ids.abs_capture_time,
            AUDIO_LEVEL => &mut ids.audio_level,
            ORIENTATION => &mut ids.orientation,
            PLAYOUT_DELAY => &mut ids.playout_delay,
            DEPENDENCY_DESCRIPTOR => &mut ids.dependency_descriptor,
            _ => continue,
        };
        slot.get_or_insert(extension.id);
    }
}
