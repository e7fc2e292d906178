//! The last report on every transport, with the names of what it is about: `GET /debug/media` of the admin listener.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use media::router::{
    SubscriptionReport, Target, TrackKey, TransportKey, TransportReport, UplinkReport,
};
use proto::{Identity, ParticipantSid, RoomId, TrackSid};
use serde_json::{Value, json};

use crate::core::session::Peer;

/// Whose a transport is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The room.
    pub room: RoomId,
    /// The participant.
    pub identity: Identity,
    /// Its session.
    pub sid: ParticipantSid,
    /// Which of its peer connections.
    pub peer: Peer,
}

/// The last reports and the names for them; shared by sessions, rooms and the admin listener.
#[derive(Debug, Default)]
pub struct Reports {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    transports: BTreeMap<TransportKey, Entry>,
    tracks: HashMap<TrackKey, TrackSid>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    last: Option<(Instant, TransportReport)>,
}

impl Reports {
    /// A transport opened.
    pub fn open(&self, transport: TransportKey, owner: Owner) {
        self.with(|known| {
            known
                .transports
                .insert(transport, Entry { owner, last: None })
        });
    }

    /// A transport is gone.
    pub fn close(&self, transport: TransportKey) {
        self.with(|known| known.transports.remove(&transport));
    }

    /// Whose a transport is.
    pub fn owner(&self, transport: TransportKey) -> Option<Owner> {
        self.with(|known| Some(known.transports.get(&transport)?.owner.clone()))
    }

    /// Everybody who has a transport, once.
    pub fn owners(&self) -> Vec<Owner> {
        self.with(|known| {
            let owners = known.transports.values().map(|entry| &entry.owner);
            let one = owners.filter(|owner| owner.peer == Peer::Publisher);
            one.cloned().collect()
        })
    }

    /// Whether a participant has a transport.
    pub fn knows(&self, sid: &ParticipantSid) -> bool {
        self.with(|known| {
            let mut entries = known.transports.values();
            entries.any(|entry| entry.owner.sid == *sid)
        })
    }

    /// A track appeared.
    pub fn name(&self, track: TrackKey, sid: TrackSid) {
        self.with(|known| known.tracks.insert(track, sid));
    }

    /// A track ended.
    pub fn forget(&self, track: TrackKey) {
        self.with(|known| known.tracks.remove(&track));
    }

    /// Keeps the reports of one shard; those on transports that are gone already are of no use.
    pub fn keep(&self, now: Instant, reports: Vec<TransportReport>) {
        self.with(|known| {
            for report in reports {
                if let Some(entry) = known.transports.get_mut(&report.transport) {
                    entry.last = Some((now, report));
                }
            }
        });
    }

    /// All of them as a JSON document.
    pub fn to_json(&self, now: Instant) -> String {
        self.with(|known| {
            let transports: Vec<Value> = known
                .transports
                .iter()
                .map(|(key, entry)| known.transport(now, *key, entry))
                .collect();
            json!({ "transports": transports }).to_string()
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    fn transport(&self, now: Instant, key: TransportKey, entry: &Entry) -> Value {
        let Owner {
            room,
            identity,
            sid,
            peer,
        } = &entry.owner;
        let mut value = json!({
            "transport": key.0,
            "room": room.as_str(),
            "identity": identity.as_str(),
            "participant_sid": sid.as_str(),
            "peer": match peer {
                Peer::Publisher => "publisher",
                Peer::Subscriber => "subscriber",
            },
        });
        let (Some((at, report)), Some(object)) = (&entry.last, value.as_object_mut()) else {
            return value;
        };
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("age_ms", ms(now.saturating_duration_since(*at)));
        put("estimate_bps", report.estimate_bps.into());
        put("sent_bps", report.sent_bps.into());
        put("padding_bps", report.padding_bps.into());
        put("queue_ms", ms(report.queue));
        put("rtt_ms", ms(report.rtt));
        put("loss", report.loss.into());
        let subscriptions = report.subscriptions.iter();
        put(
            "subscriptions",
            subscriptions.map(|s| self.subscription(s)).collect(),
        );
        put(
            "uplinks",
            report.uplinks.iter().map(|u| self.uplink(u)).collect(),
        );
        value
    }

    fn subscription(&self, report: &SubscriptionReport) -> Value {
        json!({
            "track": self.sid(report.track),
            "wanted": report.wanted.map(target),
            "sent": report.sent.map(target),
            "paused": report.paused,
            "bps": report.bps,
            "loss": report.loss,
            "rtx_packets": report.rtx_packets,
            "nacks": report.nacks,
            "plis": report.plis,
            "paused_for_ms": ms(report.paused_for),
        })
    }

    fn uplink(&self, report: &UplinkReport) -> Value {
        json!({
            "track": self.sid(report.track),
            "stream": report.stream,
            "bps": report.bps,
            "loss": report.loss,
            "repaired": report.repaired,
            "nacks": report.nacks,
            "plis": report.plis,
            "jitter_ms": ms(report.jitter),
            "fps": report.fps,
        })
    }

    fn sid(&self, track: TrackKey) -> Option<&str> {
        self.tracks.get(&track).map(TrackSid::as_str)
    }
}

fn target(target: Target) -> Value {
    json!({ "layer": target.layer, "temporal": target.temporal })
}

/// Milliseconds with a fraction.
fn ms(duration: Duration) -> Value {
    (duration.as_secs_f64() * 1000.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_carry_names_and_end_with_their_transport() {
        let reports = Reports::default();
        let now = Instant::now();
        let key = TransportKey(3);
        reports.open(
            key,
            Owner {
                room: RoomId::from("room"),
                identity: Identity::from("ann"),
                sid: ParticipantSid::from("PA_1"),
                peer: Peer::Subscriber,
            },
        );
        reports.name(TrackKey(7), TrackSid::from("TR_7"));
        let subscription = SubscriptionReport {
            track: TrackKey(7),
            wanted: Some(Target {
                layer: 2,
                temporal: 7,
            }),
            sent: None,
            paused: true,
            bps: 0,
            loss: 0.5,
            rtx_packets: 0,
            nacks: 0,
            plis: 0,
            paused_for: Duration::from_millis(1500),
        };
        let report = TransportReport {
            transport: key,
            estimate_bps: Some(600_000),
            sent_bps: 1,
            padding_bps: 0,
            queue: Duration::from_millis(20),
            rtt: Duration::from_millis(40),
            loss: 0.25,
            subscriptions: vec![subscription],
            uplinks: Vec::new(),
        };
        let unknown = TransportReport {
            transport: TransportKey(99),
            ..report.clone()
        };
        reports.keep(now, vec![report, unknown]);
        let document: Value = serde_json::from_str(&reports.to_json(now)).unwrap();
        let transports = document["transports"].as_array().unwrap();
        assert_eq!(transports.len(), 1);
        let ann = &transports[0];
        assert_eq!(
            (&ann["identity"], &ann["peer"]),
            (&json!("ann"), &json!("subscriber"))
        );
        assert_eq!(
            (&ann["estimate_bps"], &ann["rtt_ms"]),
            (&json!(600_000), &json!(40.0))
        );
        let shown = &ann["subscriptions"][0];
        assert_eq!(
            (&shown["track"], &shown["wanted"]["layer"]),
            (&json!("TR_7"), &json!(2))
        );
        assert_eq!(
            (&shown["sent"], &shown["paused_for_ms"]),
            (&Value::Null, &json!(1500.0))
        );
        reports.close(key);
        assert_eq!(reports.to_json(now), "{\"transports\":[]}");
    }
}
