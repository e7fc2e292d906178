//! Who is in a room, by what its edges report, and what became known by the latest report.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use livekit_protocol as lk;
use lk::participant_info::State;
use prost::Message as _;
use proto::control::{Departure, ParticipantReport, RoomReport};
use proto::{NodeId, ParticipantSid, RoomId};

use super::Core;
use crate::registry::SessionId;
use crate::store::Update;

/// Departures of a room that are remembered: an edge repeats its own for a minute.
const DEPARTED_MAX: usize = 1_024;
/// Departures of one report that are looked at.
const DEPARTURES_MAX: usize = 4_096;

/// Something that happened to a participant, with everything that is said about it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Happening {
    /// Media can flow to it.
    Joined(lk::ParticipantInfo),
    /// It left.
    Left(lk::ParticipantInfo),
    /// It left before media could flow.
    Aborted(lk::ParticipantInfo),
    /// It publishes a track.
    Published(lk::ParticipantInfo, lk::TrackInfo),
    /// It publishes a track no more.
    Unpublished(lk::ParticipantInfo, lk::TrackInfo),
}

/// One participant.
#[derive(Clone, Debug)]
struct Present {
    node: NodeId,
    report: ParticipantReport,
    info: lk::ParticipantInfo,
}

impl Present {
    fn is_active(&self) -> bool {
        self.info.state == State::Active as i32
    }
}

/// Who is in a room.
#[derive(Clone, Debug, Default)]
pub(super) struct Presence {
    present: BTreeMap<ParticipantSid, Present>,
    /// Who left lately, so that a repeated departure is none.
    departed: VecDeque<ParticipantSid>,
    /// Nodes that reported in full, and in which of their sessions.
    follows: BTreeMap<NodeId, SessionId>,
}

impl Presence {
    /// Whether a node's partial reports of this session can be understood.
    pub(super) fn follows(&self, node: &NodeId, session: SessionId) -> bool {
        self.follows.get(node) == Some(&session)
    }

    /// How many are in the room, and how many of them publish. Hidden ones do not count.
    pub(super) fn counts(&self) -> (u32, u32) {
        let shown = self
            .present
            .values()
            .filter(|p| !p.info.permission.as_ref().is_some_and(|p| p.hidden));
        shown.fold((0, 0), |(all, publishers), p| {
            (all + 1, publishers + u32::from(!p.info.tracks.is_empty()))
        })
    }

    /// The report with everybody in it, those included that a partial one leaves out.
    pub(super) fn completed(&self, node: &NodeId, report: RoomReport) -> RoomReport {
        if !report.partial {
            return report;
        }
        let gone = report.departures.iter().map(|d| d.sid.as_str());
        let named = report.participants.iter().map(|p| p.sid.as_str());
        let replaced: BTreeSet<&str> = gone.chain(named).collect();
        let unchanged = self
            .present
            .iter()
            .filter(|(sid, p)| p.node == *node && !replaced.contains(sid.as_str()))
            .map(|(_, p)| p.report.clone());
        let mut participants: Vec<_> = unchanged.collect();
        participants.extend(report.participants);
        RoomReport {
            participants,
            partial: false,
            ..report
        }
    }

    /// Takes a complete report, and returns what is new.
    pub(super) fn take(
        &mut self,
        node: &NodeId,
        session: SessionId,
        report: &RoomReport,
    ) -> Vec<Happening> {
        self.follows.insert(node.clone(), session);
        let mut news = Vec::new();
        for departure in report.departures.iter().take(DEPARTURES_MAX) {
            self.depart(departure, &mut news);
        }
        let named: BTreeSet<&str> = report.participants.iter().map(|p| p.sid.as_str()).collect();
        let gone = |(sid, p): &(&ParticipantSid, &Present)| {
            p.node == *node && !named.contains(sid.as_str())
        };
        let gone: Vec<_> = self.present.iter().filter(gone).collect();
        let gone: Vec<_> = gone.into_iter().map(|(sid, _)| sid.clone()).collect();
        for sid in gone {
            self.remove(&sid, None, &mut news);
        }
        for participant in &report.participants {
            self.update(node, participant, &mut news);
        }
        news
    }

    /// A node serves the room no more, or is taken for dead: if it comes back after all, so do its participants.
    pub(super) fn node_gone(&mut self, node: &NodeId) -> Vec<Happening> {
        self.follows.remove(node);
        let theirs = self.present.iter().filter(|(_, p)| p.node == *node);
        let theirs: Vec<_> = theirs.map(|(sid, _)| sid.clone()).collect();
        let mut news = Vec::new();
        for sid in &theirs {
            self.remove(sid, None, &mut news);
        }
        self.departed.retain(|sid| !theirs.contains(sid));
        news
    }

    /// Everybody leaves, for this reason.
    pub(super) fn clear(&mut self, reason: lk::DisconnectReason) -> Vec<Happening> {
        let sids: Vec<_> = self.present.keys().cloned().collect();
        let mut news = Vec::new();
        for sid in sids {
            let last = self.present.get(&sid).map(|p| lk::ParticipantInfo {
                disconnect_reason: reason as i32,
                ..p.info.clone()
            });
            self.remove(&sid, last, &mut news);
        }
        news
    }

