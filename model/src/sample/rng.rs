//! The random numbers of the sampler.

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const STREAM: u64 = 54;

/// PCG32 (`pcg_setseq_64_xsh_rr_64_32` of Melissa O'Neill, www.pcg-random.org) on stream 54.
///
/// Chosen because its output is fixed by its definition: a seed gives the same answer in every later version.
/// It is no source of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcg32 {
    state: u64,
}

impl Pcg32 {
    const INCREMENT: u64 = (STREAM << 1) | 1;

    /// The generator for a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self { state: 0 };
        rng.next_u32();
        rng.state = rng.state.wrapping_add(seed);
        rng.next_u32();
        rng
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(MULTIPLIER).wrapping_add(Self::INCREMENT);
        let folded = (((old >> 18) ^ old) >> 27) as u32;
        folded.rotate_right((old >> 59) as u32)
    }

    /// A number in `[0, 1)` from the upper 53 of two outputs, first output on top.
    pub fn next_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        (((high << 32) | low) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Pcg32;

    /// Round 1 of `check-pcg32.out` in the reference C implementation (seed 42, stream 54).
    #[test]
    fn first_outputs_are_those_of_the_reference() {
        let mut rng = Pcg32::new(42);
        let expected =
            [0xa15c_02b7, 0x7b47_f409, 0xba1d_3330, 0x83d2_f293, 0xbfa4_784b, 0xcbed_606e];
        assert_eq!(expected.map(|_| rng.next_u32()), expected);
    }

    #[test]
    fn numbers_lie_in_the_unit_interval_and_fill_it() {
        let mut rng = Pcg32::new(7);
        let numbers: Vec<f64> = (0..10_000).map(|_| rng.next_f64()).collect();
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
        assert!(numbers.iter().any(|x| *x < 0.001) && numbers.iter().any(|x| *x > 0.999));
    }
}
