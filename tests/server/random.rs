//! Numbers that repeat, so that a failure can be repeated too.

/// A small generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.below(1);
        random
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    pub fn pick<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }

    /// Changes, cuts, repeats or removes a few bytes.
    pub fn damage(&mut self, bytes: &mut Vec<u8>, alphabet: &[u8]) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] = *self.pick(alphabet),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, bytes[self.below(bytes.len())]),
                3 => bytes[at] ^= 1 << self.below(8),
                4 if self.below(8) == 0 => bytes.truncate(at),
                _ => {
                    let end = (at + self.below(40)).min(bytes.len());
                    drop(bytes.drain(at..end));
                }
            }
        }
    }
}
