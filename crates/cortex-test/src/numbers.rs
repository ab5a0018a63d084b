//! Random numbers that are the same with every run.

/// The 64-bit linear congruential generator of Knuth's MMIX, by its seed.
#[derive(Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// A number less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// The same, as an index.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn index(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).expect("an index")
    }
}
