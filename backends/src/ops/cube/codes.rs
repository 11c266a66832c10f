//! Rounded weights: products that read codes in place, and expansion.
//!
//! Codes are read as words of 32 bits, as WGSL has no smaller integers. So are scales in bf16, which WGSL has not either. For
//! the same reason no tensor of codes is ever sliced: kernels are told which rows of it they are to take.

mod kernels;

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::{CubeCount, CubeDim};

use super::launch::{element, elementwise, empty, starts_at};
use super::rows::{CUBE_OUTPUTS, RowsLaunch, UNITS, block};
use crate::ops::kernels_on;
use crate::quant::QuantScheme;
pub(super) use kernels::{Matrix, MatrixLaunch, WORD, add_pack, four_weights, scale_at, sums_of};
use kernels::{expand_kernel, expand_rows_kernel, few_rows_kernel};

/// Most values of an expanded weight that exist at one time; 128 MiB in f32, as WebGPU promises of a buffer.
pub(super) const EXPANDED: usize = 1 << 25;

/// Rows of codes `[n, ..]` and scales, contiguous.
#[derive(Clone)]
pub(super) struct Rounded {
    pub codes: CubeTensor,
    pub scales: CubeTensor,
    scheme: QuantScheme,
    pub inputs: usize,
    rows: Range<usize>,
}

impl Rounded {
    /// Nothing where kernels are off, the scales have a dtype that these do not know, or shapes do not belong together.
    pub fn new(
        codes: &CubeTensor,
        scales: &CubeTensor,
        scheme: QuantScheme,
        inputs: usize,
    ) -> Option<Self> {
        let [n, _] = codes.shape().dims();
        Self::of_rows([codes, scales], scheme, [n, inputs])
    }

    /// All matrices of a stack `[experts, n, ..]` as one.
    pub fn stack(
        codes: &CubeTensor,
        scales: &CubeTensor,
        scheme: QuantScheme,
        inputs: usize,
    ) -> Option<Self> {
        let [experts, n, _] = codes.shape().dims();
        Self::of_rows([codes, scales], scheme, [experts * n, inputs])
    }

    fn of_rows(
        [codes, scales]: [&CubeTensor; 2],
        scheme: QuantScheme,
        [n, inputs]: [usize; 2],
    ) -> Option<Self> {
        let known = matches!(scales.dtype, DType::F32 | DType::F16 | DType::BF16);
        let columns = [scheme.row_bytes(inputs), scheme.scale_columns(inputs)];
        let whole = [codes, scales].into_iter().zip(columns).all(|(tensor, columns)| {
            let shape = tensor.shape();
            shape[shape.num_dims() - 1] == columns && shape.num_elements() == n * columns
        });
        (kernels_on() && known && whole && n * inputs > 0).then(|| Self {
            codes: into_contiguous(codes.clone()),
            scales: into_contiguous(scales.clone()),
            scheme,
            inputs,
            rows: 0..n,
        })
    }

    /// Some of the rows.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let first = self.rows.start;
        Self { rows: first + rows.start..first + rows.end, ..self.clone() }
    }

    pub fn outputs(&self) -> usize {
        self.rows.len()
    }

    /// Whether scales are read as words.
    fn words(&self) -> bool {
        self.scales.dtype == DType::BF16
    }

    pub fn scale_element(&self) -> ElemType {
        element(if self.words() { DType::U32 } else { self.scales.dtype })
    }

    pub fn matrix(&self) -> MatrixLaunch {
        let (groups, columns) =
            (self.scheme.groups(self.inputs), self.scheme.scale_columns(self.inputs));
        let (first, rows, words) = (self.rows.start, self.outputs(), self.words());
        MatrixLaunch::new(first, rows, self.inputs, groups, columns, self.scheme, words)
    }

    /// The most words that a unit reads at a time: four, or fewer where rows do not have that many or begin between. Nothing
    /// where rows do not have whole words, or `x` does not begin where four values of it may.
    pub fn pack(&self, x: &CubeTensor) -> Option<usize> {
        let whole = |words: &usize| {
            self.inputs.is_multiple_of(words * 32 / self.scheme.bits())
                && starts_at(&self.codes, 4 * words)
        };
        [4, 2, 1].into_iter().find(whole).filter(|_| starts_at(x, 4))
    }

    /// The weights of some rows.
    pub fn expanded(&self, rows: Range<usize>, dtype: DType) -> CubeTensor {
        let count = rows.len() * self.inputs;
        let out = empty(&self.codes, Shape::new([rows.len(), self.inputs]), dtype);
        let (cubes, dim) = elementwise(&out.client, count);
        // SAFETY: units behind the last weight do nothing, and the others read codes and scales of rows that exist; the
        // last word may reach behind the codes, but not behind their buffer, whose size is a multiple of 4.
        unsafe {
            expand_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.part(rows).matrix(),
                count,
                [element(dtype), self.scale_element()],
            );
        }
        out
    }

    /// The weights of the rows `ids` in f32.
    pub fn rows(&self, ids: CubeTensor) -> CubeTensor {
        let ids = into_contiguous(ids);
        let rows = ids.shape().num_elements();
        let out = empty(&self.codes, Shape::new([rows, self.inputs]), DType::F32);
        let (cubes, dim) = elementwise(&out.client, rows * self.inputs);
        let dtypes = [element(ids.dtype), self.scale_element()];
        // SAFETY: as for `expanded`; ids behind the last row are read as it.
        unsafe {
            expand_rows_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                ids.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                rows * self.inputs,
                dtypes,
            );
        }
        out
    }

    /// The product with few rows of activations; nothing where rows of codes are no whole words.
    pub fn few_rows(&self, x: CubeTensor) -> Option<CubeTensor> {
        let x = into_contiguous(x);
        let size = self.pack(&x)?;
        let (count, n) = (x.shape()[0], self.outputs());
        let out = empty(&x, Shape::new([count, n]), x.dtype);
        let cubes = (n.div_ceil(CUBE_OUTPUTS) as u32, count.div_ceil(block(count)) as u32);
        // SAFETY: rows and outputs behind the last are read as the last and not written.
        unsafe {
            few_rows_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(cubes.0, cubes.1, 1),
                CubeDim::new_1d(UNITS as u32),
                size,
                x.into_buffer_arg(),
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                RowsLaunch::of(count),
                [element(out.dtype), self.scale_element()],
            );
        }
        Some(out)
    }
}
