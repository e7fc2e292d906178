//! One talker of a script.

use std::sync::Arc;
use std::time::Instant;

use super::{Script, Turn, Voice};
use crate::clip::Schedule;
use crate::synthetic::{AUDIO_INTERVAL, AUDIO_TICKS, Payload, Stamp};

/// Packets from one to the next of a pause with discontinuous transmission: 400 ms, as libopus refreshes its noise.
const DTX_EVERY: u64 = 20;
/// Padding of a packet: a zero, which readers of Opus extensions skip the rest by, and the stamp.
const PADDING: u8 = 25;
const _: () = assert!(PADDING as usize == Stamp::LEN + 1, "the stamp fits");
/// V flag of RFC 6464 section 3: voice activity.
const VOICE: u8 = 0x80;

/// Makes a talker's packets.
#[derive(Debug)]
pub struct Talker {
    script: Arc<Script>,
    voice: Arc<Voice>,
    turns: Vec<Turn>,
    schedule: Schedule,
    dtx: bool,
    spoken: usize,
    paused: u64,
}

impl Talker {
    /// Talker `number` of the script; its packets start at `start`. With `dtx` its pauses are not sent.
    pub fn new(
        script: Arc<Script>,
        voice: Arc<Voice>,
        number: u32,
        dtx: bool,
        start: Instant,
    ) -> Self {
        let own = |turn: &&Turn| turn.talker == number;
        Self {
            turns: script.turns.iter().filter(own).copied().collect(),
            schedule: Schedule::new(start, AUDIO_INTERVAL),
            // Everybody is at another place of the same recording.
            spoken: usize::try_from(number).unwrap_or(0) * 37,
            script,
            voice,
            dtx,
            paused: 0,
        }
    }

    /// When the next packet is due.
    pub fn due(&self) -> Instant {
        self.schedule.due()
    }

    /// The next packet and its RFC 6464 octet; `None` in a pause that is not sent. The payload has room for a [`Stamp`].
    pub fn next_packet(&mut self, now: Instant) -> Option<(Payload, u8)> {
        let at = self.schedule.due();
        let number = self.schedule.take(now);
        let speaks = self.script.position(at).is_some_and(|position| {
            let ms = u64::try_from(position.as_millis()).unwrap_or(u64::MAX);
            self.turns
                .iter()
                .any(|turn| (turn.from_ms..turn.to_ms).contains(&ms))
        });
        let starts = speaks && self.paused > 0;
        let (packets, count) = if speaks {
            self.paused = 0;
            self.spoken += 1;
            (&self.voice.speech, self.spoken)
        } else {
            self.paused += 1;
            if self.dtx && !(self.paused - 1).is_multiple_of(DTX_EVERY) {
                return None;
            }
            (
                &self.voice.quiet,
                self.spoken + usize::try_from(self.paused).unwrap_or(0),
            )
        };
        let (packet, level) = packets.get(count.checked_rem(packets.len())?)?;
        #[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
        let timestamp = (number as u32).wrapping_mul(AUDIO_TICKS);
        let payload = Payload {
            bytes: padded(packet),
            timestamp,
            marker: starts,
        };
        Some((payload, if speaks { VOICE | level } else { *level }))
    }
}

/// The same frame as a packet of code 3 with padding (RFC 6716 section 3.2.5), which decoders skip.
fn padded(packet: &[u8]) -> Vec<u8> {
    let Some((&toc, frame)) = packet.split_first() else {
        return Vec::new();
    };
    let mut out = Vec::with_capacity(packet.len() + 2 + usize::from(PADDING));
    // Constant bit rate, padding, one frame.
    out.extend_from_slice(&[toc | 0x03, 0x41, PADDING]);
    out.extend_from_slice(frame);
    out.resize(out.len() + usize::from(PADDING), 0);
    out
}
