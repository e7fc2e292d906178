//! Conversations of many in virtual time.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const FRAME: Duration = Duration::from_millis(20);

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

/// A room whose people send a packet every 20 ms.
struct Room {
    now: Instant,
    selector: Selector,
    people: Vec<TalkerKey>,
}

impl Room {
    fn new(places: u16, people: usize) -> Self {
        let mut selector = Selector::new(places);
        let people = (0..people).map(|_| selector.add()).collect();
        Self {
            now: start(),
            selector,
            people,
        }
    }

    /// One frame of everybody at the level given for each; who is forwarded.
    fn frame(&mut self, level: impl Fn(usize) -> Option<u8>) -> Vec<bool> {
        self.now += FRAME;
        let now = self.now;
        let people = self.people.iter().enumerate();
        let forwarded =
            people.map(|(person, &key)| self.selector.packet(now, key, level(person), false));
        let forwarded = forwarded.collect();
        assert!(self.selector.selected() <= usize::from(self.selector.places()));
        forwarded
    }

    /// Several frames; how many of each person's packets were forwarded.
    fn frames(&mut self, frames: usize, level: impl Fn(usize) -> u8) -> Vec<usize> {
        let mut counts = vec![0; self.people.len()];
        for _ in 0..frames {
            let forwarded = self.frame(|person| Some(level(person)));
            for (count, forwarded) in counts.iter_mut().zip(forwarded) {
                *count += usize::from(forwarded);
            }
        }
        counts
    }
}

#[test]
fn a_room_with_places_enough_is_never_touched() {
    let mut room = Room::new(10, 10);
    assert_eq!(room.frames(500, |_| 127), vec![500; 10]);
    let mut room = Room::new(0, 40);
    assert_eq!(room.frames(50, |_| 127), vec![50; 40]);
    assert_eq!(room.selector.counters(), Counters::default());
}

#[test]
fn a_talker_gets_in_within_60_ms_and_the_one_silent_the_longest_goes() {
    let mut room = Room::new(2, 4);
    room.frames(50, |_| 90);
    for talker in [2, 3, 0, 1] {
        let counts = room.frames(50, |person| if person == talker { 25 } else { 90 });
        assert!(counts[talker] >= 48, "{talker}: {counts:?}");
    }
    // 0 and 1 spoke last; 2 takes the place of 0.
    let counts = room.frames(50, |person| if person == 2 { 25 } else { 90 });
    assert_eq!((counts[0] < 4, counts[1]), (true, 50), "{counts:?}");
}

#[test]
fn a_click_throws_nobody_out_and_steady_noise_is_no_speech() {
    let mut room = Room::new(1, 3);
    room.frames(10, |person| if person == 0 { 20 } else { 90 });
    room.frames(50, |_| 90);
    let before = room.selector.counters().changes;
    room.frames(1, |person| if person == 1 { 5 } else { 90 });
    room.frames(50, |_| 90);
    assert_eq!(room.selector.counters().changes, before);
    // A fan that starts takes the place for speech at first; a few seconds later everybody else comes before it.
    room.frames(260, |person| if person == 1 { 45 } else { 90 });
    let level = |person| match person {
        1 => 45,
        2 => 50,
        _ => 90,
    };
    let counts = room.frames(50, level);
    assert!(counts[2] >= 47, "{counts:?}");
}

#[test]
fn when_all_places_speak_the_first_stay_unless_another_is_much_louder() {
    let mut room = Room::new(2, 4);
    let speak = |speakers: &'static [(usize, u8)]| {
        move |person| {
            let found = speakers.iter().find(|(speaker, _)| *speaker == person);
            found.map_or(90, |(_, level)| *level)
        }
    };
    room.frames(50, speak(&[(0, 30), (1, 32)]));
    let counts = room.frames(200, speak(&[(0, 30), (1, 32), (2, 29)]));
    assert_eq!(counts, [200, 200, 0, 0]);
    let counts = room.frames(200, speak(&[(0, 30), (1, 32), (2, 29), (3, 22)]));
    assert_eq!((counts[0], counts[2]), (200, 0));
    // 500 ms and the time that the smoothed level takes.
    assert!((150..=180).contains(&counts[3]), "{counts:?}");
}

#[test]
fn speech_that_comes_in_a_burst_is_let_in_with_its_third_packet() {
    let mut room = Room::new(1, 2);
    room.frames(50, |_| 90);
    let (now, second) = (room.now + FRAME, room.people[1]);
    let burst = [(); 5].map(|()| room.selector.packet(now, second, Some(25), false));
    assert_eq!(burst, [false, false, true, true, true]);
}

#[test]
fn a_hop_behind_another_does_not_hesitate_again() {
    let mut room = Room::new(1, 2);
    room.frames(50, |_| 90);
    let now = room.now + FRAME;
    let second = room.people[1];
    assert!(!room.selector.packet(now, second, Some(25), false));
    assert!(room.selector.packet(now + FRAME, second, Some(25), true));
}

#[test]
fn who_does_not_tell_its_level_counts_as_speaking() {
    let mut room = Room::new(1, 3);
    for _ in 0..50 {
        room.frame(|person| (person != 2).then_some(90));
    }
    let forwarded = room.frame(|person| (person != 2).then_some(90));
    assert_eq!(forwarded, [false, false, true]);
}

