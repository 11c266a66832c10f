//! Attention of many query rows: tiles of 64 rows by 32 keys with a running softmax, so that no score reaches memory.
//!
//! `4·s·t·d` operations a head (half of that with a mask). Values in f16 and bf16 go to tensor cores where the device has
//! them, see [`super::cores::attention`]. Else they run in f32 on the ordinary arithmetic units, which bounds this. Queries,
//! keys and values are then read `t/32`, `s/64` and `s/64` times, from caches but for the first time. A cube needs 15.5 KiB
//! of shared memory whatever `d` is, a multiple of 4 up to 256.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{CubeCount, CubeDim};

use super::cores::attention::{Plan, cores_kernel};
use super::heads::{Heads, Sums};
use super::launch::{element, empty, table};
use super::tile_kernel::{ROWS, StepsLaunch, UNITS, VECTOR, WORDS, tiles_kernel};

/// Rows of one sequence against its keys.
pub(super) struct Sequence {
    /// Where the first row, key and value and the first row of the output lie, in values.
    pub starts: [usize; 4],
    pub rows: usize,
    pub keys: usize,
    /// Row `i` sees keys below `seen + i`, where there is a mask.
    pub seen: Option<i32>,
}

/// Everything that a launch needs.
pub(super) struct Tiles<'a> {
    pub q: &'a Heads,
    pub k: &'a Heads,
    pub v: &'a Heads,
    /// Query heads, and how many of them share a key head.
    pub heads: usize,
    pub repeats: usize,
    pub d: usize,
    pub sequences: &'a [Sequence],
}

/// Where a launch writes.
pub(super) enum Target<'a> {
    /// Rows `[.., h · d]`, or with other strides between rows and heads.
    Rows { out: &'a CubeTensor, row: usize, head: usize },
    /// Sums of a part of the keys, for query rows in the order batch, head, row.
    Part { sums: &'a Sums, queries: usize },
}

impl Tiles<'_> {
    /// Whether the kernel takes these tensors.
    pub fn fit(&self) -> bool {
        let all = [self.q, self.k, self.v];
        let hardware = &self.q.tensor.client.properties().hardware;
        self.d.is_multiple_of(VECTOR)
            && self.d <= 256
            && all.iter().all(|heads| heads.splits_into(VECTOR))
            && hardware.max_units_per_cube >= UNITS as u32
    }

    /// Words that describe all tiles of all sequences, of at most `rows` rows; places of queries, keys and values are in
    /// vectors of `vector` values.
    fn table(&self, rows: usize, vector: usize, out_row: usize) -> Vec<u32> {
        let mut words = Vec::new();
        let steps = [self.q.row, 0, 0, out_row];
        let vectors = [vector, vector, vector, VECTOR];
        for sequence in self.sequences {
            for first in (0..sequence.rows).step_by(rows) {
                for i in 0..steps.len() {
                    let start = sequence.starts[i] + first * steps[i];
                    words.push((start / vectors[i]) as u32);
                }
                let seen = sequence.seen.map_or(i32::MAX / 2, |seen| seen + first as i32);
                let rows = (sequence.rows - first).min(rows);
                words.extend([rows as u32, sequence.keys as u32, seen as u32]);
            }
        }
        words
    }

    fn steps(&self, vector: usize, out: [usize; 2]) -> StepsLaunch {
        let [q, k, v] = [self.q, self.k, self.v];
        let strides = [q.row, q.head, k.row, k.head, v.row, v.head].map(|step| step / vector);
        let [q_row, q_head, k_row, k_head, v_row, v_head] = strides;
        let [row, head] = out.map(|step| step / VECTOR);
        StepsLaunch::new(q_row, q_head, k_row, k_head, v_row, v_head, row, head)
    }

    pub fn launch(&self, target: Target<'_>) {
        let (out, stats, [row, head], partial) = match &target {
            Target::Rows { out, row, head } => (*out, None, [*row, *head], false),
            Target::Part { sums, queries } => {
                let row = sums.splits * self.d;
                (&sums.values, Some(&sums.stats), [row, row * queries], true)
            }
        };
        let plan = Plan::of(self);
        let sizes = plan.as_ref().map(|plan| (plan.form.rows(), plan.vector));
        let (rows, vector) = sizes.unwrap_or((ROWS, VECTOR));
        let words = self.table(rows, vector, row);
        let client = &self.q.tensor.client;
        let count = words.len() / WORDS;
        let tiles = table(out, &words);
        let [q, k, v] = [self.q, self.k, self.v].map(|heads| heads.tensor.clone());
        let dtypes = [element(q.dtype), element(out.dtype)];
        // Without sums of parts, the kernels have no numbers to write here.
        let unused = empty(out, Shape::new([2]), DType::F32);
        let stats = stats.unwrap_or(&unused).clone();
        let cubes = CubeCount::Static(count as u32, self.heads as u32, 1);
        let scale = (self.d as f32).powf(-0.5);
        match plan {
            // SAFETY: rows and keys stop at the numbers in the table, which are those of the tensors, as their strides
            // are; the plan's vectors divide them all, and its shared memory is what the device has.
            Some(Plan { form, vector }) => unsafe {
                cores_kernel::launch_unchecked(
                    client,
                    cubes,
                    CubeDim::new_1d(form.units() as u32),
                    vector,
                    q.into_buffer_arg(),
                    k.into_buffer_arg(),
                    v.into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    stats.into_buffer_arg(),
                    tiles.into_buffer_arg(),
                    self.steps(vector, [row, head]),
                    self.repeats,
                    scale,
                    form,
                    partial,
                    dtypes,
                );
            },
            // SAFETY: as above, with vectors of four, which `fit` asks for.
            None => unsafe {
                tiles_kernel::launch_unchecked(
                    client,
                    cubes,
                    CubeDim::new_1d(UNITS as u32),
                    q.into_buffer_arg(),
                    k.into_buffer_arg(),
                    v.into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    stats.into_buffer_arg(),
                    tiles.into_buffer_arg(),
                    self.steps(VECTOR, [row, head]),
                    self.repeats,
                    scale,
                    self.d / VECTOR,
                    partial,
                    dtypes,
                );
            },
        }
    }
}
