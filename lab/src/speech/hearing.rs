//! What one listener heard of a script.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use livekit_protocol as livekit;
use livekit_protocol::signal_response::Message as Response;
use serde::Serialize;

use super::{Script, Turn};
use crate::client::{Arrival, Observer};
use crate::synthetic::Stamp;

/// Packets kept: ten streams for ten minutes.
const HEARD_MAX: usize = 300_000;
/// Distance of a talker's packets in a turn.
const PACKET_MS: u64 = 20;
/// Window in which streams are counted.
const WINDOW_MS: u64 = 200;
/// A talker who was silent for this long has to be told anew as a speaker.
const SILENT_MS: u64 = 4_000;
const NS_PER_MS: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Heard {
    talker: u32,
    counter: u64,
    sent_ns: u64,
    at_ns: u64,
}

/// Somebody was told as a speaker, or as no speaker any more.
#[derive(Debug, Clone)]
struct News {
    at_ns: u64,
    sid: String,
    active: bool,
}

#[derive(Debug, Default)]
struct Inner {
    heard: Vec<Heard>,
    news: Vec<News>,
    /// Participants by id.
    identities: BTreeMap<String, String>,
}

/// Records what a client hears; sound is told apart by the stamps of [`super::Talker`]s, whose source is their number.
#[derive(Debug, Default)]
pub struct Hearing {
    inner: Mutex<Inner>,
}

impl Observer for Hearing {
    fn received(&self, now_ns: u64, arrival: &Arrival<'_>) {
        let Some(stamp) = Stamp::read(arrival.payload) else {
            return;
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.heard.len() < HEARD_MAX {
            inner.heard.push(Heard {
                talker: stamp.source,
                counter: stamp.counter,
                sent_ns: stamp.sent_ns,
                at_ns: now_ns,
            });
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only three kinds matter here"
    )]
    fn told(&self, now_ns: u64, message: &Response) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Response::Join(join) => inner.know(&join.other_participants),
            Response::Update(update) => inner.know(&update.participants),
            Response::SpeakersChanged(changed) if inner.news.len() < HEARD_MAX => {
                inner
                    .news
                    .extend(changed.speakers.iter().map(|speaker| News {
                        at_ns: now_ns,
                        sid: speaker.sid.clone(),
                        active: speaker.active,
                    }));
            }
            _ => {}
        }
    }
}

impl Inner {
    fn know(&mut self, participants: &[livekit::ParticipantInfo]) {
        for participant in participants {
            self.identities
                .insert(participant.sid.clone(), participant.identity.clone());
        }
    }
}

/// What came of a script at one listener. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Listened {
    /// Turns of the script that ended while it listened.
    pub turns: usize,
    /// Turns of which nothing was heard.
    pub missed: usize,
    /// Most talkers heard of what was sent within any 200 ms: by the senders' clock, so that delay does not add up.
    pub streams_max: usize,
    /// Most packets heard of what was sent within any 200 ms, as streams of 50 packets per second.
    pub rate_max: f64,
    /// From the start of a turn to the first packet of it that was forwarded, by the sender's clock: median.
    pub admitted_p50: u64,
    /// The longest of those.
    pub admitted_max: u64,
    /// From the start of a turn to the arrival of its first packet: median.
    pub heard_p50: u64,
    /// The longest of those.
    pub heard_max: u64,
    /// Longest stretch missing inside a turn, after its first packet that was forwarded.
    pub cut_max: u64,
    /// Turns with a stretch of more than 200 ms missing.
    pub cut_turns: usize,
    /// From the start of a turn after silence to the news that its talker speaks: median.
    pub told_p50: u64,
    /// The longest of those.
    pub told_max: u64,
    /// Turns after silence whose talker was not told as a speaker.
    pub untold: usize,
}

