//! One hop: the core of a link between two nodes, without sockets or clock.
//!
//! Feed it the datagrams of one QUIC connection with [`Link::handle_datagram`], time with [`Link::handle_timeout`], and take
//! what comes out: [`Link::poll_event`], and [`Link::poll_transmit`] whenever the connection has room for a datagram. A
//! packet gets its hop sequence number only then, so that what the queue drops is no gap to the peer.

pub(crate) mod gaps;
pub mod header;
pub mod health;
pub(crate) mod history;
pub mod message;
pub(crate) mod queue;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use gaps::{Arrival, Gaps};
use header::{Class, Header, Kind, PacketMeta};
use health::{Health, Heartbeat, LossWindow};
use history::{History, Refusal};
use queue::{Next, Queue};

/// Datagrams are written into chunks of this many bytes, so that one allocation serves about fifty.
const CHUNK_LEN: usize = 64 << 10;

/// Something the peer sent.
#[derive(Debug)]
pub enum Event {
    /// A media packet; repaired ones come late.
    Media {
        /// The sender's flow id.
        flow: u32,
        /// What every hop may know of it.
        meta: PacketMeta,
        /// RTP with canonical payload type and extension ids.
        rtp: Bytes,
    },
    /// The peer needs a keyframe of a flow that we send.
    Keyframe {
        /// Our flow id.
        flow: u32,
    },
    /// A lossy data message: an encoded `proto::link::Data`.
    Data(Bytes),
}

/// What happened on a link since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Media packets sent, repairs included.
    pub packets_sent: u64,
    /// Their RTP bytes.
    pub bytes_sent: u64,
    /// Of them, packets sent again.
    pub repairs_sent: u64,
    /// Repairs refused because too much was sent again lately.
    pub repairs_refused: u64,
    /// Media packets received, without duplicates.
    pub packets_received: u64,
    /// Their RTP bytes.
    pub bytes_received: u64,
    /// Media packets received more than once or too late.
    pub duplicates: u64,
    /// Packets found missing, before repair.
    pub packets_lost: u64,
    /// Missing packets that a repair brought.
    pub packets_repaired: u64,
    /// Packets dropped from the send queue by age or overflow.
    pub queue_dropped: u64,
    /// Datagrams that could not be read.
    pub malformed: u64,
}

/// One end of one hop.
#[derive(Debug)]
pub struct Link {
    queue: Queue,
    history: History,
    gaps: Gaps,
    health: Health,
    loss: LossWindow,
    /// Expected and lost packets that [`Link::loss`] knows of.
    loss_seen: (u64, u64),
    events: VecDeque<Event>,
    chunk: BytesMut,
    counters: Counters,
    /// Version of the link that both ends speak.
    version: u32,
}

impl Link {
    /// A link over a connection that was just made. `rtt_guess` is the transport's round-trip time.
    pub fn new(now: Instant, rtt_guess: Option<Duration>) -> Self {
        Self {
            queue: Queue::default(),
            history: History::new(),
            gaps: Gaps::default(),
            health: Health::new(now, rtt_guess),
            loss: LossWindow::new(now),
            loss_seen: (0, 0),
            events: VecDeque::new(),
            chunk: BytesMut::new(),
            counters: Counters::default(),
            version: 1,
        }
    }

    /// What both ends speak, once the hellos told; 1 before.
    pub fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// Whether the peer understands what was left out.
    pub fn may_leave_out(&self) -> bool {
        self.version >= 2
    }

    /// Queues a media packet. Drop policy: by age at a frame's start (150 ms; upper layers 50 ms), oldest frame when full.
    pub fn send_media(&mut self, now: Instant, flow: (u32, Class), meta: PacketMeta, rtp: Bytes) {
        self.queue.push_media(now, flow, meta, rtp);
    }

    /// Asks the sender of a flow for a keyframe.
    pub fn send_keyframe_request(&mut self, flow: u32) {
        self.queue.push_feedback(Kind::Keyframe, flow, Bytes::new());
    }

    /// Queues a lossy data message.
    pub fn send_data(&mut self, now: Instant, body: Bytes) {
        self.queue.push_data(now, body);
    }

    /// The id of a flow that we sent is used for it no more.
    pub fn forget_flow(&mut self, flow: u32) {
        self.queue.forget_flow(flow);
    }

    /// Takes in a datagram of the peer. One that cannot be read is counted and dropped.
    pub fn handle_datagram(&mut self, now: Instant, mut datagram: Bytes) {
        let Some(header) = Header::read(&mut datagram) else {
            self.counters.malformed += 1;
            return;
        };
        self.health.heard(now, header.send_time);
        match header.kind {
            Kind::Media | Kind::Repair => self.handle_media(now, &header, datagram),
            Kind::Nack => self.handle_nack(now, datagram),
            Kind::Keyframe => self.events.push_back(Event::Keyframe { flow: header.flow }),
            Kind::Data => self.events.push_back(Event::Data(datagram)),
            Kind::Heartbeat => match Heartbeat::read(&mut datagram) {
                Some(heartbeat) => {
                    self.health.heartbeat_heard(now, &heartbeat);
                    self.gaps.announced(now, heartbeat.hop_seq_next);
                }
                None => self.counters.malformed += 1,
            },
        }
    }

