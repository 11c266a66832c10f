//! Products of tiles with AVX-512 BF16: a word of a left tile, two neighbours of a row, times a row of a right one.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;

use super::kernel::{LINES, Terms, Tile};

/// Rows of sums that stay in registers, each of two tiles.
const ROWS: usize = 8;

/// As [`Kernel::multiply`](super::kernel::Kernel::multiply).
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn multiply(
    sums: &mut [Tile; 4],
    left: [&[Tile]; 2],
    right: [&[Tile]; 2],
    terms: Terms,
    fresh: bool,
) {
    match (terms.left, terms.right) {
        (1, 1) => all_rows::<1, 1>(sums, left, right, fresh),
        (1, 2) => all_rows::<1, 2>(sums, left, right, fresh),
        (2, 2) => all_rows::<2, 2>(sums, left, right, fresh),
        _ => unreachable!("no kernel for {terms:?}"),
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn all_rows<const LEFT: usize, const RIGHT: usize>(
    sums: &mut [Tile; 4],
    left: [&[Tile]; 2],
    right: [&[Tile]; 2],
    fresh: bool,
) {
    let right = [right[0].as_chunks::<RIGHT>().0, right[1].as_chunks::<RIGHT>().0];
    for half in 0..2 {
        let left = left[half].as_chunks::<LEFT>().0;
        let (first, second) = sums[2 * half..2 * half + 2].split_at_mut(1);
        for row in (0..LINES).step_by(ROWS) {
            rows([&mut first[0], &mut second[0]], left, right, row, fresh);
        }
    }
}

/// The sums of [`ROWS`] rows from `row` on.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rows<const LEFT: usize, const RIGHT: usize>(
    tiles: [&mut Tile; 2],
    left: &[[Tile; LEFT]],
    right: [&[[Tile; RIGHT]]; 2],
    row: usize,
    fresh: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    if !fresh {
        for i in 0..ROWS {
            for j in 0..2 {
                sums[i][j] = _mm512_castsi512_ps(load(&tiles[j].0[row + i]));
            }
        }
    }
    for depth in 0..left.len().min(right[0].len()).min(right[1].len()) {
        for l in 0..LEFT {
            // The product of two second terms is left out.
            for r in 0..if l == 0 { RIGHT } else { 1 } {
                let left: &[[u32; LINES]; ROWS] =
                    left[depth][l].0[row..].first_chunk().expect("rows of a tile");
                let right = [&right[0][depth][r].0, &right[1][depth][r].0];
                for word in 0..LINES {
                    let b = [pairs(load(&right[0][word])), pairs(load(&right[1][word]))];
                    for i in 0..ROWS {
                        let a = pairs(_mm512_set1_epi32(left[i][word].cast_signed()));
                        for j in 0..2 {
                            sums[i][j] = _mm512_dpbf16_ps(sums[i][j], a, b[j]);
                        }
                    }
                }
            }
        }
    }
    for i in 0..ROWS {
        for j in 0..2 {
            let to = tiles[j].0[row + i].as_mut_ptr();
            // SAFETY: a row of a tile has 64 bytes, and unaligned access is allowed.
            unsafe { _mm512_storeu_ps(to.cast(), sums[i][j]) }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u32; LINES]) -> __m512i {
    // SAFETY: the array has 64 bytes, and unaligned access is allowed.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are registers of 512 bits, and any bits are valid.
    unsafe { std::mem::transmute(words) }
}
