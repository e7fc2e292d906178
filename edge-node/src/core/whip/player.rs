//! A WHEP player: sections that were negotiated once, and what plays on them.
//!
//! The answer names one SSRC per section and never changes. When the publisher that is shown leaves or mutes its camera, another
//! one's tracks are sent under the same SSRCs; the router lets sequence numbers and timestamps go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::{ExtensionIds, ReceiveConfig};
use proto::{Identity, ParticipantSid, TrackSid};

use super::Error;
use crate::core::negotiation::{Bound, Wanted, bind};
use crate::core::room::{FromSession, ToSession};
use crate::core::sdp::{
    CodecParameters, Description, Direction, LocalTransport, MediaKind, SendParameters,
    extension_ids,
};
use crate::core::session::{Input, Output, Peer, Remote};
use crate::core::track::{Track, default_target};

/// Which publisher's tracks play.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// The one that is shown goes on until it has no picture any more; then the loudest, or else the first that has.
    #[default]
    Automatic,
    /// That participant's, and nothing while it has none.
    Identity(Identity),
    /// That track, and of its publisher whatever the other sections are for.
    Track(TrackSid),
}

impl Selection {
    /// From the query of the request, `identity=…` or `track=…`.
    pub fn parse(query: &str) -> Self {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs
            .find_map(|(name, value)| match name.as_ref() {
                _ if value.is_empty() => None,
                "identity" => Some(Self::Identity(Identity::from(value.as_ref()))),
                "track" => Some(Self::Track(TrackSid::from(value.as_ref()))),
                _ => None,
            })
            .unwrap_or_default()
    }
}

/// What a player is made with.
#[derive(Debug)]
pub struct Config {
    /// The participant's session id.
    pub sid: ParticipantSid,
    /// Random; SSRCs derive from it.
    pub seed: u64,
    /// What plays.
    pub selection: Selection,
}

/// A section of the offer that receives.
#[derive(Debug)]
struct Section {
    mid: String,
    kind: MediaKind,
    /// How many sections of the kind come before it.
    rank: usize,
    ssrc: u32,
    rtx_ssrc: u32,
    codecs: Vec<CodecParameters>,
    extensions: ExtensionIds,
    playing: Option<Arc<Track>>,
}

/// A WHEP player.
#[derive(Debug)]
pub struct Player {
    config: Config,
    sections: Vec<Section>,
    /// What the room offers, in the order it did.
    tracks: Vec<Arc<Track>>,
    /// Whose tracks play.
    shown: Option<ParticipantSid>,
    /// How loud speakers are, 0 to 1, by participant; silent ones are not there.
    loudness: BTreeMap<String, f32>,
    /// Identities of participants that publish, as the room tells.
    identities: BTreeMap<String, String>,
    active: bool,
    outputs: VecDeque<Output>,
}

impl Player {
    /// Answers the only offer of a player.
    ///
    /// # Errors
    /// [`Error::Unusable`]
    pub fn new(
        config: Config,
        offer: &Description,
        local: &LocalTransport,
    ) -> Result<(Self, Description), Error> {
        let mut answer = Description::answer_to(offer, local);
        // Any start will do, as long as it is not zero and does not wrap soon (RFC 3550 section 8).
        let mut ssrc = u32::try_from(config.seed & 0x7fff_ffff).unwrap_or(0) | 0x1000;
        let mut sections: Vec<Section> = Vec::new();
        for (offered, answered) in offer.media.iter().zip(&mut answer.media) {
            if answered.rejected || !offered.is_rtp() || !offered.direction.receives() {
                continue;
            }
            let rank = sections.iter().filter(|s| s.kind == offered.kind).count();
            let section = Section {
                mid: offered.mid.clone(),
                kind: offered.kind,
                rank,
                ssrc: ssrc.wrapping_add(1),
                rtx_ssrc: ssrc.wrapping_add(2),
                codecs: answered.codecs.clone(),
                extensions: extension_ids(offered),
                playing: None,
            };
            ssrc = ssrc.wrapping_add(2);
            // A player sends nothing, even where its offer would.
            answered.direction = Direction::Inactive;
            answered.send(SendParameters {
                stream: config.sid.to_string(),
                track: format!("{}-{}", section.kind.as_str(), section.mid),
                ssrc: section.ssrc,
                rtx_ssrc: (section.kind == MediaKind::Video).then_some(section.rtx_ssrc),
                cname: config.sid.to_string(),
            });
            sections.push(section);
        }
        if sections.is_empty() {
            return Err(Error::Unusable(
                "no audio or video section of it receives (a=recvonly) with a codec that is forwarded here",
            ));
        }
        let mut player = Self {
            config,
            sections,
            tracks: Vec::new(),
            shown: None,
            loudness: BTreeMap::new(),
            identities: BTreeMap::new(),
            active: false,
            outputs: VecDeque::new(),
        };
        player.start(offer);
        Ok((player, answer))
    }

