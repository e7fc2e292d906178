use proptest::prelude::*;

use super::*;

/// Simulcast as browsers send it: 150 kbit/s, 500 kbit/s and 1.7 Mbit/s, two temporal layers.
const SIMULCAST: Rates = [
    [100_000, 50_000, 0, 0],
    [300_000, 200_000, 0, 0],
    [1_000_000, 700_000, 0, 0],
];

fn top(layer: u8) -> Target {
    Target { layer, temporal: 7 }
}

fn video(layer: u8) -> Share {
    Share {
        kind: Kind::Video(Video {
            wanted: top(layer),
            rates: SIMULCAST,
            announced_bps: 0,
            svc: false,
            screen: false,
        }),
        priority: 0,
        speaking: false,
        current: None,
        fresh: true,
    }
}

const AUDIO: Share = Share {
    kind: Kind::Audio { bps: 40_000 },
    priority: 0,
    speaking: false,
    current: None,
    fresh: true,
};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

/// A subscriber over time.
struct Subscriber {
    allocator: Allocator,
    table: Table,
    now: Instant,
}

impl Subscriber {
    fn new(shares: &[Share]) -> Self {
        let table = Table {
            shares: shares.to_vec(),
            ..Table::default()
        };
        Self {
            allocator: Allocator::default(),
            table,
            now: start(),
        }
    }

    /// Layers given, `None` = paused; what is given becomes current.
    fn give(&mut self, budget: u64) -> Vec<Option<Target>> {
        self.summary(Some(budget));
        self.table.given.clone()
    }

