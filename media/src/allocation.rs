//! Splits what a subscriber's path carries over what it receives.
//!
//! Audio first, and always: it is small, and a call without sound is none. Then the lowest step of every wanted video, in order
//! of importance. Then upgrades: the most important videos first, among equals whatever adds most per bit. What does not fit is
//! paused, and comes back by itself.
//!
//! Steps down happen at once. A step up needs [`HEADROOM`] and time: after a step down nothing goes up for [`HOLD_MIN`], which
//! doubles up to [`HOLD_MAX`] each time that the path did not carry what went up less than [`PROBATION`] before; only what takes
//! less than a third of the path goes up all the same. A path whose
//! estimate wobbles by five per cent therefore keeps its layers.

use std::time::{Duration, Instant};

mod ladder;

pub use ladder::{Ladder, Step};

use crate::router::Target;

/// Temporal layers that are told apart; higher ones count as the last.
pub const TEMPORALS: usize = 4;

/// Layers of a track: simulcast streams, or spatial layers of one stream.
pub const LAYERS: usize = crate::router::LAYERS_MAX;

/// A step up fits when nine eighths of everything do: encoders overshoot, and estimates wobble by about five per cent.
const HEADROOM: (u64, u64) = (9, 8);

/// Least time between a step down and the next step up. libwebrtc's estimate needs about two seconds to settle after an overuse.
const HOLD_MIN: Duration = Duration::from_secs(2);

/// Longest time without a step up on a path that never carries it.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// Longest time that a paused video waits for its lowest step when that fits: no picture at all is worse than one that comes and
/// goes.
const HOLD_PAUSED: Duration = Duration::from_secs(5);

/// What fits so many times over does not wait: the path is another one than that which did not carry it.
const AMPLE: u64 = 3;

/// A step down so soon after a step up means that the step up failed.
const PROBATION: Duration = Duration::from_secs(10);

/// Bit/s of a track by layer index and temporal layer, each temporal layer without those below; with SVC also each spatial layer
/// without those below.
pub type Rates = [[u64; TEMPORALS]; LAYERS];

/// What is sent of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sent whatever the budget is, at this many bit/s.
    Audio {
        /// Measured or announced.
        bps: u64,
    },
    /// Sent as far as it fits.
    Video(Video),
}

/// A video that somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// Highest layer and temporal layer that the client wants and the publisher has.
    pub wanted: Target,
    /// What each costs.
    pub rates: Rates,
    /// What the publisher said that the wanted layer may cost, in bit/s; 0 when it did not say.
    pub announced_bps: u64,
    /// Spatial layers of one stream: a layer costs what those below cost, too.
    pub svc: bool,
    /// Shows a screen: sharpness counts more than frames per second.
    pub screen: bool,
}

/// One track of a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// What it is.
    pub kind: Kind,
    /// 1 is the most important for the client; 0 = not said.
    pub priority: u8,
    /// Its owner speaks.
    pub speaking: bool,
    /// What was given before; `None` while it is paused or new.
    pub current: Option<Target>,
    /// The client changed what it wants since the last time: it is served without waiting.
    pub fresh: bool,
}

impl Share {
    /// Videos of a higher importance get their upgrades before others get any.
    fn importance(&self) -> u8 {
        let said = match self.priority {
            0 => 0,
            priority => 8 * (9 - priority.min(8)),
        };
        let screen = matches!(self.kind, Kind::Video(Video { screen: true, .. }));
        said + 2 * u8::from(screen) + u8::from(self.speaking)
    }
}

/// What all tracks come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Bit/s of everything that is given.
    pub used_bps: u64,
    /// Bit/s that could be used if the path carried them, room for keyframes included; 0 when the path is known to.
    pub wanted_bps: u64,
}

/// Where a video stands while shares are dealt out.
#[derive(Debug, Clone, Copy)]
struct Place {
    share: usize,
    importance: u8,
    ladder: Ladder,
    announced_bps: u64,
    /// Steps that it had before.
    had: usize,
    /// Steps given.
    given: usize,
    fresh: bool,
    blocked: bool,
}

impl Place {
    fn new(index: usize, share: &Share, video: &Video) -> Self {
        let ladder = Ladder::new(video);
        Self {
            share: index,
            importance: share.importance(),
            announced_bps: video.announced_bps,
            had: ladder.steps_of(share.current),
            ladder,
            given: 0,
            fresh: share.fresh,
            blocked: false,
        }
    }

    fn next(&self) -> Option<Step> {
        self.ladder.step(self.given).filter(|_| !self.blocked)
    }
}

/// The tracks of one subscriber and what they are given; reused, so that nothing is allocated.
#[derive(Debug, Default)]
pub struct Table {
    /// The tracks.
    pub shares: Vec<Share>,
    /// One entry for each share: `None` = paused; for audio the lowest target.
    pub given: Vec<Option<Target>>,
    places: Vec<Place>,
}

/// Remembers what upgrades did to one subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator {
    /// Nothing goes up for `hold` from here on.
    held: Option<Instant>,
    hold: Duration,
    raised: Option<Instant>,
}

