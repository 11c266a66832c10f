//! Rounded weights as f32.

use rayon::prelude::*;

use super::{Weights, float8};
use crate::quant::{Codes, QuantScheme};
use crate::simd::vectorised;

/// Weights of a row that are expanded together.
#[cfg(target_arch = "x86_64")]
const PART: usize = 512;

impl Weights<'_> {
    /// Writes the rows from `first` on as f32.
    pub fn expand(self, first: usize, out: &mut [f32]) {
        let rows = out.par_chunks_mut(self.k.max(1)).enumerate();
        rows.for_each_init(
            || self.scratch(),
            |scales, (row, out)| {
                self.expand_row(first + row, scales, out);
            },
        );
    }

    /// Writes a row; `scales` is room for its scales and minimums.
    pub fn expand_row(self, row: usize, scales: &mut [f32], out: &mut [f32]) {
        self.scales(row, scales);
        expand(self.scheme, self.codes(row), scales, out);
    }
}

#[cfg(target_arch = "x86_64")]
impl Weights<'_> {
    /// Writes the values of a row from a multiple of the group on.
    pub fn expand_part(self, row: usize, from: usize, out: &mut [f32]) {
        // A scale and a minimum for as few as sixteen.
        let (scheme, mut room) = (self.scheme, [0.0; 2 * PART / 16]);
        for (part, out) in out.chunks_mut(PART).enumerate() {
            let from = from + part * PART;
            let (first, count) = (from / scheme.group(), scheme.groups(out.len()));
            let (scales, minimums) = room.split_at_mut(count);
            self.some_scales(row, first, scales);
            if scheme.has_minimums() {
                self.some_scales(row, scheme.groups(self.k) + first, &mut minimums[..count]);
            }
            let codes = &self.codes(row)[from * scheme.bits() / 8..];
            expand(scheme, codes, &room, out);
        }
    }
}

/// What codes stand for, with their scales, and minimums where there are any, behind one another.
fn expand(scheme: QuantScheme, codes: &[u8], scales: &[f32], out: &mut [f32]) {
    match scheme.codes() {
        Codes::Float8 => float8::expand(codes, scales, scheme.group(), out),
        _ => expand_integers(codes, scales, scheme, out),
    }
}

vectorised! {
    fn expand_integers(codes: &[u8], scales: &[f32], scheme: QuantScheme, out: &mut [f32]) = expand_integers_with
}

#[inline(always)]
fn expand_integers_with(
    codes: &[u8],
    scales: &[f32],
    scheme: QuantScheme,
    out: &mut [f32],
    _: impl Fn(f32, f32, f32) -> f32,
) {
    scheme.expand_row_inline(codes, scales, out);
}
