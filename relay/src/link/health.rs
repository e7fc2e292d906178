//! Whether and how well the peer is heard: heartbeats, round-trip time, jitter, loss, death.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};

/// Time between heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(60);
/// Silence after which the peer is dead: four heartbeats and a bit.
pub const SILENCE_MAX: Duration = Duration::from_millis(250);
/// The same before the first datagram was heard: the dialling side is up a round trip before it can hear anything.
const OPENING_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Lateness of our own timers below this is ordinary scheduling (tokio's granularity is 1 ms).
const LATENESS_MIN: Duration = Duration::from_millis(3);
/// Until measured, when the transport has no better guess.
const RTT_DEFAULT: Duration = Duration::from_millis(100);
/// Seconds of loss history.
const LOSS_SECONDS: usize = 60;

/// Body of a heartbeat, 24 bytes: `sent_us u64 | hop_seq_next u32 | echo_us u64 | echo_held_us u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// When it was sent, in µs of the sender's clock, never 0.
    pub(crate) sent_us: u64,
    /// The hop sequence number that the sender will use next, so that a lost tail is noticed.
    pub(crate) hop_seq_next: u32,
    /// `sent_us` of the last heartbeat heard; 0 for none.
    pub(crate) echo_us: u64,
    /// How long ago that one was heard, in µs.
    pub(crate) echo_held_us: u32,
}

impl Heartbeat {
    pub(crate) fn write(&self, out: &mut impl BufMut) {
        out.put_u64(self.sent_us);
        out.put_u32(self.hop_seq_next);
        out.put_u64(self.echo_us);
        out.put_u32(self.echo_held_us);
    }

    pub(crate) fn read(body: &mut impl Buf) -> Option<Self> {
        Some(Self {
            sent_us: body.try_get_u64().ok()?,
            hop_seq_next: body.try_get_u32().ok()?,
            echo_us: body.try_get_u64().ok()?,
            echo_held_us: body.try_get_u32().ok()?,
        })
    }
}

/// State of the peer as heard.
#[derive(Debug)]
pub(crate) struct Health {
    opened: Instant,
    last_heard: Instant,
    silence_max: Duration,
    heartbeat_due: Instant,
    /// When we looked at the clock last.
    looked: Instant,
    /// When we meant to look at it next.
    wake: Instant,
    echo: Option<(u64, Instant)>,
    rtt: Option<Duration>,
    rtt_guess: Duration,
    jitter_us: f64,
    transit: Option<(u16, Instant)>,
}

impl Health {
    pub(crate) fn new(now: Instant, rtt_guess: Option<Duration>) -> Self {
        Self {
            opened: now,
            last_heard: now,
            silence_max: OPENING_SILENCE_MAX,
            heartbeat_due: now,
            looked: now,
            wake: now,
            echo: None,
            rtt: None,
            rtt_guess: rtt_guess.unwrap_or(RTT_DEFAULT),
            jitter_us: 0.0,
            transit: None,
        }
    }

    #[cfg(test)]
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// The clock of heartbeats; never 0.
    fn clock_us(&self, now: Instant) -> u64 {
        u64::try_from((now - self.opened).as_micros()).map_or(u64::MAX, |us| us.saturating_add(1))
    }

    /// The clock of hop headers, in units of 64 µs.
    pub(crate) fn send_time(&self, now: Instant) -> u16 {
        (((now - self.opened).as_micros() >> 6) & 0xffff) as u16
    }

    /// Any datagram of the peer: it lives, and its spacing compared to ours is jitter (RFC 3550 section 6.4.1).
    pub(crate) fn heard(&mut self, now: Instant, send_time: u16) {
        self.silence_max = SILENCE_MAX;
        self.last_heard = self.last_heard.max(now);
        if let Some((sent_before, at)) = self.transit {
            let sent = send_time.wrapping_sub(sent_before).cast_signed();
            let spacing_us = (now.saturating_duration_since(at)).as_secs_f64() * 1e6;
            let deviation = (spacing_us - f64::from(sent) * 64.0).abs();
            // Beyond half the clock's range the difference says nothing.
            if deviation < 1e6 {
                self.jitter_us += (deviation - self.jitter_us) / 16.0;
            }
        }
        self.transit = Some((send_time, now));
    }

    /// A sign of life that is no datagram.
    pub(crate) fn alive(&mut self, now: Instant) {
        self.last_heard = self.last_heard.max(now);
    }

