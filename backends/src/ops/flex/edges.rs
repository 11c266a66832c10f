//! Kernels at the edges of memory: allocations that end with the last row, and slices that begin between the places to which
//! vectors are aligned. `scripts/test-asan` runs them where each read past an allocation ends the program.

use super::matmul::{Into, Matrix};
use super::quantised::{Scales, Weights, many_rows, rows as rows_of_codes};
use super::*;
use crate::cpu::Level;
use crate::quant::Codes;

/// Sizes of rows.
const SIZES: [usize; 5] = [1, 15, 17, 31, 4304];
/// Values before a slice.
const SHIFTS: [usize; 3] = [0, 1, 3];

/// Values behind `shift` others, in an allocation that ends with them.
struct Edge<T> {
    all: Box<[T]>,
    shift: usize,
}

impl<T: Copy + Default> Edge<T> {
    fn new(values: &[T], shift: usize) -> Self {
        let mut all = Vec::with_capacity(shift + values.len());
        all.resize(shift, T::default());
        all.extend_from_slice(values);
        Self { all: all.into_boxed_slice(), shift }
    }

    fn get(&self) -> &[T] {
        &self.all[self.shift..]
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.all[self.shift..]
    }
}

/// Runs `kernel` on `x` and `w` at every place of memory; what it gives is the same everywhere.
fn alike<T: Copy + Default>(
    name: &str,
    x: &[f32],
    w: &[T],
    kernel: impl Fn(&[f32], &[T]) -> Vec<f32>,
) {
    let expected = kernel(Edge::new(x, 0).get(), Edge::new(w, 0).get());
    for shift in SHIFTS {
        for (left, right) in [(shift, 0), (0, shift), (shift, shift)] {
            let found = kernel(Edge::new(x, left).get(), Edge::new(w, right).get());
            let pairs = found.iter().zip(&expected);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            assert!(found.len() == expected.len() && pairs.into_iter().all(near), "{name}");
        }
    }
}

/// As many rows of activations as few, some more and many.
const ROWS: [usize; 4] = [1, 3, 5, 17];

#[test]
fn products_read_their_rows_alone() {
    products_of(bf16::from_f32);
    products_of(f16::from_f32);
    products_of(|value| value);
}

fn products_of<W: Widen + Default>(narrow: fn(f32) -> W) {
    for k in SIZES {
        for n in [1, 5, 17] {
            let w: Vec<W> = values(n * k, 2).into_iter().map(narrow).collect();
            for m in ROWS {
                let x = values(m * k, 1);
                let name = format!("{m}x{n}x{k}");
                alike(&name, &x, &w, |x, w| dot::rows(x, w, m, n, k));
                alike(&name, &x, &w, |x, w| matrix_product(x, w, [n, k]));
                alike(&name, &x, &w, |x, w| panel::gemm(x, w, None, [n, k]));
                // The other way round, with as many inputs as there were rows.
                alike(&name, &values(m * n, 1), &w, |x, w| turned::product(x, w, [k, n]));
            }
        }
    }
}

#[test]
fn products_of_codes_read_their_rows_alone() {
    for level in Level::present() {
        for bits in [4, 8] {
            for scheme in [
                QuantScheme::new(bits, 32).unwrap(),
                QuantScheme::new(bits, 128).unwrap(),
                QuantScheme::with_minimums(bits, 32).unwrap(),
                QuantScheme::INT8_G16,
                QuantScheme::FLOAT8,
            ] {
                for k in SIZES {
                    // Where software does what a tile does, a tenth of the tiles has to do.
                    let shorter = level == Level::Amx && Level::is_emulated();
                    codes_of(scheme, if shorter && k > 1000 { k / 10 } else { k }, level);
                }
            }
        }
    }
}

