//! A draw from the largest logits of rows: a cube has a row, and a unit one of its candidates. Some hundred steps of a unit, over
//! memory that the cube shares.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{CUBES, cubes, empty};

/// Units of a cube, and most candidates.
const UNITS: usize = 64;

/// Above all ids, which are below 2²⁴.
const NO_ID: f32 = 1e9;

/// What the cube knows of its candidates, best first.
#[derive(CubeType)]
struct Candidates {
    scores: Shared<[f32]>,
    ids: Shared<[f32]>,
    /// `exp(score - largest score)`; 0 where a candidate is ruled out.
    weights: Shared<[f32]>,
}

/// A candidate, or one more of the last.
#[derive(CubeType)]
struct Candidate {
    score: f32,
    id: f32,
}

/// The sum of all weights, and of those for which the unit has none.
#[derive(CubeType)]
struct Sums {
    all: f32,
    some: f32,
}

/// Gives the weights of all units to all.
#[cube]
fn share(weights: &mut Shared<[f32]>, weight: f32) {
    // Others may still read the weights before these.
    sync_cube();
    weights[UNIT_POS as usize] = weight;
    sync_cube();
}

/// The weights of all candidates, and of those that are better, of equal ones those with larger ids.
#[cube]
fn better(of: &Candidates, than: &Candidate, #[comptime] k: usize) -> Sums {
    let mut all = 0.0f32;
    let mut some = 0.0f32;
    for j in 0..k {
        let weight = of.weights[j];
        let score = of.scores[j];
        let equal = score == than.score && of.ids[j] > than.id;
        all += weight;
        some += select(score > than.score || equal, weight, 0.0f32);
    }
    Sums { all, some }
}

/// The weights of all candidates, and of those whose ids are not larger.
#[cube]
fn up_to(of: &Candidates, than: &Candidate, #[comptime] k: usize) -> Sums {
    let mut all = 0.0f32;
    let mut some = 0.0f32;
    for j in 0..k {
        let weight = of.weights[j];
        all += weight;
        some += select(of.ids[j] <= than.id, weight, 0.0f32);
    }
    Sums { all, some }
}

/// See [`crate::ops::fixed::draw_of_rows`].
#[cube(launch_unchecked)]
fn draw_kernel(
    found: &[f32],
    terms: &[f32],
    chances: &[f32],
    out: &mut [f32],
    #[comptime] k: usize,
) {
    let mut all = Candidates {
        scores: Shared::<[f32]>::new_slice(UNITS),
        ids: Shared::<[f32]>::new_slice(UNITS),
        weights: Shared::<[f32]>::new_slice(UNITS),
    };
    let mut open = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    let unit = UNIT_POS as usize;
    let first = row * comptime!(2 * k);
    let at = first + min(unit, comptime!(k - 1));
    let heat = terms[row * 4];
    let drawn = heat > 0.0f32;
    let mine = Candidate { score: found[at] / select(drawn, heat, 1.0f32), id: found[at + k] };
    all.scores[unit] = mine.score;
    all.ids[unit] = mine.id;
    sync_cube();
    // The largest scores, and all that equal the last of them.
    let count = max(usize::cast_from(terms[row * 4 + 1]), 1usize);
    let least = all.scores[min(count, k) - 1];
    let top = all.scores[0];
    let mut weight = select(mine.score >= least, (mine.score - top).exp(), 0.0f32);
    share(&mut all.weights, weight);
    // Those who together are not more probable than what may be left out.
    let sums = better(&all, &mine, k);
    let rest = (sums.all - sums.some) / sums.all;
    weight = select(sums.some > 0.0f32 && rest <= terms[row * 4 + 2], 0.0f32, weight);
    share(&mut all.weights, weight);
    let sums = up_to(&all, &mine, k);
    let likely = weight / sums.all >= terms[row * 4 + 3] * (1.0f32 / sums.all);
    weight = select(likely, weight, 0.0f32);
    share(&mut all.weights, weight);
    // The first id, in their order, up to which the weights are more than the share that was drawn.
    let sums = up_to(&all, &mine, k);
    let reached = weight > 0.0f32 && chances[row] * sums.all < sums.some;
    open[unit] = select(reached, mine.id, f32::new(NO_ID));
    sync_cube();
    if unit == 0 {
        let mut chosen = f32::new(NO_ID);
        let mut last = all.ids[0];
        for j in 0..k {
            chosen = min(chosen, open[j]);
            last = select(all.weights[j] > 0.0f32, max(last, all.ids[j]), last);
        }
        chosen = select(chosen < NO_ID, chosen, last);
        out[row] = select(drawn, chosen, all.ids[0]);
    }
}

/// [`crate::ops::fixed::draw_of_rows`] of contiguous tensors in f32; nothing where there are too many candidates or rows.
pub(super) fn of_rows(
    found: &CubeTensor,
    terms: &CubeTensor,
    chances: &CubeTensor,
) -> Option<CubeTensor> {
    let [rows, width] = found.shape().dims();
    let k = width / 2;
    if k > UNITS || rows > CUBES {
        return None;
    }
    let out = empty(found, Shape::new([rows]), DType::F32);
    // SAFETY: a cube reads `2 · k` words of what was found, four terms and one chance, each of its own row, and writes one.
    unsafe {
        draw_kernel::launch_unchecked(
            &out.client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            found.clone().into_buffer_arg(),
            terms.clone().into_buffer_arg(),
            chances.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            k,
        );
    }
    Some(out)
}
