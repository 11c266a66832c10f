//! Activation rows rounded to eight bits.

use super::BLOCK;
use crate::quant::{OFFSET_OF_FOUR, QuantScheme, nearest_integer};
use crate::simd::vectorised;

/// Codes of four neighbours become one sum.
pub const LANES: usize = BLOCK / 4;

/// Blocks that a kernel takes at a time, at most.
pub const TOGETHER: usize = 8;

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
    /// Of each half.
    pub scales: [f32; 2],
}

impl Input {
    const ZEROS: Self = Self { codes: [0; BLOCK], offsets: [0; LANES], scales: [0.0; 2] };
}

/// Rows in blocks.
pub struct Inputs {
    all: Vec<Input>,
    /// Blocks from a row to the next: kernels take several at a time, and behind a row's end there are zeros.
    stride: usize,
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
        let stride = blocks.next_multiple_of(TOGETHER);
        let mut inputs = Self {
            all: Vec::with_capacity(x.len() / k.max(1) * stride),
            stride,
            sums: Vec::new(),
            blocks,
            groups: scheme.groups(k),
        };
        for (index, row) in x.chunks(k.max(1)).enumerate() {
            round_row(row, scheme, &mut inputs.all, &mut inputs.sums);
            inputs.all.resize((index + 1) * stride, Input::ZEROS);
        }
        inputs
    }

    /// How many rows there are.
    #[cfg(target_arch = "x86_64")]
    pub fn rows(&self) -> usize {
        self.all.len() / self.stride.max(1)
    }

    /// The sums of the groups of row `row`.
    pub fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.groups..][..self.groups]
    }

    /// The blocks of row `row`.
    pub fn row(&self, row: usize) -> &[Input] {
        &self.all[row * self.stride..][..self.blocks]
    }

    /// The blocks of row `row`, and zeros until they are a multiple of [`TOGETHER`].
    #[cfg(target_arch = "x86_64")]
    pub fn filled(&self, row: usize) -> &[Input] {
        &self.all[row * self.stride..][..self.stride]
    }
}

vectorised! {
    /// Adds the blocks of a row, and the sums of its groups where these are needed.
    fn round_row(row: &[f32], scheme: QuantScheme, all: &mut Vec<Input>, sums: &mut Vec<f32>) = round_row_with
}

#[inline(always)]
fn round_row_with(
    row: &[f32],
    scheme: QuantScheme,
    all: &mut Vec<Input>,
    sums: &mut Vec<f32>,
    _: impl Fn(f32, f32, f32) -> f32,
) {
    // One group of several blocks, or one block of several groups, of which each half has a scale.
    for values in row.chunks(scheme.group().max(BLOCK)) {
        let scales = match scheme.group() {
            16 | 32 => {
                let (first, second) = values.split_at(values.len().min(BLOCK / 2));
                [scale_of(first, 127.0), scale_of(second, 127.0)]
            }
            _ => [scale_of(values, 127.0); 2],
        };
        let mut halves = [0.0; 2];
        let (whole, rest) = values.as_chunks::<BLOCK>();
        for values in whole {
            add_block(all, &mut halves, values, scales, scheme.bits());
        }
        if !rest.is_empty() {
            let mut last = [0.0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            add_block(all, &mut halves, &last, scales, scheme.bits());
        }
        if scheme.has_minimums() {
            match (scheme.group(), values.len() > BLOCK / 2) {
                (32, true) => sums.extend(halves),
                (32, false) => sums.push(halves[0]),
                _ => sums.push(halves[0] + halves[1]),
            }
        }
    }
}

/// Adds a block, and its rounded values to the sums of the halves. Not a closure: one that is not inlined is compiled without the
/// instructions of the function that calls it.
#[inline(always)]
fn add_block(
    all: &mut Vec<Input>,
    halves: &mut [f32; 2],
    values: &[f32; BLOCK],
    scales: [f32; 2],
    bits: usize,
) {
    let (input, of_codes) = block_of(values, scales, bits);
    all.push(input);
    for half in 0..2 {
        halves[half] += of_codes[half] as f32 * scales[half];
    }
}

/// A block whose halves have the given scales, and the sum of the codes of each half.
#[inline(always)]
fn block_of(values: &[f32; BLOCK], scales: [f32; 2], bits: usize) -> (Input, [i32; 2]) {
    let inverses = scales.map(|scale| if scale > 0.0 { scale.recip() } else { 0.0 });
    let mut plain = [0i32; BLOCK];
    for (i, code) in plain.iter_mut().enumerate() {
        let value = values[i] * inverses[2 * i / BLOCK];
        #[expect(clippy::manual_clamp, reason = "what is not a number becomes a code too")]
        let value = value.max(-127.0).min(127.0);
        *code = nearest_integer(value);
    }
    let sum = |half: &[i32]| half.iter().sum();
    let of_codes = [sum(&plain[..BLOCK / 2]), sum(&plain[BLOCK / 2..])];
    let pairs: [i32; BLOCK / 2] = std::array::from_fn(|i| plain[2 * i] + plain[2 * i + 1]);
    let fours: [i32; LANES] = std::array::from_fn(|i| pairs[2 * i] + pairs[2 * i + 1]);
    let mut input = Input { codes: [0; BLOCK], offsets: [0; LANES], scales };
    match bits {
        8 => {
            input.codes = plain.map(|code| code as i8);
            input.offsets = fours.map(|sum| -128 * sum);
        }
        _ => {
            let (even, odd) = input.codes.split_at_mut(BLOCK / 2);
            for i in 0..BLOCK / 2 {
                (even[i], odd[i]) = (plain[2 * i] as i8, plain[2 * i + 1] as i8);
            }
            for i in 0..LANES / 2 {
                input.offsets[i] = -i32::from(OFFSET_OF_FOUR) * (fours[2 * i] + fours[2 * i + 1]);
            }
        }
    }
    (input, of_codes)
}

/// The largest magnitude over the largest code; 0 where the inverse would leave the range of f32, NaN for what is not finite.
#[inline(always)]
pub fn scale_of(values: &[f32], code: f32) -> f32 {
    // Magnitudes as bits are in the order of the numbers, with infinity and NaN above them.
    let largest = values.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    match f32::from_bits(largest) {
        largest if !largest.is_finite() => f32::NAN,
        largest if largest < 1e-30 => 0.0,
        largest => largest / code,
    }
}
