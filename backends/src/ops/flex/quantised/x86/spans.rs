//! What kernels sum: a unit is a run of weights whose products become one integer, which is scaled; a span is eight units of
//! a row, whose sums fill a register.

use std::ops::Range;

use super::super::inputs::Inputs;
use super::super::{BLOCK, Row, TILE};
use crate::quant::{OFFSET_OF_FOUR, QuantScheme};

/// Units of a span, and lanes of a register.
pub const UNITS: usize = 8;
/// Words of a span's weights at most: of eight bits, in groups of a block or more, as pairs of sixteen bits.
pub const SPAN_WORDS: usize = UNITS * BLOCK / 2;

/// Units of a block. Activations have a scale for each 32 where groups are no larger, and of four bits no more than 32 are
/// summed in sixteen bits.
pub const fn units_of_block(bits: usize, group: usize) -> usize {
    match (bits, group) {
        (8, 16) => 4,
        (8, 32) | (4, _) => 2,
        _ => 1,
    }
}

/// Blocks of a span.
pub const fn blocks_of_span(bits: usize, group: usize) -> usize {
    UNITS / units_of_block(bits, group)
}

/// Registers of products of a block with one activation row.
pub const fn parts_of_block(bits: usize, group: usize) -> usize {
    if bits == 4 || units_of_block(bits, group) == 1 { 1 } else { 2 }
}

/// Scales of the weights of a span.
pub const fn scales_of_span(bits: usize, group: usize) -> usize {
    (blocks_of_span(bits, group) * BLOCK).div_ceil(group)
}

/// The lane where a unit of a span is summed. Where a register holds the products of two units before they are summed, the
/// even ones come before the odd ones.
pub const fn lane(bits: usize, group: usize, unit: usize) -> usize {
    match (bits, group) {
        (4, _) | (_, 16) => unit / 2 + UNITS / 2 * (unit % 2),
        _ => unit,
    }
}

/// Which of the scales of a span each lane takes.
pub const fn order(bits: usize, group: usize) -> Eight<i32> {
    let mut order = Eight([0; UNITS]);
    let (length, mut unit) = (BLOCK / units_of_block(bits, group), 0);
    while unit < UNITS {
        order.0[lane(bits, group, unit)] = (unit * length / group) as i32;
        unit += 1;
    }
    order
}

/// Eight numbers that fill a register.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub struct Eight<T>(pub [T; UNITS]);

/// The scale of a unit.
#[inline(always)]
pub fn scale_of_unit<const BITS: usize, const GROUP: usize>(row: &Row<'_>, unit: usize) -> f32 {
    row.scales[place_of_unit::<BITS, GROUP>(unit, row.scales.len())]
}

/// Which of the `count` scales of a row a unit has; behind the end of the row, where products are 0, the last one.
#[inline(always)]
pub fn place_of_unit<const BITS: usize, const GROUP: usize>(unit: usize, count: usize) -> usize {
    let length = const { BLOCK / units_of_block(BITS, GROUP) };
    (unit * length / GROUP).min(count - 1)
}

/// The codes of a span; `room` is for those of the last one, if it is shorter.
#[inline(always)]
pub fn codes_of_span<'c, const BITS: usize, const GROUP: usize>(
    codes: &'c [u8],
    span: usize,
    room: &'c mut [u8; UNITS * BLOCK],
) -> &'c [u8] {
    let bytes = const { blocks_of_span(BITS, GROUP) * BLOCK * BITS / 8 };
    let rest = &codes[span * bytes..];
    if rest.len() >= bytes {
        return &rest[..bytes];
    }
    room[..rest.len()].copy_from_slice(rest);
    room[rest.len()..bytes].fill(0);
    &room[..bytes]
}

/// Up to [`TILE`] activation rows in the lanes of registers, so that a weight is multiplied with all of them at once.
pub struct Beside {
    /// Of each unit, four neighbours of all rows at a time. They stay bytes: as wide numbers they would leave the nearest cache.
    pub codes: Vec<Codes>,
    /// What the offset of stored weights adds to the sum of a unit, negated.
    pub offsets: Vec<Eight<i32>>,
    /// The scale of each unit.
    pub scales: Vec<Eight<f32>>,
}

/// How weights and activations are multiplied in lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Two neighbours as numbers of sixteen bits.
    Pairs,
    /// Four as bytes, those of weights without sign.
    Fours,
}

impl Words {
    /// Numbers of a word.
    pub const fn numbers(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Fours => 4,
        }
    }
}

impl Beside {
    /// The activation `rows`, with zeros where they are fewer than [`TILE`].
    pub fn new(inputs: &Inputs, rows: Range<usize>, scheme: QuantScheme, words: Words) -> Self {
        let units = units_of_block(scheme.bits(), scheme.group());
        let (blocks, length) = (inputs.row(rows.start).len(), BLOCK / units / 4);
        let spans = (blocks * units).div_ceil(UNITS);
        let mut beside = Self {
            codes: vec![Codes::default(); spans * UNITS * length],
            offsets: vec![Eight::default(); spans * UNITS],
            scales: vec![Eight::default(); spans * UNITS],
        };
        let offset = if scheme.bits() == 8 { 128 } else { i32::from(OFFSET_OF_FOUR) };
        for (lane, row) in rows.enumerate().take(TILE) {
            for (block, input) in inputs.row(row).iter().enumerate() {
                let first = block * units;
                let codes = in_order(&input.codes, scheme.bits());
                let of_block = &mut beside.codes[first * length..][..units * length];
                for (to, four) in of_block.iter_mut().zip(codes.as_chunks().0) {
                    to.put(lane, four, words);
                }
                for unit in 0..units {
                    let codes = &codes[unit * BLOCK / units..][..BLOCK / units];
                    let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
                    beside.offsets[first + unit].0[lane] = -offset * sum;
                    beside.scales[first + unit].0[lane] = input.scales[unit * 2 / units];
                }
            }
        }
        beside
    }
}

/// Four neighbouring codes of each row.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub struct Codes(pub [[i8; 16]; 2]);

impl Codes {
    /// Those of a row: four together, or two in each half, where the pairs of all rows lie together.
    #[inline(always)]
    fn put(&mut self, lane: usize, four: &[i8; 4], words: Words) {
        let [low, high] = &mut self.0;
        match words {
            Words::Fours => {
                let half = if lane < 4 { low } else { high };
                half[lane % 4 * 4..][..4].copy_from_slice(four);
            }
            Words::Pairs => {
                low[2 * lane..][..2].copy_from_slice(&four[..2]);
                high[2 * lane..][..2].copy_from_slice(&four[2..]);
            }
        }
    }
}

/// The codes of a block in the order in which weights are spread: of four bits, in each half those at even places before those
/// at odd ones.
#[inline(always)]
fn in_order(codes: &[i8; BLOCK], bits: usize) -> [i8; BLOCK] {
    if bits == 8 {
        return *codes;
    }
    const QUARTER: usize = BLOCK / 4;
    // In the block, all even places come before all odd ones.
    std::array::from_fn(|i| {
        let (part, place) = (i / QUARTER, i % QUARTER);
        codes[[0, 2, 1, 3][part] * QUARTER + place]
    })
}
