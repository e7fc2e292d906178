//! The peer connection on which the client offers: what it publishes and, without a second connection, what it receives.

use std::collections::{BTreeMap, HashMap};

use media::packet::Codec;
use media::router::{ReceiveConfig, ReceiveMedia, ReceivePayload, ReceiveSsrc, TrackKey};
use proto::TrackSid;

use super::{Bound, Wanted, bind};
use crate::core::sdp::{
    self, CodecParameters, Description, Direction, LocalTransport, Media, MediaKind, OpusOptions,
};

/// A track that the client announced and may publish on a section of its offer.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Its id in signalling.
    pub sid: TrackSid,
    /// Its key on the media plane.
    pub key: TrackKey,
    /// The ids under which the client's SDP may name it (`a=msid`).
    pub cids: Vec<String>,
    /// Audio or video.
    pub kind: MediaKind,
    /// The codec it should be sent with; the offer's first when `None`.
    pub codec: Option<Codec>,
    /// Wants redundant audio (RFC 2198) when the client offers it.
    pub red: bool,
    /// Opus parameters for the answer: stereo and discontinuous transmission.
    pub opus: OpusOptions,
}

/// What a section of the client's SDP carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Carries {
    /// Nothing: may carry a subscription.
    #[default]
    Nothing,
    /// A publication of the client.
    Publication(TrackSid),
    /// A subscription.
    Subscription(TrackSid),
    /// A subscription that goes on with another SSRC, as the next answer says.
    Rebinding(TrackSid),
    /// A subscription that ended: the next answer says `inactive`, and only then is it free, because a browser announces a track only
    /// when the direction changes.
    Ended,
}

impl Carries {
    fn subscription(&self) -> Option<&TrackSid> {
        match self {
            Self::Subscription(sid) | Self::Rebinding(sid) => Some(sid),
            Self::Nothing | Self::Publication(_) | Self::Ended => None,
        }
    }
}

/// A publication that the negotiation bound to a section.
#[derive(Debug, Clone)]
pub struct Published {
    /// Which.
    pub sid: TrackSid,
    /// Its section.
    pub mid: String,
    /// What is sent first.
    pub codec: Codec,
    /// The codec's parameters as offered.
    pub fmtp: String,
    /// Number of simulcast streams.
    pub streams: u8,
    /// Their names (RFC 8851), lowest first; empty without simulcast.
    pub rids: Vec<String>,
}

/// Outcome of one offer.
#[derive(Debug)]
pub struct Negotiated {
    /// The answer.
    pub answer: Description,
    /// What the client now sends.
    pub receive: ReceiveConfig,
    /// Publications on a section, also those that were there before.
    pub published: Vec<Published>,
    /// Publications whose section is gone or silent.
    pub unpublished: Vec<TrackSid>,
    /// Subscriptions that became live by this answer.
    pub bound: Vec<Bound>,
    /// Wanted tracks that the client cannot decode.
    pub undecodable: Vec<TrackSid>,
    /// Section → track id, for subscriptions.
    pub mid_to_track: HashMap<String, String>,
}

/// Memory from one offer to the next.
#[derive(Debug, Default)]
pub struct Answerer {
    sections: BTreeMap<String, Carries>,
}

/// Sections that are missing for what is wanted: audio, video.
pub type Missing = (u32, u32);

impl Answerer {
    /// Ends a subscription; its section can be reused after the next answer but one.
    pub fn end_subscription(&mut self, sid: &TrackSid) -> bool {
        let found = self
            .sections
            .values_mut()
            .find(|c| c.subscription() == Some(sid));
        found.map(|carries| *carries = Carries::Ended).is_some()
    }

    /// Binds a subscription anew with the next answer, on its section; false when it has none.
    pub fn rebind(&mut self, sid: &TrackSid) -> bool {
        let found = self
            .sections
            .values_mut()
            .find(|c| c.subscription() == Some(sid));
        found
            .map(|carries| *carries = Carries::Rebinding(sid.clone()))
            .is_some()
    }

    /// Whether a subscription has a section.
    pub fn carries(&self, sid: &TrackSid) -> bool {
        self.sections
            .values()
            .any(|c| c.subscription() == Some(sid))
    }

