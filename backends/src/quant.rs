//! Weights rounded to a few bits, in groups along the input axis that share a scale.
//!
//! A weight `w` of a group is kept as `q` with `w ≈ scale · q`, so that 0 stays 0. A matrix `[out, in]` becomes codes, one
//! row after the other, and scales `[out, groups]`; the last group of a row may be shorter. Eight bits: `q` from -127 to
//! 127, one signed byte each. Four bits: `q` from -8 to 7, stored as `q + 8` from 0 to 15, two neighbours per byte, the
//! first in the low half. What this program rounds has such codes, groups of 32, 64 or 128, and scales in bf16, which has
//! the range of f32.
//!
//! Files of other programs bring more: scales in f16 or f32, eight bits in groups of 16 and with `q` = -128, codes that are
//! numbers of eight bits with a point (E4M3), and groups with a minimum, `w = scale · c - minimum`, where `c` is `q`, or with
//! four bits from 0 to 15. Minimums `[out, groups]` stand behind the scales of their row.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use burn::tensor::{DType, bf16};
use rayon::prelude::*;

use crate::simd::vectorised;

/// What is added to a code of four bits when it is stored.
pub const OFFSET_OF_FOUR: i8 = 8;

/// Largest magnitudes below this are taken for 0: their inverse would leave the range of f32.
const TINY: f32 = 1e-30;
/// Values of the largest groups.
const LARGEST: usize = 128;

/// Why weights cannot be rounded so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    #[error(
        "unknown quantisation `{name}`; use int8 or int4, with -g32, -g64 or -g128 for the size of a group"
    )]
    Name { name: String },
    #[error("weights have {bits} bits; 8 and 4 are known")]
    Bits { bits: u64 },
    #[error("groups have {group} weights; 32, 64 and 128 are known")]
    Group { group: u64 },
    #[error("row {row} holds a value that is not finite")]
    NotFinite { row: usize },
}

/// What the codes of weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codes {
    /// Signed bytes.
    Int8,
    /// Halves of bytes.
    Int4,
    /// E4M3 without infinities: sign, four bits of exponent, three of mantissa (torch `float8_e4m3fn`).
    Float8,
}

/// The number that an E4M3 code stands for; the two codes of NaN, 127 and 255, give ±480.
#[inline(always)]
pub fn float8(code: u8) -> f32 {
    let bits = u32::from(code);
    // Exponent and mantissa moved to their places in f32, whose exponents have a bias larger by 120.
    const REBIAS: f32 = f32::from_bits((127 + 120) << 23);
    f32::from_bits((bits & 0x80) << 24 | (bits & 0x7f) << 20) * REBIAS
}

/// How weights are rounded: what their codes are, how many share a scale, and whether they have minimums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantScheme {
    codes: Codes,
    group: usize,
    minimums: bool,
}

impl QuantScheme {
    /// Known sizes of a group.
    pub const GROUPS: [usize; 3] = [32, 64, LARGEST];
    /// Signed bytes in groups of 16, as ggml's Q6_K expands to.
    pub const INT8_G16: Self = Self { codes: Codes::Int8, group: 16, minimums: false };
    /// E4M3 in groups of 128, as the blocks of FP8 checkpoints have.
    pub const FLOAT8: Self = Self { codes: Codes::Float8, group: 128, minimums: false };

    /// # Errors
    /// When the number of bits or the size of a group is not known.
    pub fn new(bits: u64, group: u64) -> Result<Self, QuantError> {
        let codes = match bits {
            8 => Codes::Int8,
            4 => Codes::Int4,
            _ => return Err(QuantError::Bits { bits }),
        };
        let known = Self::GROUPS.into_iter().find(|size| *size as u64 == group);
        Ok(Self { codes, group: known.ok_or(QuantError::Group { group })?, minimums: false })
    }

