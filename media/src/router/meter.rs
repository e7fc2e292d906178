//! What each layer of a track costs.

use std::time::{Duration, Instant};

use super::LAYERS_MAX;
use crate::allocation::{Rates, TEMPORALS};
use crate::packet::Packet;

/// How long packets are counted before a rate is told.
const WINDOW: Duration = Duration::from_millis(500);

/// Bytes on the wire beside the payload: IP and UDP 28, RTP header 12, extensions about 20, tag 16.
const OVERHEAD: u64 = 76;

/// One temporal layer of one layer.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    bytes: u64,
    /// Bytes of key pictures, which come now and then and say little about the rate.
    key_bytes: u64,
    bps: u64,
}

impl Cell {
    /// Half way up at once, a quarter of the way down: an encoder that gets room uses it.
    fn roll(&mut self, elapsed_ms: u64) {
        let bytes = if self.bytes > 0 {
            self.bytes
        } else {
            self.key_bytes
        };
        let bps = bytes * 8000 / elapsed_ms.max(1);
        self.bps = if self.bps == 0 {
            bps
        } else if bps > self.bps {
            u64::midpoint(self.bps, bps)
        } else {
            self.bps - (self.bps - bps) / 4
        };
        (self.bytes, self.key_bytes) = (0, 0);
    }
}

/// Bit/s of a track by layer and temporal layer. A layer that stops keeps its last rates.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    cells: [[Cell; TEMPORALS]; LAYERS_MAX],
    since: Option<Instant>,
}

impl Meter {
    /// Counts a packet.
    #[inline]
    pub(super) fn count(&mut self, now: Instant, layer: u8, packet: &Packet) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= WINDOW {
            self.roll(elapsed);
            self.since = Some(now);
        }
        let temporal = usize::from(packet.layer.temporal).min(TEMPORALS - 1);
        let cells = self.cells.get_mut(usize::from(layer));
        if let Some(cell) = cells.and_then(|cells| cells.get_mut(temporal)) {
            let bytes = packet.payload().len() as u64 + OVERHEAD;
            if packet.layer.key && !packet.codec.is_audio() {
                cell.key_bytes += bytes;
            } else {
                cell.bytes += bytes;
            }
        }
    }

    fn roll(&mut self, elapsed: Duration) {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        for layer in &mut self.cells {
            let came = layer.iter().any(|cell| cell.bytes + cell.key_bytes > 0);
            // After a pause the window says nothing.
            if came && elapsed < 2 * WINDOW {
                layer.iter_mut().for_each(|cell| cell.roll(elapsed_ms));
            } else {
                for cell in layer {
                    (cell.bytes, cell.key_bytes) = (0, 0);
                }
            }
        }
    }

    /// The rates, all 0 for a layer that never was.
    pub(super) fn rates(&self) -> Rates {
        self.cells.map(|layer| layer.map(|cell| cell.bps))
    }
}