    /// Answers an offer: places publications by `a=msid`, and as many of `wanted` as there are free sections, in order.
    pub fn answer(
        &mut self,
        offer: &Description,
        local: &LocalTransport,
        publications: &[Publication],
        wanted: &[Wanted],
    ) -> Negotiated {
        let mut negotiated = Negotiated {
            answer: Description::answer_to(offer, local),
            receive: ReceiveConfig {
                extensions: offer.receive_extension_ids(),
                media: Vec::new(),
            },
            published: Vec::new(),
            unpublished: Vec::new(),
            bound: Vec::new(),
            undecodable: Vec::new(),
            mid_to_track: HashMap::new(),
        };
        for (index, section) in offer.media.iter().enumerate() {
            if section.kind == MediaKind::Application || section.rejected {
                continue;
            }
            let sends = matches!(section.direction, Direction::SendOnly | Direction::SendRecv);
            let publication = sends
                .then(|| find_publication(section, publications))
                .flatten();
            let Some(answer) = negotiated.answer.media.get_mut(index) else {
                continue;
            };
            if let Some(publication) = publication {
                answer.direction = Direction::RecvOnly;
                prefer(answer, publication);
                let (published, receive) = publish(section, &answer.codecs, publication);
                self.sections.insert(
                    section.mid.clone(),
                    Carries::Publication(published.sid.clone()),
                );
                negotiated.published.push(published);
                negotiated.receive.media.push(receive);
            } else if sends {
                // A track whose announcement has not come yet: the client offers again once it has.
                answer.direction = Direction::Inactive;
            } else {
                self.answer_receiving(section, index, wanted, &mut negotiated);
            }
        }
        self.forget_silent(offer, &mut negotiated);
        negotiated
    }

    /// A section that the client receives on, or keeps for that.
    fn answer_receiving(
        &mut self,
        section: &Media,
        index: usize,
        wanted: &[Wanted],
        negotiated: &mut Negotiated,
    ) {
        let state = self.sections.get(&section.mid).cloned().unwrap_or_default();
        let Some(answer) = negotiated.answer.media.get_mut(index) else {
            return;
        };
        answer.direction = Direction::Inactive;
        if section.direction != Direction::RecvOnly {
            return;
        }
        let next = match state {
            Carries::Ended => Carries::Nothing,
            Carries::Publication(sid) => {
                negotiated.unpublished.push(sid);
                Carries::Nothing
            }
            Carries::Subscription(sid) => match wanted.iter().find(|w| w.track.sid == sid) {
                Some(wanted) => {
                    send_on(answer, wanted);
                    Carries::Subscription(sid)
                }
                None => Carries::Nothing,
            },
            Carries::Rebinding(sid) => {
                let wanted = wanted.iter().find(|w| w.track.sid == sid);
                let bound = wanted.and_then(|wanted| {
                    let extensions = sdp::extension_ids(section);
                    let bound = bind(wanted, &section.mid, &answer.codecs, extensions)?;
                    Some((wanted, bound))
                });
                match bound {
                    Some((wanted, bound)) => {
                        send_on(answer, wanted);
                        negotiated.bound.push(bound);
                        Carries::Subscription(sid)
                    }
                    None => {
                        negotiated.undecodable.push(sid);
                        Carries::Nothing
                    }
                }
            }
            Carries::Nothing => {
                match self.place(section, &answer.codecs.clone(), wanted, negotiated) {
                    Some(wanted) => {
                        let Some(answer) = negotiated.answer.media.get_mut(index) else {
                            return;
                        };
                        send_on(answer, wanted);
                        Carries::Subscription(wanted.track.sid.clone())
                    }
                    None => Carries::Nothing,
                }
            }
        };
        if let Carries::Subscription(sid) = &next {
            negotiated
                .mid_to_track
                .insert(section.mid.clone(), sid.to_string());
        }
        self.sections.insert(section.mid.clone(), next);
    }
}

impl Answerer {
    /// The first wanted track of the section's kind that has no section yet and that the client can decode.
    fn place<'a>(
        &self,
        section: &Media,
        codecs: &[CodecParameters],
        wanted: &'a [Wanted],
        negotiated: &mut Negotiated,
    ) -> Option<&'a Wanted> {
        let extensions = sdp::extension_ids(section);
        for candidate in wanted {
            let kind = if candidate.track.is_video() {
                MediaKind::Video
            } else {
                MediaKind::Audio
            };
            let sid = &candidate.track.sid;
            let settled = negotiated.bound.iter().any(|b| b.track == *sid)
                || negotiated.undecodable.contains(sid)
                || self.carries(sid);
            if kind != section.kind || settled {
                continue;
            }
            match bind(candidate, &section.mid, codecs, extensions) {
                Some(bound) => {
                    negotiated.bound.push(bound);
                    return Some(candidate);
                }
                None => negotiated.undecodable.push(sid.clone()),
            }
        }
        None
    }

    /// Ends publications whose section sends no more.
    fn forget_silent(&mut self, offer: &Description, negotiated: &mut Negotiated) {
        for (mid, carries) in &mut self.sections {
            let Carries::Publication(sid) = carries else {
                continue;
            };
            let sends = offer
                .section(mid)
                .is_some_and(|s| !s.rejected && s.direction.sends());
            if !sends {
                negotiated.unpublished.push(sid.clone());
                *carries = Carries::Nothing;
            }
        }
    }
}

