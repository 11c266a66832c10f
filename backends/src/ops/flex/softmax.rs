//! `exp(x - max)` of a row, its sum and its maximum, vectorised.

use crate::simd::vectorised;

vectorised! {
    /// Replaces the values by `exp(value - largest)`, where the largest is `least` if all values are below, and returns it and
    /// the sum of the results.
    pub fn exponentials(row: &mut [f32], least: f32) -> (f32, f32) = exponentials_with
}

/// Independent partial results, so that they vectorise.
const LANES: usize = 32;

#[inline(always)]
fn exponentials_with(
    row: &mut [f32],
    least: f32,
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) -> (f32, f32) {
    let mut tops = [least; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for (top, value) in tops.iter_mut().zip(block) {
            *top = if *value > *top { *value } else { *top };
        }
    }
    let top = tops.iter().chain(rest).copied().fold(least, f32::max);
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *value = exp(*value - top, madd);
            *sum += *value;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for value in rest {
        *value = exp(*value - top, madd);
        sum += *value;
    }
    (top, sum)
}

/// `e^x` for `x <= 0`, within 2 units in the last place (polynomial of the Cephes library); 0 below about -87.
#[inline(always)]
pub(super) fn exp(x: f32, madd: impl Fn(f32, f32, f32) -> f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// Adding and subtracting this rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let n = madd(clamped, LOG2_E, ROUND) - ROUND;
    let r = madd(n, 2.121_944_4e-4, madd(n, -0.693_359_4, clamped));
    let mut p = madd(1.987_569_1e-4, r, 1.398_199_9e-3);
    p = madd(p, r, 8.333_452e-3);
    p = madd(p, r, 4.166_579_6e-2);
    p = madd(p, r, 0.166_666_65);
    p = madd(p, r, 0.5);
    let y = madd(p * r, r, r + 1.0);
    let power = f32::from_bits(((n + ROUND).to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { y * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        for x in (0..88_000).map(|i| -(i as f32) / 1000.0) {
            let exact = (x as f64).exp();
            for found in [exp(x, |a, b, c| a * b + c), exp(x, f32::mul_add)] {
                let error = (found as f64 - exact).abs() / exact;
                assert!(error < 4e-7 || x < -87.0, "exp({x}) = {found}: {error}");
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY, f32::mul_add), 0.0);
        assert_eq!(exp(0.0, f32::mul_add), 1.0);
    }

    #[test]
    fn every_length_sums_like_f64() {
        for length in [1, 2, 31, 32, 33, 100, 4800] {
            let row: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
            for least in [f32::NEG_INFINITY, 25.0] {
                let top = row.iter().copied().fold(least, f32::max);
                let exact: f64 = row.iter().map(|x| (*x as f64 - top as f64).exp()).sum();
                let mut portable = row.clone();
                let sums = [
                    exponentials(&mut row.clone(), least),
                    exponentials_with(&mut portable, least, |a, b, c| a * b + c),
                ];
                for (largest, sum) in sums {
                    assert_eq!(largest, top);
                    assert!(
                        (sum as f64 - exact).abs() / exact < 1e-5,
                        "{length}: {sum} against {exact}"
                    );
                }
            }
        }
    }
}
