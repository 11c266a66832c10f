//! Attention of few query rows: the keys are spread over cubes, whose sums a second kernel combines.
//!
//! Every key and value is read once for up to four query rows that share it: `2·d` values of memory for `4·d` operations
//! and row, so memory decides. Sums lie in memory in f32, at most one row of them for 32 keys.

mod kernels;

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::heads::{Heads, Sums, vector_size};
use super::launch::element;
pub(super) use kernels::horizontal;
use kernels::{PartLaunch, PlacesLaunch, UNITS, bounded_kernel, split_kernel};

/// Fewest keys of a cube.
const FEWEST: usize = 32;

/// As many cubes keep a large device busy.
const BUSY: usize = 512;

/// Most query rows that share a key head.
pub(super) const MOST_ROWS: usize = 16;

/// Keys and values of some positions.
pub(super) type KeysAndValues = (CubeTensor, CubeTensor);

/// What all launches over the parts of the keys have in common.
struct Plan {
    q: Heads,
    vector: usize,
    chunk: usize,
    /// Query rows of a cube, and of a key head.
    block: usize,
    rows: usize,
    /// Key heads, and those of all batches.
    groups: usize,
    all_groups: usize,
    queries: usize,
    d: usize,
}

impl Plan {
    fn new(q: &CubeTensor, parts: &[(Heads, Heads)], keys: usize, groups: usize) -> Option<Self> {
        let [b, h, queries, d] = q.shape().dims();
        let q = Heads::of_batches(into_contiguous(q.clone()));
        let vector = vector_size(d, parts.iter().flat_map(|(k, v)| [k, v]).chain([&q]))?;
        (d / vector <= UNITS).then_some(())?;
        let (rows, all_groups) = (h / groups * queries, b * groups);
        let block = rows.next_power_of_two().min(4);
        let cubes = rows.div_ceil(block) * all_groups;
        let chunk = (keys * cubes / BUSY).clamp(FEWEST, UNITS).next_multiple_of(FEWEST);
        Some(Self { q, vector, chunk, block, rows, groups, all_groups, queries, d })
    }

    /// Sums over the keys of a part into its splits, which begin at `split`.
    fn launch(&self, (k, v): (Heads, Heads), [keys, split]: [usize; 2], seen: i32, sums: &Sums) {
        let [keys_at, values_at] = [&k, &v].map(|x| self.places(x));
        // SAFETY: keys and rows stop at the numbers that the tensors have, and strides are theirs.
        unsafe {
            split_kernel::launch_unchecked(
                &sums.values.client,
                self.cubes(keys),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                self.q.tensor.clone().into_buffer_arg(),
                k.tensor.into_buffer_arg(),
                v.tensor.into_buffer_arg(),
                sums.values.clone().into_buffer_arg(),
                sums.stats.clone().into_buffer_arg(),
                self.part([keys, split], seen, sums),
                keys_at,
                values_at,
                self.block,
                self.d / self.vector,
                element(self.q.tensor.dtype),
            );
        }
    }

    /// Sums over the keys up to the places `at`.
    fn launch_up_to(&self, (k, v): (Heads, Heads), keys: usize, at: &CubeTensor, sums: &Sums) {
        let [keys_at, values_at] = [&k, &v].map(|x| self.places(x));
        // SAFETY: as above; the kernel takes no more keys than there are, whatever the places say.
        unsafe {
            bounded_kernel::launch_unchecked(
                &sums.values.client,
                self.cubes(keys),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                self.q.tensor.clone().into_buffer_arg(),
                k.tensor.into_buffer_arg(),
                v.tensor.into_buffer_arg(),
                at.clone().into_buffer_arg(),
                sums.values.clone().into_buffer_arg(),
                sums.stats.clone().into_buffer_arg(),
                self.part([keys, 0], i32::MAX, sums),
                keys_at,
                values_at,
                self.block,
                self.d / self.vector,
                element(self.q.tensor.dtype),
            );
        }
    }

    fn cubes(&self, keys: usize) -> CubeCount {
        let (x, y) = (keys.div_ceil(self.chunk), self.rows.div_ceil(self.block));
        CubeCount::Static(x as u32, y as u32, self.all_groups as u32)
    }

    fn part(&self, [keys, split]: [usize; 2], seen: i32, sums: &Sums) -> PartLaunch {
        PartLaunch::new(
            keys,
            self.chunk,
            self.groups,
            self.rows,
            self.queries,
            seen,
            split,
            sums.splits,
            (self.d as f32).powf(-0.5),
        )
    }

    fn places(&self, x: &Heads) -> PlacesLaunch {
        let [batch, head, row] = [x.batch, x.head, x.row].map(|step| step / self.vector);
        PlacesLaunch::new(batch, head, row)
    }
}

/// [`crate::ops::attention_over_parts`] of tensors of one dtype; nothing where no kernel fits.
pub(super) fn attention(
    q: &CubeTensor,
    parts: &[KeysAndValues],
    causal: bool,
) -> Option<CubeTensor> {
    let [b, h, s, d] = q.shape().dims();
    let lengths: Vec<usize> = parts.iter().map(|(k, _)| k.shape()[2]).collect();
    let (g, t) = (parts[0].0.shape()[1], lengths.iter().sum::<usize>());
    let heads = |x: &CubeTensor| Heads::of_batches(x.clone());
    let parts: Vec<_> = parts.iter().map(|(k, v)| (heads(k), heads(v))).collect();
    let plan = Plan::new(q, &parts, t, g)?;
    let splits = lengths.iter().map(|length| length.div_ceil(plan.chunk)).sum();
    let sums = Sums::new(q, [b * h * s, splits, d]);
    let (mut first, mut split) = (0, 0);
    for (part, keys) in parts.into_iter().zip(lengths) {
        let seen = if causal { (t + 1) as i32 - (s + first) as i32 } else { i32::MAX };
        plan.launch(part, [keys, split], seen, &sums);
        first += keys;
        split += keys.div_ceil(plan.chunk);
    }
    Some(sums.combined(q.shape(), q.dtype))
}

/// [`crate::ops::fixed::attention_up_to`] of tensors of one dtype; nothing where no kernel fits.
pub(super) fn attention_up_to(
    q: &CubeTensor,
    (k, v): &KeysAndValues,
    at: &CubeTensor,
) -> Option<CubeTensor> {
    let ([b, h, s, d], [_, g, t, _]) = (q.shape().dims(), k.shape().dims());
    let parts = [(Heads::of_batches(k.clone()), Heads::of_batches(v.clone()))];
    let plan = Plan::new(q, &parts, t, g)?;
    let sums = Sums::new(q, [b * h * s, t.div_ceil(plan.chunk), d]);
    let [part] = parts;
    plan.launch_up_to(part, t, at, &sums);
    Some(sums.combined(q.shape(), q.dtype))
}
