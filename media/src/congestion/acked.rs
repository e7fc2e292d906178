//! The rate at which packets arrive.

use super::Micros;

/// Length of a bucket.
const BUCKET_US: Micros = 50_000;

/// Buckets of the window: half a second, the window that draft-ietf-rmcat-gcc-02 section 5.5 takes for
/// the incoming rate at its shortest, so that bursts of a Wi-Fi link do not count as rate.
const BUCKETS: usize = 10;

/// Time that must be covered before there is a rate: half the window.
const COVERED_MIN_US: Micros = 250_000;

/// Received bits over the last half second of the receiver's clock.
#[derive(Debug, Default)]
pub(super) struct AckedRate {
    bytes: [u64; BUCKETS],
    /// The newest arrival, and the first since the window was empty.
    newest: Option<Micros>,
    first: Micros,
}

impl AckedRate {
    /// Takes a packet that arrived.
    pub(super) fn add(&mut self, arrived_at: Micros, bytes: usize) {
        let newest = *self.newest.get_or_insert_with(|| {
            self.first = arrived_at;
            arrived_at
        });
        let (old, new) = (bucket(newest), bucket(arrived_at));
        if (new - old).abs() >= BUCKETS as Micros {
            // A pause or a clock that jumped.
            *self = Self {
                first: arrived_at,
                ..Self::default()
            };
        } else {
            for emptied in old + 1..=new {
                self.slot(emptied, |bytes| *bytes = 0);
            }
        }
        self.slot(new, |sum| *sum += bytes as u64);
        self.newest = Some(self.newest.map_or(arrived_at, |at| at.max(arrived_at)));
    }

    /// Bit/s; `None` while too little time is covered.
    pub(super) fn bps(&self) -> Option<f64> {
        let newest = self.newest?;
        // The oldest bucket is whole, the newest is not.
        let start = (bucket(newest) - (BUCKETS as Micros - 1)) * BUCKET_US;
        let covered = newest - start.max(self.first);
        if covered < COVERED_MIN_US {
            return None;
        }
        let bytes: u64 = self.bytes.iter().sum();
        Some(bytes as f64 * 8e6 / covered as f64)
    }

    fn slot(&mut self, bucket: Micros, change: impl FnOnce(&mut u64)) {
        let place = usize::try_from(bucket.rem_euclid(BUCKETS as Micros)).unwrap_or(0);
        if let Some(slot) = self.bytes.get_mut(place) {
            change(slot);
        }
    }
}

fn bucket(at: Micros) -> Micros {
    at.div_euclid(BUCKET_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_rate_within_half_a_second() {
        let mut rate = AckedRate::default();
        let mut at = -300_000;
        let mut run = |rate: &mut AckedRate, packets: usize, gap_us: i64| {
            for _ in 0..packets {
                at += gap_us;
                rate.add(at, 1250);
            }
        };
        run(&mut rate, 20, 10_000);
        assert_eq!(rate.bps(), None);
        run(&mut rate, 100, 10_000);
        let bps = rate.bps().unwrap();
        assert!((0.95e6..1.1e6).contains(&bps), "{bps}");
        run(&mut rate, 10, 50_000);
        let bps = rate.bps().unwrap();
        assert!((0.19e6..0.24e6).contains(&bps), "{bps}");
        run(&mut rate, 1, 5_000_000);
        assert_eq!(rate.bps(), None);
    }
}