    fn start(&mut self, offer: &Description) {
        let transport = offer.transport().cloned().unwrap_or_default();
        let remote = Remote::from(&transport);
        let peer = Peer::Publisher;
        self.outputs.push_back(Output::SetRemote { peer, remote });
        // Nothing is received but reports.
        self.outputs.push_back(Output::Receive(ReceiveConfig {
            extensions: offer.receive_extension_ids(),
            media: Vec::new(),
        }));
    }

    /// The participant's session id.
    pub fn sid(&self) -> &ParticipantSid {
        &self.config.sid
    }

    /// Takes one input; its effects are then drained by [`Player::poll_output`].
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others come from a signalling connection, which a player has not"
    )]
    pub fn handle_input(&mut self, input: Input) {
        match input {
            Input::Room(message) => self.handle_room(message),
            Input::Connected(_) if !self.active => {
                self.active = true;
                self.outputs.push_back(Output::Room(FromSession::Active));
            }
            _ => {}
        }
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn handle_room(&mut self, message: ToSession) {
        match message {
            ToSession::Subscribe(track) => self.tracks.push(track),
            ToSession::TrackChanged(track) => {
                let known = self.tracks.iter_mut().find(|t| t.sid == track.sid);
                if let Some(known) = known {
                    *known = track;
                }
            }
            ToSession::Unsubscribe(sid) => self.tracks.retain(|t| t.sid != sid),
            ToSession::Signal(response) => self.hear(&response),
            ToSession::Close { .. } => self.outputs.push_back(Output::Close),
            ToSession::Data { .. }
            | ToSession::Permissions(_)
            | ToSession::Mute(..)
            | ToSession::Demand(..)
            | ToSession::BackupWanted(..) => return,
        }
        self.select();
    }

    /// Who speaks, and who is called what.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest is for clients with signalling"
    )]
    fn hear(&mut self, response: &Response) {
        match response {
            Response::SpeakersChanged(changed) => {
                for speaker in &changed.speakers {
                    if speaker.active {
                        self.loudness.insert(speaker.sid.clone(), speaker.level);
                    } else {
                        self.loudness.remove(&speaker.sid);
                    }
                }
            }
            Response::Join(join) => self.name(&join.other_participants),
            Response::Update(update) => self.name(&update.participants),
            _ => {}
        }
    }

    fn name(&mut self, participants: &[lk::ParticipantInfo]) {
        for one in participants {
            if one.state() == lk::participant_info::State::Disconnected {
                self.identities.remove(&one.sid);
                self.loudness.remove(&one.sid);
            } else {
                self.identities
                    .insert(one.sid.clone(), one.identity.clone());
            }
        }
    }

    /// Puts on every section what belongs there now.
    fn select(&mut self) {
        self.shown = self.choose();
        let wanted: Vec<Option<Arc<Track>>> = self
            .sections
            .iter()
            .map(|section| self.track_for(section, self.shown.as_ref()?))
            .collect();
        // All that ends first: a track may go from one section to another, and is subscribed once per connection.
        for (section, wanted) in self.sections.iter_mut().zip(&wanted) {
            let goes_on =
                |playing: &Arc<Track>| wanted.as_ref().is_some_and(|w| w.sid == playing.sid);
            if let Some(before) = section.playing.take_if(|playing| !goes_on(playing)) {
                self.outputs.push_back(Output::Unsubscribe(before.key));
            }
        }
        for (section, wanted) in self.sections.iter_mut().zip(wanted) {
            let Some(track) = wanted.filter(|_| section.playing.is_none()) else {
                continue;
            };
            let Some(mut bound) = section.bind(&track) else {
                continue;
            };
            if let Some(chosen) = track.choice(bound.key) {
                bound.config.target = Some(default_target(chosen.layers()));
                self.outputs
                    .push_back(Output::Subscribe(bound.key, Box::new(bound.config)));
                section.playing = Some(Arc::clone(chosen));
            }
        }
    }

    /// Whose tracks are to play.
    fn choose(&self) -> Option<ParticipantSid> {
        match &self.config.selection {
            Selection::Identity(identity) => self
                .owners()
                .into_iter()
                .find(|owner| {
                    self.identities.get(owner.as_str()).map(String::as_str)
                        == Some(identity.as_str())
                })
                .cloned(),
            Selection::Track(sid) => self
                .tracks
                .iter()
                .find(|t| t.sid == *sid)
                .map(|t| t.owner.clone()),
            Selection::Automatic => self.choose_best(),
        }
    }

    /// The owner with the most to show; among equals the one that is shown, the loudest, the first.
    fn choose_best(&self) -> Option<ParticipantSid> {
        let owners = self.owners();
        let value = |owner: &ParticipantSid| {
            let live = |kind| {
                self.sections
                    .iter()
                    .filter(|s| s.kind == kind)
                    .any(|s| self.track_for(s, owner).is_some_and(|t| !t.info.muted))
            };
            let (video, audio) = (live(MediaKind::Video), live(MediaKind::Audio));
            let shown = self.shown.as_ref() == Some(owner);
            let loudness = self.loudness.get(owner.as_str()).copied().unwrap_or(0.0);
            // Sound alone is worth something only where no picture is.
            (video, audio && !video, shown, loudness)
        };
        let best = owners
            .into_iter()
            .map(|owner| (value(owner), owner))
            .reduce(|best, next| if best.0 < next.0 { next } else { best });
        best.map(|(_, owner)| owner.clone())
    }

    /// Everybody with a track, by their first one.
    fn owners(&self) -> Vec<&ParticipantSid> {
        let mut owners: Vec<&ParticipantSid> = Vec::new();
        for track in &self.tracks {
            if !owners.contains(&&track.owner) {
                owners.push(&track.owner);
            }
        }
        owners
    }

    /// The owner's track for a section, if the player can decode it: the named one; otherwise camera and microphone first, screen
    /// and its sound second.
    fn track_for(&self, section: &Section, owner: &ParticipantSid) -> Option<Arc<Track>> {
        let mut fitting: Vec<&Arc<Track>> = self
            .tracks
            .iter()
            .filter(|t| t.owner == *owner && section.takes(t))
            .collect();
        let named = |t: &Track| self.config.selection == Selection::Track(t.sid.clone());
        fitting.sort_by_key(|t| (!named(t), t.info.muted, order(t)));
        fitting.get(section.rank).map(|t| Arc::clone(t))
    }
}

impl Section {
    fn takes(&self, track: &Arc<Track>) -> bool {
        track.is_video() == (self.kind == MediaKind::Video) && self.bind(track).is_some()
    }

    fn bind(&self, track: &Arc<Track>) -> Option<Bound> {
        let wanted = Wanted {
            track: Arc::clone(track),
            ssrc: self.ssrc,
            rtx_ssrc: self.rtx_ssrc,
        };
        bind(&wanted, &self.mid, &self.codecs, self.extensions)
    }
}

/// People before what they share.
fn order(track: &Track) -> u8 {
    match track.info.source() {
        lk::TrackSource::Camera | lk::TrackSource::Microphone => 0,
        lk::TrackSource::Unknown => 1,
        lk::TrackSource::ScreenShare | lk::TrackSource::ScreenShareAudio => 2,
    }
}
