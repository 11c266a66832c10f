//! Tiles of the result with AMX's products of bytes, whose sums of 32 bits are scaled by AVX-512 while the next ones are made.
//!
//! By count, two strips of sixteen rows take 64 cycles of the unit of tiles for 64 neighbours by 32 columns, as two pieces 128, and
//! their scaling about 100 or 160 of the vector units. As bf16, a value as two terms, the same is 256 cycles of tiles beside weights of
//! four bits and 384 beside those of eight, and 128 where activations are rounded to bf16.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::pack::{Line, Panel, Right};
use super::x86::add;
use super::{BLOCK, COLUMNS, Layout, LeftTile, Part};
use crate::ops::flex::registers::Registers;
use crate::ops::flex::tiles::{LINES, Tile};
use crate::quant::QuantScheme;

/// Panels, and strips of rows, that are multiplied together: what the registers hold.
const PAIR: usize = 2;

const _: () = assert!(COLUMNS == LINES);

/// Sums of a step, tile `[strip, panel]` at `2 · strip + panel`: of the first piece, and of the second.
type Sums = [[Tile; PAIR * PAIR]; 2];

/// What a task needs besides its operands.
struct Room {
    /// Those of a step, and of that before.
    sums: [Sums; 2],
    out: [[Line<f32>; LINES]; PAIR * PAIR],
}

/// How a part of two strips is divided into steps.
#[derive(Clone, Copy)]
struct Steps {
    count: usize,
    /// Blocks that have one scale, and are summed in one step.
    blocks: usize,
    /// Blocks of the part.
    all: usize,
    /// Steps of a block, where it has several scales.
    runs: usize,
    pieces: usize,
}

impl Steps {
    fn new(all: usize, layout: Layout, scheme: QuantScheme) -> Self {
        let runs = layout.runs;
        let blocks = if scheme.group().is_multiple_of(2 * BLOCK) { 2 } else { 1 };
        let count = all.div_ceil(blocks) * runs;
        Self { count, blocks, all, runs, pieces: layout.pieces }
    }

    /// The first block of a step, and its part of it.
    fn place(self, step: usize) -> (usize, usize) {
        (step / self.runs * self.blocks, step % self.runs)
    }
}

/// Adds the products of the rows, tile by tile, with the panels to `out`. Two panels stay in the nearest cache while all rows pass.
///
/// # Panics
/// Where the processor has no AMX, or the system does not permit it.
pub fn tiles(out: &mut [&mut [f32]], left: &Part<'_, Tile>, right: &Right, scheme: QuantScheme) {
    let steps = Steps::new(left.blocks.len(), left.layout, scheme);
    let registers = Registers::new(LINES / steps.runs);
    let mut room = Room {
        sums: [[[Tile::ZERO; PAIR * PAIR]; 2]; 2],
        out: [[Line([0.0; COLUMNS]); LINES]; PAIR * PAIR],
    };
    let panels = right.panels().collect::<Vec<_>>();
    for (index, panels) in panels.chunks(PAIR).enumerate() {
        let columns = index * PAIR * COLUMNS;
        // One that is missing is the other once more, and not written.
        let right = [panels[0], panels[panels.len() - 1]];
        for (index, out) in out.chunks_mut(PAIR * LINES).enumerate() {
            let first = left.tile(PAIR * index);
            let second = if out.len() > LINES { left.tile(PAIR * index + 1) } else { first };
            // SAFETY: who has registers of tiles has AVX-512; there is no other precondition.
            unsafe {
                products(&registers, &mut room, [first, second], right, steps);
                put(out, &room, columns, panels.len());
            }
        }
    }
}

/// Adds what was written to `room.out`, of so many panels, to rows from a column on.
#[target_feature(enable = "avx512f")]
fn put(out: &mut [&mut [f32]], room: &Room, column: usize, panels: usize) {
    for (row, out) in out.iter_mut().enumerate() {
        for p in 0..panels {
            let sums = &room.out[row / LINES * PAIR + p][row % LINES];
            // SAFETY: a line has sixteen values, and unaligned access is allowed.
            let sums = unsafe { _mm512_loadu_ps(sums.0.as_ptr()) };
            add(out, column + p * COLUMNS, sums);
        }
    }
}

