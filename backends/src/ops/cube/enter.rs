//! What lies between projections and attention, in one launch: norms of heads, rotary positions, and rows written into the
//! keys and values that are held.
//!
//! Memory decides: a value is read twice (the second reading comes from a cache) and written once, for some ten operations.
//! In a step of one row all of it takes less time than a launch; this spares five of six.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::heads::Heads;
use super::launch::{cubes, element, empty, vector_size};
use super::norms::{UNITS, normed, row_sum};
use crate::ops::fixed::Entering;
use crate::ops::reference;

/// Most units of a head.
const LANES: usize = 32;

/// Tensors of the launch that writes, beside the numbers, which may take one more.
const BINDINGS: u32 = 11;

/// Heads of rows; `half` and the strides are in vectors.
#[derive(CubeType, CubeLaunch)]
struct Heading {
    rows: usize,
    heads: usize,
    half: usize,
    row_stride: usize,
    head_stride: usize,
    /// Values of a head.
    length: f32,
    epsilon: f32,
}

/// Where keys and values are written, in vectors.
#[derive(CubeType, CubeLaunch)]
struct Held {
    /// Heads of either.
    heads: usize,
    /// Rows of a head.
    slots: usize,
    batch: usize,
    head: usize,
    row: usize,
}

/// The sum of the squares of a unit's share of the head from `from` on.
#[cube]
fn squares<F: Float, N: Size>(
    x: &[Vector<F, N>],
    from: usize,
    half: usize,
    lane: usize,
    #[comptime] lanes: usize,
) -> Vector<f32, N> {
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut i = lane;
    while i < half {
        let a = Vector::<f32, N>::cast_from(x[from + i]);
        let b = Vector::<f32, N>::cast_from(x[from + half + i]);
        sum += a * a + b * b;
        i += lanes;
    }
    sum
}

/// Norms and rotates a unit's share of the head from `from` on, and writes it from `to` on.
#[cube]
fn turn<F: Float, C: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    cos: &[Vector<C, N>],
    sin: &[Vector<C, N>],
    out: &mut [Vector<F, N>],
    from: usize,
    angle: usize,
    to: usize,
    half: usize,
    lane: usize,
    root: Vector<f32, N>,
    #[comptime] lanes: usize,
) {
    let mut i = lane;
    while i < half {
        let a = Vector::<f32, N>::cast_from(normed::<F, N>(x[from + i], root, weight[i]));
        let b = normed::<F, N>(x[from + half + i], root, weight[half + i]);
        let b = Vector::<f32, N>::cast_from(b);
        let cos = Vector::<f32, N>::cast_from(cos[angle + i]);
        let sin = Vector::<f32, N>::cast_from(sin[angle + i]);
        out[to + i] = Vector::cast_from(a * cos - b * sin);
        out[to + half + i] = Vector::cast_from(b * cos + a * sin);
        i += lanes;
    }
}

/// Some units norm and rotate a head.
#[cube(launch_unchecked)]
fn norm_rotate_kernel<F: Float, C: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    cos: &[Vector<C, N>],
    sin: &[Vector<C, N>],
    out: &mut [Vector<F, N>],
    heading: Heading,
    #[comptime] lanes: usize,
    #[define(F, C)] _dtypes: [ElemType; 2],
) {
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let place = CUBE_POS * (UNITS / lanes) + UNIT_POS as usize / lanes;
    let row = place / heading.heads;
    // Places behind the last have no values, but take part in sums.
    let half = select(row < heading.rows, heading.half, 0usize);
    let from = row * heading.row_stride + place % heading.heads * heading.head_stride;
    let all = squares::<F, N>(x, from, half, lane, lanes);
    let mean = row_sum::<N>(all, &mut sums, lanes) / heading.length;
    let root = Vector::<f32, N>::new((mean + heading.epsilon).sqrt());
    let (angle, to) = (row * heading.half, place * 2 * heading.half);
    turn::<F, C, N>(x, weight, cos, sin, out, from, angle, to, half, lane, root, lanes);
}

