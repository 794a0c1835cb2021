//! Chance that a seed decides: the same seed, the same world.

/// SplitMix64.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// All that follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own for the thing named by `parts`: what is asked of one does not change another.
    #[must_use]
    pub fn of(seed: u64, parts: &[u64]) -> Self {
        let mut random = Self(seed);
        for part in parts {
            random = Self(random.bits() ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
        }
        random
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..end`; `end` is small.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// One of so many places, 0 when there are none.
    pub fn index(&mut self, places: usize) -> usize {
        usize::try_from(self.below(places as u64)).unwrap_or(0)
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Around 1, always above 0: most durations of one kind lie within a third of their median, few are far above.
    pub fn spread(&mut self) -> f64 {
        let sum: u32 = (0..6).map(|_| u32::try_from(self.below(1_000)).unwrap_or(0)).sum();
        // Six uniforms have a standard deviation of 0.71 of one's length.
        ((f64::from(sum) - 2_997.0) / 2_500.0).exp()
    }
}
