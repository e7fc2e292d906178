//! Data channels of one transport: SCTP over DTLS (RFC 8831) in the server role, sans-IO around `rtc-sctp`.
//!
//! One association per transport, for good: `rtc-sctp` would make a second one of a repeated INIT, so those are answered here
//! with the INIT ACK of the first (RFC 9260 section 5.2.2).

#[cfg(test)]
mod tests;

use crate::core::dcep::{self, Message, Open};
use bytes::Bytes;
use rtc_sctp::{
    Association, AssociationHandle, DatagramEvent, Endpoint, EndpointConfig, Event as SctpEvent,
    Payload, PayloadProtocolIdentifier, ServerConfig, StreamEvent, TransportConfig,
};
use rtc_shared::TransportProtocol;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

/// Largest message in either direction, in bytes: 64 KiB, which SDP announces, and room for headers around it.
pub const MESSAGE_MAX: usize = 64 * 1024 + 1024;
/// Channels per transport.
const CHANNELS_MAX: usize = 64;
/// Bytes waiting on a reliable channel before new messages are dropped: two seconds of 16 Mbit/s.
const RELIABLE_BUFFER_MAX: usize = 4 << 20;
/// Bytes waiting on a lossy channel: what is late is worthless.
const LOSSY_BUFFER_MAX: usize = 256 << 10;
/// Messages waiting for a channel to open.
const UNSENT_MAX: usize = 256;
/// Type of an INIT chunk (RFC 9260 section 3.2).
const CHUNK_INIT: u8 = 1;

/// There is one peer, reached through DTLS.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));

/// News of the data channels.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Event {
    /// A channel can be used in both directions.
    Open {
        /// Its label.
        label: Arc<str>,
    },
    /// A message arrived.
    Data {
        /// Label of its channel.
        label: Arc<str>,
        /// The message.
        payload: Bytes,
    },
}

/// All data channels of a transport.
pub(super) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    init: Option<Init>,
    connected: bool,
    channels: BTreeMap<u16, Channel>,
    /// Channels to open once there is an association.
    wanted: Vec<Open>,
    /// Messages for channels that are not open yet.
    unsent: VecDeque<(String, Bytes)>,
    events: VecDeque<Event>,
    transmits: VecDeque<Bytes>,
    dropped: u64,
}

/// The INIT that the association was made of, and our answer.
struct Init {
    tag: [u8; 4],
    answer: Vec<Bytes>,
}

struct Channel {
    label: Arc<str>,
    open: bool,
    buffer_max: usize,
}

