//! What the kernels of products of many rows share.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::super::product::{
    ALIGNMENT, EDGE, Layout, PARTS, QUAD, SCRATCH, STRIP, Sums, add, half, plane, put, row, taken,
};
use super::{COLUMNS, Form, OUTPUTS, PLANES, UNITS, WORDS};

/// What a cube multiplies: rows of activations from `row` to `end`, or as many of them as it takes, and outputs of the matrix
/// that begins at row `matrix` of all.
#[derive(CubeType)]
pub(super) struct Task {
    pub row: usize,
    pub end: usize,
    pub matrix: usize,
}

/// What `shares` say of matrices of `outputs` rows, the first of which begins at row `matrix`; or all `rows` with that one.
#[cube]
pub(super) fn task_of(
    shares: &[u32],
    matrix: usize,
    outputs: usize,
    rows: usize,
    #[comptime] form: Form,
) -> Task {
    if comptime!(form.shares) {
        let at = CUBE_POS_X as usize * WORDS;
        Task {
            row: shares[at] as usize,
            end: shares[at + 1] as usize,
            matrix: matrix + shares[at + 2] as usize * outputs,
        }
    } else {
        let row = CUBE_POS_X as usize * comptime!(form.rows());
        Task { row, end: rows, matrix }
    }
}

/// The input that a cube begins with: where it has no rows, there is none.
#[cube]
pub(super) fn first_input(task: &Task, inputs: usize) -> usize {
    select(task.row < task.end, 0usize, inputs)
}

/// The first output of a cube.
#[cube]
pub(super) fn first_output() -> usize {
    CUBE_POS_Y as usize * OUTPUTS
}

#[cube]
pub(super) fn scratch_of() -> Shared<[Vector<f32, Const<4>>]> {
    Shared::<[Vector<f32, Const<4>>]>::new_aligned_slice(comptime!(PLANES * SCRATCH), ALIGNMENT)
}

/// Puts `form.depth` inputs from `first` on of `rows` rows into shared memory; what lies behind row `end` or the last input
/// becomes 0.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn load<F: Float, N: Size>(
    from: &[Vector<F, N>],
    to: &mut Shared<[Vector<F, N>]>,
    row: usize,
    end: usize,
    first: usize,
    inputs: usize,
    #[comptime] rows: usize,
    #[comptime] form: Form,
) {
    let size = N::value().comptime();
    let width = comptime!(form.depth / size);
    for turn in 0..comptime!(rows * width / UNITS) {
        let i = UNIT_POS as usize + turn * UNITS;
        let row = row + i / width;
        let input = first + i % width * size;
        let mut value = Vector::<F, N>::new(F::new(0.0));
        if row < end && input < inputs {
            value = from[(row * inputs + input) / size];
        }
        to[i / width * comptime!(form.pitch() / size) + i % width] = value;
    }
}

/// Adds the products of a plane's rows with all weights in shared memory.
#[cube]
pub(super) fn multiply<F: Float, A: Size, B: Size>(
    sums: &mut Sums,
    left: &Shared<[Vector<F, A>]>,
    right: &Shared<[Vector<F, B>]>,
    #[comptime] form: Form,
) {
    let pitch = comptime!(form.pitch());
    let layout = comptime!(Layout {
        rows: form.tiles,
        columns: COLUMNS,
        left: pitch,
        right: pitch,
        turned: true,
    });
    for step in 0..comptime!(form.depth / EDGE) {
        let at = plane() * comptime!(form.tiles * EDGE * pitch) + step * EDGE;
        add::<F, A, B>(sums, left, at, right, step * EDGE, layout);
    }
}

/// Writes the sums of rows and outputs that exist.
#[cube]
pub(super) fn write<F: Float, M: Size>(
    sums: &Sums,
    scratch: &mut Shared<[Vector<f32, Const<4>>]>,
    out: &mut [Vector<F, M>],
    task: &Task,
    outputs: usize,
    #[comptime] form: Form,
) {
    #[unroll]
    for strip in 0..comptime!(form.tiles * COLUMNS / STRIP) {
        let tile = comptime!(strip * STRIP);
        put(sums, scratch, tile, STRIP);
        let own = comptime!(tile / COLUMNS * EDGE) + row();
        let row = task.row + plane() * comptime!(form.tiles * EDGE) + own;
        if row < task.end {
            #[unroll]
            for i in 0..comptime!(STRIP * PARTS) {
                let quad = taken(&*scratch, comptime!(i / PARTS), comptime!(i % PARTS));
                let place = comptime!((tile % COLUMNS + i / PARTS) * EDGE + i % PARTS * 2 * QUAD);
                let output = first_output() + place + half() * QUAD;
                write_quad::<F, M>(out, quad, row, output, outputs);
            }
        }
    }
}

/// Four neighbouring sums of a row.
#[cube]
fn write_quad<F: Float, M: Size>(
    out: &mut [Vector<F, M>],
    quad: Vector<f32, Const<4>>,
    row: usize,
    output: usize,
    outputs: usize,
) {
    let size = M::value().comptime();
    #[unroll]
    for piece in 0..comptime!(QUAD / size) {
        let at = output + comptime!(piece * size);
        if at < outputs {
            let mut value = Vector::<F, M>::new(F::new(0.0));
            #[unroll]
            for j in 0..size {
                value.insert(j, F::cast_from(quad.extract(comptime!(piece * size + j))));
            }
            out[(row * outputs + at) / size] = value;
        }
    }
}
