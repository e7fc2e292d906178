//! Our answer to a client's offer.

use std::fmt;

use super::{
    Description, Direction, Media, Setup, TransportAttributes, accepted_codecs, extension,
};

/// What we take in one data channel message, in bytes: LiveKit clients send at most 64,000.
pub const MAX_MESSAGE_BYTES: u32 = 65_536;

/// Our end of a peer connection. Its `Debug` shows neither password nor addresses.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct LocalTransport {
    /// ICE user name fragment.
    pub ufrag: String,
    /// ICE password.
    pub pwd: String,
    /// Certificate fingerprint, `sha-256 AB:CD:…`.
    pub fingerprint: String,
    /// Values of `a=candidate` without the attribute's name.
    pub candidates: Vec<String>,
}

impl fmt::Debug for LocalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTransport")
            .field("ufrag", &self.ufrag)
            .field("candidates", &self.candidates.len())
            .finish_non_exhaustive()
    }
}

impl LocalTransport {
    pub(super) fn attributes(&self, setup: Setup) -> TransportAttributes {
        TransportAttributes {
            ufrag: Some(self.ufrag.clone()),
            pwd: Some(self.pwd.clone()),
            fingerprints: vec![self.fingerprint.clone()],
            setup: Some(setup),
            candidates: self.candidates.clone(),
            end_of_candidates: true,
        }
    }
}

impl Description {
    /// The answer to `offer` in which we receive all that is offered and send nothing yet: recvonly sections are
    /// inactive until [`Media::send`] gives them a track. Sections that are not RTP audio, video or data channels, that
    /// have no codec in common with us, or that are outside of the bundle, are refused.
    ///
    /// The version follows the offer's, which a client raises with every offer.
    ///
    /// We are the DTLS server unless the client insists on that (RFC 8842 §5).
    pub fn answer_to(offer: &Self, local: &LocalTransport) -> Self {
        let passive = offer
            .transport()
            .is_some_and(|transport| transport.setup == Some(Setup::Passive));
        let mut answer = Self {
            origin: offer.origin,
            ice_lite: true,
            extmap_allow_mixed: offer.extmap_allow_mixed,
            ..Self::default()
        };
        let transport = local.attributes(if passive {
            Setup::Active
        } else {
            Setup::Passive
        });
        for offered in &offer.media {
            let mut media = answer_section(offered);
            // There is one transport per connection: without BUNDLE only the first section can have it (RFC 8843 §7.3).
            let bundled = if offer.bundle.is_empty() {
                answer.bundle.is_empty()
            } else {
                offer.bundle.contains(&media.mid)
            };
            if bundled && !media.rejected {
                answer.bundle.push(media.mid.clone());
                media.transport = transport.clone();
            } else {
                media.rejected = true;
                media.direction = Direction::Inactive;
            }
            answer.media.push(media);
        }
        if offer.bundle.is_empty() {
            answer.bundle.clear();
        }
        answer
    }
}

fn answer_section(offered: &Media) -> Media {
    let mut media = Media::new(offered.mid.clone(), offered.kind);
    media.protocol.clone_from(&offered.protocol);
    if offered.is_data() && !offered.rejected {
        media.sctp_port = offered.sctp_port;
        media.max_message_size = Some(MAX_MESSAGE_BYTES);
        return media;
    }
    media.codecs = accepted_codecs(offered);
    media.rejected = offered.rejected || !offered.is_rtp() || media.codecs.is_empty();
    if media.rejected {
        // A refused section names the offered formats (RFC 3264 §6).
        media.codecs.clone_from(&offered.codecs);
        media.direction = Direction::Inactive;
        return media;
    }
    media.rtcp_rsize = offered.rtcp_rsize;
    media.direction = Direction::of(false, offered.direction.sends());
    media.extensions = extension::accepted(offered);
    if offered.direction.sends() {
        media.rids_recv.clone_from(&offered.rids_send);
        media.simulcast_recv.clone_from(&offered.simulcast_send);
    }
    media
}
