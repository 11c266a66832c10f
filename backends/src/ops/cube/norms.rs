//! Norms of rows: a group of units reads a row twice and writes it once.
//!
//! Memory decides: 2 bytes are read and 2 written for each 16-bit value (the second reading comes from a cache), for 4 or 8
//! operations.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{cubes, element, empty, vector_size};

/// Units of a cube.
pub(super) const UNITS: usize = 256;

/// Rows of at most this many values get 32 units each, and share a cube.
const NARROW: usize = 1024;

#[derive(CubeType, CubeLaunch)]
struct Rows {
    count: usize,
    /// In vectors.
    width: usize,
    /// In values.
    length: f32,
    epsilon: f32,
}

/// The sum over the `lanes` units of a row, which all get it. `sums` has a place for each unit of the cube.
#[cube]
pub(super) fn row_sum<N: Size>(
    values: Vector<f32, N>,
    sums: &mut Shared<[f32]>,
    #[comptime] lanes: usize,
) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += values.extract(i);
    }
    // Others may still read the sums before these.
    sync_cube();
    sums[unit] = sum;
    sync_cube();
    let mut step = comptime!(lanes / 2).runtime();
    while step > 0 {
        if lane < step {
            sums[unit] += sums[unit + step];
        }
        sync_cube();
        step /= 2;
    }
    sums[unit - lane]
}

/// `x / root`, rounded, times `weight`, rounded.
#[cube]
pub(super) fn normed<F: Float, N: Size>(
    x: Vector<F, N>,
    root: Vector<f32, N>,
    weight: Vector<F, N>,
) -> Vector<F, N> {
    let normed = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(x) / root);
    Vector::cast_from(Vector::<f32, N>::cast_from(normed) * Vector::<f32, N>::cast_from(weight))
}

/// The mean square in f32; the quotient is rounded to the dtype of `x` before the weight multiplies it.
#[cube(launch_unchecked)]
fn rms_norm_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    rows: Rows,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * (UNITS / lanes) + UNIT_POS as usize / lanes;
    let start = row * rows.width;
    // Rows behind the last have no values, but take part in sums.
    let width = select(row < rows.count, rows.width, 0usize);
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut i = lane;
    while i < width {
        let value = Vector::<f32, N>::cast_from(x[start + i]);
        squares += value * value;
        i += lanes;
    }
    let mean = row_sum::<N>(squares, &mut sums, lanes) / rows.length;
    let root = Vector::<f32, N>::new((mean + rows.epsilon).sqrt());
    let mut i = lane;
    while i < width {
        out[start + i] = normed::<F, N>(x[start + i], root, weight[i]);
        i += lanes;
    }
}

/// `x + y`, rounded, and the norm of that as above.
#[cube(launch_unchecked)]
fn add_rms_norm_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    y: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    sum: &mut [Vector<F, N>],
    out: &mut [Vector<F, N>],
    rows: Rows,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * (UNITS / lanes) + UNIT_POS as usize / lanes;
    let start = row * rows.width;
    let width = select(row < rows.count, rows.width, 0usize);
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut i = lane;
    while i < width {
        let x = Vector::<f32, N>::cast_from(x[start + i]);
        let both = Vector::<F, N>::cast_from(x + Vector::<f32, N>::cast_from(y[start + i]));
        sum[start + i] = both;
        let value = Vector::<f32, N>::cast_from(both);
        squares += value * value;
        i += lanes;
    }
    let mean = row_sum::<N>(squares, &mut sums, lanes) / rows.length;
    let root = Vector::<f32, N>::new((mean + rows.epsilon).sqrt());
    let mut i = lane;
    while i < width {
        out[start + i] = normed::<F, N>(sum[start + i], root, weight[i]);
        i += lanes;
    }
}

