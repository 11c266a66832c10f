//! Activation rows rounded to eight bits.

use crate::quant::{OFFSET_OF_FOUR, QuantScheme, nearest};

use super::BLOCK;

/// Codes of four neighbours become one sum.
pub const LANES: usize = BLOCK / 4;

/// [`BLOCK`] neighbouring values of a row, with zeros behind its end.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Input {
    /// From -127 to 127. For weights of four bits, the even places of a block come before its odd ones, as the low and
    /// the high halves of bytes do.
    pub codes: [i8; BLOCK],
    /// What the offset of stored weights adds to sums of products, negated: of eight bits for each four codes; of four bits
    /// for four codes at even places and the four at odd places between them, with zeros behind.
    pub offsets: [i32; LANES],
    /// The scale of each four codes' sum.
    pub spread: [f32; LANES],
}

impl Input {
    /// Scales of the two halves.
    #[inline(always)]
    pub fn scales(&self) -> [f32; 2] {
        [self.spread[0], self.spread[LANES - 1]]
    }
}

/// Rows in blocks.
pub struct Inputs {
    all: Vec<Input>,
    /// The sum of the rounded values in each group of weights, where these have minimums.
    sums: Vec<f32>,
    blocks: usize,
    groups: usize,
}

impl Inputs {
    /// Rounds rows of `k` values, with a scale for each group of the scheme. A group that holds a value that is not finite
    /// gets the scale NaN, and so do the results.
    pub fn round(x: &[f32], k: usize, scheme: QuantScheme) -> Self {
        let blocks = k.div_ceil(BLOCK);
        let all = x.len() / k.max(1) * blocks;
        let mut inputs = Self {
            all: Vec::with_capacity(all),
            sums: Vec::new(),
            blocks,
            groups: scheme.groups(k),
        };
        for row in x.chunks(k.max(1)) {
            for group in row.chunks(scheme.group().max(BLOCK)) {
                inputs.add(group, scheme);
            }
        }
        inputs
    }

    /// Adds the blocks of one group, or one block of two groups.
    fn add(&mut self, values: &[f32], scheme: QuantScheme) {
        let scales = match scheme.group() {
            16 | 32 => {
                let (first, second) = values.split_at(values.len().min(BLOCK / 2));
                [scale_of(first, 127.0), scale_of(second, 127.0)]
            }
            _ => [scale_of(values, 127.0); 2],
        };
        let mut sums = [0.0; 2];
        let several = values.len() > BLOCK / 2;
        for values in values.chunks(BLOCK) {
            let mut plain = [0i8; BLOCK];
            let parts = plain.chunks_mut(BLOCK / 2).zip(values.chunks(BLOCK / 2));
            for ((to, values), scale) in parts.zip(scales) {
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                for (to, value) in to.iter_mut().zip(values) {
                    *to = nearest(value * inverse).clamp(-127.0, 127.0) as i8;
                }
            }
            let sum = |half: &[i8]| half.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
            let (first, second) = plain.split_at(BLOCK / 2);
            sums[0] += sum(first) * scales[0];
            sums[1] += sum(second) * scales[1];
            let (codes, offset) = match scheme.bits() {
                8 => (plain, 128),
                _ => (evens_first(&plain), i32::from(OFFSET_OF_FOUR)),
            };
            let four = codes.as_chunks::<4>().0;
            let sum = |lane: usize| four[lane].iter().map(|q| i32::from(*q)).sum::<i32>();
            let both = |lane: usize| match lane < LANES / 2 {
                true => sum(lane) + sum(lane + LANES / 2),
                false => 0,
            };
            let offsets = match scheme.bits() {
                8 => std::array::from_fn(|lane| -offset * sum(lane)),
                _ => std::array::from_fn(|lane| -offset * both(lane)),
            };
            let half = |lane: usize| if scheme.bits() == 8 { lane / 8 } else { lane / 4 % 2 };
            let spread = std::array::from_fn(|lane| scales[half(lane)]);
            self.all.push(Input { codes, offsets, spread });
        }
        if scheme.has_minimums() {
            match (scheme.group(), several) {
                (32, true) => self.sums.extend(sums),
                (32, false) => self.sums.push(sums[0]),
                _ => self.sums.push(sums[0] + sums[1]),
            }
        }
    }

    /// Groups of weights of a row.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The sums of the groups of row `row`.
    pub fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.groups..][..self.groups]
    }

    /// The blocks of row `row`.
    pub fn row(&self, row: usize) -> &[Input] {
        &self.all[row * self.blocks..][..self.blocks]
    }
}

/// The largest magnitude over the largest code; 0 where the inverse would leave the range of f32, NaN for what is not finite.
pub fn scale_of(values: &[f32], code: f32) -> f32 {
    // Magnitudes as bits are in the order of the numbers, with infinity and NaN above them.
    let largest = values.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    match f32::from_bits(largest) {
        largest if !largest.is_finite() => f32::NAN,
        largest if largest < 1e-30 => 0.0,
        largest => largest / code,
    }
}

fn evens_first(plain: &[i8; BLOCK]) -> [i8; BLOCK] {
    std::array::from_fn(|i| plain[if i < BLOCK / 2 { 2 * i } else { 2 * i + 1 - BLOCK }])
}