    /// Codes with a minimum for each group: of four bits, from 0 to 15, or signed bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_minimums(bits: u64, group: u64) -> Result<Self, QuantError> {
        Ok(Self { minimums: true, ..Self::new(bits, group)? })
    }

    /// What the codes are.
    pub fn codes(self) -> Codes {
        self.codes
    }

    /// Bits of a weight, 8 or 4.
    pub fn bits(self) -> usize {
        if self.codes == Codes::Int4 { 4 } else { 8 }
    }

    /// Weights that share a scale: 16, 32, 64 or 128.
    pub fn group(self) -> usize {
        self.group
    }

    /// What this program rounds to that is most like it: whole numbers of as many bits, without minimums, in a group of a known size.
    #[must_use]
    pub fn plain(self) -> Self {
        let codes = if self.codes == Codes::Int4 { Codes::Int4 } else { Codes::Int8 };
        Self { codes, group: self.group.max(Self::GROUPS[0]), minimums: false }
    }

    /// Whether groups have minimums.
    pub fn has_minimums(self) -> bool {
        self.minimums
    }

    /// Scales of a row of `inputs` weights, and its minimums where there are any.
    pub fn scale_columns(self, inputs: usize) -> usize {
        self.groups(inputs) * if self.minimums { 2 } else { 1 }
    }

    /// Scales of a row of `inputs` weights.
    pub fn groups(self, inputs: usize) -> usize {
        inputs.div_ceil(self.group)
    }

    /// Bytes of the codes of a row of `inputs` weights.
    pub fn row_bytes(self, inputs: usize) -> usize {
        (inputs * self.bits()).div_ceil(8)
    }

    /// The dtype of codes.
    pub fn code_dtype(self) -> DType {
        if self.codes == Codes::Int8 { DType::I8 } else { DType::U8 }
    }

    /// Bytes of a matrix with its scales in bf16.
    pub fn matrix_bytes(self, [outputs, inputs]: [usize; 2]) -> u64 {
        outputs as u64 * (self.row_bytes(inputs) + 2 * self.groups(inputs)) as u64
    }
}

impl Display for QuantScheme {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let minimums = if self.minimums { " with minimums" } else { "" };
        match self.codes {
            Codes::Float8 => write!(f, "fp8-g{}", self.group),
            _ => write!(f, "int{}-g{}{minimums}", self.bits(), self.group),
        }
    }
}

impl FromStr for QuantScheme {
    type Err = QuantError;

    fn from_str(name: &str) -> Result<Self, QuantError> {
        let unknown = || QuantError::Name { name: name.to_owned() };
        let (kind, group) = match name.split_once("-g") {
            Some((kind, group)) => (kind, Some(group.parse().map_err(|_| unknown())?)),
            None => (name, None),
        };
        match kind {
            "int8" => Self::new(8, group.unwrap_or(64)),
            "int4" => Self::new(4, group.unwrap_or(32)),
            _ => Err(unknown()),
        }
    }
}

/// A rounded matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounded {
    /// [`QuantScheme::row_bytes`] per row.
    pub codes: Vec<u8>,
    /// [`QuantScheme::groups`] per row.
    pub scales: Vec<bf16>,
}

