//! Every kernel against sums in f64 over the same rounded numbers, and against the weights' own product.

use super::*;
use crate::ops::flex::values;

/// What this program rounds to.
fn own_schemes() -> impl Iterator<Item = QuantScheme> {
    let all = [8, 4].map(|bits| QuantScheme::GROUPS.map(|g| QuantScheme::new(bits, g as u64)));
    all.into_iter().flatten().map(Result::unwrap)
}

/// Those and what other programs write.
fn schemes() -> impl Iterator<Item = QuantScheme> {
    let minimums = [4, 8].map(|bits| {
        QuantScheme::GROUPS.map(|g| QuantScheme::with_minimums(bits, g as u64).unwrap())
    });
    own_schemes()
        .chain(minimums.into_iter().flatten())
        .chain([QuantScheme::INT8_G16, QuantScheme::FLOAT8])
}

/// A matrix of any codes and scales.
struct Packed {
    codes: Vec<u8>,
    scales: Vec<f32>,
    k: usize,
    scheme: QuantScheme,
}

impl Packed {
    fn new(scheme: QuantScheme, n: usize, k: usize, seed: u32) -> Self {
        let codes = values(n * scheme.row_bytes(k), seed).into_iter();
        // No code of E4M3 is NaN, and none so small that its bits hide an error.
        let code = |v: f32| match scheme.codes() {
            Codes::Float8 => ((v * 100.0) as i8 as u8) & 0xfe,
            _ => (v * 127.9) as i8 as u8,
        };
        let codes = codes.map(code).collect();
        let scales = values(n * scheme.scale_columns(k), seed + 1);
        Self { codes, scales, k, scheme }
    }

    fn weights(&self) -> Weights<'_> {
        let (k, scheme) = (self.k, self.scheme);
        Weights { codes: &self.codes, scales: Scales::F32(&self.scales), k, scheme }
    }
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

/// The products of the kernel for few rows, and of that for many with finer and with coarse activations.
fn products(x: &[f32], weights: Weights<'_>, level: Level) -> Vec<Vec<f32>> {
    let mut all = vec![rows(x, weights, level)];
    all.extend([false, true].into_iter().filter_map(|coarse| many_rows(x, weights, level, coarse)));
    all
}

/// Whether coarse activations beside weights of eight bits are finer than that after all.
fn coarse_is_fine(scheme: QuantScheme, level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    if x86::has_vnni(level) {
        return scheme.group() < 32;
    }
    let _ = (scheme, level);
    true
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
                (2, 5, 63),
                (4, 16, 64),
                (5, 33, 65),
                (15, 7, 96),
                (6, 2, 97),
                (1, 40, 128),
                (7, 19, 300),
                (1, 2, 4304),
                (2, 3, 1023),
                (13, 67, 576),
                (18, 130, 1100),
            ] {
                let x = values(m * k, 1 + k as u32);
                let packed = Packed::new(scheme, n, k, 7 + n as u32);
                let weights = packed.weights();
                let (found, plain) = (products(&x, weights, level), expanded(weights));
                assert!(found.iter().all(|found| found.len() == m * n));
                for (i, x) in x.chunks(k).enumerate() {
                    let near = match scheme.codes() {
                        Codes::Float8 => x.iter().map(|x| f64::from(*x)).collect(),
                        _ => rounded(x, scheme.group().max(32)),
                    };
                    for (j, w) in plain.chunks(k).enumerate() {
                        let sum = |x: &mut dyn Iterator<Item = f64>| {
                            let products = x.zip(w).map(|(x, w)| x * f64::from(*w));
                            products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()))
                        };
                        let near = sum(&mut near.iter().copied());
                        let plain = sum(&mut x.iter().map(|x| f64::from(*x)));
                        for (kernel, found) in found.iter().enumerate() {
                            let found = f64::from(found[i * n + j]);
                            // Many rows are rounded to sixteen bits beside weights of eight, if not coarsely.
                            let fine = kernel == 1 || kernel == 2 && coarse_is_fine(scheme, level);
                            let bounds = match fine && scheme.bits() == 8 {
                                true => [(near, 0.01), (plain, 3e-5)],
                                false => [(near, 1e-5), (plain, 0.01)],
                            };
                            for ((exact, size), bound) in bounds {
                                assert!(
                                    (found - exact).abs() <= bound * size,
                                    "{level:?} {scheme} {m}x{n}x{k} at {i}, {j}, kernel {kernel}: {found}, {exact}"
                                );
                            }
                        }
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
            let x = values(9 * k, 3);
            let packed = Packed::new(scheme, n, k, 4);
            let weights = packed.weights();
            let one_by_one = x.chunks(k).map(|x| products(x, weights, level));
            let alone = one_by_one.reduce(|mut all, more| {
                all.iter_mut().zip(more).for_each(|(all, more)| all.extend(more));
                all
            });
            for m in 1..=9 {
                for (together, alone) in
                    products(&x[..m * k], weights, level).iter().zip(alone.iter().flatten())
                {
                    assert_eq!(together, &alone[..m * n], "{level:?} {scheme} {m}");
                }
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
                    let scales = Scales::Bf16(&[bf16::ONE; 2]);
                    let weights = Weights { codes: &codes, scales, k, scheme };
                    let expected = expanded(weights).iter().map(|w| w * value).sum::<f32>();
                    for found in products(&vec![value; k], weights, level) {
                        let near = (found[0] - expected).abs() <= 1e-4 * expected.abs();
                        assert!(near, "{level:?} {code:x} {value}: {}, {expected}", found[0]);
                    }
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
                let mut x = values(200, 5);
                let packed = Packed::new(scheme, 2, 200, 6);
                x[150] = bad;
                for found in products(&x, packed.weights(), level) {
                    assert!(found.iter().all(|y| !y.is_finite()), "{level:?} {scheme}: {found:?}");
                }
            }
        }
    }
}

