//! How well each participant is connected, as everybody in the room is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::ConnectionQuality;
use lk::signal_response::Message as Response;
use media::router::{SubscriptionReport, TrackKey, TransportReport, UplinkReport};
use prost::Message as _;
use proto::ParticipantSid;

use super::{Home, Now, Room};
use crate::core::quality::{Audio, Meter, Video};

/// Reports of this long make one score.
const WINDOW: Duration = Duration::from_secs(3);
/// Reports come once a second: how many make a window.
const REPORTS: f32 = 3.0;
/// A score that moved less is not told while the step stays.
const SCORE_STEP: f32 = 0.5;
/// How long a picture stands when its receiver asks for a keyframe: the request, a keyframe's way back, its decoding.
const STANDING_PER_REQUEST_S: f32 = 0.3;

/// What is known of one participant of ours.
#[derive(Debug, Default)]
pub(super) struct Quality {
    streams: BTreeMap<(Way, TrackKey), Sums>,
    /// The connections themselves, for somebody who neither sends nor receives.
    idle: Sums,
    meter: Meter,
    /// The last score.
    score: Option<f32>,
    /// Nothing has been heard of its media connection for long.
    lost: bool,
    pub(super) told: Option<Told>,
}

/// Seen from the participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Sends,
    Receives,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Told {
    quality: ConnectionQuality,
    score: f32,
}

/// One stream over a window.
#[derive(Debug, Default)]
struct Sums {
    reports: f32,
    loss: f32,
    rtt: Duration,
    jitter: Duration,
    layers_missed: f32,
    paused: f32,
    keyframe_requests: f32,
}

impl Quality {
    fn observe(&mut self, report: &TransportReport) {
        self.idle.reports += 1.0;
        self.idle.loss += report.loss;
        self.idle.rtt = self.idle.rtt.max(report.rtt);
        for uplink in &report.uplinks {
            self.observe_uplink(report, uplink);
        }
        for subscription in &report.subscriptions {
            self.observe_subscription(report, subscription);
        }
    }

    fn observe_uplink(&mut self, report: &TransportReport, uplink: &UplinkReport) {
        let sums = self.streams.entry((Way::Sends, uplink.track)).or_default();
        sums.reports += 1.0;
        sums.loss += uplink.loss;
        sums.rtt = sums.rtt.max(report.rtt);
        sums.jitter = sums.jitter.max(uplink.jitter);
    }

    fn observe_subscription(
        &mut self,
        report: &TransportReport,
        subscription: &SubscriptionReport,
    ) {
        let Some(wanted) = subscription.wanted else {
            return;
        };
        let key = (Way::Receives, subscription.track);
        let sums = self.streams.entry(key).or_default();
        sums.reports += 1.0;
        sums.loss += subscription.loss;
        sums.rtt = sums.rtt.max(report.rtt);
        if subscription.paused {
            sums.paused += 1.0;
        } else if let Some(sent) = subscription.sent {
            sums.layers_missed += f32::from(wanted.layer.saturating_sub(sent.layer));
        }
        let requests = u16::try_from(subscription.plis).unwrap_or(u16::MAX);
        sums.keyframe_requests += f32::from(requests);
    }

    /// Ends the window: what is to be told, if anything.
    fn close(&mut self, is_video: impl Fn(TrackKey) -> Option<bool>) -> Option<Told> {
        let streams = std::mem::take(&mut self.streams);
        let idle = std::mem::take(&mut self.idle);
        let scores = streams.iter().filter_map(|((_, track), sums)| {
            let video = is_video(*track)?;
            Some(if video { sums.video() } else { sums.audio() })
        });
        let worst = scores.reduce(f32::min);
        let score = worst.or_else(|| (idle.reports > 0.0).then(|| idle.audio()));
        if let Some(score) = score {
            self.meter.observe(score);
            self.score = Some(score);
        }
        let (quality, score) = if self.lost {
            (ConnectionQuality::Lost, 0.0)
        } else {
            (self.meter.quality(), self.score?)
        };
        let before = self.told;
        let same =
            before.is_some_and(|b| b.quality == quality && (b.score - score).abs() < SCORE_STEP);
        if same {
            return None;
        }
        self.told = Some(Told { quality, score });
        self.told
    }
}

impl Sums {
    fn audio(&self) -> f32 {
        let audio = Audio {
            loss: self.loss / self.reports.max(1.0),
            rtt: self.rtt,
            jitter: self.jitter,
        };
        audio.score()
    }