/// Some units norm and rotate a head of the queries or the keys, or copy one of the values. Heads of a row follow one another:
/// those of queries, of keys, of values; each tensor has its own side by side.
#[cube(launch_unchecked)]
fn enter_kernel<F: Float, C: Float, N: Size>(
    queries: &[Vector<F, N>],
    keys: &[Vector<F, N>],
    values: &[Vector<F, N>],
    query_weight: &[Vector<F, N>],
    key_weight: &[Vector<F, N>],
    cos: &[Vector<C, N>],
    sin: &[Vector<C, N>],
    at: &[f32],
    turned: &mut [Vector<F, N>],
    held_keys: &mut [Vector<F, N>],
    held_values: &mut [Vector<F, N>],
    heading: Heading,
    held: Held,
    #[comptime] lanes: usize,
    #[define(F, C)] _dtypes: [ElemType; 2],
) {
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let place = CUBE_POS * (UNITS / lanes) + UNIT_POS as usize / lanes;
    let each = heading.heads + 2 * held.heads;
    let (row, head) = (place / each, place % each);
    let there = row < heading.rows;
    let width = 2 * heading.half;
    let is_query = there && head < heading.heads;
    let is_key = there && head >= heading.heads && head < heading.heads + held.heads;
    let is_value = there && head >= heading.heads + held.heads;
    let mut all = Vector::<f32, N>::new(0.0f32);
    if is_query {
        let from = (row * heading.heads + head) * width;
        all = squares::<F, N>(queries, from, heading.half, lane, lanes);
    }
    if is_key {
        let from = (row * held.heads + (head - heading.heads)) * width;
        all = squares::<F, N>(keys, from, heading.half, lane, lanes);
    }
    let mean = row_sum::<N>(all, &mut sums, lanes) / heading.length;
    let root = Vector::<f32, N>::new((mean + heading.epsilon).sqrt());
    let angle = row * heading.half;
    let half = heading.half;
    if is_query {
        let from = (row * heading.heads + head) * width;
        turn::<F, C, N>(
            queries,
            query_weight,
            cos,
            sin,
            turned,
            from,
            angle,
            from,
            half,
            lane,
            root,
            lanes,
        );
    }
    if is_key {
        let head = head - heading.heads;
        let slot = usize::cast_from(at[row]);
        if slot < held.slots {
            let from = (row * held.heads + head) * width;
            let to = row * held.batch + head * held.head + slot * held.row;
            turn::<F, C, N>(
                keys, key_weight, cos, sin, held_keys, from, angle, to, half, lane, root, lanes,
            );
        }
    }
    if is_value {
        let head = head - heading.heads - held.heads;
        let slot = usize::cast_from(at[row]);
        if slot < held.slots {
            let from = (row * held.heads + head) * width;
            let to = row * held.batch + head * held.head + slot * held.row;
            let mut i = lane;
            while i < width {
                held_values[to + i] = values[from + i];
                i += lanes;
            }
        }
    }
}

/// Units of a head of `half` vectors twice.
fn lanes(half: usize) -> usize {
    half.next_power_of_two().min(LANES)
}

/// [`crate::ops::rms_norm_rotated`] of tensors whose shapes the caller compared; `weight` has the dtype of `x`, `cos` that of
/// `sin`.
pub(super) fn norm_rotate(
    x: CubeTensor,
    weight: CubeTensor,
    angles: [CubeTensor; 2],
    epsilon: f64,
) -> CubeTensor {
    let plain = x.meta.strides()[2] == 1 && !x.meta.is_tiled();
    let x = if plain { x } else { into_contiguous(x) };
    let (weight, [cos, sin]) = (into_contiguous(weight), angles.map(into_contiguous));
    let ([rows, heads, d], half) = (x.shape().dims(), cos.shape()[2]);
    let (row_stride, head_stride) = (x.meta.strides()[0], x.meta.strides()[1]);
    let vector = vector_size(&[&x, &weight, &cos, &sin], &[half, row_stride, head_stride]);
    let out = empty(&x, Shape::new([rows, heads, d]), x.dtype);
    let dtypes = [element(x.dtype), element(cos.dtype)];
    let [half, row_stride, head_stride] = [half, row_stride, head_stride].map(|n| n / vector);
    let lanes = lanes(half);
    let heading =
        HeadingLaunch::new(rows, heads, half, row_stride, head_stride, d as f32, epsilon as f32);
    // SAFETY: units read and write below the width of heads of rows that exist; strides are those of `x`, and the caller
    // compared the shapes.
    unsafe {
        norm_rotate_kernel::launch_unchecked(
            &out.client,
            cubes((rows * heads).div_ceil(UNITS / lanes)),
            CubeDim::new_1d(UNITS as u32),
            vector,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            heading,
            lanes,
            dtypes,
        );
    }
    out
}