impl QuantScheme {
    /// Rounds rows of `inputs` values, on all cores.
    ///
    /// # Errors
    /// When a value is not finite.
    pub fn round(self, values: &[f32], inputs: usize) -> Result<Rounded, QuantError> {
        let rows = values.len() / inputs.max(1);
        let (bytes, groups) = (self.row_bytes(inputs).max(1), self.groups(inputs).max(1));
        let mut codes = vec![0; rows * bytes];
        let mut scales = vec![bf16::ZERO; rows * groups];
        let all = codes.par_chunks_mut(bytes).zip(scales.par_chunks_mut(groups));
        let all = all.zip(values.par_chunks(inputs.max(1))).enumerate();
        all.try_for_each(|(row, ((codes, scales), values))| {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(QuantError::NotFinite { row });
            }
            self.round_row(values, codes, scales);
            Ok(())
        })?;
        Ok(Rounded { codes, scales })
    }

    fn round_row(self, values: &[f32], codes: &mut [u8], scales: &mut [bf16]) {
        let bytes = self.row_bytes(self.group);
        let parts = codes.chunks_mut(bytes).zip(values.chunks(self.group));
        for ((codes, values), scale) in parts.zip(scales) {
            let mut rounded = [0i8; LARGEST];
            let rounded = &mut rounded[..values.len().next_multiple_of(2)];
            *scale = match self.codes {
                Codes::Int4 => round_four(values, rounded),
                _ => round_eight(values, rounded),
            };
            match self.codes {
                Codes::Int4 => {
                    codes.iter_mut().zip(rounded.as_chunks::<2>().0).for_each(|(to, [a, b])| {
                        *to = (*a + OFFSET_OF_FOUR) as u8 | ((*b + OFFSET_OF_FOUR) as u8) << 4;
                    })
                }
                _ => codes.iter_mut().zip(rounded).for_each(|(to, q)| *to = *q as u8),
            }
        }
    }

    /// The weights that one row's codes, scales and minimums stand for.
    ///
    /// # Panics
    /// When there are fewer codes or scales than `out` has values.
    pub fn expand_row(self, codes: &[u8], scales: &[f32], out: &mut [f32]) {
        self.expand_row_inline(codes, scales, out);
    }

    /// [`Self::expand_row`] as part of a function that is compiled for more instructions.
    #[inline(always)]
    pub(crate) fn expand_row_inline(self, codes: &[u8], scales: &[f32], out: &mut [f32]) {
        let bytes = self.row_bytes(self.group);
        assert!(codes.len() >= self.row_bytes(out.len()));
        assert!(scales.len() >= self.scale_columns(out.len()));
        let (scales, rest) = scales.split_at(self.groups(out.len()));
        let minimums = if self.minimums { &rest[..scales.len()] } else { &[] };
        let parts = out.chunks_mut(self.group).zip(codes.chunks(bytes)).zip(scales);
        for (group, ((out, codes), scale)) in parts.enumerate() {
            match (self.codes, minimums.get(group)) {
                (Codes::Int8, None) => each(out, codes, |q| scale * f32::from(q as i8)),
                (Codes::Int8, Some(minimum)) => {
                    each(out, codes, |q| scale * f32::from(q as i8) - minimum);
                }
                (Codes::Float8, _) => each(out, codes, |q| scale * float8(q)),
                (Codes::Int4, None) => {
                    each_half(out, codes, |q| scale * f32::from(q as i8 - OFFSET_OF_FOUR));
                }
                (Codes::Int4, Some(minimum)) => {
                    each_half(out, codes, |q| scale * f32::from(q) - minimum);
                }
            }
        }
    }
}

#[inline(always)]
fn each(out: &mut [f32], codes: &[u8], value: impl Fn(u8) -> f32) {
    out.iter_mut().zip(codes).for_each(|(to, q)| *to = value(*q));
}

#[inline(always)]
fn each_half(out: &mut [f32], codes: &[u8], value: impl Fn(u8) -> f32) {
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (to, pair) in pairs.iter_mut().zip(codes) {
        *to = [value(pair & 15), value(pair >> 4)];
    }
    if let ([last], Some(pair)) = (rest, codes.get(pairs.len())) {
        *last = value(pair & 15);
    }
}

/// To numbers of this size f32 adds nothing but whole ones: 1.5 · 2²³.
const SHIFT: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a value below 2²² in magnitude.
#[inline(always)]
pub(crate) fn nearest(value: f32) -> f32 {
    (value + SHIFT) - SHIFT
}

/// [`nearest`] as an integer.
#[inline(always)]
pub(crate) fn nearest_integer(value: f32) -> i32 {
    (value + SHIFT).to_bits().cast_signed() - SHIFT.to_bits().cast_signed()
}

/// The next bf16 that is no smaller.
fn bf16_above(value: f32) -> bf16 {
    bf16::from_bits((value.to_bits().saturating_add(0xffff) >> 16) as u16)
}

/// Values that are looked at together. What they sum to is the same with every set of instructions.
const LANES: usize = 16;

vectorised! {
    /// A group of at most [`LARGEST`] values in eight bits: the largest magnitude becomes 127.
    fn round_eight(values: &[f32], out: &mut [i8]) -> bf16 = round_eight_with
}

vectorised! {
    /// A group in four bits: of several scales that map the value of largest magnitude near -8, the one with the least squared
    /// error.
    fn round_four(values: &[f32], out: &mut [i8]) -> bf16 = round_four_with
}

/// The group with zeros behind it, in lanes.
#[inline(always)]
fn in_lanes(values: &[f32]) -> [[f32; LANES]; LARGEST / LANES] {
    let mut all = [[0.0; LANES]; LARGEST / LANES];
    all.as_flattened_mut()[..values.len()].copy_from_slice(values);
    all
}

#[inline(always)]
fn largest_of(lanes: &[[f32; LANES]]) -> f32 {
    let mut largest = [0.0f32; LANES];
    for values in lanes {
        for (most, value) in largest.iter_mut().zip(values) {
            *most = most.max(value.abs());
        }
    }
    largest.into_iter().fold(0.0, f32::max)
}

