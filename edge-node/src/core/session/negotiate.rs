//! Offers and answers of both peer connections.

use std::time::Duration;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;

use super::{HeldOffer, Now, Output, Peer, Remote, Session};
use crate::core::negotiation::answerer::Negotiated;
use crate::core::sdp::{Description, MediaKind};

/// How long an offer waits for the announcement of a track that it names: both come on one ordered connection, so this is long.
const ANNOUNCEMENT_WAIT: Duration = Duration::from_millis(500);

impl Session {
    pub(super) fn handle_offer(&mut self, now: Now, id: u32, description: Box<Description>) {
        if self.names_unannounced(&description) {
            let until = now.instant + ANNOUNCEMENT_WAIT;
            self.held = Some(HeldOffer {
                id,
                description,
                until,
            });
            return;
        }
        self.answer(now, id, description);
    }

    /// Answers a held offer: its announcement came, or it waited long enough.
    pub(super) fn release_held_offer(&mut self, now: Now) {
        let Some(held) = self.held.take() else { return };
        if held.until > now.instant && self.names_unannounced(&held.description) {
            self.held = Some(held);
            return;
        }
        self.answer(now, held.id, held.description);
    }

    fn names_unannounced(&self, description: &Description) -> bool {
        description
            .media
            .iter()
            .filter(|s| matches!(s.kind, MediaKind::Audio | MediaKind::Video))
            .filter(|s| !s.rejected && s.direction.sends())
            .filter_map(|s| s.msid.as_ref())
            .any(|(stream, track)| !self.publishing.announced(stream, track))
    }

    fn answer(&mut self, now: Now, id: u32, description: Box<Description>) {
        self.held = None;
        self.requirement_sent = None;
        self.sections_stale = false;
        self.set_remote(Peer::Publisher, &description);
        let Some(local) = self.local.get(&Peer::Publisher) else {
            return;
        };
        let wanted = if self.config.dual {
            Vec::new()
        } else {
            self.subscribing.wanted()
        };
        let publications = self.publishing.publications();
        let negotiated = self
            .answerer
            .answer(&description, local, &publications, &wanted);
        self.offered = Some(description);
        self.apply(now, id, negotiated);
    }

    fn apply(&mut self, now: Now, id: u32, negotiated: Negotiated) {
        for sid in negotiated.unpublished {
            self.unpublish(now, &sid);
        }
        for published in negotiated.published {
            self.publish(now, &published);
        }
        self.outputs.push_back(Output::Receive(negotiated.receive));
        self.bind(negotiated.bound);
        self.signal(Response::Answer(lk::SessionDescription {
            r#type: "answer".to_owned(),
            sdp: negotiated.answer.to_sdp(),
            id,
            mid_to_track_id: negotiated.mid_to_track,
        }));
        self.cannot_decode(now, negotiated.undecodable);
    }

    pub(super) fn handle_answer(&mut self, now: Now, id: u32, description: &Description) {
        self.set_remote(Peer::Subscriber, description);
        let wanted = self.subscribing.wanted();
        let Some(offerer) = &mut self.offerer else {
            return;
        };
        let (bound, undecodable) = offerer.handle_answer(id, description, &wanted);
        self.bind(bound);
        self.cannot_decode(now, undecodable);
    }

    fn set_remote(&mut self, peer: Peer, description: &Description) {
        let Some(transport) = description.transport() else {
            return;
        };
        let remote = Remote::from(transport);
        if self.remote.get(&peer) != Some(&remote) {
            self.remote.insert(peer, remote.clone());
            self.outputs.push_back(Output::SetRemote { peer, remote });
        }
    }

    /// Offers what is due, or asks the client of a single connection to offer.
    pub(super) fn negotiate(&mut self, now: Now) {
        let wanted = self.subscribing.wanted();
        if let Some(offerer) = &mut self.offerer {
            let Some(local) = self.local.get(&Peer::Subscriber) else {
                return;
            };
            let Some(offer) = offerer.poll_offer(&wanted, local) else {
                return;
            };
            self.signal(Response::Offer(lk::SessionDescription {
                r#type: "offer".to_owned(),
                sdp: offer.description.to_sdp(),
                id: offer.id,
                mid_to_track_id: offer.mid_to_track,
            }));
            return;
        }
        let Some(offered) = &self.offered else { return };
        if self.requirement_sent.is_some() || self.held.is_some() {
            return;
        }
        let missing = self.answerer.missing(&wanted, offered);
        let Some((num_audios, num_videos)) =
            missing.or_else(|| self.sections_stale.then_some((0, 0)))
        else {
            return;
        };
        self.requirement_sent = Some(now.instant);
        let requirement = lk::MediaSectionsRequirement {
            num_audios,
            num_videos,
        };
        self.signal(Response::MediaSectionsRequirement(requirement));
    }
}
