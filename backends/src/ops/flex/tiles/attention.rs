//! Softmax attention in tiles, over keys and values that are packed once for all query rows.
//!
//! Scores are computed with keys as rows and queries as columns, so that a register holds the scores of sixteen queries, and
//! their largest and their sum need no exchange between lanes.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::matmul::Matrix;
use super::super::panel::Tiling;
use super::kernel::{Kernel, LINES, Terms, Tile};
use super::pack::{Put, Side, put_row, put_terms, transpose, unset};
use super::{Lines, PAIR, some};
use crate::cpu::Tiles;

/// Pairs of strips of keys that are looked at together: their scores and weights for a pair of query strips stay in the
/// nearest cache.
const PAIRS: usize = 8;

/// Keys and values of one head.
pub struct Packed {
    keys: Vec<Tile>,
    values: Vec<Tile>,
    count: usize,
    d: usize,
    with: Tiles,
    terms: usize,
}

impl Packed {
    /// Packs `keys` and `values`, both `[count, d]`, each value as the sum of `terms` numbers of bf16.
    pub fn new(keys: Matrix<'_>, values: Matrix<'_>, Tiling { with, terms }: Tiling) -> Self {
        let (count, d) = (keys.rows, keys.columns);
        let mut packed = Self { keys: Vec::new(), values: Vec::new(), count, d, with, terms };
        let side = (Side::Left, terms);
        Lines::pack((&keys, 0..count), side, &mut packed.keys, false);
        Lines::pack((&values.transposed(), 0..d), side, &mut packed.values, false);
        packed
    }

    fn keys(&self) -> Lines<'_> {
        Lines { tiles: &self.keys, depth: self.d.div_ceil(PAIR), terms: self.terms }
    }

    fn values(&self) -> Lines<'_> {
        Lines { tiles: &self.values, depth: self.count.div_ceil(PAIR), terms: self.terms }
    }
}

/// What has been summed for a pair of query strips.
#[derive(Clone)]
struct Sums {
    /// Of each pair of strips of values: queries are columns.
    tiles: Vec<[Tile; 4]>,
    strips: [Strip; 2],
}

/// Of sixteen queries, the largest score in powers of two and the sum of weights.
#[derive(Clone, Copy)]
struct Strip {
    top: [f32; LINES],
    sum: [f32; LINES],
}

/// `softmax(q·kᵀ / sqrt(d)) · v` in place of rows of `out` that begin `stride` values apart; with `past`, row `i` sees the first
/// `past + i + 1` keys.
///
/// # Panics
/// Without the instructions, or where `out` is too small.
pub fn attend(out: &mut [f32], stride: usize, q: Matrix<'_>, head: &Packed, past: Option<usize>) {
    let (keys, mut room) = (head.keys(), Vec::new());
    let queries = Lines::pack((&q, 0..q.rows), (Side::Right, head.terms), &mut room, false);
    let strip = Strip { top: [f32::NEG_INFINITY; LINES], sum: [0.0; LINES] };
    let sums = Sums { tiles: vec![[Tile::ZERO; 4]; head.d.div_ceil(PAIR)], strips: [strip; 2] };
    let mut sums = vec![sums; q.rows.div_ceil(PAIR)];
    let seen = |row: usize| past.map_or(head.count, |past| (past + row + 1).min(head.count));
    let kernel = Kernel::new(head.with);
    let scores = vec![[Tile::ZERO; 4]; PAIRS];
    let scale = ((head.d as f64).powf(-0.5) * std::f64::consts::LOG2_E) as f32;
    let mut block = Block { kernel: &kernel, head, scale, scores, weights: Vec::new() };
    let most = seen(q.rows.saturating_sub(1)).div_ceil(PAIR);
    for start in (0..most).step_by(PAIRS) {
        for (index, sums) in sums.iter_mut().enumerate() {
            let seen = std::array::from_fn(|i| seen((index * PAIR + i).min(q.rows - 1)));
            let end = seen[PAIR - 1].div_ceil(PAIR).min(start + PAIRS);
            if start < end {
                let queries = queries.pair(index, 0..keys.depth);
                block.add(sums, queries, start..end, &seen);
            }
        }
    }
    drop(kernel);
    let rows = out.chunks_mut(stride).map(|row| &mut row[..head.d]).take(q.rows);
    let mut rows: Vec<&mut [f32]> = rows.collect();
    for (rows, sums) in rows.chunks_mut(PAIR).zip(&mut sums) {
        sums.put(rows);
    }
}