/// [`crate::ops::fixed::enter`], whose keys and values are written in place; the queries, or nothing where no kernel fits.
pub(super) fn enter(
    [keys, values]: [&CubeTensor; 2],
    at: &CubeTensor,
    new: &Entering<CubeBackend>,
    epsilon: f64,
) -> Option<CubeTensor> {
    let ([b, h, d], [_, g, t, _]) = (new.queries.shape().dims(), keys.shape().dims());
    let dtype = keys.dtype;
    let alike = [values, &new.queries, &new.keys, &new.values].iter().all(|x| x.dtype == dtype)
        && values.shape() == keys.shape()
        && keys.shape().dims() == [b, g, t, d]
        && [&new.keys, &new.values].iter().all(|x| x.shape().dims() == [b, g, d])
        && [&new.cos, &new.sin].iter().all(|x| x.shape().dims() == [b, 1, d / 2])
        && [&new.query_weight, &new.key_weight].iter().all(|x| x.shape().dims() == [d])
        && new.cos.dtype == new.sin.dtype
        && at.shape().dims() == [b]
        && at.dtype == DType::F32;
    let plain = [keys, values].iter().all(|x| x.meta.strides()[3] == 1 && !x.meta.is_tiled());
    let client = &keys.client;
    if !alike || !plain || d % 2 > 0 || client.properties().hardware.max_bindings <= BINDINGS {
        return None;
    }
    let weight = |x: &CubeTensor| into_contiguous(reference::cast::<CubeBackend>(x.clone(), dtype));
    let contiguous = |x: &CubeTensor| into_contiguous(x.clone());
    let to = [keys, values].map(|x| Heads::of_batches(x.clone()));
    let strides = |x: &Heads| [x.batch, x.head, x.row];
    if strides(&to[0]) != strides(&to[1]) {
        return None;
    }
    let [q, k, v] = [&new.queries, &new.keys, &new.values].map(contiguous);
    let [q_weight, k_weight] = [&new.query_weight, &new.key_weight].map(weight);
    let [cos, sin] = [&new.cos, &new.sin].map(contiguous);
    let all = [&q, &k, &v, &q_weight, &k_weight, &cos, &sin, keys, values];
    let [batch, head, row] = strides(&to[0]);
    let vector = vector_size(&all, &[d / 2, batch, head, row]);
    let turned = empty(&q, Shape::new([b, h, d]), dtype);
    let half = d / 2 / vector;
    let lanes = lanes(half);
    let dtypes = [element(dtype), element(cos.dtype)];
    let [batch, head, row] = [batch, head, row].map(|n| n / vector);
    let [keys, values] = to.map(|x| x.tensor);
    // SAFETY: units read and write below the width of heads of rows that exist, whose shapes were compared above, and write into
    // rows of `keys` and `values` that exist.
    unsafe {
        enter_kernel::launch_unchecked(
            client,
            cubes((b * (h + 2 * g)).div_ceil(UNITS / lanes)),
            CubeDim::new_1d(UNITS as u32),
            vector,
            q.into_buffer_arg(),
            k.into_buffer_arg(),
            v.into_buffer_arg(),
            q_weight.into_buffer_arg(),
            k_weight.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            at.clone().into_buffer_arg(),
            turned.clone().into_buffer_arg(),
            keys.into_buffer_arg(),
            values.into_buffer_arg(),
            HeadingLaunch::new(b, h, half, 0, 0, d as f32, epsilon as f32),
            HeldLaunch::new(g, t, batch, head, row),
            lanes,
            dtypes,
        );
    }
    Some(turned)
}
