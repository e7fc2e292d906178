//! The scheduler above QUIC: what goes first, what is too old, what is dropped. Frames are dropped whole.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::header::{Class, Kind, PacketMeta};

/// Feedback waiting: one heartbeat, some requests.
const FEEDBACK_MAX: usize = 64;
/// Packets waiting per lane; at 1,200 bytes about 2.4 MB.
const LANE_MAX: usize = 2048;
/// Data messages waiting.
const DATA_MAX: usize = 512;

/// Oldest audio that is still worth sending.
const AUDIO_AGE_MAX: Duration = Duration::from_millis(150);
/// Oldest frame of a base layer that is still worth sending.
const BASE_AGE_MAX: Duration = Duration::from_millis(150);
/// Oldest frame of an upper layer that is still worth sending.
const UPPER_AGE_MAX: Duration = Duration::from_millis(50);
/// Oldest lossy data message that is still worth sending.
const DATA_AGE_MAX: Duration = Duration::from_millis(500);

/// A media packet waiting for its turn.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) flow: u32,
    pub(crate) class: Class,
    pub(crate) meta: PacketMeta,
    pub(crate) rtp: Bytes,
    queued: Instant,
}

/// What is to be sent next.
#[derive(Debug)]
pub(crate) enum Next {
    Feedback {
        kind: Kind,
        flow: u32,
        body: Bytes,
    },
    Media(Queued),
    /// Send this hop sequence number again.
    Repair(u32),
    Data(Bytes),
}

/// Where a flow is within a frame.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The last packet taken ended a frame, so the next starts one even if it does not say so.
    at_boundary: bool,
    dropping: bool,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            at_boundary: true,
            dropping: false,
        }
    }
}

/// All queues of one connection.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    feedback: VecDeque<(Kind, u32, Bytes)>,
    audio: VecDeque<Queued>,
    audio_repair: VecDeque<u32>,
    data: VecDeque<(Bytes, Instant)>,
    base: VecDeque<Queued>,
    base_repair: VecDeque<u32>,
    upper: VecDeque<Queued>,
    upper_repair: VecDeque<u32>,
    /// By flow id.
    cuts: Vec<Cut>,
    dropped: u64,
}

impl Queue {
    /// Queues a datagram of the link itself. When 64 wait, the oldest gives way: newer feedback says the same or more.
    pub(crate) fn push_feedback(&mut self, kind: Kind, flow: u32, body: Bytes) {
        if self.feedback.len() >= FEEDBACK_MAX {
            self.feedback.pop_front();
            self.dropped += 1;
        }
        self.feedback.push_back((kind, flow, body));
    }

    /// Queues a media packet. When the lane is full, the oldest packet goes, and the rest of its frame after it.
    pub(crate) fn push_media(
        &mut self,
        now: Instant,
        flow: (u32, Class),
        meta: PacketMeta,
        rtp: Bytes,
    ) {
        let (flow, class) = flow;
        let lane = match class {
            Class::Audio => &mut self.audio,
            Class::Base => &mut self.base,
            Class::Upper => &mut self.upper,
        };
        if lane.len() >= LANE_MAX
            && let Some(oldest) = lane.pop_front()
        {
            self.dropped += 1;
            if oldest.class != Class::Audio {
                let ended = oldest.meta.layer.frame_end;
                *cut_mut(&mut self.cuts, oldest.flow) = Cut {
                    at_boundary: ended,
                    dropping: !ended,
                };
            }
        }
        let lane = match class {
            Class::Audio => &mut self.audio,
            Class::Base => &mut self.base,
            Class::Upper => &mut self.upper,
        };
        lane.push_back(Queued {
            flow,
            class,
            meta,
            rtp,
            queued: now,
        });
    }

    /// Queues a repair. When 2,048 wait it is left out; the peer asks again.
    pub(crate) fn push_repair(&mut self, class: Class, seq: u32) {
        let lane = match class {
            Class::Audio => &mut self.audio_repair,
            Class::Base => &mut self.base_repair,
            Class::Upper => &mut self.upper_repair,
        };
        if lane.len() < LANE_MAX {
            lane.push_back(seq);
        } else {
            self.dropped += 1;
        }
    }

    /// Queues a lossy data message. When 512 wait, the oldest is dropped.
    pub(crate) fn push_data(&mut self, now: Instant, body: Bytes) {
        if self.data.len() >= DATA_MAX {
            self.data.pop_front();
            self.dropped += 1;
        }
        self.data.push_back((body, now));
    }

