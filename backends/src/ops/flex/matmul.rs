//! A safe door to f32 GEMM.

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

    /// Index behind the last value that the strides reach.
    fn end(&self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (m, n) => (m - 1) * self.row_stride + (n - 1) * self.column_stride + 1,
        }
    }
}

/// `out[i · out_stride + j] = scale · Σ a[i, l] · b[l, j]`, on all cores or on the calling thread alone.
///
/// # Panics
/// When the shapes do not belong together or reach past a slice.
pub fn multiply(
    out: &mut [f32],
    out_stride: usize,
    scale: f32,
    (a, b): (Matrix<'_>, Matrix<'_>),
    parallel: bool,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes of a product");
    assert!(
        a.end() <= a.values.len() && b.end() <= b.values.len(),
        "operands reach past their data"
    );
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= out_stride.max(n) && (m - 1) * out_stride + n <= out.len(), "result too small");
    let parallelism = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the assertions above keep every address inside its slice: the strides of `a` and `b` reach at most
    // `end()` values, and row `m - 1` of the result ends at `(m - 1) * out_stride + n`. `out` is exclusively
    // borrowed, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