fn codes_of(scheme: QuantScheme, k: usize, level: Level) {
    for n in [1, 5, 17] {
        let codes = values(n * scheme.row_bytes(k), 3).into_iter();
        let code = |v: f32| {
            (v * 100.0) as i8 as u8 & if scheme.codes() == Codes::Float8 { 0xfe } else { 0xff }
        };
        let codes: Vec<u8> = codes.map(code).collect();
        let scales: Vec<bf16> =
            values(n * scheme.scale_columns(k), 4).into_iter().map(bf16::from_f32).collect();
        for m in ROWS {
            let (x, name) = (values(m * k, 5), format!("{level:?} {scheme} {m}x{n}x{k}"));
            for shift in SHIFTS {
                let scales = Edge::new(&scales, shift);
                alike(&name, &x, &codes, |x, codes| {
                    let weights = Weights { codes, scales: Scales::Bf16(scales.get()), k, scheme };
                    let mut out = vec![0.0; n * k];
                    weights.expand(0, &mut out);
                    let many = |coarse| many_rows(x, weights, level, coarse).unwrap_or_default();
                    [out, rows_of_codes(x, weights, level), many(false), many(true)].concat()
                });
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_are_packed_from_their_rows_alone() {
    use super::panel::Tiling;
    use crate::cpu::Tiles;
    for with in Tiles::present() {
        for k in SIZES {
            for (m, n) in [(1, 17), (17, 1), (33, 31)] {
                let half: Vec<bf16> = values(n * k, 6).into_iter().map(bf16::from_f32).collect();
                for terms in [1, 2] {
                    let (x, tiling) = (values(m * k, 7), Tiling { with, terms });
                    alike(&format!("{with:?} {m}x{n}x{k}"), &x, &half, |x, values| {
                        let weights = tiles::HalfRows { values, columns: k };
                        panel::by_tiles(x, &weights, None, k, (1, tiling))
                    });
                }
            }
        }
        for d in [1, 15, 17, 31, 72] {
            for (count, rows) in [(1, 1), (17, 15), (31, 33)] {
                let (keys, q) = (values(count * d, 8), values(rows * d, 9));
                alike(&format!("{with:?} attention {rows}x{count}x{d}"), &q, &keys, |q, keys| {
                    let tiling = Tiling { with, terms: 2 };
                    let (keys, mut out) = (Matrix::rows(keys, d), vec![0.0; rows * d]);
                    let packed = tiles::attention::Packed::new(keys, keys, tiling);
                    tiles::attention::attend(&mut out, d, Matrix::rows(q, d), &packed, None);
                    out
                });
            }
        }
    }
}

#[test]
fn matrices_of_any_strides_are_read_within_their_slices() {
    for k in SIZES {
        for (m, n) in [(1, 17), (17, 1), (5, 15)] {
            let (a, b) = (values(m * k, 10), values(n * k, 11));
            alike(&format!("{m}x{n}x{k}"), &a, &b, |a, b| {
                matmul::product(Matrix::rows(a, k), Matrix::rows(b, k).transposed())
            });
            alike(&format!("{m}x{n}x{k} turned"), &a, &b, |a, b| {
                let mut out = vec![0.0; m * n];
                let operands = (Matrix::rows(a, m).transposed(), Matrix::rows(b, n));
                matmul::multiply(&mut out, n, 1.0, operands, Into::Replace);
                out
            });
            alike(&format!("{m}x{n}x{k} rounded"), &a, &b, |a, b| {
                let operands = (Matrix::rows(a, k), Matrix::rows(b, k).transposed());
                let (scale, into, parallel) = (1.0, Into::Replace, false);
                half::Product { operands, scale, into, parallel }.values()
            });
        }
    }
}

#[test]
fn rows_of_any_length_are_changed_within_their_slices() {
    for k in SIZES {
        let (x, w) = (values(3 * k, 12), values(k, 13));
        let thrice = [&w[..], &w, &w].concat();
        alike("norms", &x, &w, |x, w| {
            [norms::rms(x, w, 1e-6), norms::layer(x, w, w, 1e-6)].concat()
        });
        alike("activations", &x, &thrice, |x, w| {
            [elementwise::gelu(x), elementwise::gelu_tanh(x), elementwise::swiglu(x, w)].concat()
        });
        alike("gradients", &x, &thrice, |x, w| {
            let [gate, up] = elementwise::swiglu_grads(x, w, w);
            [gate, up, elementwise::gelu_grad(x, w), elementwise::gelu_tanh_grad(x, w)].concat()
        });
        let exponentials = |shift| {
            let mut row = Edge::new(&x, shift);
            let sums = softmax::exponentials(row.get_mut(), -1.0);
            (row.get().to_vec(), sums)
        };
        for shift in SHIFTS {
            assert_eq!(exponentials(shift), exponentials(0), "{k}");
        }
    }
}
