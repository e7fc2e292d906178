//! Gap-free numbering of a sequence from which elements are left out on purpose.

/// Maps input numbers to output numbers. Numbers left out on purpose get none; numbers that are
/// merely missing keep their place, so that they can still arrive. Remembers the last
/// `64 * WORDS` input numbers.
#[derive(Debug, Clone)]
pub struct Renumber<const WORDS: usize> {
    /// First input number of this run.
    floor: u64,
    /// Highest input number seen, if any since the start.
    high_in: Option<u64>,
    /// Output number of the highest input number that got one. Before the first one: one less
    /// than it will get.
    high_out: u64,
    /// Bit `input % (64 * WORDS)`: left out.
    skipped: [u64; WORDS],
}

impl<const WORDS: usize> Default for Renumber<WORDS> {
    fn default() -> Self {
        Self {
            floor: 0,
            high_in: None,
            high_out: 0,
            skipped: [0; WORDS],
        }
    }
}

impl<const WORDS: usize> Renumber<WORDS> {
    const WINDOW: u64 = 64 * WORDS as u64;

    /// Starts a run: `input` and what follows becomes `output` (at least 1) and what follows.
    pub fn start(&mut self, input: u64, output: u64) {
        self.floor = input;
        self.high_in = None;
        self.high_out = output.saturating_sub(1);
        self.skipped = [0; WORDS];
    }

    /// Highest input number seen in this run.
    #[must_use]
    pub fn high_in(&self) -> Option<u64> {
        self.high_in
    }

    /// Highest output number given.
    #[must_use]
    pub fn high_out(&self) -> u64 {
        self.high_out
    }

    /// The output number of `input`; `None` when it was left out or is out of reach.
    #[inline]
    pub fn forward(&mut self, input: u64) -> Option<u64> {
        if input < self.floor {
            return None;
        }
        let Some(distance) = self.advance(input) else {
            return self.look_up(input);
        };
        self.high_out += distance;
        Some(self.high_out)
    }

    /// Leaves `input` out, unless it got a number already.
    #[inline]
    pub fn skip(&mut self, input: u64) {
        if input < self.floor {
            return;
        }
        if let Some(distance) = self.advance(input) {
            self.high_out += distance - 1;
            if let Some(word) = self.skipped.get_mut(Self::word(input)) {
                *word |= Self::bit(input);
            }
        }
    }

    /// Leaves out `first` up to `end` (exclusive), as far as they are ahead of what was seen; numbers before `first` that are
    /// missing keep their place. The cost does not grow with the run.
    pub fn skip_run(&mut self, first: u64, end: u64) {
        let next = self.high_in.map_or(self.floor, |high| high + 1);
        if end <= next {
            return;
        }
        let first = first.max(next);
        if first > next
            && let Some(missing) = self.advance(first - 1)
        {
            self.high_out += missing;
        }
        self.mark(first, end, true);
        self.high_in = Some(end - 1);
    }

    /// Sets or clears the bits of `first` up to `end` (exclusive), a word at a time.
    fn mark(&mut self, first: u64, end: u64, left_out: bool) {
        if end - first >= Self::WINDOW {
            self.skipped = [if left_out { u64::MAX } else { 0 }; WORDS];
            return;
        }
        let mut at = first;
        while at < end {
            let next = (at / 64 * 64 + 64).min(end);
            let bits = (u64::MAX >> (64 - (next - at))) << (at % 64);
            if let Some(word) = self.skipped.get_mut(Self::word(at)) {
                if left_out {
                    *word |= bits;
                } else {
                    *word &= !bits;
                }
            }
            at = next;
        }
    }

    /// Moves the window up to `input`; returns by how much, or `None` when it is not ahead.
    fn advance(&mut self, input: u64) -> Option<u64> {
        let first = match self.high_in {
            Some(high) if input <= high => return None,
            Some(high) => high + 1,
            None => self.floor,
        };
        self.mark(first, input + 1, false);
        self.high_in = Some(input);
        Some(input + 1 - first)
    }

    fn look_up(&self, input: u64) -> Option<u64> {
        let high = self.high_in?;
        if high - input >= Self::WINDOW || self.is_skipped(input) {
            return None;
        }
        let kept = (input + 1..=high)
            .filter(|&number| !self.is_skipped(number))
            .count();
        self.high_out.checked_sub(kept as u64)
    }

    fn is_skipped(&self, input: u64) -> bool {
        self.skipped
            .get(Self::word(input))
            .is_some_and(|word| word & Self::bit(input) != 0)
    }

    fn word(input: u64) -> usize {
        (input / 64 % WORDS as u64) as usize
    }

    fn bit(input: u64) -> u64 {
        1 << (input % 64)
    }
}
