//! Dice: every draw of a row comes from one ChaCha8 stream.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Marks this generator's streams; a change of the drawing that changes rows changes it too.
const DOMAIN: &[u8; 16] = b"nano-scenes-v001";

/// A stream of random draws that is the same on every machine: integers and exact IEEE operations only.
#[derive(Debug, Clone)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of one row. The key holds seed and index in full, so two different pairs never share a stream.
    pub fn new(seed: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..].copy_from_slice(DOMAIN);
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Below `count`, which must not be 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.bits()) * count as u64) >> 32) as usize
    }

    /// From `low` to `high`, both included.
    pub fn whole(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// Uniform in `low..high`.
    pub fn real(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        low + unit * (high - low)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.real(0.0, 1.0) < probability
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// The place of one of `weights`; 0 where all are 0.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let total: f64 = weights.iter().sum();
        let mut left = self.real(0.0, total);
        let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
        for (place, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 && *weight > 0.0 {
                return place;
            }
        }
        last
    }

    /// A random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// About normal with variance 1, between -3.4 and 3.4: four bytes added up.
    pub fn normal(&mut self) -> f64 {
        let sum: u32 = self.bits().to_le_bytes().iter().map(|byte| u32::from(*byte)).sum();
        (f64::from(sum) - 510.0) / 147.8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_index_and_repeat() {
        let head = |seed, index| Dice::new(seed, index).bits();
        assert_eq!(head(1, 2), head(1, 2));
        assert_ne!(head(1, 2), head(2, 1));
        assert_ne!(head(0, 3), head(3, 0));
    }

    #[test]
    fn draws_stay_in_their_ranges() {
        let mut dice = Dice::new(5, 5);
        let (mut low, mut high, mut square) = (0, 0, 0.0);
        for _ in 0..20_000 {
            let value = dice.whole(3, 6);
            assert!((3..=6).contains(&value));
            low += usize::from(value == 3);
            high += usize::from(value == 6);
            let normal = dice.normal();
            square += normal * normal / 20_000.0;
        }
        assert!((4500..5500).contains(&low) && (4500..5500).contains(&high), "{low} {high}");
        assert!((0.95..1.05).contains(&square), "{square}");
    }

    #[test]
    fn weights_are_kept() {
        let mut dice = Dice::new(5, 6);
        let mut seen = [0; 4];
        (0..10_000).for_each(|_| seen[dice.weighted(&[1.0, 0.0, 3.0, 0.0])] += 1);
        assert_eq!((seen[1], seen[3]), (0, 0));
        assert!((2200..2800).contains(&seen[0]), "{seen:?}");
        assert_eq!(dice.weighted(&[0.0, 0.0]), 0);
    }
}