    fn update(&mut self, node: &NodeId, report: &ParticipantReport, news: &mut Vec<Happening>) {
        let sid = ParticipantSid::from(report.sid.as_str());
        if self.departed.contains(&sid) {
            return;
        }
        let known = self.present.get(&sid);
        if known.is_some_and(|p| p.node == *node && p.report == *report) {
            return;
        }
        let before = known.map(|p| (p.is_active(), p.info.tracks.clone()));
        let (was_active, tracks) = before.unwrap_or_default();
        let present = Present {
            node: node.clone(),
            report: report.clone(),
            info: info(report),
        };
        let now = &present.info;
        if present.is_active() && !was_active {
            news.push(Happening::Joined(now.clone()));
        }
        let has = |tracks: &[lk::TrackInfo], sid: &str| tracks.iter().any(|t| t.sid == sid);
        for track in tracks.iter().filter(|t| !has(&now.tracks, &t.sid)) {
            news.push(Happening::Unpublished(now.clone(), track.clone()));
        }
        for track in now.tracks.iter().filter(|t| !has(&tracks, &t.sid)) {
            news.push(Happening::Published(now.clone(), track.clone()));
        }
        self.present.insert(sid, present);
    }

    /// An edge says that somebody left; it says so more than once.
    fn depart(&mut self, departure: &Departure, news: &mut Vec<Happening>) {
        let sid = ParticipantSid::from(departure.sid.as_str());
        let Ok(last) = lk::ParticipantInfo::decode(departure.info.clone()) else {
            return;
        };
        if self.present.contains_key(&sid) {
            return self.remove(&sid, Some(last), news);
        }
        if self.departed.contains(&sid) {
            return;
        }
        // It came and went while nobody here listened.
        if last.state == State::Active as i32 {
            news.push(Happening::Joined(last.clone()));
            news.push(Happening::Left(ended(last)));
        } else {
            news.push(Happening::Aborted(ended(last)));
        }
        self.remember(sid);
    }

    fn remove(
        &mut self,
        sid: &ParticipantSid,
        last: Option<lk::ParticipantInfo>,
        news: &mut Vec<Happening>,
    ) {
        let Some(present) = self.present.remove(sid) else {
            return;
        };
        self.remember(sid.clone());
        // Media may have begun to flow to it since it was reported last: then it joined, whoever hears of it and when.
        let unheard = |last: &lk::ParticipantInfo| last.state == State::Active as i32;
        let joined = last
            .clone()
            .filter(unheard)
            .filter(|_| !present.is_active());
        let was_active = present.is_active() || joined.is_some();
        news.extend(joined.map(Happening::Joined));
        let tracks = present.info.tracks.clone();
        let last = ended(last.unwrap_or(present.info));
        for track in tracks {
            news.push(Happening::Unpublished(last.clone(), track));
        }
        news.push(if was_active {
            Happening::Left(last)
        } else {
            Happening::Aborted(last)
        });
    }

    fn remember(&mut self, sid: ParticipantSid) {
        self.departed.push_back(sid);
        if self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
    }
}

impl Core {
    /// Takes what a node says of a room.
    pub(super) fn report(
        &mut self,
        now: Instant,
        (session, node): (SessionId, &NodeId),
        report: RoomReport,
    ) {
        if self.is_deleted(session, &report) {
            return;
        }
        let name = RoomId::from(report.room.as_str());
        let report = match self.rooms.get(&name) {
            // What came before it is not known; the node soon reports in full.
            Some(room) if report.partial && !room.presence.follows(node, session) => return,
            None if report.partial => return,
            Some(room) => room.presence.completed(node, report),
            None => report,
        };
        if !self.reported(now, node, &report) {
            return;
        }
        self.attend(now, node, &report);
        let news = match self.rooms.get_mut(&name) {
            Some(room) => room.presence.take(node, session, &report),
            None => Vec::new(),
        };
        self.tell(now, &name, news);
        let node = node.clone();
        let report = RoomReport {
            departures: Vec::new(),
            ..report
        };
        self.show(name.as_str(), Update::Report { node, report });
    }
}

fn ended(info: lk::ParticipantInfo) -> lk::ParticipantInfo {
    lk::ParticipantInfo {
        state: State::Disconnected as i32,
        tracks: Vec::new(),
        is_publisher: false,
        ..info
    }
}