#[test]
fn expansion_is_parallel_and_starts_anywhere() {
    for scheme in schemes() {
        let packed = Packed::new(scheme, 5, 33, 8);
        let (weights, mut part) = (packed.weights(), vec![0.0; 2 * 33]);
        weights.expand(3, &mut part);
        assert_eq!(part, expanded(weights)[3 * 33..], "{scheme}");
        let mut row = vec![0.0; 33];
        let columns = scheme.scale_columns(33);
        let scales = &packed.scales[4 * columns..];
        scheme.expand_row(&packed.codes[4 * scheme.row_bytes(33)..], scales, &mut row);
        assert_eq!(part[33..], row, "{scheme}");
    }
}

#[test]
fn scales_of_every_dtype_are_the_same_numbers() {
    let of_half: Vec<f16> = (0..1u32 << 16)
        .map(|bits| f16::from_bits(bits as u16))
        .filter(|value| value.is_finite())
        .collect();
    let mut found = vec![0.0; of_half.len() - 3];
    Scales::F16(&of_half).widen(3, &mut found);
    assert!(found.iter().zip(&of_half[3..]).all(|(a, b)| a.to_bits() == b.to_f32().to_bits()));
    let of_bf16: Vec<bf16> = [1.0, -0.5, 3e38].map(bf16::from_f32).into();
    Scales::Bf16(&of_bf16).widen(1, &mut found[..2]);
    assert_eq!(found[..2], [-0.5, of_bf16[2].to_f32()]);
    Scales::F32(&[1.0, 2.5]).widen(1, &mut found[..1]);
    assert_eq!(found[0], 2.5);
}

/// Kernels for a row or two take scales as they are stored, others from memory in f32; rows have many scales, fewer than fill a
/// register, and some left behind the last register.
#[test]
fn scales_are_the_same_numbers_however_they_are_stored() {
    for level in Level::present() {
        for scheme in schemes() {
            for (k, n) in [(2048, 18), (1000, 5), (129, 17), (33, 1)] {
                let mut packed = Packed::new(scheme, n, k, 7);
                // Numbers of both halves, tiny ones of f16 among them.
                let tiny = |(i, v): (usize, &mut f32)| match i % 5 {
                    0 => *v = f32::from(f16::from_bits(1 + i as u16 % 900)),
                    _ => *v = (*v * 16.0).round() / 16.0,
                };
                packed.scales.iter_mut().enumerate().for_each(tiny);
                let of_bf16: Vec<bf16> = packed.scales.iter().map(|v| bf16::from_f32(*v)).collect();
                let of_f16: Vec<f16> = packed.scales.iter().map(|v| f16::from_f32(*v)).collect();
                let wide: Vec<f32> = of_bf16.iter().map(|v| v.to_f32()).collect();
                for m in [1, 2, 5] {
                    let x = values(m * k, 3);
                    let product = |scales| rows(&x, Weights { scales, ..packed.weights() }, level);
                    let what = format!("{scheme} {level:?} {m}x{n}x{k}");
                    let narrow = product(Scales::Bf16(&of_bf16));
                    assert!(narrow == product(Scales::F32(&wide)), "{what} in bf16");
                    let half = product(Scales::F16(&of_f16));
                    assert!(half == product(Scales::F32(&packed.scales)), "{what} in f16");
                }
            }
        }
    }
}