impl Sctp {
    pub(super) fn new() -> Self {
        let maximum = u32::try_from(MESSAGE_MAX).unwrap_or(u32::MAX);
        let transport = TransportConfig::default()
            .with_max_message_size(maximum)
            .with_max_num_inbound_streams(1024)
            .with_max_num_outbound_streams(1024);
        let endpoint = Endpoint::new(
            PEER,
            TransportProtocol::UDP,
            Arc::new(EndpointConfig::new()),
            Some(Arc::new(ServerConfig::new(transport))),
        );
        Self {
            endpoint,
            association: None,
            init: None,
            connected: false,
            channels: BTreeMap::new(),
            wanted: Vec::new(),
            unsent: VecDeque::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Takes one SCTP packet; then drain [`Sctp::poll_event`] and [`Sctp::poll_transmit`].
    pub(super) fn handle_packet(&mut self, now: Instant, packet: Bytes) {
        if let Some(tag) = initiate_tag(&packet) {
            self.handle_init(now, tag, packet);
            return;
        }
        if let Some((handle, DatagramEvent::AssociationEvent(event))) =
            self.endpoint.handle(now, PEER, None, packet)
            && let Some((known, association)) = &mut self.association
            && handle == *known
        {
            association.handle_event(event);
        }
        self.advance(now);
    }

    /// When [`Sctp::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.association
            .as_ref()
            .and_then(|(_, association)| association.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.advance(now);
    }

    /// Opens a channel now or as soon as there is an association. One that exists is left alone.
    pub(super) fn open(&mut self, now: Instant, label: &str, reliable: bool) {
        let known = self
            .channels
            .values()
            .any(|channel| &*channel.label == label)
            || self.wanted.iter().any(|open| open.label == label);
        if !known && self.wanted.len() < CHANNELS_MAX {
            self.wanted.push(Open::new(label, reliable));
            self.advance(now);
        }
    }

    /// Sends a binary message on the channel with this label, or keeps it until the channel is open. Full queues drop the
    /// new message.
    pub(super) fn send(&mut self, now: Instant, label: &str, payload: Bytes) {
        if payload.len() > MESSAGE_MAX {
            self.dropped += 1;
        } else if self
            .channels
            .values()
            .any(|channel| channel.open && &*channel.label == label)
        {
            self.write(now, label, &payload);
            self.advance(now);
        } else if self.unsent.len() < UNSENT_MAX {
            self.unsent.push_back((label.to_owned(), payload));
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// Messages dropped since the last call: too large, or no room.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn handle_init(&mut self, now: Instant, tag: [u8; 4], packet: Bytes) {
        if let Some(init) = &self.init {
            if init.tag == tag && !self.connected {
                self.transmits.extend(init.answer.iter().cloned());
            }
            return;
        }
        if let Some((handle, DatagramEvent::NewAssociation(association))) =
            self.endpoint.handle(now, PEER, None, packet)
        {
            self.association = Some((handle, association));
            self.advance(now);
            if !self.transmits.is_empty() {
                let answer = self.transmits.iter().cloned().collect();
                self.init = Some(Init { tag, answer });
                self.endpoint.reject_new_associations();
            }
        }
    }

    /// Handles what the association has to say, and collects what it has to send.
    fn advance(&mut self, now: Instant) {
        while let Some(event) = self.association.as_mut().and_then(|(_, a)| a.poll()) {
            self.handle_event(now, &event);
        }
        if self.connected {
            for open in std::mem::take(&mut self.wanted) {
                self.open_stream(now, &open);
            }
        }
        if let Some((_, association)) = &mut self.association {
            while let Some(transmit) = association.poll_transmit(now) {
                if let Payload::RawEncode(packets) = transmit.message {
                    self.transmits.extend(packets);
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: &SctpEvent) {
        match event {
            SctpEvent::Connected => self.connected = true,
            SctpEvent::AssociationLost { id, .. } => {
                self.channels.remove(id);
            }
            SctpEvent::Stream(StreamEvent::Readable { id }) => self.read(now, *id),
            // The rest, and what later versions add, needs no action.
            SctpEvent::HandshakeFailed { .. }
            | SctpEvent::Stream(_)
            | SctpEvent::DatagramReceived
            | _ => {}
        }
    }

    fn read(&mut self, now: Instant, id: u16) {
        loop {
            let Some((_, association)) = &mut self.association else {
                return;
            };
            let Ok(mut stream) = association.stream(id) else {
                return;
            };
            let Ok(Some(chunks)) = stream.read_sctp() else {
                return;
            };
            let Ok(payload) = chunks.to_payload(MESSAGE_MAX) else {
                self.dropped += 1;
                continue;
            };
            match chunks.ppi {
                PayloadProtocolIdentifier::Dcep => self.handle_dcep(now, id, &payload),
                PayloadProtocolIdentifier::StringEmpty | PayloadProtocolIdentifier::BinaryEmpty => {
                    self.deliver(id, Bytes::new());
                }
                // Text and binary alike: LiveKit's messages say themselves what they are.
                PayloadProtocolIdentifier::String
                | PayloadProtocolIdentifier::Binary
                | PayloadProtocolIdentifier::Unknown
                | _ => self.deliver(id, payload.freeze()),
            }
        }
    }

    fn deliver(&mut self, id: u16, payload: Bytes) {
        match self.channels.get(&id) {
            Some(channel) => {
                let label = Arc::clone(&channel.label);
                self.events.push_back(Event::Data { label, payload });
            }
            None => self.dropped += 1,
        }
    }

    fn handle_dcep(&mut self, now: Instant, id: u16, bytes: &[u8]) {
        match dcep::parse(bytes) {
            Some(Message::Open(open)) => {
                if self.channels.len() < CHANNELS_MAX && self.configure(id, &open).is_some() {
                    self.write_to(now, id, &Bytes::from_static(&dcep::ACK), true);
                    self.channels.insert(id, Channel::new(&open));
                    self.opened(now, id);
                }
            }
            Some(Message::Ack) => self.opened(now, id),
            None => self.dropped += 1,
        }
    }

    fn open_stream(&mut self, now: Instant, open: &Open) {
        // The DTLS server opens streams with odd numbers (RFC 8832 section 6).
        let Some(id) = (1..u16::MAX)
            .step_by(2)
            .find(|id| !self.channels.contains_key(id))
        else {
            return;
        };
        if let Some((_, association)) = &mut self.association
            && association
                .open_stream(id, PayloadProtocolIdentifier::Binary)
                .is_ok()
            && self.configure(id, open).is_some()
        {
            self.channels.insert(id, Channel::new(open));
            self.write_to(now, id, &Bytes::from(open.to_bytes()), true);
        }
    }

    fn configure(&mut self, id: u16, open: &Open) -> Option<()> {
        let (_, association) = self.association.as_mut()?;
        let mut stream = association.stream(id).ok()?;
        stream
            .set_reliability_params(open.unordered, open.reliability, open.parameter)
            .ok()
    }

    /// A channel can be used from now on: tells so, and sends what waited for it.
    fn opened(&mut self, now: Instant, id: u16) {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| !channel.open) else {
            return;
        };
        channel.open = true;
        let label = Arc::clone(&channel.label);
        self.events.push_back(Event::Open {
            label: Arc::clone(&label),
        });
        for (wanted, payload) in std::mem::take(&mut self.unsent) {
            if *wanted == *label {
                self.write(now, &label, &payload);
            } else {
                self.unsent.push_back((wanted, payload));
            }
        }
    }

    fn write(&mut self, now: Instant, label: &str, payload: &Bytes) {
        let open = |(_, channel): &(&u16, &Channel)| channel.open && &*channel.label == label;
        match self.channels.iter().find(open).map(|(id, _)| *id) {
            Some(id) => self.write_to(now, id, payload, false),
            None => self.dropped += 1,
        }
    }

    fn write_to(&mut self, now: Instant, id: u16, payload: &Bytes, dcep: bool) {
        let maximum = self
            .channels
            .get(&id)
            .map_or(RELIABLE_BUFFER_MAX, |c| c.buffer_max);
        let Some((_, association)) = &mut self.association else {
            return;
        };
        let Ok(mut stream) = association.stream(id) else {
            self.dropped += 1;
            return;
        };
        let full = stream
            .buffered_amount()
            .is_ok_and(|bytes| bytes + payload.len() > maximum);
        // SCTP has no empty messages: a zero byte stands for one (RFC 8831 section 6.6).
        let (payload, identifier) = match (dcep, payload.is_empty()) {
            (true, _) => (payload.clone(), PayloadProtocolIdentifier::Dcep),
            (false, false) => (payload.clone(), PayloadProtocolIdentifier::Binary),
            (false, true) => (
                Bytes::from_static(&[0]),
                PayloadProtocolIdentifier::BinaryEmpty,
            ),
        };
        if full || stream.write_sctp(now, &payload, identifier).is_err() {
            self.dropped += 1;
        }
    }
}

impl Channel {
    fn new(open: &Open) -> Self {
        let lossy = open.unordered || open.reliability != rtc_sctp::ReliabilityType::Reliable;
        Self {
            label: Arc::from(open.label.as_str()),
            open: false,
            buffer_max: if lossy {
                LOSSY_BUFFER_MAX
            } else {
                RELIABLE_BUFFER_MAX
            },
        }
    }
}

/// The initiate tag if this packet is an INIT: no verification tag, INIT as its first chunk (RFC 9260 section 8.5.1).
fn initiate_tag(packet: &[u8]) -> Option<[u8; 4]> {
    let (header, chunk) = packet.split_first_chunk::<12>()?;
    let [_, _, _, _, 0, 0, 0, 0, ..] = header else {
        return None;
    };
    match chunk {
        [CHUNK_INIT, _, _, _, a, b, c, d, ..] => Some([*a, *b, *c, *d]),
        _ => None,
    }
}
