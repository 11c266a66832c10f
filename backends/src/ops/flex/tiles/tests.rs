//! Products of tiles against sums in f64 over the same terms, with each set of instructions that the processor has. Where it
//! has none, or lacks one, they say so.

use burn::tensor::bf16;

use super::super::matmul::Matrix;
use super::super::panel::Tiling;
use super::super::values;
use super::*;
use crate::cpu::Tiles;

/// A left operand that is bf16, or rounded to it, and a right one in f32.
const LEFT_ROUNDED: Terms = Terms { left: 1, right: 2 };
/// Both operands in f32.
const FULL: Terms = Terms { left: 2, right: 2 };

/// The instructions that the processor has.
fn present() -> Vec<Tiles> {
    for with in Tiles::ALL.into_iter().filter(|with| !with.is_present()) {
        eprintln!("{with:?} is skipped: the processor lacks it, or the system does not permit it");
    }
    Tiles::present().collect()
}

/// The terms of a value.
fn terms_of(value: f32, terms: usize) -> [f64; 2] {
    let first = bf16::from_f32(value).to_f32();
    let second = bf16::from_f32(value - first).to_f32();
    [f64::from(first), if terms == 2 { f64::from(second) } else { 0.0 }]
}

/// The sum that the tiles compute, and that of the magnitudes.
fn expected(a: &[f32], b: &[f32], terms: Terms) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| {
        let ([a, a_rest], [b, b_rest]) = (terms_of(*a, terms.left), terms_of(*b, terms.right));
        (sum + a * b + a * b_rest + a_rest * b, size + (a * b).abs())
    })
}

/// The same numbers column by column.
fn by_columns(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

const SIZES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [5, 3, 7],
    [16, 16, 32],
    [15, 17, 31],
    [17, 33, 65],
    [33, 15, 600],
    [100, 40, 300],
    [600, 31, 70],
    [34, 1100, 40],
];

#[test]
fn every_size_layout_and_number_of_terms_gives_the_sums() {
    present().into_iter().for_each(sums_are_those_of_every_size);
}

fn sums_are_those_of_every_size(with: Tiles) {
    for [m, n, k] in SIZES {
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let (a_columns, b_columns) = (by_columns(&a, k), by_columns(&b, k));
        for terms in [Terms::ROUNDED, LEFT_ROUNDED, FULL] {
            for case in 0..8 {
                let [turned, left_dense, parallel] = [0, 1, 2].map(|bit| case >> bit & 1 == 0);
                let left = match left_dense {
                    true => Matrix::rows(&a, k),
                    false => Matrix::rows(&a_columns, m).transposed(),
                };
                let right = match left_dense == parallel {
                    true => Matrix::rows(&b, k),
                    false => Matrix::rows(&b_columns, n).transposed(),
                };
                let (rows, columns) = if turned { (n, m) } else { (m, n) };
                let stride = columns + 3;
                let mut out = vec![f32::NAN; rows * stride - 3];
                for (into, scale) in [(Into::Replace, 0.5), (Into::Add, 1.5)] {
                    let (left, right) = (&left, &right);
                    Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
                        .write(&mut out, stride);
                }
                for (i, a) in a.chunks(k).enumerate() {
                    for (j, b) in b.chunks(k).enumerate() {
                        let place = if turned { j * stride + i } else { i * stride + j };
                        let (found, (sum, size)) = (out[place] / 2.0, expected(a, b, terms));
                        let near = (f64::from(found) - sum).abs() <= 2e-6 * size + 1e-30;
                        assert!(near, "{m}x{n}x{k} {terms:?} {case} at {i}, {j}: {found}, {sum}");
                    }
                }
                let gaps = out.chunks(stride).flat_map(|row| &row[columns.min(row.len())..]);
                assert!(gaps.into_iter().all(|gap| gap.is_nan()), "written past a row");
            }
        }
    }
}