    fn video(&self) -> f32 {
        let reports = self.reports.max(1.0);
        let asked = self.keyframe_requests * STANDING_PER_REQUEST_S / reports.max(REPORTS);
        let video = Video {
            loss: self.loss / reports,
            layers_missed: self.layers_missed / reports,
            standing: self.paused / reports + asked,
        };
        video.score()
    }
}

impl Room {
    /// A second of our participants' connections.
    pub(super) fn take_reports(&mut self, reports: &[(ParticipantSid, TransportReport)]) {
        for (sid, report) in reports {
            if let Some(Home::Local(local)) = self.participants.get_mut(sid).map(|p| &mut p.home) {
                local.quality.observe(report);
            }
        }
    }

    /// A participant's media connection fell silent, or is back.
    pub(super) fn media_lost(&mut self, sid: &ParticipantSid, lost: bool) {
        if let Some(Home::Local(local)) = self.participants.get_mut(sid).map(|p| &mut p.home) {
            local.quality.lost = lost;
        }
    }

    /// Tells everybody whose connection changed.
    pub(super) fn tick_quality(&mut self, now: Now) {
        let next: Instant = *self.quality_due.get_or_insert(now.instant + WINDOW);
        if now.instant < next {
            return;
        }
        self.quality_due = Some(now.instant + WINDOW);
        let kinds: BTreeMap<TrackKey, bool> = self
            .participants
            .values()
            .flat_map(|p| p.tracks.values())
            .flat_map(|track| track.choices().map(|t| (t.key, t.is_video())))
            .collect();
        let mut updates = Vec::new();
        for (sid, participant) in &mut self.participants {
            let Home::Local(local) = &mut participant.home else {
                continue;
            };
            let told = local.quality.close(|track| kinds.get(&track).copied());
            updates.extend(told.map(|told| info(sid.as_str(), told)));
        }
        if !updates.is_empty() {
            self.dirty = true;
            self.spread_quality(&updates);
        }
    }

    /// Somebody who came in late hears how everybody is connected.
    pub(super) fn tell_qualities(&mut self, sid: &ParticipantSid) {
        let mut updates = self.local_qualities();
        updates.extend(self.replicas.qualities());
        updates.retain(|update| concerns(update, sid));
        if !updates.is_empty() {
            self.tell(sid, message(updates));
        }
    }

    /// How ours are connected.
    pub(super) fn local_qualities(&self) -> Vec<lk::ConnectionQualityInfo> {
        let told = |(sid, p): (&ParticipantSid, &super::Participant)| match &p.home {
            Home::Local(local) => local.quality.told.map(|told| info(sid.as_str(), told)),
            Home::Remote { .. } => None,
        };
        self.participants.iter().filter_map(told).collect()
    }

    /// Another edge says how its participants are connected.
    pub(super) fn apply_qualities(&mut self, origin: &proto::NodeId, encoded: &[Vec<u8>]) {
        let decoded = encoded.iter();
        let decoded = decoded.filter_map(|b| lk::ConnectionQualityInfo::decode(b.as_slice()).ok());
        let news = self.replicas.take_qualities(origin, decoded.collect());
        if !news.is_empty() {
            self.spread_quality(&news);
        }
    }

    fn spread_quality(&mut self, updates: &[lk::ConnectionQualityInfo]) {
        let locals = self
            .participants
            .iter()
            .filter(|(_, p)| matches!(p.home, Home::Local(_)));
        let locals: Vec<ParticipantSid> = locals.map(|(sid, _)| sid.clone()).collect();
        for sid in locals {
            let for_it = updates.iter().filter(|update| concerns(update, &sid));
            let for_it: Vec<lk::ConnectionQualityInfo> = for_it.cloned().collect();
            if !for_it.is_empty() {
                self.tell(&sid, message(for_it));
            }
        }
    }
}

/// Nobody hears of itself that it is lost: that it hears anything says that it is not gone, and a client that publishes starts anew
/// when it is told so for long.
fn concerns(update: &lk::ConnectionQualityInfo, listener: &ParticipantSid) -> bool {
    update.quality() != ConnectionQuality::Lost || update.participant_sid != listener.as_str()
}

fn info(sid: &str, told: Told) -> lk::ConnectionQualityInfo {
    lk::ConnectionQualityInfo {
        participant_sid: sid.to_owned(),
        quality: told.quality as i32,
        score: told.score,
    }
}

fn message(updates: Vec<lk::ConnectionQualityInfo>) -> Response {
    Response::ConnectionQuality(lk::ConnectionQualityUpdate { updates })
}
