//! The same sums with AVX2, and with AVX-512 VNNI.
//!
//! The sum of a unit is an exact integer. It is scaled and added to one of eight numbers of f32, in an order that depends on the
//! unit alone, so that kernels for one row and for several find the same bits.

mod avx2;
mod few;
mod spans;
mod vnni;

use super::inputs::{Input, Inputs, LANES};
use super::{Rows, TILE};
use crate::cpu::Level;
use crate::quant::QuantScheme;
use spans::{Beside, Eight, Words};

/// From how many activation rows on they lie beside each other: eight lanes are computed then, however many are wanted.
const fn beside_from(words: Words) -> usize {
    match words {
        Words::Pairs => 5,
        Words::Fours => 3,
    }
}

/// Activation rows as kernels take them, up to [`TILE`] at a time.
pub struct Ready<'i> {
    tiles: Vec<Tile<'i>>,
    vnni: bool,
}

enum Tile<'i> {
    Lines(Vec<Line<'i>>),
    Beside(Beside),
}

/// A row of activations.
struct Line<'i> {
    /// Of all spans.
    blocks: &'i [Input],
    /// Of each span, in the order in which its units are summed.
    scales: Vec<Eight<f32>>,
    /// What the offset of stored weights adds to these sums, negated.
    offsets: Vec<Eight<i32>>,
}

impl<'i> Ready<'i> {
    /// `m` rows; `None` where `level` has no kernel here.
    pub fn new(inputs: &'i Inputs, m: usize, scheme: QuantScheme, level: Level) -> Option<Self> {
        if level < Level::Avx2 {
            return None;
        }
        let vnni = has_vnni(level);
        let words = if vnni { vnni::words } else { avx2::words }(scheme.bits());
        let tile = |first: usize| {
            let rows = first..m.min(first + TILE);
            match rows.len() >= beside_from(words) {
                true => Tile::Beside(Beside::new(inputs, rows, scheme, words)),
                false => Tile::Lines(rows.map(|row| Line::new(inputs, row, scheme)).collect()),
            }
        };
        Some(Self { tiles: (0..m).step_by(TILE).map(tile).collect(), vnni })
    }

    /// Whether scales are wanted in f32.
    pub fn takes_wide(&self) -> bool {
        self.tiles.iter().any(|tile| matches!(tile, Tile::Beside(_)))
    }

    /// Writes the sums of all weight rows: activation row `i` of `m` and weight row `j` have theirs at `j · m + i`.
    pub fn sums(&self, out: &mut [f32], m: usize, rows: Rows<'_>, scheme: QuantScheme) {
        assert!(level_is_present(if self.vnni { Level::Avx512 } else { Level::Avx2 }));
        assert!(!self.vnni || has_vnni(Level::Avx512));
        for (index, tile) in self.tiles.iter().enumerate() {
            let first = index * TILE;
            // SAFETY: the processor has just been asked for the features; there is no other precondition.
            unsafe {
                match (tile, self.vnni) {
                    (Tile::Lines(lines), false) => {
                        few::avx2::lines(out, (m, first), rows, lines, scheme)
                    }
                    (Tile::Lines(lines), true) => {
                        few::vnni::lines(out, (m, first), rows, lines, scheme)
                    }
                    (Tile::Beside(some), false) => {
                        few::avx2::beside(out, (m, first), rows, some, scheme)
                    }
                    (Tile::Beside(some), true) => {
                        few::vnni::beside(out, (m, first), rows, some, scheme)
                    }
                }
            }
        }
    }
}

impl<'i> Line<'i> {
    fn new(inputs: &'i Inputs, row: usize, scheme: QuantScheme) -> Self {
        let (bits, group) = (scheme.bits(), scheme.group());
        let (blocks, units) = (inputs.filled(row), spans::units_of_block(bits, group));
        let spans = inputs.row(row).len().div_ceil(spans::blocks_of_span(bits, group));
        let scale = |unit: usize| blocks[unit / units].scales[unit % units * 2 / units];
        let each = LANES * bits / 8 / units;
        let offset = |unit: usize| -> i32 {
            blocks[unit / units].offsets[unit % units * each..][..each].iter().sum()
        };
        Self {
            blocks,
            scales: (0..spans).map(|span| in_lanes(scheme, span, scale)).collect(),
            offsets: (0..spans).map(|span| in_lanes(scheme, span, offset)).collect(),
        }
    }
}

/// What `of` gives for the units of a span, in the order in which these are summed.
fn in_lanes<T: Default>(scheme: QuantScheme, span: usize, of: impl Fn(usize) -> T) -> Eight<T> {
    let mut lanes = Eight::default();
    for unit in 0..spans::UNITS {
        let lane = spans::lane(scheme.bits(), scheme.group(), unit);
        lanes.0[lane] = of(span * spans::UNITS + unit);
    }
    lanes
}

/// Whether sums of products are of 32 bits, by VNNI.
pub fn has_vnni(level: Level) -> bool {
    level >= Level::Avx512
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vl")
}

pub fn level_is_present(level: Level) -> bool {
    match level {
        Level::Portable => true,
        Level::Neon => false,
        Level::Avx2 => {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        }
        Level::Avx512 | Level::Amx => {
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
        }
    }
}