    pub(crate) fn heartbeat_heard(&mut self, now: Instant, heartbeat: &Heartbeat) {
        if self
            .echo
            .is_none_or(|(sent_us, _)| sent_us < heartbeat.sent_us)
        {
            self.echo = Some((heartbeat.sent_us, now));
        }
        if heartbeat.echo_us == 0 {
            return;
        }
        let round = self.clock_us(now).checked_sub(heartbeat.echo_us);
        let sample = round.and_then(|us| us.checked_sub(u64::from(heartbeat.echo_held_us)));
        let Some(sample) = sample.map(Duration::from_micros) else {
            return;
        };
        if sample > Duration::from_secs(10) {
            return;
        }
        // Smoothed as TCP does (RFC 6298 section 2.3).
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// A heartbeat, when one is due.
    pub(crate) fn poll_heartbeat(&mut self, now: Instant, hop_seq_next: u32) -> Option<Heartbeat> {
        if now < self.heartbeat_due {
            return None;
        }
        self.heartbeat_due = now + HEARTBEAT_INTERVAL;
        let (echo_us, echo_held_us) = self.echo.map_or((0, 0), |(sent_us, at)| {
            let held = now.saturating_duration_since(at).as_micros();
            (sent_us, u32::try_from(held).unwrap_or(u32::MAX))
        });
        Some(Heartbeat {
            sent_us: self.clock_us(now),
            hop_seq_next,
            echo_us,
            echo_held_us,
        })
    }

    /// When the clock has to be looked at next; remembered, so that our own lateness is known.
    pub(crate) fn schedule(&mut self, other: Option<Instant>) -> Instant {
        let silent = self.last_heard + self.silence_max;
        // A death that was to be seen at the last look is no reason for another.
        let own = if silent > self.looked {
            silent.min(self.heartbeat_due)
        } else {
            self.heartbeat_due
        };
        self.wake = other.map_or(own, |other| other.min(own));
        self.wake
    }

    /// Notes that time passed; a stalled CPU is no dead peer, so time that we were late does not count as silence.
    pub(crate) fn advance(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.wake);
        if late > LATENESS_MIN {
            self.last_heard = (self.last_heard + late).min(now);
        }
        self.looked = now;
        self.wake = now + HEARTBEAT_INTERVAL;
    }

    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_heard) >= self.silence_max
    }

    /// Smoothed round-trip time, `None` until measured.
    pub(crate) fn rtt_measured(&self) -> Option<Duration> {
        self.rtt
    }

    /// Smoothed round-trip time, or the best guess.
    pub(crate) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(self.rtt_guess)
    }

    pub(crate) fn jitter(&self) -> Duration {
        Duration::from_secs_f64(self.jitter_us.max(0.0) / 1e6)
    }
}

/// Packets expected and lost, per second over the last minute.
#[derive(Debug)]
pub(crate) struct LossWindow {
    opened: Instant,
    /// Index is the second modulo the ring's length: (second, expected, lost).
    ring: [(u64, u64, u64); LOSS_SECONDS],
}

impl LossWindow {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            opened: now,
            ring: [(0, 0, 0); LOSS_SECONDS],
        }
    }

    pub(crate) fn add(&mut self, now: Instant, expected: u64, lost: u64) {
        let second = (now - self.opened).as_secs();
        let index = usize::try_from(second).unwrap_or(0) % LOSS_SECONDS;
        if let Some(slot) = self.ring.get_mut(index) {
            if slot.0 != second {
                *slot = (second, 0, 0);
            }
            slot.1 += expected;
            slot.2 += lost;
        }
    }

    /// Share lost over the last `seconds` (at most 60), 0.0 to 1.0.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of packet counts")]
    pub(crate) fn share(&self, now: Instant, seconds: u64) -> f64 {
        let second = (now - self.opened).as_secs();
        let recent = self.ring.iter().filter(|slot| slot.0 + seconds > second);
        let (expected, lost) = recent.fold((0, 0), |sum, slot| (sum.0 + slot.1, sum.1 + slot.2));
        if expected == 0 {
            0.0
        } else {
            (lost as f64 / expected as f64).min(1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn silence_kills_but_a_stalled_node_accuses_nobody() {
        let start = Instant::now();
        let mut health = Health::new(start, None);
        let mut now = start;
        health.heard(now, 0);
        // Timers run on time: dead 250 ms after the last sign of life.
        while !health.is_dead(now) {
            let wake = health.schedule(None);
            now = wake.max(now + MS);
            health.advance(now);
            while health.poll_heartbeat(now, 0).is_some() {}
        }
        assert!(now - start <= SILENCE_MAX + MS);

        // We slept for two seconds: that is not the peer's silence.
        let mut health = Health::new(start, None);
        health.heard(start, 0);
        health.schedule(None);
        let now = start + Duration::from_secs(2);
        health.advance(now);
        assert!(!health.is_dead(now));
        let mut at = now;
        while !health.is_dead(at) {
            at = health.schedule(None).max(at + MS);
            health.advance(at);
            while health.poll_heartbeat(at, 0).is_some() {}
        }
        assert!(at - now >= SILENCE_MAX - MS && at - now <= SILENCE_MAX + MS);
    }

    #[test]
    fn loss_is_forgotten_with_time() {
        let start = Instant::now();
        let mut window = LossWindow::new(start);
        window.add(start, 100, 10);
        window.add(start + Duration::from_secs(5), 100, 0);
        let now = start + Duration::from_secs(5);
        assert!((window.share(now, 10) - 0.05).abs() < 1e-9);
        assert!(window.share(now, 1) < 1e-9);
        let later = start + Duration::from_secs(70);
        assert!(window.share(later, 60) < 1e-9);
    }
}