    /// Takes what is most urgent. Order: feedback, audio, audio repair, data, base, base repair, upper, upper repair.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Next> {
        if let Some((kind, flow, body)) = self.feedback.pop_front() {
            return Some(Next::Feedback { kind, flow, body });
        }
        while let Some(packet) = self.audio.pop_front() {
            if now.saturating_duration_since(packet.queued) <= AUDIO_AGE_MAX {
                return Some(Next::Media(packet));
            }
            self.dropped += 1;
        }
        if let Some(seq) = self.audio_repair.pop_front() {
            return Some(Next::Repair(seq));
        }
        while let Some((body, queued)) = self.data.pop_front() {
            if now.saturating_duration_since(queued) <= DATA_AGE_MAX {
                return Some(Next::Data(body));
            }
            self.dropped += 1;
        }
        pop_frames(
            &mut self.base,
            &mut self.cuts,
            (now, BASE_AGE_MAX),
            &mut self.dropped,
        )
        .map(Next::Media)
        .or_else(|| self.base_repair.pop_front().map(Next::Repair))
        .or_else(|| {
            let limit = (now, UPPER_AGE_MAX);
            pop_frames(&mut self.upper, &mut self.cuts, limit, &mut self.dropped).map(Next::Media)
        })
        .or_else(|| self.upper_repair.pop_front().map(Next::Repair))
    }

    /// Forgets where a flow was within a frame, because its id is unbound.
    pub(crate) fn forget_flow(&mut self, flow: u32) {
        *cut_mut(&mut self.cuts, flow) = Cut::default();
    }

    /// Packets and messages dropped by age or overflow.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// State of a flow. Ids are ours and small, so a table by id is dense.
fn cut_mut(cuts: &mut Vec<Cut>, flow: u32) -> &mut Cut {
    let index = flow as usize;
    if index >= cuts.len() {
        cuts.resize(index + 1, Cut::default());
    }
    #[expect(clippy::indexing_slicing, reason = "resized above")]
    &mut cuts[index]
}

/// Takes the first packet that may be sent. Whether a frame is too old is decided at its first packet; one that was begun is
/// finished, unless it gets three times too old.
fn pop_frames(
    lane: &mut VecDeque<Queued>,
    cuts: &mut Vec<Cut>,
    (now, age_max): (Instant, Duration),
    dropped: &mut u64,
) -> Option<Queued> {
    while let Some(packet) = lane.pop_front() {
        let age = now.saturating_duration_since(packet.queued);
        let cut = cut_mut(cuts, packet.flow);
        if cut.at_boundary || packet.meta.layer.frame_start {
            cut.dropping = age > age_max;
        } else if age > age_max * 3 {
            cut.dropping = true;
        }
        cut.at_boundary = packet.meta.layer.frame_end;
        if !cut.dropping {
            return Some(packet);
        }
        *dropped += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use media::packet::LayerMeta;

    use super::*;

    fn frame(queue: &mut Queue, now: Instant, flow: (u32, Class), packets: usize) {
        for index in 0..packets {
            let layer = LayerMeta {
                frame_start: index == 0,
                frame_end: index + 1 == packets,
                ..LayerMeta::default()
            };
            let meta = PacketMeta {
                layer,
                ..PacketMeta::default()
            };
            queue.push_media(now, flow, meta, Bytes::from_static(b"rtp"));
        }
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(now))
            .map(|next| match next {
                Next::Media(packet) => packet.flow,
                Next::Repair(seq) => 1000 + seq,
                Next::Data(_) => 2000,
                Next::Feedback { .. } => 3000,
            })
            .collect()
    }

    #[test]
    fn the_most_urgent_goes_first() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push_repair(Class::Upper, 3);
        frame(&mut queue, now, (7, Class::Upper), 1);
        queue.push_repair(Class::Base, 2);
        frame(&mut queue, now, (6, Class::Base), 1);
        queue.push_data(now, Bytes::new());
        queue.push_repair(Class::Audio, 1);
        frame(&mut queue, now, (5, Class::Audio), 1);
        queue.push_feedback(Kind::Nack, 0, Bytes::new());
        assert_eq!(
            drain(&mut queue, now),
            [3000, 5, 1001, 2000, 6, 1002, 7, 1003]
        );
    }

    #[test]
    fn old_frames_go_whole_and_begun_ones_are_finished() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = Queue::default();
        let upper = (1, Class::Upper);
        frame(&mut queue, at(0), upper, 3);
        assert!(matches!(queue.pop(at(10)), Some(Next::Media(_))));
        frame(&mut queue, at(40), upper, 2);
        frame(&mut queue, at(60), upper, 1);
        // The first frame is 95 ms old but begun; the second is 55 ms old and goes; the third is fresh.
        assert_eq!(drain(&mut queue, at(95)).len(), 3);
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_full_lane_drops_its_oldest_frame() {
        let now = Instant::now();
        let mut queue = Queue::default();
        frame(&mut queue, now, (1, Class::Base), LANE_MAX);
        frame(&mut queue, now, (2, Class::Base), 1);
        assert_eq!(drain(&mut queue, now), [2]);
        assert_eq!(queue.dropped(), LANE_MAX as u64);
    }
}
