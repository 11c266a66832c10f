//! Steps of a block in one launch each: every value is read once and written once, so memory decides.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{element, elementwise, empty, vector_size};

/// Exponents beyond this give sigmoids that are 0 in f32; larger ones would overflow.
const STEEP: f32 = 80.0;

/// `1 / (1 + exp(-x))`.
#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0f32);
    let exponent = min(Vector::<f32, N>::new(0.0f32) - x, Vector::<f32, N>::new(STEEP));
    one / (one + exponent.exp())
}

/// `gate · σ(gate) · up`; the product with `up` follows a rounding, as in HF.
#[cube]
pub(super) fn gated_silu<F: Float, N: Size>(gate: Vector<F, N>, up: Vector<F, N>) -> Vector<F, N> {
    let x = Vector::<f32, N>::cast_from(gate);
    let share = Vector::<F, N>::cast_from(x * sigmoid::<N>(x));
    Vector::cast_from(Vector::<f32, N>::cast_from(share) * Vector::<f32, N>::cast_from(up))
}

#[cube(launch_unchecked)]
fn gated_silu_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    count: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        out[at] = gated_silu::<F, N>(gate[at], up[at]);
    }
}

/// `x/2 · (1 + tanh(u))` is `x · σ(2u)`.
#[cube(launch_unchecked)]
fn gelu_tanh_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    count: usize,
    slope: f32,
    bend: f32,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let x = Vector::<f32, N>::cast_from(x[at]);
        let factor = Vector::<f32, N>::new(slope) + x * x * Vector::<f32, N>::new(bend);
        out[at] = Vector::cast_from(x * sigmoid::<N>(x * factor));
    }
}

#[derive(CubeType, CubeLaunch)]
struct Turn {
    count: usize,
    heads: usize,
    /// In vectors, as the strides.
    half: usize,
    row_stride: usize,
    head_stride: usize,
}

/// A unit turns one vector of the first half of a head with its partner in the second.
#[cube(launch_unchecked)]
fn rotate_kernel<F: Float, C: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<C, N>],
    sin: &[Vector<C, N>],
    out: &mut [Vector<F, N>],
    turn: Turn,
    #[define(F, C)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < turn.count {
        let pair = at % turn.half;
        let place = at / turn.half;
        let row = place / turn.heads;
        let from = row * turn.row_stride + (place % turn.heads) * turn.head_stride + pair;
        let to = place * 2 * turn.half + pair;
        let a = Vector::<f32, N>::cast_from(x[from]);
        let b = Vector::<f32, N>::cast_from(x[from + turn.half]);
        let cos = Vector::<f32, N>::cast_from(cos[row * turn.half + pair]);
        let sin = Vector::<f32, N>::cast_from(sin[row * turn.half + pair]);
        out[to] = Vector::cast_from(a * cos - b * sin);
        out[to + turn.half] = Vector::cast_from(b * cos + a * sin);
    }
}

/// [`crate::ops::swiglu`] of tensors of one dtype.
pub(super) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let count = gate.shape().num_elements();
    let vector = vector_size(&[&gate, &up], &[count]);
    let out = empty(&gate, gate.shape(), gate.dtype);
    let (cubes, dim) = elementwise(&out.client, count / vector);
    // SAFETY: units stop at the number of values, which all tensors have.
    unsafe {
        gated_silu_kernel::launch_unchecked(
            &out.client,
            cubes,
            dim,
            vector,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count / vector,
            element(out.dtype),
        );
    }
    out
}

/// [`crate::ops::gelu_tanh`], whose exponent is `x · (slope + bend · x²)`.
pub(super) fn gelu_tanh(x: CubeTensor, [slope, bend]: [f64; 2]) -> CubeTensor {
    let x = into_contiguous(x);
    let count = x.shape().num_elements();
    let vector = vector_size(&[&x], &[count]);
    let out = empty(&x, x.shape(), x.dtype);
    let (cubes, dim) = elementwise(&out.client, count / vector);
    // SAFETY: units stop at the number of values, which both tensors have.
    unsafe {
        gelu_tanh_kernel::launch_unchecked(
            &out.client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count / vector,
            slope as f32,
            bend as f32,
            element(out.dtype),
        );
    }
    out
}

/// [`crate::ops::rotate`].
pub(super) fn rotate(x: CubeTensor, angles: [CubeTensor; 2]) -> CubeTensor {
    let heads = x.shape()[1];
    rotate_first(x, heads, angles)
}

/// [`crate::ops::rotate`] of the first `heads` heads of `x`, which may lie apart.
pub(super) fn rotate_first(x: CubeTensor, heads: usize, angles: [CubeTensor; 2]) -> CubeTensor {
    let plain = x.meta.strides()[2] == 1 && !x.meta.is_tiled();
    let x = if plain { x } else { into_contiguous(x) };
    let [cos, sin] = angles.map(into_contiguous);
    let ([rows, _, d], half) = (x.shape().dims(), cos.shape()[2]);
    let (row_stride, head_stride) = (x.meta.strides()[0], x.meta.strides()[1]);
    let vector = vector_size(&[&x, &cos, &sin], &[half, row_stride, head_stride]);
    let out = empty(&x, Shape::new([rows, heads, d]), x.dtype);
    let count = rows * heads * half / vector;
    let (cubes, dim) = elementwise(&out.client, count);
    let dtypes = [element(x.dtype), element(cos.dtype)];
    let [half, row_stride, head_stride] = [half, row_stride, head_stride].map(|n| n / vector);
    let turn = TurnLaunch::new(count, heads, half, row_stride, head_stride);
    // SAFETY: units stop at the number of pairs; strides are those of `x`, and the caller compared the shapes.
    unsafe {
        rotate_kernel::launch_unchecked(
            &out.client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            turn,
            dtypes,
        );
    }
    out
}
