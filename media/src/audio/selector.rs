//! Top-N: of all the audio of a room, the few that speak.
//!
//! Every packet's level (RFC 6464) goes in, whether it is forwarded comes out. A room with no more tracks than places is never
//! touched. Beyond that a place belongs to whoever speaks, and to whoever spoke last when fewer do:
//!
//! - a talker gets in 40 ms after the first packet of speech, or with the third when they come in a burst: long enough that a
//!   click does not throw anybody out;
//! - it takes the place of whoever has been silent the longest, but never of one that spoke within the last 200 ms, so that no
//!   running sentence is cut while there are places enough;
//! - when more speak than there are places, those who began first stay. Somebody who is 6 dB louder than the quietest of them
//!   for 500 ms gets in still.
//!
//! Speech is what is loud (-35 dBov and above, which is what LiveKit servers take for speaking), or stands out from the track's
//! own background by 9 dB; where a publisher marks voice, what it does not mark is none. A track that does not tell its level
//! speaks as long as it sends. Discontinuous transmission needs no case of its own: silence is time without speech, with or
//! without packets.

use std::time::{Duration, Instant};

use slab::Slab;

/// Speech has to last so long before it is worth a place.
const ADMIT: Duration = Duration::from_millis(40);
/// Or so many packets: what a network held up comes all at once.
const ADMIT_PACKETS: u32 = 3;
/// Speech goes on over gaps up to this: Opus packets carry up to 120 ms.
const RUN_GAP: Duration = Duration::from_millis(150);
/// Who spoke within this time is not silent: words of a sentence are not further apart.
const PAUSE: Duration = Duration::from_millis(200);
/// A place is kept so long after the last word, or the last packet, against everybody who does not speak.
const HANGOVER: Duration = Duration::from_secs(2);
/// How much louder one has to be that takes a speaker's place, in dB, and for how long.
const LOUDER_DB: f32 = 6.0;
const LOUDER_FOR: Duration = Duration::from_millis(500);

/// Loudness, in dB above the quietest level there is, that is speech whatever the background: -35 dBov.
const SPEECH: f32 = 127.0 - 35.0;
/// Loudness below which nothing is speech: -60 dBov.
const QUIET: f32 = 127.0 - 60.0;
/// Loudness taken for a track that does not tell: that of plain speech, -30 dBov.
const NOMINAL: f32 = 127.0 - 30.0;
/// Speech stands out from the background by so many dB.
const ABOVE_FLOOR_DB: f32 = 9.0;
/// The background is the quietest packet of this window and the one before (minimum statistics, Martin 2001): nobody speaks so
/// long without a pause, and steady noise is recognized after two windows at most.
const FLOOR_WINDOW: Duration = Duration::from_millis(2500);
/// Time constants of the smoothed loudness in seconds, up and down.
const ATTACK_S: f32 = 0.05;
const RELEASE_S: f32 = 0.3;

/// One track within its [`Selector`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TalkerKey(usize);

/// What a selector did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets not forwarded.
    pub suppressed: u64,
    /// Places that got another owner.
    pub changes: u64,
}

/// The places of one room towards one receiver of all of it: a shard's subscribers, or a link.
#[derive(Debug)]
pub struct Selector {
    /// 0 = everybody has one.
    places: usize,
    talkers: Slab<Talker>,
    selected: Vec<usize>,
    counters: Counters,
}

impl Selector {
    /// A selector with so many places; 0 = everything is forwarded.
    #[must_use]
    pub fn new(places: u16) -> Self {
        Self {
            places: usize::from(places),
            talkers: Slab::new(),
            selected: Vec::with_capacity(usize::from(places.min(64))),
            counters: Counters::default(),
        }
    }

    /// Changes the number of places. When there are fewer, those silent the longest go.
    pub fn set_places(&mut self, places: u16) {
        self.places = usize::from(places);
        while places > 0 && self.selected.len() > self.places {
            let spoke = |&(_, talker): &(usize, usize)| self.talkers.get(talker)?.spoke;
            let positions = self.selected.iter().copied().enumerate();
            let Some((position, _)) = positions.min_by_key(spoke) else {
                return;
            };
            self.dismiss(position);
        }
    }

    /// Number of places; 0 = no limit.
    #[must_use]
    pub fn places(&self) -> u16 {
        u16::try_from(self.places).unwrap_or(u16::MAX)
    }

    /// A track comes in.
    pub fn add(&mut self) -> TalkerKey {
        TalkerKey(self.talkers.insert(Talker::default()))
    }

    /// A track is gone.
    pub fn remove(&mut self, key: TalkerKey) {
        if let Some(position) = self.selected.iter().position(|&other| other == key.0) {
            self.selected.swap_remove(position);
        }
        self.talkers.try_remove(key.0);
    }

