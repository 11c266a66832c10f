//! Sums of weighted bytes, as resizing pictures needs them.

use crate::simd::vectorised;

/// Bytes that [`weighted`] makes at most.
pub const TOGETHER: usize = 48;

vectorised! {
    /// `out[i] = (Σ of weights[j] · rows[j · stride + i] + ½) >> precision`, clamped to a byte: weights are in fixed point of so many
    /// bits, sums in 32 bits.
    ///
    /// # Panics
    /// Where `out` is longer than [`TOGETHER`] or `rows` too short.
    pub fn weighted(out: &mut [u8], rows: &[u8], stride: usize, weights: &[i16], precision: u32) = weighted_with
}

#[inline(always)]
fn weighted_with(
    out: &mut [u8],
    rows: &[u8],
    stride: usize,
    weights: &[i16],
    precision: u32,
    _: impl Fn(f32, f32, f32) -> f32,
) {
    let rounding = 1i32 << (precision - 1);
    let rows = rows.chunks(stride.max(1)).zip(weights);
    // Of a length that is known the sums stay in registers.
    if let Ok(out) = <&mut [u8; TOGETHER]>::try_from(&mut *out) {
        let mut sums = [rounding; TOGETHER];
        for (row, weight) in rows {
            let row: &[u8; TOGETHER] = row.first_chunk().expect("a row of bytes");
            for (sum, byte) in sums.iter_mut().zip(row) {
                *sum += i32::from(*byte) * i32::from(*weight);
            }
        }
        *out = sums.map(|sum| (sum >> precision).clamp(0, 255) as u8);
        return;
    }
    let mut sums = [rounding; TOGETHER];
    let sums = &mut sums[..out.len()];
    for (row, weight) in rows {
        for (sum, byte) in sums.iter_mut().zip(&row[..out.len()]) {
            *sum += i32::from(*byte) * i32::from(*weight);
        }
    }
    for (to, sum) in out.iter_mut().zip(sums) {
        *to = (*sum >> precision).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_plain_body_whatever_is_left_over() {
        for (length, stride, count) in
            [(48, 48, 5), (48, 100, 9), (1, 7, 4), (47, 47, 3), (0, 3, 2)]
        {
            let rows: Vec<u8> = (0..stride * count).map(|i| (i * 7919 / 8) as u8).collect();
            let weights: Vec<i16> = (0..count).map(|i| (i as i16 - 1) * 3000).collect();
            let mut out = vec![0; length];
            weighted(&mut out, &rows, stride, &weights, 14);
            for (i, found) in out.iter().enumerate() {
                let sum: i64 = weights.iter().enumerate().fold(1 << 13, |sum, (j, weight)| {
                    sum + i64::from(*weight) * i64::from(rows[j * stride + i])
                });
                assert_eq!(i64::from(*found), (sum >> 14).clamp(0, 255), "{length}, {stride}, {i}");
            }
        }
    }
}
