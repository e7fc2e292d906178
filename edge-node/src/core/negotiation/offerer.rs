//! The second peer connection of clients that use two: we offer what they receive.

use std::collections::HashMap;

use proto::TrackSid;

use super::{Bound, Wanted, bind};
use crate::core::sdp::{self, Description, LocalTransport, MediaKind, Origin};

/// The section of the data channels; it comes first.
const DATA_MID: &str = "data";

/// Memory from one offer to the next.
#[derive(Debug)]
pub struct Offerer {
    session_id: u64,
    version: u64,
    sections: Vec<Section>,
    /// An offer is out and not answered: its id.
    pending: Option<u32>,
    offer_id: u32,
    /// Something changed since the offer that is out.
    stale: bool,
}

#[derive(Debug)]
struct Section {
    mid: String,
    kind: MediaKind,
    carries: Option<TrackSid>,
    /// An answer brought the track it carries to life.
    bound: bool,
    /// It is to be bound as the next offer says, not as the one that may be out.
    unoffered: bool,
    /// The client knows it as `inactive`; only then may it carry another track, or the browser announces none.
    idle: bool,
}

/// An offer to send.
#[derive(Debug)]
pub struct Offer {
    /// To be echoed by the answer.
    pub id: u32,
    /// The description.
    pub description: Description,
    /// Section → track id.
    pub mid_to_track: HashMap<String, String>,
}

impl Offerer {
    /// `session_id` is random (RFC 8829 section 5.2.1).
    pub fn new(session_id: u64) -> Self {
        Self {
            session_id,
            version: 0,
            sections: Vec::new(),
            pending: None,
            offer_id: 0,
            stale: true,
        }
    }

    /// Says that something must be offered.
    pub fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Forgets an offer that will never be answered: the client came back on a new signalling connection.
    pub fn restart(&mut self) {
        self.pending = None;
        self.stale = true;
    }

    /// Ends a subscription.
    pub fn end_subscription(&mut self, sid: &TrackSid) {
        for section in self
            .sections
            .iter_mut()
            .filter(|s| s.carries.as_ref() == Some(sid))
        {
            section.carries = None;
            section.bound = false;
            section.idle = false;
            self.stale = true;
        }
    }

    /// Binds a subscription anew with the next offer, on its section; false when it has none.
    pub fn rebind(&mut self, sid: &TrackSid) -> bool {
        let Some(section) = self
            .sections
            .iter_mut()
            .find(|s| s.carries.as_ref() == Some(sid))
        else {
            return false;
        };
        section.bound = false;
        section.unoffered = true;
        self.stale = true;
        true
    }

    /// The next offer, when one is due: nothing is outstanding and something changed.
    pub fn poll_offer(&mut self, wanted: &[Wanted], local: &LocalTransport) -> Option<Offer> {
        if self.pending.is_some() || !self.stale {
            return None;
        }
        self.stale = false;
        self.place(wanted);
        self.offer_id += 1;
        self.version += 1;
        self.pending = Some(self.offer_id);
        let origin = Origin {
            session_id: self.session_id,
            session_version: self.version,
        };
        let mut description = Description::offer(origin);
        description.offer_data(DATA_MID, local);
        let mut mid_to_track = HashMap::new();
        for section in &mut self.sections {
            section.unoffered = false;
            let carried = wanted
                .iter()
                .find(|w| Some(&w.track.sid) == section.carries.as_ref());
            if let Some(wanted) = carried {
                mid_to_track.insert(section.mid.clone(), wanted.track.sid.to_string());
            }
            let send = carried.map(Wanted::send_parameters);
            description.offer_track(&section.mid, section.kind, local, send);
        }
        Some(Offer {
            id: self.offer_id,
            description,
            mid_to_track,
        })
    }

    /// The client's answer: subscriptions that are live now, and those it cannot decode.
    pub fn handle_answer(
        &mut self,
        id: u32,
        answer: &Description,
        wanted: &[Wanted],
    ) -> (Vec<Bound>, Vec<TrackSid>) {
        let (mut bound, mut undecodable) = (Vec::new(), Vec::new());
        // Native clients answer with id 0.
        if self.pending.is_none() || (id != 0 && self.pending != Some(id)) {
            return (bound, undecodable);
        }
        self.pending = None;
        for section in &mut self.sections {
            let Some(media) = answer.section(&section.mid) else {
                continue;
            };
            let Some(sid) = section.carries.clone() else {
                section.idle = true;
                continue;
            };
            let Some(wanted) = wanted.iter().find(|w| w.track.sid == sid) else {
                continue;
            };
            if section.bound || section.unoffered {
                continue;
            }
            let codecs = sdp::accepted_codecs(media);
            let outcome = if media.rejected || !media.direction.receives() {
                None
            } else {
                bind(wanted, &section.mid, &codecs, sdp::extension_ids(media))
            };
            match outcome {
                Some(outcome) => {
                    section.bound = true;
                    bound.push(outcome);
                }
                None => undecodable.push(sid),
            }
        }
        (bound, undecodable)
    }

    /// Gives every wanted track a section: an idle one of its kind, or a new one.
    fn place(&mut self, wanted: &[Wanted]) {
        for wanted in wanted {
            let sid = &wanted.track.sid;
            if self
                .sections
                .iter()
                .any(|s| s.carries.as_ref() == Some(sid))
            {
                continue;
            }
            let kind = if wanted.track.is_video() {
                MediaKind::Video
            } else {
                MediaKind::Audio
            };
            let free = self
                .sections
                .iter_mut()
                .find(|s| s.idle && s.carries.is_none() && s.kind == kind);
            if let Some(section) = free {
                section.carries = Some(sid.clone());
                section.idle = false;
            } else {
                self.sections.push(Section {
                    mid: self.sections.len().to_string(),
                    kind,
                    carries: Some(sid.clone()),
                    bound: false,
                    unoffered: false,
                    idle: false,
                });
            }
        }
    }
}