#[inline(always)]
fn round_eight_with(values: &[f32], out: &mut [i8], _: impl Fn(f32, f32, f32) -> f32) -> bf16 {
    let largest = largest_of(&in_lanes(values));
    if largest < TINY {
        return bf16::ZERO;
    }
    let scale = bf16_above(largest / 127.0);
    let inverse = scale.to_f32().recip();
    for (to, value) in out.iter_mut().zip(values) {
        *to = nearest(value * inverse).clamp(-127.0, 127.0) as i8;
    }
    scale
}

#[inline(always)]
fn round_four_with(values: &[f32], out: &mut [i8], _: impl Fn(f32, f32, f32) -> f32) -> bf16 {
    let lanes = in_lanes(values);
    let lanes = &lanes[..values.len().div_ceil(LANES)];
    let largest = largest_of(lanes);
    if largest < TINY {
        return bf16::ZERO;
    }
    // The first of them.
    let extreme = values.iter().find(|value| value.abs() == largest).copied().unwrap_or(largest);
    let mut shares = [[0.0; LANES]; LARGEST / LANES];
    for (shares, values) in shares.iter_mut().zip(lanes) {
        *shares = values.map(|value| value / extreme);
    }
    let mut best = (f32::NEG_INFINITY, 0.0);
    for step in -4..=4 {
        let inverse = -(8.0 + 0.2 * step as f32) / extreme;
        // For these codes, the scale with the least error, and by how much it lowers the sum of squares.
        let (mut along, mut square) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (values, shares) in lanes.iter().zip(&shares) {
            for i in 0..LANES {
                let q = code_of_four(values[i], inverse);
                along[i] += shares[i] * q;
                square[i] += q * q;
            }
        }
        let (along, square) = (along.iter().sum::<f32>(), square.iter().sum::<f32>());
        let gain = along * along / square;
        if gain > best.0 {
            best = (gain, extreme * (along / square));
        }
    }
    let scale = bf16::from_f32(best.1);
    let inverse = scale.to_f32().recip();
    for (to, value) in out.iter_mut().zip(values) {
        *to = code_of_four(*value, inverse) as i8;
    }
    scale
}

