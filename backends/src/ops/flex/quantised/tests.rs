//! Every kernel against sums in f64 over the same rounded numbers, and against the weights' own product.

use super::*;
use crate::ops::flex::values;

fn schemes() -> impl Iterator<Item = QuantScheme> {
    let all = [8, 4].map(|bits| QuantScheme::GROUPS.map(|g| QuantScheme::new(bits, g as u64)));
    all.into_iter().flatten().map(Result::unwrap)
}

/// Each value rounded to eight bits of its group, as the module says.
fn rounded(x: &[f32], group: usize) -> Vec<f64> {
    let of_group = |values: &[f32]| {
        let scale = values.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
        let value = move |v: &f32| f64::from(scale) * f64::from((v * inverse).round_ties_even());
        values.iter().map(value).collect::<Vec<_>>()
    };
    x.chunks(group).flat_map(of_group).collect()
}

fn expanded(weights: Weights<'_>) -> Vec<f32> {
    let mut out = vec![0.0; weights.rows() * weights.k];
    weights.expand(0, &mut out);
    out
}

#[test]
fn every_kernel_sums_the_rounded_numbers() {
    for level in Level::present() {
        for scheme in schemes() {
            for (m, n, k) in [
                (1, 1, 1),
                (1, 17, 15),
                (2, 3, 17),
                (3, 5, 31),
                (4, 16, 64),
                (5, 33, 65),
                (15, 7, 96),
                (6, 2, 97),
                (1, 40, 128),
                (7, 19, 300),
                (1, 2, 4304),
                (2, 3, 1023),
            ] {
                let (x, w) = (values(m * k, 1 + k as u32), values(n * k, 7 + n as u32));
                let packed = scheme.round(&w, k).unwrap();
                let weights = Weights { codes: &packed.codes, scales: &packed.scales, k, scheme };
                let (found, plain) = (rows(&x, weights, level), expanded(weights));
                assert_eq!(found.len(), m * n);
                for (i, x) in x.chunks(k).enumerate() {
                    let near = rounded(x, scheme.group());
                    for (j, w) in plain.chunks(k).enumerate() {
                        let sum = |x: &mut dyn Iterator<Item = f64>| {
                            let products = x.zip(w).map(|(x, w)| x * f64::from(*w));
                            products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()))
                        };
                        let found = f64::from(found[i * n + j]);
                        let (exact, size) = sum(&mut near.iter().copied());
                        let case = format!("{level:?} {scheme} {m}x{n}x{k} at {i}, {j}");
                        assert!((found - exact).abs() <= 1e-5 * size, "{case}: {found}, {exact}");
                        let (exact, size) = sum(&mut x.iter().map(|x| f64::from(*x)));
                        assert!((found - exact).abs() <= 0.01 * size, "{case}: {found}, {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    for level in Level::present() {
        for scheme in schemes() {
            let (n, k) = (19, 170);
            let (x, w) = (values(9 * k, 3), values(n * k, 4));
            let packed = scheme.round(&w, k).unwrap();
            let weights = Weights { codes: &packed.codes, scales: &packed.scales, k, scheme };
            let alone: Vec<f32> = x.chunks(k).flat_map(|x| rows(x, weights, level)).collect();
            for m in 1..=9 {
                let together = rows(&x[..m * k], weights, level);
                assert_eq!(together, alone[..m * n], "{level:?} {scheme} {m}");
            }
        }
    }
}

/// The largest codes at the same place, of both signs: no sum of sixteen bits may overflow.
#[test]
fn extreme_codes_do_not_overflow() {
    for level in Level::present() {
        for (bits, codes) in [(8, [127i8 as u8, -127i8 as u8, -128i8 as u8]), (4, [0xff, 0, 0xf0])]
        {
            for code in codes {
                for value in [1.0, -1.0] {
                    let (k, scheme) = (256, QuantScheme::new(bits, 128).unwrap());
                    let codes = vec![code; scheme.row_bytes(k)];
                    let scales = [bf16::ONE; 2];
                    let weights = Weights { codes: &codes, scales: &scales, k, scheme };
                    let found = rows(&vec![value; k], weights, level)[0];
                    let expected = expanded(weights).iter().map(|w| w * value).sum::<f32>();
                    let near = (found - expected).abs() <= 1e-4 * expected.abs();
                    assert!(near, "{level:?} {code:x} {value}: {found}, {expected}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows() {
    for level in Level::present() {
        for scheme in schemes() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut x, w) = (values(200, 5), values(400, 6));
                let packed = scheme.round(&w, 200).unwrap();
                let (codes, scales) = (&packed.codes[..], &packed.scales[..]);
                let weights = Weights { codes, scales, k: 200, scheme };
                x[150] = bad;
                assert!(rows(&x, weights, level).iter().all(|y| y.is_nan()), "{level:?} {scheme}");
            }
        }
    }
}

#[test]
fn expansion_is_parallel_and_starts_anywhere() {
    let scheme: QuantScheme = "int4-g32".parse().unwrap();
    let packed = scheme.round(&values(5 * 33, 8), 33).unwrap();
    let weights = Weights { codes: &packed.codes, scales: &packed.scales, k: 33, scheme };
    let mut part = vec![0.0; 2 * 33];
    weights.expand(3, &mut part);
    assert_eq!(part, expanded(weights)[3 * 33..]);
}