impl Allocator {
    /// Deals out `budget` bit/s to the table's shares; `None` for a path of which nothing is known: everything is given.
    ///
    /// Never exceeds the budget, except for audio. With a larger budget and the same past, the first step in order of value by
    /// which the results differ is one that only the larger budget gives.
    pub fn allocate(&mut self, now: Instant, budget: Option<u64>, table: &mut Table) -> Summary {
        let Table {
            shares,
            given,
            places,
        } = table;
        places.clear();
        given.clear();
        let mut audio = 0;
        for (index, share) in shares.iter().enumerate() {
            given.push(match share.kind {
                Kind::Audio { bps } => {
                    audio += bps;
                    Some(Target {
                        layer: 0,
                        temporal: 7,
                    })
                }
                Kind::Video(video) => {
                    places.push(Place::new(index, share, &video));
                    None
                }
            });
        }
        let all: u64 = audio + places.iter().map(|p| p.ladder.top_cost()).sum::<u64>();
        let may: u64 = audio + places.iter().map(|p| p.announced_bps).sum::<u64>();
        let before: u64 = audio + places.iter().map(|p| p.ladder.cost(p.had)).sum::<u64>();
        let within = |hold: Duration| self.held.is_some_and(|from| now < from + hold);
        let used = deal(
            places,
            Purse {
                budget,
                used: audio,
                waits: within(self.hold),
                paused_wait: within(self.hold.min(HOLD_PAUSED)),
            },
        );
        self.judge(now, budget.map(|budget| before > budget), places);
        for place in places {
            if let Some(given) = given.get_mut(place.share) {
                *given = place.ladder.target(place.given);
            }
        }
        Summary {
            used_bps: used,
            wanted_bps: wanted(all, may, budget),
        }
    }

    /// Learns from what went up, and from what the budget did not carry any more; `forced` is `None` without a budget.
    fn judge(&mut self, now: Instant, forced: Option<bool>, places: &[Place]) {
        let Some(forced) = forced else {
            *self = Self::default();
            return;
        };
        if forced && places.iter().any(|p| !p.fresh && p.given < p.had) {
            let failed = self.raised.is_some_and(|at| now < at + PROBATION);
            self.hold = if failed {
                (self.hold * 2).clamp(HOLD_MIN, HOLD_MAX)
            } else {
                HOLD_MIN
            };
            self.held = Some(now);
        }
        if places.iter().any(|p| !p.fresh && p.given > p.had) {
            self.raised = Some(now);
        }
    }
}

/// Gives steps; returns what everything costs together.
fn deal(places: &mut [Place], mut purse: Purse) -> u64 {
    // By importance, then those that had something, then as they came.
    places.sort_unstable_by_key(|p| (u8::MAX - p.importance, p.had == 0, p.share));
    for place in &mut *places {
        purse.raise(place);
    }
    for equals in places.chunk_by_mut(|a, b| a.importance == b.importance) {
        while let Some((_, best)) = equals
            .iter_mut()
            .filter(|place| place.given > 0)
            .filter_map(|place| Some((place.next()?.density(place.given < place.had), place)))
            .max_by_key(|(density, place)| (*density, usize::MAX - place.share))
        {
            purse.raise(best);
        }
    }
    purse.used
}

/// What is left to spend.
#[derive(Debug, Clone, Copy)]
struct Purse {
    budget: Option<u64>,
    used: u64,
    /// Nothing may go up now.
    waits: bool,
    /// Nothing may begin now.
    paused_wait: bool,
}

impl Purse {
    /// Gives a place its next step if that fits, and blocks the place otherwise.
    fn raise(&mut self, place: &mut Place) {
        let Some(step) = place.next() else { return };
        let extra = step.bps.saturating_sub(place.ladder.cost(place.given));
        let after = self.used.saturating_add(extra);
        let kept = place.given < place.had;
        let fits = match self.budget {
            None => true,
            Some(budget) if kept => after <= budget,
            Some(budget) => {
                let held = if place.given == 0 {
                    self.paused_wait
                } else {
                    self.waits
                };
                let waits = held && !place.fresh && after.saturating_mul(AMPLE) > budget;
                !waits && with_headroom(after) <= budget
            }
        };
        if fits {
            self.used = after;
            place.given += 1;
        } else {
            place.blocked = true;
        }
    }
}

/// What a path should be known to carry: half more than everything, so that a keyframe does not look like too much, and what the
/// publishers may send at any time, however little it is now (libwebrtc, too, probes for the highest configured rate).
fn wanted(all: u64, may: u64, budget: Option<u64>) -> u64 {
    let wanted = (all.saturating_mul(3) / 2).max(may);
    if budget.is_some_and(|budget| budget >= wanted) {
        0
    } else {
        wanted
    }
}

fn with_headroom(bps: u64) -> u64 {
    bps.saturating_mul(HEADROOM.0) / HEADROOM.1
}

#[cfg(test)]
mod tests;
