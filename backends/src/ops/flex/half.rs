//! Products of operands rounded to bf16 and summed in f32, as tensor cores and torch's autocast compute them.
//!
//! Processors that are fast at it (AMX, AVX-512 BF16 on AMD's) multiply tiles. The rest round the operands and use f32 GEMM; the
//! sums differ in their order alone.

use rayon::prelude::*;

use super::matmul::{Into, Matrix, exact};
#[cfg(target_arch = "x86_64")]
use super::tiles;
#[cfg(target_arch = "x86_64")]
use crate::cpu::Tiles;
use crate::simd::vectorised;

/// A product to be written.
pub struct Product<'a> {
    /// `a [m, k]` and `b [k, n]`.
    pub operands: (Matrix<'a>, Matrix<'a>),
    /// Multiplies every sum.
    pub scale: f32,
    pub into: Into,
    /// Whether all cores are used, or the calling thread alone.
    pub parallel: bool,
}

impl Product<'_> {
    /// `out[i · out_stride + j] = scale · Σ a[i, l] · b[l, j]` over rounded operands, or added to it.
    ///
    /// # Panics
    /// When the shapes do not belong together or reach past a slice.
    pub fn write(self, out: &mut [f32], out_stride: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(with) = self.tiles() {
            return self.in_tiles(with, |product| product.write(out, out_stride));
        }
        self.write_rounded(out, out_stride);
    }

    /// The product as rows behind one another.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn values(self) -> Vec<f32> {
        let (a, b) = self.operands;
        #[cfg(target_arch = "x86_64")]
        if let Some(with) = self.tiles() {
            return self.in_tiles(with, |product| product.values());
        }
        let mut out = vec![0.0; a.rows * b.columns];
        if !out.is_empty() {
            self.write(&mut out, b.columns);
        }
        out
    }

    /// What multiplies the operands in tiles, if they can be packed.
    #[cfg(target_arch = "x86_64")]
    fn tiles(&self) -> Option<Tiles> {
        let (a, b) = self.operands;
        Tiles::chosen().filter(|_| a.is_dense() && b.is_dense())
    }

    /// Calls `run` for the product in tiles. Tasks divide the operand with more lines.
    #[cfg(target_arch = "x86_64")]
    fn in_tiles<T>(
        self,
        with: Tiles,
        run: impl FnOnce(&tiles::Product<'_, Matrix<'_>, Matrix<'_>>) -> T,
    ) -> T {
        let (rows, columns) = (self.operands.0, self.operands.1.transposed());
        let turned = columns.rows > rows.rows;
        let (left, right) = if turned { (&columns, &rows) } else { (&rows, &columns) };
        let Self { scale, into, parallel, .. } = self;
        let terms = tiles::Terms::ROUNDED;
        let bias = None;
        run(&tiles::Product { left, right, with, terms, turned, scale, into, bias, parallel })
    }

    /// [`Self::write`] by f32 GEMM.
    fn write_rounded(self, out: &mut [f32], out_stride: usize) {
        let (a, b) = self.operands;
        let [a_values, b_values] = [a, b].map(|operand| rounded(operand, self.parallel));
        let operands = (packed(a, &a_values), packed(b, &b_values));
        exact(out, out_stride, &Product { operands, ..self });
    }
}

/// Every value of the matrix rounded to the nearest bf16, ties to even: line after line, rows or columns as they lie.
fn rounded(matrix: Matrix<'_>, parallel: bool) -> Vec<f32> {
    const LINES: usize = 1 << 14;
    let lines = if matrix.column_stride == 1 { matrix } else { matrix.transposed() };
    if lines.column_stride != 1 {
        let (rows, columns) = (0..lines.rows, 0..lines.columns);
        let at = |i, j| lines.values[i * lines.row_stride + j * lines.column_stride];
        let mut out: Vec<f32> = rows.flat_map(|i| columns.clone().map(move |j| at(i, j))).collect();
        round(&mut out);
        return out;
    }
    let width = lines.columns.max(1);
    let each = (LINES / width).max(1);
    let mut out = vec![0.0; lines.rows * lines.columns];
    let fill = |(part, out): (usize, &mut [f32])| {
        for (i, out) in out.chunks_mut(width).enumerate() {
            out.copy_from_slice(&lines.values[(part * each + i) * lines.row_stride..][..width]);
        }
        round(out);
    };
    match parallel {
        true => out.par_chunks_mut(each * width).enumerate().for_each(fill),
        false => out.chunks_mut(each * width).enumerate().for_each(fill),
    }
    out
}