#[inline(always)]
fn code_of_four(value: f32, inverse: f32) -> f32 {
    nearest(value * inverse).clamp(-8.0, 7.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemes() -> impl Iterator<Item = QuantScheme> {
        [8, 4].into_iter().flat_map(|bits| {
            QuantScheme::GROUPS.map(|group| QuantScheme::new(bits, group as u64).unwrap())
        })
    }

    fn wide(scales: &[bf16]) -> Vec<f32> {
        scales.iter().map(|scale| scale.to_f32()).collect()
    }

    fn values(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + seed) * 0.7713).sin() * 0.05).collect()
    }

    #[test]
    fn names_go_both_ways() {
        for scheme in schemes() {
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
        assert_eq!("int8".parse(), QuantScheme::new(8, 64));
        assert_eq!("int4".parse(), QuantScheme::new(4, 32));
        for (name, expected) in [
            ("int3", "int3"),
            ("int4-g16", "16"),
            ("int4-gx", "int4-gx"),
            ("int4g32", "int4g32"),
            ("", "``"),
        ] {
            let error = name.parse::<QuantScheme>().unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn every_weight_lies_within_half_a_step() {
        for scheme in schemes() {
            for inputs in [1, 2, 31, 32, 33, 127, 129, 300] {
                let values = values(3 * inputs, inputs as f32);
                let rounded = scheme.round(&values, inputs).unwrap();
                let (bytes, groups) = (scheme.row_bytes(inputs), scheme.groups(inputs));
                assert_eq!((rounded.codes.len(), rounded.scales.len()), (3 * bytes, 3 * groups));
                for (row, values) in values.chunks(inputs).enumerate() {
                    let scales = &rounded.scales[row * groups..][..groups];
                    let mut found = vec![f32::NAN; inputs];
                    let codes = &rounded.codes[row * bytes..][..bytes];
                    scheme.expand_row(codes, &wide(scales), &mut found);
                    for (i, (a, b)) in values.iter().zip(&found).enumerate() {
                        let step = scales[i / scheme.group()].to_f32().abs();
                        // The extreme value of four bits may be cut off by less than one step.
                        let most = if scheme.bits() == 8 { 0.501 * step } else { 1.3 * step };
                        assert!((a - b).abs() <= most, "{scheme} {inputs} {i}: {a}, {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn codes_lie_where_the_format_says() {
        let eight = QuantScheme::new(8, 32).unwrap();
        let rounded = eight.round(&[1.27, -0.64, 0.0], 3).unwrap();
        assert_eq!(rounded.codes, [127, -64i8 as u8, 0]);
        let four = QuantScheme::new(4, 32).unwrap();
        // The extreme value -8 steps, then 1 and 3 steps and nothing.
        let rounded = four.round(&[-8.0, 1.0, 3.0, 0.0, 7.0], 5).unwrap();
        assert_eq!(rounded.scales, [bf16::ONE]);
        assert_eq!(rounded.codes, [0x90, 0x8b, 0x8f]);
    }

    #[test]
    fn errors_shrink_with_bits_and_groups() {
        let values = values(64 * 256, 3.0);
        let error = |scheme: QuantScheme| {
            let rounded = scheme.round(&values, 256).unwrap();
            let mut row = vec![0.0; 256];
            let mut sum = 0.0;
            for (i, values) in values.chunks(256).enumerate() {
                let (bytes, groups) = (scheme.row_bytes(256), scheme.groups(256));
                let codes = &rounded.codes[i * bytes..][..bytes];
                scheme.expand_row(codes, &wide(&rounded.scales[i * groups..][..groups]), &mut row);
                sum += values.iter().zip(&row).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            }
            (sum / values.iter().map(|v| v * v).sum::<f32>()).sqrt()
        };
        let errors: Vec<f32> = ["int8-g32", "int8-g128", "int4-g32", "int4-g128"]
            .map(|name| error(name.parse().unwrap()))
            .to_vec();
        assert!(errors[1] < 0.006 && errors[3] < 0.1, "{errors:?}");
        assert!(errors[0] <= errors[1] * 1.01 && errors[2] <= errors[3] * 1.01, "{errors:?}");
    }

    #[test]
    fn zeros_and_extremes_stay_finite_and_others_are_refused() {
        for scheme in schemes() {
            for value in [0.0, -0.0, 1e-38, 1e37, -1e37, 1e-29] {
                let rounded = scheme.round(&[value, 0.0, value / 2.0], 3).unwrap();
                let mut found = [f32::NAN; 3];
                scheme.expand_row(&rounded.codes, &wide(&rounded.scales), &mut found);
                assert!(found.iter().all(|f| f.is_finite()), "{scheme} {value}: {found:?}");
                assert_eq!(found[1], 0.0);
                assert!((found[0] - value).abs() <= 0.01 * value.abs() + TINY, "{scheme} {value}");
            }
            for bad in [f32::NAN, f32::INFINITY] {
                let error = scheme.round(&[1.0, 1.0, 1.0, bad], 2).unwrap_err();
                assert_eq!(error, QuantError::NotFinite { row: 1 });
            }
        }
    }

    #[test]
    fn every_code_of_eight_bits_with_a_point_has_its_value() {
        for code in 0..=255u8 {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
            let size = match exponent {
                0 => mantissa / 8.0 * 2f32.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
            };
            assert_eq!(float8(code), if code < 128 { size } else { -size }, "{code:#x}");
        }
        assert_eq!((float8(0x7e), float8(0x38), float8(0x01)), (448.0, 1.0, 1.0 / 512.0));
    }

    #[test]
    fn minimums_are_taken_off() {
        let scheme = QuantScheme::with_minimums(4, 32).unwrap();
        let (codes, mut found) = ([0xf0; 17], [f32::NAN; 33]);
        scheme.expand_row(&codes, &[0.5, 2.0, 1.0, -3.0], &mut found);
        assert_eq!((found[0], found[1], found[31], found[32]), (-1.0, 6.5, 6.5, 3.0));
        assert_eq!(scheme.to_string(), "int4-g32 with minimums");
        assert_eq!(scheme.scale_columns(33), 4);
        let scheme = QuantScheme::with_minimums(8, 32).unwrap();
        scheme.expand_row(&[2, 255], &[0.5, 3.0], &mut found[..2]);
        assert_eq!(found[..2], [-2.0, -3.5]);
        assert!(QuantScheme::with_minimums(4, 48).is_err());
    }
}