#[test]
fn a_place_of_one_that_sends_no_more_is_free() {
    let mut room = Room::new(1, 2);
    room.frames(10, |person| if person == 0 { 20 } else { 90 });
    let second = room.people[1];
    let mut forwarded_at = None;
    for frame in 1..=150_u32 {
        if room
            .selector
            .packet(room.now + FRAME * frame, second, Some(90), false)
        {
            forwarded_at.get_or_insert(frame);
        }
    }
    assert_eq!(forwarded_at, Some(101));
    room.selector.set_places(0);
    room.selector.remove(second);
    assert!(!room.selector.is_empty());
    room.selector.remove(room.people[0]);
    assert!(room.selector.is_empty());
}

/// Somebody who now and then says a sentence.
#[derive(Clone)]
struct Person {
    /// -dBov of speech and of background.
    speech: u8,
    noise: u8,
    /// 0: marks no voice, 1: marks everything, 2: marks voice.
    marks: u8,
    /// Milliseconds between packets while silent: 400 with discontinuous transmission.
    silence: u64,
    /// Frames left of the sentence, and of a pause within.
    sentence: u32,
    pause: u32,
    /// Milliseconds of the run: the next packet, the last of the last sentence.
    next: u64,
    ended: u64,
    /// Frames since the sentence began, and since a packet of it was forwarded.
    since: u32,
    cut: u32,
    heard_once: bool,
}

impl Person {
    fn new(rng: &mut SmallRng) -> Self {
        Self {
            speech: rng.random_range(20..42),
            noise: rng.random_range(62..127),
            marks: rng.random_range(0..3),
            silence: if rng.random_bool(0.5) { 400 } else { 20 },
            sentence: 0,
            pause: 0,
            next: rng.random_range(0..20),
            ended: 0,
            since: 0,
            cut: 0,
            heard_once: false,
        }
    }

    /// The level of the next packet.
    fn level(&self, rng: &mut SmallRng) -> u8 {
        let talks = self.sentence > 0 && self.pause == 0;
        let mark = match self.marks {
            0 => 0,
            1 => 0x80,
            _ => u8::from(talks) << 7,
        };
        let level = if talks {
            self.speech + rng.random_range(0..6)
        } else {
            self.noise
        };
        level.min(127) | mark
    }

    /// Lets a frame of a sentence pass.
    fn go_on(&mut self, rng: &mut SmallRng) {
        self.sentence -= 1;
        if self.pause > 0 {
            self.pause -= 1;
        } else if self.since > 10 && (self.since.is_multiple_of(100) || rng.random_bool(0.05)) {
            // Between words: up to 160 ms, every two seconds at the latest.
            self.pause = rng.random_range(2..8);
        }
    }
}

/// Sixty people of whom at most `at_once` talk within any 200 ms; returns the longest cut within a sentence and the slowest admission.
fn converse(seed: u64, places: u16, at_once: usize) -> (Duration, Duration) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let begin = start();
    let mut selector = Selector::new(places);
    let keys: Vec<TalkerKey> = (0..60).map(|_| selector.add()).collect();
    let mut people: Vec<Person> = (0..60).map(|_| Person::new(&mut rng)).collect();
    let (mut longest, mut slowest) = (0, 0);
    for ms in 0..20_000_u64 {
        let recent = |person: &&Person| person.sentence > 0 || ms < person.ended + 200;
        let talking = people.iter().filter(recent).count();
        if talking < at_once && rng.random_bool(0.01) {
            let person = rng.random_range(0..people.len());
            let person = &mut people[person];
            if person.sentence == 0 {
                person.sentence = rng.random_range(25..400);
                (person.since, person.cut, person.heard_once) = (0, 0, false);
                person.pause = 0;
                person.next = ms + rng.random_range(0..20);
            }
        }
        for (person, key) in people.iter_mut().zip(&keys) {
            if person.next != ms {
                continue;
            }
            let level = person.level(&mut rng);
            let now = begin + Duration::from_millis(ms);
            let forwarded = selector.packet(now, *key, Some(level), false);
            assert!(selector.selected() <= usize::from(places));
            if person.sentence == 0 {
                person.next = ms + person.silence;
                continue;
            }
            person.next = ms + 20;
            person.ended = ms;
            person.since += 1;
            if forwarded {
                person.heard_once = true;
                person.cut = 0;
            } else {
                person.cut += 1;
                longest = longest.max(person.cut);
                if !person.heard_once {
                    slowest = slowest.max(person.since);
                }
            }
            person.go_on(&mut rng);
        }
    }
    (FRAME * longest, FRAME * slowest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_sentence_is_cut_while_there_are_places_enough(seed: u64, places in 3_u16..12) {
        let (cut, admission) = converse(seed, places, usize::from(places));
        prop_assert!(cut <= Duration::from_millis(200), "cut for {:?}", cut);
        prop_assert!(admission <= Duration::from_millis(100), "admitted after {:?}", admission);
    }

    #[test]
    fn places_are_never_exceeded_and_the_same_speech_gives_the_same_choice(seed: u64) {
        prop_assert_eq!(converse(seed, 4, 12), converse(seed, 4, 12));
    }
}