/// The matrix whose values [`rounded`] has put line after line.
fn packed<'v>(matrix: Matrix<'_>, values: &'v [f32]) -> Matrix<'v> {
    match matrix.column_stride {
        1 => Matrix::rows(values, matrix.columns),
        _ => Matrix::rows(values, matrix.rows).transposed(),
    }
}

vectorised! { fn round(values: &mut [f32]) = round_body }

#[inline(always)]
fn round_body(values: &mut [f32], _: impl Fn(f32, f32, f32) -> f32) {
    for value in values {
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
        let kept = (bits | 0x0040_0000) & 0xffff_0000;
        *value = f32::from_bits(if value.is_nan() { kept } else { nearest });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::*;
    use crate::ops::flex::values;

    /// The same sums one by one, and the sums of the absolute products.
    fn expected(a: Matrix<'_>, b: Matrix<'_>) -> Vec<(f64, f64)> {
        let at = |m: Matrix<'_>, i: usize, j: usize| {
            f64::from(bf16::from_f32(m.values[i * m.row_stride + j * m.column_stride]).to_f32())
        };
        let mut out = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.columns {
                let products = (0..a.columns).map(|l| at(a, i, l) * at(b, l, j));
                out.push(products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs())));
            }
        }
        out
    }

    type Way = fn(Product<'_>, &mut [f32], usize);

    /// Every way to a product that this processor has, whichever is the fastest here.
    fn ways() -> Vec<Way> {
        let mut ways: Vec<Way> = vec![|product, out, stride| product.write_rounded(out, stride)];
        #[cfg(target_arch = "x86_64")]
        ways.extend(Tiles::present().map(|with| -> Way {
            match with {
                Tiles::Amx => |product, out, stride| {
                    product.in_tiles(Tiles::Amx, |tiles| tiles.write(out, stride));
                },
                Tiles::Pairs => |product, out, stride| {
                    product.in_tiles(Tiles::Pairs, |tiles| tiles.write(out, stride));
                },
            }
        }));
        ways
    }

    #[test]
    fn values_are_rounded_as_bf16_is() {
        let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE / 8.0, -0.0];
        let mut all = values(4099, 3);
        all.extend(odd);
        all.extend((0..4096).map(|i| f32::from_bits(0x3f80_0000 + 0x800 * i)));
        for parallel in [false, true] {
            for (found, x) in rounded(Matrix::rows(&all, 1), parallel).into_iter().zip(&all) {
                let expected = bf16::from_f32(*x).to_f32();
                assert_eq!(found.to_bits(), expected.to_bits(), "{x}");
            }
        }
    }

    #[test]
    fn products_are_those_of_rounded_operands() {
        let sizes = [1, 2, 7, 8, 15, 17, 31, 48, 49, 100];
        let depths = [1, 2, 31, 32, 33, 64, 1023, 1030];
        for (case, k) in depths.into_iter().enumerate() {
            for m in sizes {
                let n = sizes[(case + m) % sizes.len()];
                let (left, right) = (values(m * k, 1), values(k * n, 2));
                for turned in 0..4 {
                    let a = match turned & 1 {
                        0 => Matrix::rows(&left, k),
                        _ => Matrix::rows(&left, m).transposed(),
                    };
                    let b = match turned & 2 {
                        0 => Matrix::rows(&right, n),
                        _ => Matrix::rows(&right, k).transposed(),
                    };
                    let expected = expected(a, b);
                    for write in ways() {
                        let mut out = vec![f32::NAN; m * (n + 3)];
                        let parts = [(Into::Replace, 0.5, true), (Into::Add, 1.5, false)];
                        for (into, scale, parallel) in parts {
                            let product = Product { operands: (a, b), scale, into, parallel };
                            write(product, &mut out[..m * (n + 3) - 3], n + 3);
                        }
                        for (place, (sum, size)) in expected.iter().enumerate() {
                            let found = f64::from(out[place / n * (n + 3) + place % n]) / 2.0;
                            let near = (found - sum).abs() <= 1e-5 * size + 1e-30;
                            assert!(near, "{m} x {k} x {n}, {turned}: {found}, not {sum}");
                        }
                        let gaps = out.chunks(n + 3).flat_map(|row| &row[n..]);
                        assert!(gaps.into_iter().all(|gap| gap.is_nan()), "written past a row");
                    }
                }
            }
        }
    }
}