/// Everything that is said about a participant; of an edge that does not say it, what the report itself has.
pub(crate) fn info(report: &ParticipantReport) -> lk::ParticipantInfo {
    let said = Some(&report.info).filter(|info| !info.is_empty());
    let said = said.and_then(|info| lk::ParticipantInfo::decode(info.clone()).ok());
    said.unwrap_or_else(|| {
        let joined_at_ms = i64::try_from(report.joined_at_ms).unwrap_or(0);
        lk::ParticipantInfo {
            sid: report.sid.clone(),
            identity: report.identity.clone(),
            name: report.name.clone(),
            state: State::Active as i32,
            joined_at: joined_at_ms / 1_000,
            joined_at_ms,
            ..lk::ParticipantInfo::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(sid: &str) -> lk::TrackInfo {
        lk::TrackInfo {
            sid: sid.to_owned(),
            ..lk::TrackInfo::default()
        }
    }

    fn participant(sid: &str, state: State, tracks: &[&str]) -> ParticipantReport {
        let info = lk::ParticipantInfo {
            sid: sid.to_owned(),
            identity: format!("id-{sid}"),
            state: state as i32,
            tracks: tracks.iter().map(|sid| track(sid)).collect(),
            ..lk::ParticipantInfo::default()
        };
        ParticipantReport {
            sid: sid.to_owned(),
            identity: info.identity.clone(),
            info: info.encode_to_vec().into(),
            ..ParticipantReport::default()
        }
    }

    fn report(partial: bool, participants: Vec<ParticipantReport>) -> RoomReport {
        RoomReport {
            partial,
            participants,
            ..RoomReport::default()
        }
    }

    fn departure(sid: &str, state: State) -> Departure {
        let info = lk::ParticipantInfo {
            sid: sid.to_owned(),
            state: state as i32,
            disconnect_reason: lk::DisconnectReason::ClientInitiated as i32,
            ..lk::ParticipantInfo::default()
        };
        Departure {
            sid: sid.to_owned(),
            info: info.encode_to_vec().into(),
        }
    }

    fn names(news: &[Happening]) -> Vec<String> {
        let name = |happening: &Happening| match happening {
            Happening::Joined(p) => format!("{} joined", p.sid),
            Happening::Left(p) => format!("{} left {}", p.sid, p.disconnect_reason),
            Happening::Aborted(p) => format!("{} aborted", p.sid),
            Happening::Published(p, t) => format!("{} published {}", p.sid, t.sid),
            Happening::Unpublished(p, t) => format!("{} unpublished {}", p.sid, t.sid),
        };
        news.iter().map(name).collect()
    }

    #[test]
    fn reports_become_what_happened_once() {
        let (mut presence, node) = (Presence::default(), NodeId::from("edge-fra"));
        let session = SessionId(1);
        assert!(!presence.follows(&node, session));
        let first = report(false, vec![participant("PA_a", State::Joined, &[])]);
        assert!(presence.take(&node, session, &first).is_empty());
        assert!(presence.follows(&node, session) && !presence.follows(&node, SessionId(2)));
        let active = report(false, vec![participant("PA_a", State::Active, &["TR_1"])]);
        let news = presence.take(&node, session, &active);
        assert_eq!(names(&news), ["PA_a joined", "PA_a published TR_1"]);
        assert!(presence.take(&node, session, &active).is_empty());

        // A partial report says only who is new; the other is completed from what is known.
        let partial = report(true, vec![participant("PA_b", State::Active, &[])]);
        let complete = presence.completed(&node, partial);
        assert_eq!(complete.participants.len(), 2);
        assert_eq!(
            names(&presence.take(&node, session, &complete)),
            ["PA_b joined"]
        );
        assert_eq!(presence.counts(), (2, 1));

        let mut leaves = report(true, Vec::new());
        leaves.departures = vec![departure("PA_a", State::Active)];
        for round in 0..2 {
            let complete = presence.completed(&node, leaves.clone());
            let news = names(&presence.take(&node, session, &complete));
            let expected = ["PA_a unpublished TR_1", "PA_a left 1"];
            assert_eq!(news, if round == 0 { &expected[..] } else { &[] });
        }
        assert_eq!(names(&presence.node_gone(&node)), ["PA_b left 0"]);
    }

    #[test]
    fn who_left_before_it_was_said_to_be_active_did_join() {
        let (mut presence, node) = (Presence::default(), NodeId::from("edge-fra"));
        let first = report(false, vec![participant("PA_a", State::Joined, &[])]);
        assert!(presence.take(&node, SessionId(1), &first).is_empty());
        let mut late = report(false, Vec::new());
        late.departures = vec![departure("PA_a", State::Active)];
        let news = names(&presence.take(&node, SessionId(1), &late));
        assert_eq!(news, ["PA_a joined", "PA_a left 1"]);
    }

    #[test]
    fn who_came_and_went_unheard_is_made_up_for() {
        let (mut presence, node) = (Presence::default(), NodeId::from("edge-fra"));
        let mut late = report(false, Vec::new());
        late.departures = vec![
            departure("PA_a", State::Active),
            departure("PA_b", State::Joined),
        ];
        let news = names(&presence.take(&node, SessionId(1), &late));
        assert_eq!(news, ["PA_a joined", "PA_a left 1", "PA_b aborted"]);
        assert!(presence.take(&node, SessionId(2), &late).is_empty());
        // What was under way when it left does not bring it back.
        let stale = report(false, vec![participant("PA_a", State::Active, &[])]);
        assert!(presence.take(&node, SessionId(2), &stale).is_empty());
    }
}