    fn handle_media(&mut self, now: Instant, header: &Header, rtp: Bytes) {
        if self.gaps.arrived(now, header.hop_seq) == Arrival::Duplicate {
            self.counters.duplicates += 1;
            return;
        }
        self.counters.packets_received += 1;
        self.counters.bytes_received += rtp.len() as u64;
        self.events.push_back(Event::Media {
            flow: header.flow,
            meta: PacketMeta::read(header, self.version),
            rtp,
        });
    }

    fn handle_nack(&mut self, now: Instant, body: Bytes) {
        let rtt = self.health.rtt();
        for seq in gaps::requested(body) {
            match self.history.request(now, rtt, seq) {
                Ok(class) => self.queue.push_repair(class, seq),
                Err(Refusal::Budget) => self.counters.repairs_refused += 1,
                Err(Refusal::Unknown | Refusal::Recent) => {}
            }
        }
    }

    /// Something arrived on a stream of the connection: a sign of life.
    pub fn handle_stream_activity(&mut self, now: Instant) {
        self.health.alive(now);
    }

    /// What the peer sent, in order of arrival.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets time pass: queues heartbeats and repair requests that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.health.advance(now);
        if let Some(heartbeat) = self.health.poll_heartbeat(now, self.history.next_seq()) {
            let mut body = BytesMut::with_capacity(24);
            heartbeat.write(&mut body);
            self.queue.push_feedback(Kind::Heartbeat, 0, body.freeze());
        }
        if self.gaps.due().is_some_and(|due| due <= now) {
            let mut body = BytesMut::with_capacity(64);
            if self.gaps.poll_nack(now, self.health.rtt(), &mut body) {
                self.queue.push_feedback(Kind::Nack, 0, body.freeze());
            }
        }
        let (expected, (lost, _)) = (self.gaps.expected(), self.gaps.counts());
        self.loss
            .add(now, expected - self.loss_seen.0, lost - self.loss_seen.1);
        self.loss_seen = (expected, lost);
    }

    /// When [`Link::handle_timeout`] is due; at most 60 ms away.
    pub fn poll_timeout(&mut self) -> Instant {
        self.health.schedule(self.gaps.due())
    }

    /// The next datagram to send, if any; call it only when it will be sent at once.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        loop {
            let header = Header {
                flow: 0,
                kind: Kind::Data,
                class: Class::Audio,
                hop_seq: 0,
                send_time: self.health.send_time(now),
                meta: 0,
                left_out: 0,
            };
            return Some(match self.queue.pop(now)? {
                Next::Feedback { kind, flow, body } => self.write(
                    &Header {
                        kind,
                        flow,
                        ..header
                    },
                    &body,
                ),
                Next::Data(body) => self.write(&header, &body),
                Next::Media(packet) => {
                    let (flow, class, meta) = (packet.flow, packet.class, packet.meta);
                    let hop_seq = self
                        .history
                        .push(now, (flow, class), meta, packet.rtp.clone());
                    self.count_sent(packet.rtp.len());
                    let kind = Kind::Media;
                    let (meta, left_out) = meta.bits(class, self.version);
                    self.write(
                        &Header {
                            flow,
                            kind,
                            class,
                            hop_seq,
                            meta,
                            left_out,
                            ..header
                        },
                        &packet.rtp,
                    )
                }
                Next::Repair(hop_seq) => {
                    let Some(sent) = self.history.get(hop_seq) else {
                        continue;
                    };
                    let (flow, class, meta, rtp) =
                        (sent.flow, sent.class, sent.meta, sent.rtp.clone());
                    self.count_sent(rtp.len());
                    self.counters.repairs_sent += 1;
                    let kind = Kind::Repair;
                    let (meta, left_out) = meta.bits(class, self.version);
                    self.write(
                        &Header {
                            flow,
                            kind,
                            class,
                            hop_seq,
                            meta,
                            left_out,
                            ..header
                        },
                        &rtp,
                    )
                }
            });
        }
    }

    fn count_sent(&mut self, len: usize) {
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += len as u64;
    }

    fn write(&mut self, header: &Header, body: &[u8]) -> Bytes {
        let len = header::LEN_MAX + body.len();
        if self.chunk.capacity() < len {
            self.chunk = BytesMut::with_capacity(CHUNK_LEN.max(len));
        }
        header.write(&mut self.chunk);
        self.chunk.put_slice(body);
        self.chunk.split().freeze()
    }

    #[cfg(test)]
    fn opened(&self) -> Instant {
        self.health.opened()
    }

    /// Whether the peer was silent for 250 ms, not counting time that we ourselves were late.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.health.is_dead(now)
    }

    /// Smoothed round-trip time, `None` until measured.
    pub fn rtt_measured(&self) -> Option<Duration> {
        self.health.rtt_measured()
    }

    /// Smoothed round-trip time, or the best guess.
    pub fn rtt(&self) -> Duration {
        self.health.rtt()
    }

    /// Smoothed deviation of one-way delay.
    pub fn jitter(&self) -> Duration {
        self.health.jitter()
    }

    /// Share of packets lost before repair over the last `seconds` (at most 60), 0.0 to 1.0.
    pub fn loss(&self, now: Instant, seconds: u64) -> f64 {
        self.loss.share(now, seconds)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let (packets_lost, packets_repaired) = self.gaps.counts();
        let queue_dropped = self.queue.dropped();
        Counters {
            packets_lost,
            packets_repaired,
            queue_dropped,
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests;