    /// Whether there are no tracks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.talkers.is_empty()
    }

    /// Tracks that have a place.
    #[must_use]
    pub fn selected(&self) -> usize {
        self.selected.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether a packet is forwarded. `level` is the RFC 6464 byte; `vouched` says that a selector before this one has just let
    /// the track in, so that hops do not add up their hesitation.
    #[inline]
    pub fn packet(
        &mut self,
        now: Instant,
        key: TalkerKey,
        level: Option<u8>,
        vouched: bool,
    ) -> bool {
        if self.places == 0 {
            return true;
        }
        let Some(talker) = self.talkers.get_mut(key.0) else {
            return true;
        };
        let voiced = talker.hear(now, level);
        if talker.selected {
            return true;
        }
        let claims = voiced && (vouched || talker.is_established(now));
        let admitted = self.selected.len() < self.places || self.displace(now, key.0, claims);
        if admitted {
            if let Some(talker) = self.talkers.get_mut(key.0) {
                talker.selected = true;
            }
            self.selected.push(key.0);
            self.counters.changes += 1;
        } else {
            self.counters.suppressed += 1;
        }
        admitted
    }

    /// Frees a place for a talker if somebody has to give way to it.
    fn displace(&mut self, now: Instant, candidate: usize, claims: bool) -> bool {
        let mut silent: Option<(usize, Option<Instant>)> = None;
        let mut quiet: Option<(usize, f32)> = None;
        for (position, &talker) in self.selected.iter().enumerate() {
            let Some(talker) = self.talkers.get(talker) else {
                continue;
            };
            if silent.is_none_or(|(_, spoke)| talker.spoke < spoke) {
                silent = Some((position, talker.spoke));
            }
            let gone = talker.heard.is_none_or(|heard| now > heard + HANGOVER);
            if gone {
                self.dismiss(position);
                return true;
            }
            let protected = !claims && talker.spoke.is_some_and(|spoke| now <= spoke + HANGOVER);
            if !protected && quiet.is_none_or(|(_, level)| talker.level < level) {
                quiet = Some((position, talker.level));
            }
        }
        if let Some((position, spoke)) = silent
            && claims
            && spoke.is_none_or(|spoke| now > spoke + PAUSE)
        {
            self.dismiss(position);
            return true;
        }
        let Some(talker) = self.talkers.get_mut(candidate) else {
            return false;
        };
        let Some((position, _)) = quiet.filter(|(_, level)| talker.level >= level + LOUDER_DB)
        else {
            talker.louder_since = None;
            return false;
        };
        let since = *talker.louder_since.get_or_insert(now);
        if now < since + LOUDER_FOR {
            return false;
        }
        self.dismiss(position);
        true
    }

    fn dismiss(&mut self, position: usize) {
        let talker = self.selected.swap_remove(position);
        if let Some(talker) = self.talkers.get_mut(talker) {
            talker.selected = false;
            talker.louder_since = None;
        }
    }
}

/// What is known of one track. Loudness is in dB above -127 dBov.
#[derive(Debug)]
struct Talker {
    selected: bool,
    /// Last packet.
    heard: Option<Instant>,
    /// Last packet of speech.
    spoke: Option<Instant>,
    /// Beginning of the speech that goes on, and its packets.
    began: Option<Instant>,
    run: u32,
    /// Smoothed.
    level: f32,
    /// Quietest of the window that began then, and of the one before.
    floor: (f32, f32),
    floor_since: Option<Instant>,
    /// The publisher marks voice.
    marks_voice: bool,
    /// Since when it is loud enough to take a speaker's place.
    louder_since: Option<Instant>,
}

impl Default for Talker {
    fn default() -> Self {
        Self {
            selected: false,
            heard: None,
            spoke: None,
            began: None,
            run: 0,
            level: 0.0,
            floor: (QUIET, QUIET),
            floor_since: None,
            marks_voice: false,
            louder_since: None,
        }
    }
}

impl Talker {
    /// Takes in one packet; whether it is speech.
    fn hear(&mut self, now: Instant, level: Option<u8>) -> bool {
        let elapsed = self
            .heard
            .map_or(0.02, |heard| {
                (now.saturating_duration_since(heard)).as_secs_f32()
            })
            .min(1.0);
        self.heard = Some(now);
        let loudness = level.map_or(NOMINAL, |level| 127.0 - f32::from(level & 0x7f));
        let constant = if loudness > self.level {
            ATTACK_S
        } else {
            RELEASE_S
        };
        self.level += (loudness - self.level) * elapsed / (elapsed + constant);
        let background = self.background(now, loudness);
        let marked = level.is_some_and(|level| level & 0x80 != 0);
        self.marks_voice |= marked;
        let stands_out = loudness >= QUIET && loudness >= background + ABOVE_FLOOR_DB;
        let voiced =
            level.is_none() || (marked || !self.marks_voice) && (loudness >= SPEECH || stands_out);
        if voiced {
            if self.spoke.is_none_or(|spoke| now > spoke + RUN_GAP) {
                self.began = Some(now);
                self.run = 0;
            }
            self.run = self.run.saturating_add(1);
            self.spoke = Some(now);
        }
        voiced
    }

    /// Loudness of the background.
    fn background(&mut self, now: Instant, loudness: f32) -> f32 {
        let since = *self.floor_since.get_or_insert(now);
        if now >= since + FLOOR_WINDOW {
            self.floor = (loudness, self.floor.0);
            self.floor_since = Some(now);
        }
        self.floor.0 = self.floor.0.min(loudness);
        self.floor.0.min(self.floor.1)
    }

    /// Whether it has been speaking for long enough to be let in.
    fn is_established(&self, now: Instant) -> bool {
        let long = self.began.is_some_and(|began| now >= began + ADMIT);
        long || self.run >= ADMIT_PACKETS
    }
}

#[cfg(test)]
mod tests;
