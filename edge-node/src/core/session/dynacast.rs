//! Which layers a publisher is asked to send: those that somebody wants, anywhere in the mesh.
//!
//! A layer that is wanted again is asked for at once; one that nobody wants is given up after a while, so that people who look at
//! other things for a moment do not cost a keyframe each time. Everything below a wanted layer stays on: a receiver whose path
//! narrows then goes down without waiting for the publisher.

use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::VideoQuality::{self, High, Low, Medium};
use media::router::LAYERS_MAX;

/// How long nobody must want a layer before the publisher is told: longer than people take to glance elsewhere. LiveKit clients know
/// five seconds; half a second of these passes until a far viewer's demand is gone and the publisher's encoder has stopped.
pub(super) const PAUSE_AFTER: Duration = Duration::from_millis(4500);

/// What the publisher is told to send of one codec of a track.
#[derive(Debug)]
pub(super) struct Dynacast {
    /// The quality that each layer index has for the client.
    qualities: Vec<VideoQuality>,
    /// Layers that the publisher sends as far as it has been told.
    on: usize,
    /// Since when nobody wants a layer; `None` for those that are wanted.
    unwanted_since: [Option<Instant>; LAYERS_MAX],
}

impl Dynacast {
    /// A codec that starts with all layers on, and with nobody who wants it.
    pub(super) fn new(now: Instant, layers: u8, rids: &[String]) -> Self {
        let layers = usize::from(layers).clamp(1, LAYERS_MAX);
        let quality = |index| match rids.get(index).map(String::as_str) {
            Some("q") => Low,
            Some("h") => Medium,
            Some("f") => High,
            _ => [Low, Medium, High].get(index).copied().unwrap_or(High),
        };
        Self {
            qualities: (0..layers).map(quality).collect(),
            on: layers,
            unwanted_since: [Some(now); LAYERS_MAX],
        }
    }

    /// Bit n of `streams`: somebody wants layer n. True when the publisher is to be told.
    pub(super) fn demand(&mut self, now: Instant, streams: u8) -> bool {
        let highest = usize::try_from(u8::BITS - streams.leading_zeros()).unwrap_or(0);
        let wanted = highest.min(self.qualities.len());
        for (layer, since) in self.unwanted_since.iter_mut().enumerate() {
            if layer < wanted {
                *since = None;
            } else {
                since.get_or_insert(now);
            }
        }
        let more = wanted > self.on;
        self.on = self.on.max(wanted);
        more
    }

    /// Gives up what nobody has wanted for long. True when the publisher is to be told.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let stays = |since: &Option<Instant>| {
            since.is_none_or(|since| now.saturating_duration_since(since) < PAUSE_AFTER)
        };
        let needed = self.unwanted_since.iter().rposition(stays);
        let needed = needed.map_or(0, |layer| layer + 1).min(self.on);
        std::mem::replace(&mut self.on, needed) != needed
    }

    /// What is on, by quality. A quality without a layer of its own goes with the next lower one: clients name a single stream
    /// `LOW` or `HIGH`.
    pub(super) fn qualities(&self) -> Vec<lk::SubscribedQuality> {
        let enabled = |quality: VideoQuality| {
            let below = |of: &VideoQuality| *of as i32 <= quality as i32;
            self.qualities.iter().rposition(below).unwrap_or(0) < self.on
        };
        let all = [Low, Medium, High].into_iter();
        all.map(|quality| subscribed(quality, enabled(quality)))
            .collect()
    }
}

/// All qualities on or off: of a codec that is not there yet.
pub(super) fn all(enabled: bool) -> Vec<lk::SubscribedQuality> {
    let all = [Low, Medium, High].into_iter();
    all.map(|quality| subscribed(quality, enabled)).collect()
}

fn subscribed(quality: VideoQuality, enabled: bool) -> lk::SubscribedQuality {
    lk::SubscribedQuality {
        quality: quality as i32,
        enabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        thread_local!(static START: Instant = Instant::now());
        START.with(|start| *start)
    }

    fn at(ms: u64) -> Instant {
        start() + Duration::from_millis(ms)
    }

    /// `LMH`, with a dot for what is off.
    fn shown(dynacast: &Dynacast) -> String {
        let letters = dynacast.qualities().into_iter().zip("LMH".chars());
        letters
            .map(|(quality, letter)| if quality.enabled { letter } else { '.' })
            .collect()
    }

    #[test]
    fn nobody_watches_from_the_start() {
        let mut dynacast = Dynacast::new(at(0), 3, &[]);
        assert!(!dynacast.tick(at(4499)));
        assert_eq!(shown(&dynacast), "LMH");
        assert!(dynacast.tick(at(4500)));
        assert_eq!(shown(&dynacast), "...");
        assert!(!dynacast.tick(at(9000)), "told once");
        assert!(dynacast.demand(at(9001), 0b010), "and at once again");
        assert_eq!(shown(&dynacast), "LM.");
    }

    #[test]
    fn a_layer_goes_only_after_a_while_without_anybody() {
        let mut dynacast = Dynacast::new(at(0), 3, &[]);
        assert!(!dynacast.demand(at(10), 0b111));
        dynacast.demand(at(1000), 0b001);
        assert!(!dynacast.tick(at(5400)));
        dynacast.demand(at(5450), 0b100);
        dynacast.demand(at(5500), 0b001);
        assert!(!dynacast.tick(at(9_900)), "it was wanted in between");
        assert!(dynacast.tick(at(10_000)));
        assert_eq!(shown(&dynacast), "L..");
    }

    #[test]
    fn what_is_below_a_wanted_layer_stays_on() {
        let mut dynacast = Dynacast::new(at(0), 3, &[]);
        dynacast.demand(at(10), 0b100);
        assert!(!dynacast.tick(at(60_000)));
        assert_eq!(shown(&dynacast), "LMH");
    }

    #[test]
    fn fewer_layers_than_qualities() {
        let mut one = Dynacast::new(at(0), 1, &[]);
        assert_eq!(shown(&one), "LMH");
        one.tick(at(5000));
        assert_eq!(shown(&one), "...");

        let mut two = Dynacast::new(at(0), 2, &["q".to_owned(), "h".to_owned()]);
        two.demand(at(10), 0b01);
        two.tick(at(6000));
        assert_eq!(shown(&two), "L..");

        let mut named = Dynacast::new(at(0), 2, &["h".to_owned(), "f".to_owned()]);
        named.demand(at(10), 0b01);
        named.tick(at(6000));
        assert_eq!(shown(&named), "LM.");
    }
}