/// What is needed for some keys, and room for their scores and weights.
struct Block<'a> {
    kernel: &'a Kernel,
    head: &'a Packed,
    /// See [`Scores`].
    scale: f32,
    scores: Vec<[Tile; 4]>,
    weights: Vec<Tile>,
}

impl Block<'_> {
    /// Adds what the values of `pairs` of strips of keys give for a pair of query strips, of which each query sees so many keys
    /// of all.
    fn add(
        &mut self,
        sums: &mut Sums,
        queries: [&[Tile]; 2],
        pairs: Range<usize>,
        seen: &[usize; PAIR],
    ) {
        let (keys, values) = (self.head.keys(), self.head.values());
        let terms = Terms { left: keys.terms, right: keys.terms };
        let scores = &mut self.scores[..pairs.len()];
        for (pair, scores) in pairs.clone().zip(scores.iter_mut()) {
            let keys = keys.pair(pair, 0..keys.depth);
            self.kernel.multiply(scores, keys, queries, terms, true, queries[0]);
        }
        let size = pairs.len() * terms.right;
        let weights = some(&mut self.weights, 2 * size, Tile::ZERO);
        let fresh = pairs.start == 0;
        for (strip, weights) in weights.chunks_exact_mut(size).enumerate() {
            let seen = std::array::from_fn(|i| {
                let seen = seen[strip * LINES + i].saturating_sub(pairs.start * PAIR);
                seen.min(pairs.len() * PAIR) as i32
            });
            let scores = Scores { tiles: scores, strip, seen, scale: self.scale };
            scores.weigh(sums, weights, fresh);
        }
        let weights: [&[Tile]; 2] = weights.split_at(size).into();
        for (strip, sums) in sums.tiles.iter_mut().enumerate() {
            let values = values.pair(strip, pairs.clone());
            self.kernel.multiply(sums, values, weights, terms, fresh, weights[0]);
        }
    }
}

/// The scores of a strip of queries for some pairs of strips of keys.
struct Scores<'t> {
    tiles: &'t [[Tile; 4]],
    /// 0 or 1.
    strip: usize,
    /// How many of the keys each query sees.
    seen: [i32; LINES],
    /// What a score is multiplied by to become an exponent of two.
    scale: f32,
}

