//! The rate at which packets arrive.

use super::Micros;

/// Length of a bucket.
const BUCKET_US: Micros = 50_000;

/// Buckets of the window: half a second, the window that draft-ietf-rmcat-gcc-02 section 5.5 takes for
/// the incoming rate at its shortest, so that bursts of a Wi-Fi link do not count as rate.
const BUCKETS: usize = 10;

/// Time that must be covered before there is a rate: half the window.
const COVERED_MIN_US: Micros = 250_000;

/// Buckets of the latest rate, and the time that they must cover.
const LATEST_BUCKETS: Micros = 4;
const COVERED_LATEST_US: Micros = 150_000;

/// Received bits over the last half second of the receiver's clock.
#[derive(Debug, Default)]
pub(super) struct AckedRate {
    bytes: [u64; BUCKETS],
    /// The newest arrival, and the first since the window was empty.
    newest: Option<Micros>,
    first: Micros,
}

impl AckedRate {
    /// Takes bytes that arrived.
    pub(super) fn add(&mut self, arrived_at: Micros, bytes: u64) {
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
        self.slot(new, |sum| *sum += bytes);
        self.newest = Some(self.newest.map_or(arrived_at, |at| at.max(arrived_at)));
    }

    /// Bit/s; `None` while too little time is covered.
    pub(super) fn bps(&self) -> Option<f64> {
        self.over(BUCKETS as Micros, COVERED_MIN_US)
    }

    /// Bit/s over the last part of the window: less steady, but true soon after the rate changed.
    pub(super) fn latest_bps(&self) -> Option<f64> {
        self.over(LATEST_BUCKETS, COVERED_LATEST_US)
    }

    fn over(&self, buckets: Micros, covered_min: Micros) -> Option<f64> {
        let newest = self.newest?;
        // The oldest bucket is whole, the newest is not.
        let oldest = bucket(newest) - (buckets - 1);
        let covered = newest - (oldest * BUCKET_US).max(self.first);
        let bytes: u64 = (oldest..=bucket(newest))
            .filter_map(|bucket| self.bytes.get(place(bucket)))
            .sum();
        (covered >= covered_min).then(|| bytes as f64 * 8e6 / covered as f64)
    }

    fn slot(&mut self, bucket: Micros, change: impl FnOnce(&mut u64)) {
        if let Some(slot) = self.bytes.get_mut(place(bucket)) {
            change(slot);
        }
    }
}

/// Where a bucket is kept.
fn place(bucket: Micros) -> usize {
    usize::try_from(bucket.rem_euclid(BUCKETS as Micros)).unwrap_or(0)
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
        run(&mut rate, 6, 50_000);
        let bps = rate.latest_bps().unwrap();
        assert!((0.19e6..0.27e6).contains(&bps), "{bps}");
        assert!(rate.bps().unwrap() > 0.4e6);
        run(&mut rate, 4, 50_000);
        let bps = rate.bps().unwrap();
        assert!((0.19e6..0.24e6).contains(&bps), "{bps}");
        run(&mut rate, 1, 5_000_000);
        assert_eq!(rate.bps(), None);
    }
}