    fn summary(&mut self, budget: Option<u64>) -> Summary {
        let summary = self.allocator.allocate(self.now, budget, &mut self.table);
        for (share, given) in self.table.shares.iter_mut().zip(&self.table.given) {
            share.current = *given;
            share.fresh = false;
        }
        self.now += Duration::from_millis(100);
        summary
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

#[test]
fn a_path_that_is_not_known_gets_everything() {
    let mut one = Subscriber::new(&[AUDIO, video(2), video(1)]);
    let summary = one.summary(None);
    assert_eq!(one.table.given[1..], [Some(top(2)), Some(top(1))]);
    assert_eq!(
        (summary.used_bps, summary.wanted_bps),
        (2_240_000, 2_240_000 * 3 / 2)
    );
}

#[test]
fn audio_first_then_every_video_then_upgrades() {
    let mut one = Subscriber::new(&[video(2), video(2), AUDIO]);
    assert!(one.give(30_000)[2].is_some());
    assert_eq!(one.give(30_000)[..2], [None, None]);
    // Half of the frames of one.
    let half = Target {
        layer: 0,
        temporal: 0,
    };
    assert_eq!(one.give(170_000)[..2], [Some(half), None]);
    assert_eq!(one.give(280_000)[..2], [Some(half), Some(half)]);
    assert_eq!(one.give(400_000)[..2], [Some(top(0)), Some(top(0))]);
    let summary = one.summary(Some(400_000));
    assert_eq!(
        (summary.used_bps, summary.wanted_bps),
        (340_000, 3_440_000 * 3 / 2)
    );
    assert_eq!(one.give(1_200_000)[..2], [Some(top(1)), Some(top(1))]);
    assert_eq!(one.give(4_000_000)[..2], [Some(top(2)), Some(top(2))]);
    assert_eq!(one.summary(Some(6_000_000)).wanted_bps, 0);
}

#[test]
fn wants_what_publishers_may_send() {
    let mut share = video(2);
    let Kind::Video(video) = &mut share.kind else {
        unreachable!("it is a video");
    };
    video.announced_bps = 3_000_000;
    let mut one = Subscriber::new(&[share]);
    // Half more than everything that comes is 2.55 Mbit/s.
    assert_eq!(one.summary(Some(2_600_000)).wanted_bps, 3_000_000);
    assert_eq!(one.summary(Some(3_000_000)).wanted_bps, 0);
}

#[test]
fn what_matters_more_is_sharper() {
    let speaker = Share {
        speaking: true,
        ..video(2)
    };
    let first = Share {
        priority: 1,
        ..video(2)
    };
    let mut one = Subscriber::new(&[video(2), speaker, video(2)]);
    let low = Some(top(0));
    assert_eq!(one.give(2_300_000), [low, Some(top(2)), low]);
    let mut one = Subscriber::new(&[speaker, video(2), first]);
    assert_eq!(one.give(2_300_000), [low, low, Some(top(2))]);
    // A screen is sharp before it is smooth.
    let screen = Share {
        kind: Kind::Video(Video {
            wanted: top(2),
            rates: SIMULCAST,
            announced_bps: 0,
            svc: false,
            screen: true,
        }),
        ..video(2)
    };
    let mut one = Subscriber::new(&[video(2), screen]);
    let sharp = Target {
        layer: 2,
        temporal: 0,
    };
    assert_eq!(one.give(1_350_000), [low, Some(sharp)]);
}

#[test]
fn a_speaker_takes_the_place_of_another_without_penalty() {
    let mut one = Subscriber::new(&[video(2), video(2)]);
    for turn in 0..10 {
        let speaker = turn % 2;
        one.table.shares[speaker].speaking = true;
        one.table.shares[1 - speaker].speaking = false;
        let given = one.give(2_200_000);
        assert_eq!(given[speaker], Some(top(2)));
        assert!(given[1 - speaker].is_some_and(|target| target.layer < 2));
    }
}

#[test]
fn a_step_up_that_fails_is_tried_less_and_less_often() {
    let mut one = Subscriber::new(&[video(1)]);
    assert_eq!(one.give(570_000), [Some(top(1))]);
    let mut holds = Vec::new();
    for _ in 0..8 {
        assert_eq!(one.give(200_000), [Some(top(0))]);
        let down = one.now;
        while one.give(570_000) == [Some(top(0))] {
            assert!(one.now < down + 2 * HOLD_MAX);
        }
        holds.push((one.now - down).as_secs());
    }
    assert_eq!(holds, [2, 4, 8, 16, 32, 60, 60, 60]);
    // What lasted is trusted again.
    one.wait(11);
    assert_eq!(one.give(200_000), [Some(top(0))]);
    one.wait(3);
    assert_eq!(one.give(570_000), [Some(top(1))]);
}

#[test]
fn a_path_that_got_much_wider_is_used_at_once() {
    let mut one = Subscriber::new(&[video(1)]);
    one.give(700_000);
    assert_eq!(one.give(20_000), [None]);
    assert_eq!(one.give(70_000), [None]);
    assert_eq!(one.give(3_000_000), [Some(top(1))]);
}

#[test]
fn the_clients_own_wish_does_not_wait() {
    let mut one = Subscriber::new(&[video(0), video(1)]);
    one.give(1_000_000);
    assert_eq!(one.give(440_000), [Some(top(0)), Some(top(0))]);
    let wanted = Share {
        current: one.table.shares[0].current,
        ..video(1)
    };
    one.table.shares[0] = wanted;
    assert_eq!(one.give(750_000), [Some(top(1)), Some(top(0))]);
}

#[test]
fn spatial_layers_cost_what_is_below_them() {
    let rates = [[100_000, 0, 0, 0], [200_000, 0, 0, 0], [400_000, 0, 0, 0]];
    let svc = Share {
        kind: Kind::Video(Video {
            wanted: top(2),
            rates,
            announced_bps: 0,
            svc: true,
            screen: false,
        }),
        ..video(2)
    };
    let mut one = Subscriber::new(&[svc]);
    assert_eq!(one.give(337_000), [Some(top(0))]);
    assert_eq!(one.give(338_000), [Some(top(1))]);
    assert_eq!(one.summary(Some(788_000)).used_bps, 700_000);
}

#[test]
fn a_layer_that_costs_nothing_more_is_given() {
    // The publisher does not send its highest layer.
    let mut rates = SIMULCAST;
    rates[2] = rates[1];
    let mut share = video(2);
    share.kind = Kind::Video(Video {
        wanted: top(2),
        rates,
        announced_bps: 0,
        svc: false,
        screen: false,
    });
    assert_eq!(Subscriber::new(&[share]).give(600_000), [Some(top(2))]);
}

fn any_share() -> impl Strategy<Value = Share> {
    let video = (
        0u8..3,
        0u8..4,
        any::<[[u32; TEMPORALS]; LAYERS]>(),
        any::<[bool; 4]>(),
        0u8..4,
    )
        .prop_map(
            |(layer, temporal, rates, [svc, screen, speaking, fresh], priority)| Share {
                kind: Kind::Video(Video {
                    wanted: Target { layer, temporal },
                    rates: rates.map(|layer| layer.map(|bps| u64::from(bps % 500_000))),
                    announced_bps: 0,
                    svc,
                    screen,
                }),
                priority,
                speaking,
                current: (layer > temporal).then_some(Target { layer, temporal: 0 }),
                fresh,
            },
        );
    prop_oneof![Just(AUDIO), video]
}

proptest! {
    #[test]
    fn the_budget_is_kept_and_audio_goes_on(
        shares in proptest::collection::vec(any_share(), 0..12),
        budgets in proptest::collection::vec(0u64..6_000_000, 1..12),
    ) {
        let audio = shares.iter().filter(|share| matches!(share.kind, Kind::Audio { .. })).count();
        let floor = 40_000 * u64::try_from(audio).unwrap();
        let mut one = Subscriber::new(&shares);
        for budget in budgets {
            let summary = one.summary(Some(budget));
            prop_assert!(summary.used_bps <= budget.max(floor));
            for (share, given) in shares.iter().zip(&one.table.given) {
                match share.kind {
                    Kind::Audio { .. } => prop_assert!(given.is_some()),
                    Kind::Video(video) => {
                        let within = given.is_none_or(|given| {
                            given.layer <= video.wanted.layer && given.temporal <= video.wanted.temporal
                        });
                        prop_assert!(within);
                    }
                }
            }
        }
    }

    #[test]
    fn more_budget_never_makes_a_picture_worse(
        count in 1usize..6,
        wanted in 0u8..3,
        budget in 0u64..9_000_000,
        more in 0u64..3_000_000,
    ) {
        // Sums over equals: which of them gets more is not said.
        let shares = vec![video(wanted); count];
        let value = |given: Vec<Option<Target>>| {
            let one = |target: Option<Target>| target.map_or(0, |target| {
                1 + u32::from(target.layer) * 2 + u32::from(target.temporal == 7)
            });
            (given.iter().flatten().count(), given.into_iter().map(one).sum::<u32>())
        };
        let less = value(Subscriber::new(&shares).give(budget));
        let more = value(Subscriber::new(&shares).give(budget + more));
        prop_assert!(less <= more, "{:?} {:?}", less, more);
    }

    #[test]
    fn the_most_important_is_shown_before_others(
        others in proptest::collection::vec(any_share(), 0..8),
        budget in 0u64..6_000_000,
    ) {
        let first = Share { priority: 1, speaking: true, ..video(2) };
        let others = others.into_iter().map(|share| Share { priority: 0, ..share });
        let shares: Vec<_> = std::iter::once(first).chain(others.filter(|s| s.kind != AUDIO.kind)).collect();
        let given = Subscriber::new(&shares).give(budget);
        let alone = Subscriber::new(&[first]).give(budget);
        prop_assert_eq!(given[0].is_some(), alone[0].is_some());
    }

    #[test]
    fn a_wobbling_estimate_flaps_nothing(
        shares in proptest::collection::vec(any_share(), 1..10),
        budget in 100_000u64..6_000_000,
        wobble in proptest::collection::vec(-50i64..=50, 50..200),
    ) {
        let mut one = Subscriber::new(&shares);
        let wobbling = |permille: &i64| budget * u64::try_from(1000 + permille).unwrap() / 1000;
        for permille in &wobble {
            one.give(wobbling(permille));
            one.wait(3);
        }
        // After some rounds of the wave there is nothing left to find.
        let mut settled = Vec::new();
        for permille in [950, 1050].repeat(6) {
            one.wait(60);
            settled = one.give(budget * permille / 1000);
        }
        for permille in wobble {
            one.wait(3);
            prop_assert_eq!(&one.give(wobbling(&permille)), &settled);
        }
    }
}