/// Writes the products of two strips with two panels to `room.out`.
#[target_feature(enable = "avx512f")]
fn products(
    registers: &Registers,
    room: &mut Room,
    left: [LeftTile<'_, Tile>; PAIR],
    right: [Panel<'_>; PAIR],
    steps: Steps,
) {
    room.out = [[Line([0.0; COLUMNS]); LINES]; PAIR * PAIR];
    for step in 0..=steps.count {
        if step < steps.count {
            sums_of(registers, &mut room.sums[step % 2], left, right, (steps, step));
        }
        if let Some(before) = step.checked_sub(1) {
            let sums = &room.sums[before % 2];
            match steps.pieces {
                1 => scaled::<1>(&mut room.out, sums, left, right, (steps, before)),
                _ => scaled::<2>(&mut room.out, sums, left, right, (steps, before)),
            }
        }
    }
}

/// Writes the sums of products of a step.
#[inline]
fn sums_of(
    registers: &Registers,
    sums: &mut Sums,
    left: [LeftTile<'_, Tile>; PAIR],
    right: [Panel<'_>; PAIR],
    (steps, step): (Steps, usize),
) {
    let (block, part) = steps.place(step);
    let (depth, words) = (steps.blocks.min(steps.all - block), LINES / steps.runs);
    let tiles = block * steps.pieces..(block + depth) * steps.pieces;
    let lines = block * LINES + part * words..(block + depth - 1) * LINES + (part + 1) * words;
    let right = right.map(|panel| panel.words[lines.clone()].as_ptr());
    for (piece, sums) in sums.iter_mut().enumerate().take(steps.pieces) {
        // Words of the run in the rows of the piece.
        let place = piece * size_of::<Tile>() / size_of::<u32>() + part * words;
        let left =
            left.map(|left| left.words[tiles.clone()].as_ptr().cast::<u32>().wrapping_add(place));
        let advance = steps.pieces * size_of::<Tile>();
        // SAFETY: a tile has rows of 64 bytes, and a panel a line of as many for each word; both slices have `depth` blocks from
        // the pointers on, of `pieces` tiles each and of sixteen lines, of which the registers take `words` words of each row and
        // `words` lines. The sums are four tiles behind one another.
        unsafe {
            match piece {
                0 => with_signs(registers, sums, left, right, depth, advance),
                _ => without_signs(registers, sums, left, right, depth, advance),
            }
        }
    }
}

/// A loop over blocks, whose products of left and right tiles `$name` adds up.
macro_rules! sums_by {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Rows of 64 bytes must follow the pointers to left tiles, `advance` bytes from block to block, and to right ones, 1024
        /// bytes from block to block, for `depth` blocks, at least one, as far as the registers are configured to read.
        #[inline]
        unsafe fn $name(
            _: &Registers,
            sums: &mut [Tile; PAIR * PAIR],
            left: [*const u32; PAIR],
            right: [*const Line<i32>; PAIR],
            depth: usize,
            advance: usize,
        ) {
            // SAFETY: the caller vouches for the operands, the sums lie behind one another, and the registers are configured, as
            // their owner shows.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a} + {row}]",
                    "tileloadd tmm6, [{b} + {row}]",
                    "tileloadd tmm7, [{bb} + {row}]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{aa} + {row}]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "add {a}, {advance}", "add {aa}, {advance}",
                    "add {b}, 1024", "add {bb}, 1024",
                    "dec {depth}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 1024], tmm1",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    "tilestored [{sums} + {row} + 3072], tmm3",
                    sums = in(reg) sums.as_mut_ptr(),
                    a = inout(reg) left[0] => _,
                    aa = inout(reg) left[1] => _,
                    b = inout(reg) right[0] => _,
                    bb = inout(reg) right[1] => _,
                    depth = inout(reg) depth => _,
                    advance = in(reg) advance,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        }
    };
}

sums_by! {
    /// Of bytes with signs on both sides.
    with_signs, "tdpbssd"
}
sums_by! {
    /// Of left bytes without a sign, and right ones with one.
    without_signs, "tdpbusd"
}

/// Adds the sums of a step, times the scales of its rows and columns. Those of the first of two pieces are worth 256 times as much.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled<const PIECES: usize>(
    out: &mut [[Line<f32>; LINES]; PAIR * PAIR],
    sums: &Sums,
    left: [LeftTile<'_, Tile>; PAIR],
    right: [Panel<'_>; PAIR],
    (steps, step): (Steps, usize),
) {
    let (block, part) = steps.place(step);
    let run = block * steps.runs + part;
    for p in 0..PAIR {
        // SAFETY: a line has sixteen values, and unaligned access is allowed.
        let of_columns = unsafe { _mm512_loadu_ps(right[p].scales[run].0.as_ptr()) };
        for strip in 0..PAIR {
            let of_rows: &[f32; LINES] = &left[strip].scales.as_chunks().0[run];
            let tile = strip * PAIR + p;
            for row in 0..LINES {
                let to = out[tile][row].0.as_mut_ptr();
                // SAFETY: rows of a tile and lines of sums have 64 bytes, and unaligned access is allowed.
                unsafe {
                    let mut sum = _mm512_loadu_si512(sums[0][tile].0[row].as_ptr().cast());
                    if PIECES == 2 {
                        let low = _mm512_loadu_si512(sums[1][tile].0[row].as_ptr().cast());
                        sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), low);
                    }
                    let scale = _mm512_mul_ps(of_columns, _mm512_set1_ps(of_rows[row]));
                    let before = _mm512_loadu_ps(to);
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, before));
                }
            }
        }
    }
}