impl Hearing {
    /// Judges by the script, which started at `start_ns` of the monotonic clock. Talker `n` has the identity
    /// `{prefix}{n}`.
    pub fn judge(&self, script: &Script, start_ns: u64, prefix: &str) -> Listened {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = inner.heard.clone();
        heard.retain(|packet| packet.sent_ns >= start_ns);
        let mut listened = Listened::default();
        (listened.streams_max, listened.rate_max) = fullest_window(&mut heard);
        let mut by_talker: BTreeMap<u32, Vec<Heard>> = BTreeMap::new();
        for packet in heard {
            by_talker.entry(packet.talker).or_default().push(packet);
        }
        for packets in by_talker.values_mut() {
            packets.sort_by_key(|packet| packet.counter);
        }
        let (mut admitted, mut arrived, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for turn in &script.turns {
            listened.turns += 1;
            let from_ns = start_ns + turn.from_ms * NS_PER_MS;
            let packets = by_talker.get(&turn.talker).map(Vec::as_slice);
            let Some(course) = Course::of(packets.unwrap_or_default(), turn, start_ns) else {
                listened.missed += 1;
                continue;
            };
            admitted.push(course.admitted_ms);
            arrived.push(course.heard_ms);
            listened.cut_max = listened.cut_max.max(course.cut_ms);
            listened.cut_turns += usize::from(course.cut_ms > 200);
            if after_silence(script, turn) {
                let identity = format!("{prefix}{}", turn.talker);
                match inner.told_after(&identity, from_ns) {
                    Some(ms) => told.push(ms),
                    None => listened.untold += 1,
                }
            }
        }
        (listened.admitted_p50, listened.admitted_max) = median_and_max(admitted);
        (listened.heard_p50, listened.heard_max) = median_and_max(arrived);
        (listened.told_p50, listened.told_max) = median_and_max(told);
        listened
    }
}

impl Inner {
    /// Milliseconds from `from_ns` to the next news that the participant speaks.
    fn told_after(&self, identity: &str, from_ns: u64) -> Option<u64> {
        let is = |news: &&News| {
            self.identities
                .get(&news.sid)
                .is_some_and(|known| known == identity)
        };
        let mut news = self.news.iter().filter(is);
        let told = news.find(|news| news.active && news.at_ns >= from_ns)?;
        Some((told.at_ns - from_ns) / NS_PER_MS)
    }
}

/// How one turn came over.
struct Course {
    admitted_ms: u64,
    heard_ms: u64,
    cut_ms: u64,
}

impl Course {
    /// `packets` are the talker's, in their order.
    fn of(packets: &[Heard], turn: &Turn, start_ns: u64) -> Option<Self> {
        let (from_ns, to_ns) = (
            start_ns + turn.from_ms * NS_PER_MS,
            start_ns + turn.to_ms * NS_PER_MS,
        );
        let within = packets
            .iter()
            .filter(|packet| (from_ns..to_ns).contains(&packet.sent_ns));
        let first = within.clone().next()?;
        let arrived_ns = within.clone().map(|packet| packet.at_ns).min()?;
        let mut cut_ms = 0;
        let mut last = first;
        for packet in within {
            let missing = (packet.counter - last.counter).saturating_sub(1);
            cut_ms = cut_ms.max(missing * PACKET_MS);
            last = packet;
        }
        let tail_ms = (to_ns - last.sent_ns) / NS_PER_MS;
        Some(Self {
            admitted_ms: (first.sent_ns - from_ns) / NS_PER_MS,
            heard_ms: arrived_ns.saturating_sub(from_ns) / NS_PER_MS,
            cut_ms: cut_ms.max(tail_ms.saturating_sub(PACKET_MS)),
        })
    }
}

fn after_silence(script: &Script, turn: &Turn) -> bool {
    let earlier = |other: &&Turn| other.talker == turn.talker && other.from_ms < turn.from_ms;
    script
        .turns
        .iter()
        .filter(earlier)
        .all(|other| other.to_ms + SILENT_MS <= turn.from_ms)
}

/// Most talkers, and most packets as streams, within any window.
fn fullest_window(heard: &mut [Heard]) -> (usize, f64) {
    heard.sort_by_key(|packet| packet.sent_ns);
    let (mut streams, mut packets) = (0, 0);
    // Of the window that ends with the packet at hand: its packets, and how many each talker has among them.
    let mut window: VecDeque<Heard> = VecDeque::new();
    let mut talkers: BTreeMap<u32, usize> = BTreeMap::new();
    for packet in heard.iter() {
        window.push_back(*packet);
        *talkers.entry(packet.talker).or_default() += 1;
        while let Some(old) =
            window.pop_front_if(|old| old.sent_ns + WINDOW_MS * NS_PER_MS <= packet.sent_ns)
        {
            if let Some(count) = talkers.get_mut(&old.talker) {
                *count -= 1;
            }
            talkers.retain(|talker, count| *talker != old.talker || *count > 0);
        }
        packets = packets.max(window.len());
        streams = streams.max(talkers.len());
    }
    (
        streams,
        packets as f64 * PACKET_MS as f64 / WINDOW_MS as f64,
    )
}

fn median_and_max(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    let median = values.get(values.len() / 2).copied().unwrap_or(0);
    (median, values.last().copied().unwrap_or(0))
}