/// Mean and variance in f32, one rounding at the end.
#[cube(launch_unchecked)]
fn layer_norm_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    bias: &[Vector<W, N>],
    out: &mut [Vector<F, N>],
    rows: Rows,
    #[comptime] lanes: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * (UNITS / lanes) + UNIT_POS as usize / lanes;
    let start = row * rows.width;
    let width = select(row < rows.count, rows.width, 0usize);
    let mut all = Vector::<f32, N>::new(0.0f32);
    let mut i = lane;
    while i < width {
        all += Vector::<f32, N>::cast_from(x[start + i]);
        i += lanes;
    }
    let mean = Vector::<f32, N>::new(row_sum::<N>(all, &mut sums, lanes) / rows.length);
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut i = lane;
    while i < width {
        let centred = Vector::<f32, N>::cast_from(x[start + i]) - mean;
        squares += centred * centred;
        i += lanes;
    }
    let variance = row_sum::<N>(squares, &mut sums, lanes) / rows.length;
    let root = Vector::<f32, N>::new((variance + rows.epsilon).sqrt());
    let mut i = lane;
    while i < width {
        let normed = (Vector::<f32, N>::cast_from(x[start + i]) - mean) / root;
        let scaled = normed * Vector::<f32, N>::cast_from(weight[i]);
        out[start + i] = Vector::cast_from(scaled + Vector::<f32, N>::cast_from(bias[i]));
        i += lanes;
    }
}

/// How rows of `x` are spread over cubes.
struct Plan {
    width: usize,
    rows: usize,
    lanes: usize,
    vector: usize,
}

impl Plan {
    fn new(x: &CubeTensor, others: &[&CubeTensor]) -> Self {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let tensors: Vec<_> = [x].into_iter().chain(others.iter().copied()).collect();
        let lanes = if width <= NARROW { 32 } else { UNITS };
        let rows = shape.num_elements() / width;
        Self { width, rows, lanes, vector: vector_size(&tensors, &[width]) }
    }

    fn cubes(&self) -> CubeCount {
        cubes(self.rows.div_ceil(UNITS / self.lanes))
    }

    fn rows(&self, epsilon: f64) -> RowsLaunch {
        let (width, epsilon) = (self.width / self.vector, epsilon as f32);
        RowsLaunch::new(self.rows, width, self.width as f32, epsilon)
    }
}

/// [`crate::ops::rms_norm`] of tensors of one dtype.
pub(super) fn rms(x: CubeTensor, weight: CubeTensor, epsilon: f64) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let plan = Plan::new(&x, &[&weight]);
    let out = empty(&x, x.shape(), x.dtype);
    // SAFETY: units read and write only below the width of rows that exist; the caller compared the widths.
    unsafe {
        rms_norm_kernel::launch_unchecked(
            &out.client,
            plan.cubes(),
            CubeDim::new_1d(UNITS as u32),
            plan.vector,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            plan.rows(epsilon),
            plan.lanes,
            element(out.dtype),
        );
    }
    out
}

/// [`crate::ops::add_rms_norm`] of tensors of one dtype, `x` and `y` of one shape.
pub(super) fn add_rms(
    x: CubeTensor,
    y: CubeTensor,
    weight: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor) {
    let [x, y, weight] = [x, y, weight].map(into_contiguous);
    let plan = Plan::new(&x, &[&y, &weight]);
    let [sum, out] = [(); 2].map(|()| empty(&x, x.shape(), x.dtype));
    // SAFETY: as for the norm alone.
    unsafe {
        add_rms_norm_kernel::launch_unchecked(
            &out.client,
            plan.cubes(),
            CubeDim::new_1d(UNITS as u32),
            plan.vector,
            x.into_buffer_arg(),
            y.into_buffer_arg(),
            weight.into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            plan.rows(epsilon),
            plan.lanes,
            element(out.dtype),
        );
    }
    (sum, out)
}

/// [`crate::ops::layer_norm`]; weight and bias are of one dtype.
pub(super) fn layer(x: CubeTensor, affine: [CubeTensor; 2], epsilon: f64) -> CubeTensor {
    let (x, [weight, bias]) = (into_contiguous(x), affine.map(into_contiguous));
    let plan = Plan::new(&x, &[&weight, &bias]);
    let out = empty(&x, Shape::new([plan.rows, plan.width]), x.dtype);
    let dtypes = [element(x.dtype), element(weight.dtype)];
    // SAFETY: as for the other norm.
    unsafe {
        layer_norm_kernel::launch_unchecked(
            &out.client,
            plan.cubes(),
            CubeDim::new_1d(UNITS as u32),
            plan.vector,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            plan.rows(epsilon),
            plan.lanes,
            dtypes,
        );
    }
    out
}
