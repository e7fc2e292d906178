//! Transport-wide feedback about what arrives, so that the server's congestion control sees a receiver like any other.

use std::time::{Duration, Instant};

use media::rtcp::Writer;
use media::rtp::View;
use media::twcc::Receiver;

use super::sdp::TRANSPORT_CC_ID;

/// Time between two feedback packets: what browsers have at usual rates.
const INTERVAL: Duration = Duration::from_millis(50);
/// Room for one feedback packet in bytes.
const PACKET_MAX: usize = 1200;

/// Arrivals since the last feedback.
pub(super) struct Feedback {
    receiver: Receiver,
    due: Option<Instant>,
    /// Of the last packet.
    media_ssrc: u32,
}

impl Feedback {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            receiver: Receiver::new(now),
            due: None,
            media_ssrc: 0,
        }
    }

    /// Takes note of a decrypted RTP packet.
    pub(super) fn receive(&mut self, packet: &[u8], now: Instant) {
        let Ok(view) = View::parse(packet) else {
            return;
        };
        let number = view
            .extensions()
            .find(|(id, _)| *id == TRANSPORT_CC_ID)
            .and_then(|(_, value)| value.first_chunk().copied());
        if let Some(number) = number {
            self.receiver.record(u16::from_be_bytes(number), now);
            self.media_ssrc = view.header.ssrc;
            self.due.get_or_insert(now + INTERVAL);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The next packet that is due; to be called until there is none.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        let mut packet = vec![0; PACKET_MAX];
        let mut writer = Writer::new(&mut packet);
        let more = self.receiver.write(&mut writer, (1, self.media_ssrc));
        let len = writer.len();
        if !more {
            self.due = None;
        }
        packet.truncate(len);
        (len > 0).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::rtcp::{Packet, Packets};
    use media::rtp::{Form, Header};
    use media::twcc;

    fn packet(number: u16) -> Vec<u8> {
        let mut packet = vec![0; 100];
        let mut writer =
            media::rtp::Writer::new(&mut packet, &Header::default(), Form::OneByte).unwrap();
        writer
            .extension(TRANSPORT_CC_ID, &number.to_be_bytes())
            .unwrap();
        let len = writer.finish().unwrap();
        packet.truncate(len + 20);
        packet
    }

    #[test]
    fn arrivals_are_reported_once_per_interval() {
        let now = Instant::now();
        let mut feedback = Feedback::new(now);
        assert_eq!(feedback.poll_timeout(), None);
        for (ms, number) in [(0, 7), (10, 9), (20, 10)] {
            feedback.receive(&packet(number), now + Duration::from_millis(ms));
        }
        assert_eq!(feedback.poll(now + Duration::from_millis(49)), None);
        let bytes = feedback.poll(now + INTERVAL).unwrap();
        let Some(Packet::TransportFeedback { body }) = Packets::new(&bytes).next() else {
            panic!("{bytes:?}")
        };
        let parsed = twcc::Feedback::parse(body).unwrap();
        let numbers = parsed.arrivals().map(|(number, at)| (number, at.is_some()));
        assert!(numbers.eq([(7, true), (8, false), (9, true), (10, true)]));
        assert_eq!(feedback.poll_timeout(), None);
        assert_eq!(feedback.poll(now + INTERVAL), None);
    }
}