#[test]
fn a_bias_is_added_to_the_values_of_its_line() {
    for with in present() {
        for [m, n, k] in [[1, 1, 1], [17, 33, 65], [300, 20, 70]] {
            let (w, x, bias) = (values(m * k, 1), values(n * k, 2), values(m, 3));
            let product = |bias| {
                let (left, right) = (&Matrix::rows(&w, k), &Matrix::rows(&x, k));
                let (terms, turned, scale, into) = (Terms::ROUNDED, true, 1.0, Into::Replace);
                let parallel = true;
                Product { left, right, with, terms, turned, scale, into, bias, parallel }.values()
            };
            let mut expected = product(None);
            for row in expected.chunks_mut(m) {
                row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
            }
            assert_eq!(product(Some(&bias)), expected, "{m}x{n}x{k}");
        }
    }
}

#[test]
fn two_terms_are_nearly_f32() {
    present().into_iter().for_each(sums_of_two_terms_are_near);
}

fn sums_of_two_terms_are_near(with: Tiles) {
    let (m, n, k) = (40, 50, 1000);
    let (a, b) = (values(m * k, 3), values(n * k, 4));
    let mut out = vec![0.0; m * n];
    let (left, right) = (&Matrix::rows(&a, k), &Matrix::rows(&b, k));
    let (turned, scale, into, parallel) = (false, 1.0, Into::Replace, false);
    Product { left, right, with, terms: FULL, turned, scale, into, bias: None, parallel }
        .write(&mut out, n);
    for (i, a) in a.chunks(k).enumerate() {
        for (j, b) in b.chunks(k).enumerate() {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
            let far = (f64::from(out[i * n + j]) - sum).abs() / size;
            assert!(far < 1e-6, "{i}, {j}: {far}");
        }
    }
}

#[test]
fn rows_of_bf16_and_expanded_rows_are_packed_as_their_values() {
    present().into_iter().for_each(sources_agree);
}

fn sources_agree(with: Tiles) {
    for (lines, columns) in [(1, 1), (20, 33), (70, 600)] {
        let halves: Vec<bf16> =
            values(lines * columns, 5).into_iter().map(bf16::from_f32).collect();
        let wide: Vec<f32> = halves.iter().map(|half| half.to_f32()).collect();
        let x = values(7 * columns, 6);
        let product = |write: &dyn Fn(&mut [f32])| {
            let mut out = vec![f32::NAN; 7 * lines];
            write(&mut out);
            out
        };
        let right = &Matrix::rows(&x, columns);
        let (terms, turned, scale, into) = (LEFT_ROUNDED, true, 1.0, Into::Replace);
        let parallel = true;
        let plain = product(&|out| {
            let left = &Matrix::rows(&wide, columns);
            Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
                .write(out, lines);
        });
        let half = product(&|out| {
            let left = &HalfRows { values: &halves, columns };
            Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
                .write(out, lines);
        });
        let expanded = product(&|out| {
            let fill = |line: usize, from: usize, values: &mut [f32]| {
                values.copy_from_slice(&wide[line * columns + from..][..values.len()]);
            };
            let left = &Expanded { lines, depth: columns, fill };
            Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
                .write(out, lines);
        });
        assert_eq!(half, plain);
        assert_eq!(expanded, plain);
    }
}

#[test]
fn a_line_has_the_same_bits_among_others_as_alone() {
    present().into_iter().for_each(lines_are_alike);
}

fn lines_are_alike(with: Tiles) {
    let (n, k) = (70, 700);
    let (x, w) = (values(40 * k, 7), values(n * k, 8));
    let product = |x: &[f32]| {
        let mut out = vec![0.0; x.len() / k * n];
        let (left, right) = (&Matrix::rows(&w, k), &Matrix::rows(x, k));
        let (turned, scale, into, parallel) = (true, 1.0, Into::Replace, true);
        Product { left, right, with, terms: FULL, turned, scale, into, bias: None, parallel }
            .write(&mut out, n);
        out
    };
    let alone: Vec<f32> = x.chunks(k).flat_map(product).collect();
    assert_eq!(product(&x), alone);
}

#[test]
fn products_without_depth_or_lines_are_zeros_or_nothing() {
    present().into_iter().for_each(nothing_gives_zeros);
}

