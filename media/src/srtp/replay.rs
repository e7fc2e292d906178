//! Replay protection (RFC 3711 section 3.3.2).

/// Words of the window's bitmap: 1024 packets, so that retransmissions and reordering over long
/// paths still pass.
const WORDS: usize = 16;

const WINDOW: u64 = 64 * WORDS as u64;

/// A sliding window over packet indices.
#[derive(Debug, Clone, Default)]
pub struct ReplayWindow {
    highest: Option<u64>,
    /// Bit `index % 1024`: seen.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Highest index accepted so far.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Whether `index` is neither seen nor too old.
    #[must_use]
    #[inline]
    pub fn is_fresh(&self, index: u64) -> bool {
        match self.highest {
            None => true,
            Some(highest) if index > highest => true,
            Some(highest) if highest - index >= WINDOW => false,
            Some(_) => self
                .seen
                .get(Self::word(index))
                .is_some_and(|word| word & Self::bit(index) == 0),
        }
    }

    /// Marks `index` as seen; call only after authentication.
    #[inline]
    pub fn accept(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {}
            Some(highest) if index - highest < WINDOW => {
                for skipped in highest + 1..index {
                    self.clear(skipped);
                }
                self.highest = Some(index);
            }
            Some(_) | None => {
                self.seen = [0; WORDS];
                self.highest = Some(index);
            }
        }
        if let Some(word) = self.seen.get_mut(Self::word(index)) {
            *word |= Self::bit(index);
        }
    }

    fn clear(&mut self, index: u64) {
        if let Some(word) = self.seen.get_mut(Self::word(index)) {
            *word &= !Self::bit(index);
        }
    }

    fn word(index: u64) -> usize {
        (index / 64 % WORDS as u64) as usize
    }

    fn bit(index: u64) -> u64 {
        1 << (index % 64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_repeats_and_the_too_old() {
        let mut window = ReplayWindow::default();
        window.accept(5000);
        assert!(!window.is_fresh(5000));
        assert!(window.is_fresh(5000 - 1023));
        assert!(!window.is_fresh(5000 - 1024));
        window.accept(4990);
        assert!(!window.is_fresh(4990));
        window.accept(6013);
        assert!(!window.is_fresh(4990));
        assert!(window.is_fresh(6012));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(indices in proptest::collection::vec(0u64..4000, 1..300)) {
            let mut window = ReplayWindow::default();
            let mut seen = std::collections::BTreeSet::new();
            for index in indices {
                let highest = seen.last().copied().unwrap_or(0);
                let fresh = !seen.contains(&index) && index + WINDOW > highest;
                prop_assert_eq!(window.is_fresh(index), fresh);
                if fresh {
                    window.accept(index);
                    seen.insert(index);
                }
            }
        }
    }
}