impl Scores<'_> {
    /// Writes the weights, and scales down what has been summed where a larger score has come.
    fn weigh(&self, sums: &mut Sums, weights: &mut [Tile], fresh: bool) {
        assert!(Tiles::Pairs.is_present());
        let all = (self.tiles.len() * PAIR) as i32;
        // SAFETY: the processor has just been asked for the features; there is no other precondition.
        unsafe {
            match (self.seen.iter().all(|seen| *seen == all), weights.len() / self.tiles.len()) {
                (true, 1) => self.weigh_512::<false, 1>(sums, weights, fresh),
                (true, _) => self.weigh_512::<false, 2>(sums, weights, fresh),
                (false, 1) => self.weigh_512::<true, 1>(sums, weights, fresh),
                (false, _) => self.weigh_512::<true, 2>(sums, weights, fresh),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn weigh_512<const SOME: bool, const TERMS: usize>(
        &self,
        sums: &mut Sums,
        weights: &mut [Tile],
        fresh: bool,
    ) {
        let (scale, weights) = (_mm512_set1_ps(self.scale), weights.as_chunks_mut::<TERMS>().0);
        // SAFETY: the array has 64 bytes, and unaligned access is allowed.
        let seen = unsafe { _mm512_loadu_si512(self.seen.as_ptr().cast()) };
        let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
        for pair in 0..self.tiles.len() {
            for half in 0..2 {
                for row in 0..LINES {
                    let scores = load(&self.tiles[pair][2 * half + self.strip].0[row]);
                    let mask = mask_of::<SOME>(seen, pair * PAIR + half * LINES + row);
                    let top = largest[row % 2];
                    largest[row % 2] = _mm512_mask_max_ps(top, mask, top, scores);
                }
            }
        }
        let strip = &mut sums.strips[self.strip];
        let before = load(&strip.top);
        let largest = _mm512_mul_ps(_mm512_max_ps(largest[0], largest[1]), scale);
        let top = _mm512_max_ps(before, largest);
        let mut sum = [_mm512_setzero_ps(); 2];
        for pair in 0..self.tiles.len() {
            let weights = &mut weights[pair];
            for word in 0..LINES {
                let mut both = [_mm512_setzero_ps(); 2];
                for i in 0..2 {
                    let (half, row) = (word / 8, word % 8 * 2 + i);
                    let scores = load(&self.tiles[pair][2 * half + self.strip].0[row]);
                    let mask = mask_of::<SOME>(seen, pair * PAIR + half * LINES + row);
                    let exponent = _mm512_fmsub_ps(scores, scale, top);
                    let weight =
                        if TERMS == 1 { exp2_of_eight_bits(exponent) } else { exp2(exponent) };
                    both[i] = if SOME { _mm512_maskz_mov_ps(mask, weight) } else { weight };
                    sum[i] = _mm512_add_ps(sum[i], both[i]);
                }
                put_terms(both, Side::Right, weights, word);
            }
        }
        let mut sum = _mm512_add_ps(sum[0], sum[1]);
        if !fresh {
            let factor = exp2(_mm512_sub_ps(before, top));
            sum = _mm512_fmadd_ps(load(&strip.sum), factor, sum);
            if _mm512_cmplt_ps_mask(before, top) != 0 {
                for tiles in &mut sums.tiles {
                    for half in 0..2 {
                        for row in &mut tiles[2 * half + self.strip].0 {
                            let scaled = _mm512_mul_ps(load(row), factor);
                            *row = words_of(scaled);
                        }
                    }
                }
            }
        }
        strip.top = words_of(top).map(f32::from_bits);
        strip.sum = words_of(sum).map(f32::from_bits);
    }
}

impl Sums {
    /// Writes rows of the result.
    fn put(&mut self, rows: &mut [&mut [f32]]) {
        for (pair, tiles) in self.tiles.iter_mut().enumerate() {
            for (which, tile) in tiles.iter_mut().enumerate() {
                let (half, strip) = (which / 2, which % 2);
                let first = pair * PAIR + half * LINES;
                transpose(tile);
                let rows = rows.iter_mut().skip(strip * LINES);
                for ((row, sums), sum) in rows.zip(&tile.0).zip(&self.strips[strip].sum) {
                    if let Some(row) = row.get_mut(first..) {
                        let how = Put { scale: 1.0 / sum, bias: None, add: false };
                        let count = row.len().min(LINES);
                        put_row(unset(&mut row[..count]), how, |_| sums);
                    }
                }
            }
        }
    }
}

/// Which of sixteen queries see key `key`: all of them where they see all.
#[inline]
#[target_feature(enable = "avx512f")]
fn mask_of<const SOME: bool>(seen: __m512i, key: usize) -> __mmask16 {
    match SOME {
        true => _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(key as i32)),
        false => 0xffff,
    }
}

/// Sixteen values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Copy>(values: &[T; LINES]) -> __m512 {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array has 64 bytes, and unaligned access is allowed.
    unsafe { _mm512_loadu_ps(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn words_of(values: __m512) -> [u32; LINES] {
    let mut words = [0; LINES];
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(words.as_mut_ptr().cast(), values) };
    words
}

/// `2^x` for `x <= 0`, within 2 units in the last place (polynomial of the Cephes library).
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    const COEFFICIENTS: [f32; 6] =
        [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];
    let n = _mm512_roundscale_ps::<0>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(1.535_336_2e-4);
    for i in 0..6 {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(COEFFICIENTS[i]));
    }
    _mm512_scalef_ps(p, n)
}

/// [`exp2`] for what is rounded to bf16 then: within 7.5e-5 of the value, where rounding changes up to 2e-3.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2_of_eight_bits(x: __m512) -> __m512 {
    const COEFFICIENTS: [f32; 3] = [0.242_610_6, 0.693_261, 0.999_928_1];
    let n = _mm512_roundscale_ps::<0>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(0.055_171_45);
    for i in 0..3 {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(COEFFICIENTS[i]));
    }
    _mm512_scalef_ps(p, n)
}
