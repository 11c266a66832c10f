//! What multiplies tiles.

use super::{amx, pairs};
use crate::cpu::Tiles;
use crate::ops::flex::registers::Registers;

/// Lines of a tile: rows of a left operand, columns of a right one.
pub const LINES: usize = 16;
/// Values of a line along the summed axis.
pub const DEPTH: usize = 2 * LINES;

/// Sixteen rows of sixteen words. A word of an operand holds two neighbours along the summed axis as bf16: of a left tile
/// word `[i, p]` those of row `i` from `2p` on, of a right one word `[p, j]` those of column `j`. A tile of sums holds f32.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Tile(pub [[u32; LINES]; LINES]);

impl Tile {
    pub const ZERO: Self = Self([[0; LINES]; LINES]);
}

/// Of how many numbers of bf16 a value of each operand is the sum: the second is what the first lacks. The product of two
/// second ones is left out; what two terms keep of a value is exact to 2⁻¹⁷ of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub left: usize,
    pub right: usize,
}

impl Terms {
    /// Both operands rounded to bf16.
    pub const ROUNDED: Self = Self { left: 1, right: 1 };
}

/// What multiplies tiles on the calling thread.
pub struct Kernel(Kind);

enum Kind {
    Amx(Registers),
    /// The processor has AVX-512 BF16.
    Pairs,
}

impl Kernel {
    /// # Panics
    /// Where the processor lacks the instructions, or the system does not permit them.
    pub fn new(with: Tiles) -> Self {
        assert!(with.is_present(), "no {with:?} here");
        Self(match with {
            Tiles::Amx => Kind::Amx(Registers::new()),
            Tiles::Pairs => Kind::Pairs,
        })
    }

    /// Adds the products of two lines of left tiles with two of right ones to `sums[2 i + j]`, those of `left[i]` with
    /// `right[j]`; writes them where sums are `fresh`. The terms of a tile lie behind one another. Meanwhile AMX fetches the first
    /// tiles of `ahead`, a quarter of the depth (with two terms, half of it), into the second cache.
    ///
    /// # Panics
    /// Where the lines are not equally many tiles of so many terms.
    pub fn multiply(
        &self,
        sums: &mut [Tile; 4],
        left: [&[Tile]; 2],
        right: [&[Tile]; 2],
        terms: Terms,
        fresh: bool,
        ahead: &[Tile],
    ) {
        let depth = left[0].len() / terms.left;
        assert!(left.iter().all(|line| line.len() == depth * terms.left), "tiles of left lines");
        assert!(right.iter().all(|line| line.len() == depth * terms.right), "tiles of right lines");
        match (&self.0, depth, fresh) {
            (_, 0, true) => *sums = [Tile::ZERO; 4],
            (_, 0, false) => {}
            (Kind::Amx(registers), ..) => {
                // SAFETY: the assertions bound the lines, which are not empty.
                unsafe { amx::multiply(registers, sums, left, right, terms, fresh, ahead) }
            }
            // SAFETY: the processor has the features, as was asserted before.
            (Kind::Pairs, ..) => unsafe { pairs::multiply(sums, left, right, terms, fresh) },
        }
    }
}