/// Marks an answer's section as sending `wanted`.
fn send_on(answer: &mut Media, wanted: &Wanted) {
    // What we send there needs no consent of the client's for receiving: the section was `recvonly`.
    answer.direction = Direction::Inactive;
    answer.send(wanted.send_parameters());
}

/// The announced track that the section's `a=msid` names.
fn find_publication<'a>(
    section: &Media,
    publications: &'a [Publication],
) -> Option<&'a Publication> {
    let (stream, track) = section.msid.as_ref()?;
    publications
        .iter()
        .filter(|p| p.kind == section.kind)
        .find(|p| p.cids.iter().any(|cid| cid == track || cid == stream))
}

/// Puts the codec the publisher asked for first, which is what a browser then sends.
fn prefer(answer: &mut Media, publication: &Publication) {
    let preferred = match publication.kind {
        MediaKind::Audio if publication.red => Some(Codec::Red),
        MediaKind::Audio => Some(Codec::Opus),
        MediaKind::Video
        | MediaKind::Application
        | MediaKind::Text
        | MediaKind::Message
        | MediaKind::Image => publication.codec,
    };
    answer
        .codecs
        .sort_by_key(|c| preferred.is_some() && Codec::from_name(&c.name) != preferred);
    answer.set_opus_options(publication.opus);
}

/// How the plane tells the publication's packets from others.
fn publish(
    section: &Media,
    codecs: &[CodecParameters],
    publication: &Publication,
) -> (Published, ReceiveMedia) {
    let rids = stream_order(section);
    let payloads = codecs.iter().filter_map(|c| {
        Some(ReceivePayload {
            pt: c.pt,
            codec: Codec::from_name(&c.name)?,
            rtx: c.rtx,
            nack: c.has_feedback("nack"),
            pli: c.has_feedback("nack pli"),
            clock_rate: c.clock_rate,
        })
    });
    let first = codecs.first();
    let published = Published {
        sid: publication.sid.clone(),
        mid: section.mid.clone(),
        codec: first
            .and_then(|c| Codec::from_name(&c.name))
            .unwrap_or(Codec::Opus),
        fmtp: first.map(|c| c.fmtp.clone()).unwrap_or_default(),
        streams: u8::try_from(rids.len().max(1)).unwrap_or(1).min(3),
        rids: rids.clone(),
    };
    let receive = ReceiveMedia {
        mid: section.mid.clone(),
        track: publication.key,
        payloads: payloads.collect(),
        rids,
        ssrcs: section
            .ssrcs
            .iter()
            .map(|s| ReceiveSsrc {
                ssrc: s.ssrc,
                rtx: s.rtx,
            })
            .collect(),
    };
    (published, receive)
}

/// The section's simulcast streams, lowest first: by the customary names `q`, `h`, `f`, otherwise as the client lists them.
fn stream_order(section: &Media) -> Vec<String> {
    const CUSTOMARY: [&str; 3] = ["q", "h", "f"];
    let listed = if section.simulcast_send.is_empty() {
        &section.rids_send
    } else {
        &section.simulcast_send
    };
    let mut rids: Vec<String> = listed.iter().take(CUSTOMARY.len()).cloned().collect();
    let rank = |rid: &String| CUSTOMARY.iter().position(|c| c == rid);
    if rids.iter().all(|rid| rank(rid).is_some()) {
        rids.sort_by_key(rank);
    }
    rids
}

impl Answerer {
    /// What is missing for `wanted` given the sections of the last offer; `None` when everything has its section.
    pub fn missing(&self, wanted: &[Wanted], offer: &Description) -> Option<Missing> {
        let unplaced = |video: bool| {
            wanted
                .iter()
                .filter(|w| w.track.is_video() == video && !self.carries(&w.track.sid))
                .count()
        };
        let free = |kind: MediaKind| {
            let open = offer.media.iter().filter(|s| s.kind == kind && !s.rejected);
            open.filter(|s| s.direction == Direction::RecvOnly)
                .filter(|s| matches!(self.sections.get(&s.mid), None | Some(Carries::Nothing)))
                .count()
        };
        let (audio, video) = (unplaced(false), unplaced(true));
        if audio + video == 0 {
            return None;
        }
        let short = |need: usize, kind| u32::try_from(need.saturating_sub(free(kind))).unwrap_or(0);
        Some((
            short(audio, MediaKind::Audio),
            short(video, MediaKind::Video),
        ))
    }
}
