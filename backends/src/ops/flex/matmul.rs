//! A safe door to GEMM: in f32, or where [`products`] says so on rounded operands.

use super::half::Product;
use crate::ops::{Products, products};

/// A matrix inside a slice, with any strides.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values, one after the other.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Whether rows or columns lie one value after the other.
    #[cfg(target_arch = "x86_64")]
    pub fn is_dense(&self) -> bool {
        self.row_stride == 1 || self.column_stride == 1
    }

    /// Index behind the last value that the strides reach.
    fn end(&self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (m, n) => (m - 1) * self.row_stride + (n - 1) * self.column_stride + 1,
        }
    }
}

/// Fewest rows of which a product with so many columns is summed as those of more rows are: `gemm` has other kernels for single
/// rows, and for results of up to 256 values.
pub const fn least_rows(columns: usize) -> usize {
    match 256 / columns + 1 {
        1 => 2,
        rows => rows,
    }
}

/// What becomes of the values that the result has before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Replace,
    Add,
}

/// `out[i · out_stride + j] = scale · Σ a[i, l] · b[l, j]`, or added to it, on the calling thread alone.
///
/// # Panics
/// When the shapes do not belong together or reach past a slice.
pub fn multiply(
    out: &mut [f32],
    out_stride: usize,
    scale: f32,
    operands: (Matrix<'_>, Matrix<'_>),
    into: Into,
) {
    write(out, out_stride, Product { operands, scale, into, parallel: false });
}

/// As [`multiply`], on all cores.
///
/// # Panics
/// When the shapes do not belong together or reach past a slice.
pub fn multiply_parallel(
    out: &mut [f32],
    out_stride: usize,
    operands: (Matrix<'_>, Matrix<'_>),
    into: Into,
) {
    write(out, out_stride, Product { operands, scale: 1.0, into, parallel: true });
}

fn write(out: &mut [f32], out_stride: usize, product: Product<'_>) {
    let (m, n) = (product.operands.0.rows, product.operands.1.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len(), "result too small");
    match products() {
        Products::Rounded => product.write(out, out_stride),
        Products::Exact | Products::Split => exact(out, out_stride, &product),
    }
}

/// The product in f32, whatever the switch says.
///
/// # Panics
/// When the shapes do not belong together or reach past a slice.
pub(super) fn exact(out: &mut [f32], out_stride: usize, product: &Product<'_>) {
    let Product { operands, scale, into, parallel } = *product;
    let (m, n) = (operands.0.rows, operands.1.columns);
    assert!(m > 0 && (m - 1) * out_stride + n <= out.len(), "result too small");
    let cores = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: row `m - 1` of the result ends at `(m - 1) * out_stride + n`, which is inside `out`; `out` is
    // exclusively borrowed, so it overlaps neither operand.
    unsafe { run(out.as_mut_ptr(), out_stride, scale, operands, into, cores) }
}

/// `Σ a[i, l] · b[l, j]` as rows, on all cores.
///
/// # Panics
/// When the shapes do not belong together or reach past a slice.
pub fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let (m, n) = (a.rows, b.columns);
    if products() == Products::Rounded {
        let (operands, into) = ((a, b), Into::Replace);
        return Product { operands, scale: 1.0, into, parallel: true }.values();
    }
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    if m == 0 || n == 0 {
        return out;
    }
    // SAFETY: the vector has room for `m` rows of `n` values, and nobody else has a pointer to it. The product
    // writes every one of them without reading it, so that the length may be set.
    unsafe {
        run(out.as_mut_ptr(), n, 1.0, (a, b), Into::Replace, gemm::Parallelism::Rayon(0));
        out.set_len(m * n);
    }
    out
}

/// # Safety
/// `out` must be valid for writes of `m` rows of `n` values that begin `out_stride` values apart, and overlap no
/// operand; with [`Into::Add`], its values must be initialised.
unsafe fn run(
    out: *mut f32,
    out_stride: usize,
    scale: f32,
    (a, b): (Matrix<'_>, Matrix<'_>),
    into: Into,
    parallelism: gemm::Parallelism,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes of a product");
    assert!(
        a.end() <= a.values.len() && b.end() <= b.values.len(),
        "operands reach past their data"
    );
    let add = into == Into::Add;
    // SAFETY: the strides of `a` and `b` reach at most `end()` values, which are inside their slices by the
    // assertion above; the caller vouches for `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