fn nothing_gives_zeros(with: Tiles) {
    let empty = Matrix { values: &[], rows: 3, columns: 0, row_stride: 0, column_stride: 1 };
    let none = Matrix { rows: 0, ..empty };
    let mut out = [1.0; 9];
    let (terms, turned, scale, into) = (Terms::ROUNDED, false, 1.0, Into::Replace);
    let parallel = false;
    let (left, right) = (&none, &empty);
    Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
        .write(&mut out, 3);
    assert_eq!(out, [1.0; 9]);
    let left = &empty;
    Product { left, right, with, terms, turned, scale, into, bias: None, parallel }
        .write(&mut out, 3);
    assert_eq!(out, [0.0; 9]);
}

/// `softmax(q·kᵀ / sqrt(d)) · v` of one row over the first keys, in f64.
fn attended(q: &[f32], keys: &[f32], values: &[f32], seen: usize) -> Vec<f64> {
    let d = q.len();
    let dot = |key: &[f32]| q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let scores = keys.chunks(d).take(seen).map(|key| -> f64 { dot(key) });
    let scores: Vec<f64> = scores.map(|score| score / (d as f64).sqrt()).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let of = |i: usize| -> f64 {
        weights.iter().zip(values.chunks(d)).map(|(w, v)| w * f64::from(v[i])).sum()
    };
    (0..d).map(|i| of(i) / sum).collect()
}

#[test]
fn attention_in_tiles_is_softmax() {
    present().into_iter().for_each(attention_is_softmax);
}

fn attention_is_softmax(with: Tiles) {
    for (rows, count, d, causal) in [
        (1, 1, 1, false),
        (20, 31, 5, false),
        (33, 300, 72, false),
        (40, 40, 64, true),
        (70, 600, 128, true),
        (300, 900, 16, true),
    ] {
        let scaled = |count, seed| values(count, seed).into_iter().map(|v| 3.0 * v);
        let (q, keys): (Vec<f32>, Vec<f32>) =
            (scaled(rows * d, 1).collect(), scaled(count * d, 2).collect());
        let held = values(count * d, 3);
        let past = causal.then(|| count - rows);
        for (terms, bound) in [(2, 3e-5), (1, 2e-2)] {
            let tiling = Tiling { with, terms };
            let packed =
                attention::Packed::new(Matrix::rows(&keys, d), Matrix::rows(&held, d), tiling);
            let mut out = vec![f32::NAN; rows * (d + 2) - 2];
            attention::attend(&mut out, d + 2, Matrix::rows(&q, d), &packed, past);
            for (i, q) in q.chunks(d).enumerate() {
                let seen = past.map_or(count, |past| past + i + 1);
                let exact = attended(q, &keys, &held, seen);
                for (j, (found, exact)) in out[i * (d + 2)..].iter().zip(exact).enumerate() {
                    let far = (f64::from(*found) - exact).abs();
                    assert!(
                        far < bound,
                        "{rows}x{count}x{d} {terms} at {i}, {j}: {found}, {exact}"
                    );
                }
            }
            let gaps = out.chunks(d + 2).flat_map(|row| &row[d..]);
            assert!(gaps.into_iter().all(|gap| gap.is_nan()), "written past a row");
        }
    }
}

#[test]
fn what_is_not_finite_shows() {
    present().into_iter().for_each(bad_values_show);
}

fn bad_values_show(with: Tiles) {
    let d = 16;
    for bad in [f32::NAN, f32::INFINITY] {
        let (q, mut keys) = (values(20 * d, 1), values(50 * d, 2));
        keys[30 * d] = bad;
        let rows = Matrix::rows(&keys, d);
        let packed = attention::Packed::new(rows, rows, Tiling { with, terms: 2 });
        let mut out = vec![0.0; q.len()];
        attention::attend(&mut out, d, Matrix::rows(&q, d), &packed, None);
        assert!(out.chunks(d).all(|row| row.iter().any(|value| !value.is_finite())));
        let mut out = vec![0.0; 20 * 50];
        let (left, right) = (&rows, &Matrix::rows(&q, d));
        let (turned, scale, into, parallel) = (true, 1.0, Into::Replace, false);
        Product { left, right, with, terms: FULL, turned, scale, into, bias: None, parallel }
            .write(&mut out, 50);
        assert!(out.chunks(50).all(|row| !row[30].is_finite()));
    }
}
