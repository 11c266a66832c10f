//! The same sums with NEON, with `SDOT` where the processor has it.

#![expect(
    clippy::needless_range_loop,
    reason = "closures may be compiled without the instructions"
)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use super::inputs::{Input, Inputs};
use super::parts::of_scheme;
use super::{BLOCK, Row, Rows, quarters};
use crate::quant::QuantScheme;

/// Activation rows whose sums stay in registers, with those of two weight rows.
const TOGETHER: usize = 4;

/// A block of signed bytes.
type Bytes = [int8x16_t; 4];

/// How bytes are multiplied.
trait Multiply: Copy {
    /// Adds the products of sixteen bytes, four to each sum.
    fn add(self, sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// By `SDOT`: there is one only where the processor has it.
#[derive(Clone, Copy)]
struct Dot(());

impl Dot {
    fn of_this_processor() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }
}

impl Multiply for Dot {
    #[inline(always)]
    fn add(self, mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the processor has the instruction, else there were no `self`; it reads and writes these registers alone.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// In sixteen bits, which hold two products: 2 · 128 · 127 fits.
#[derive(Clone, Copy)]
struct Pairs;

impl Multiply for Pairs {
    #[inline(always)]
    fn add(self, sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: every processor of the target has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            vpadalq_s16(sums, vmlal_high_s8(low, a, b))
        }
    }
}

/// Writes the sums of all weight rows for all `m` activation rows.
pub fn sums(out: &mut [f32], m: usize, rows: Rows<'_>, inputs: &Inputs, scheme: QuantScheme) {
    match Dot::of_this_processor() {
        Some(dot) => sums_with(out, m, rows, inputs, scheme, dot),
        None => sums_with(out, m, rows, inputs, scheme, Pairs),
    }
}

fn sums_with(
    out: &mut [f32],
    m: usize,
    rows: Rows<'_>,
    inputs: &Inputs,
    scheme: QuantScheme,
    with: impl Multiply,
) {
    for first in (0..m).step_by(TOGETHER) {
        let some = first..m.min(first + TOGETHER);
        match some.len() {
            4 => sized::<4>(out, m, some, rows, inputs, scheme, with),
            3 => sized::<3>(out, m, some, rows, inputs, scheme, with),
            2 => sized::<2>(out, m, some, rows, inputs, scheme, with),
            _ => sized::<1>(out, m, some, rows, inputs, scheme, with),
        }
    }
}

/// The activation rows `some`, up to `M`; behind them the last one again, whose sums are not written.
fn some_of<'i, const M: usize>(inputs: &'i Inputs, some: &Range<usize>) -> [&'i [Input]; M] {
    std::array::from_fn(|i| inputs.row((some.start + i).min(some.end - 1)))
}

/// Activation row `i` of `m` and weight row `j` have their sum at `j · m + i`.
fn sized<const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: &Inputs,
    scheme: QuantScheme,
    with: impl Multiply,
) {
    let inputs: [&[Input]; M] = some_of(inputs, &some);
    // SAFETY: every processor of the target has NEON; there is no other precondition.
    unsafe { of_scheme!(scheme, kernel::<M>(out, m, some, rows, inputs, with)) }
}

/// Two weight rows are computed together, so that activations are read half as often.
#[target_feature(enable = "neon")]
fn kernel<const BITS: usize, const GROUP: usize, const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: [&[Input]; M],
    with: impl Multiply,
) {
    let count = out.len() / m;
    // One activation row is bound by memory, which is read fastest in one stream.
    let paired = if M > 1 { count / 2 * 2 } else { 0 };
    for j in (0..paired).step_by(2) {
        let two = [rows.row(j), rows.row(j + 1)];
        let [first, second] = of_bits::<BITS, GROUP, M, 2>(two, &inputs, with);
        out[j * m..][some.clone()].copy_from_slice(&first);
        out[(j + 1) * m..][some.clone()].copy_from_slice(&second);
    }
    for j in paired..count {
        let [only] = of_bits::<BITS, GROUP, M, 1>([rows.row(j)], &inputs, with);
        out[j * m..][some.clone()].copy_from_slice(&only);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn of_bits<const BITS: usize, const GROUP: usize, const M: usize, const P: usize>(
    rows: [Row<'_>; P],
    inputs: &[&[Input]; M],
    with: impl Multiply,
) -> [[f32; M]; P] {
    match BITS {
        8 => of_bytes::<BLOCK, GROUP, M, P>(rows, inputs, with),
        _ => of_bytes::<{ BLOCK / 2 }, GROUP, M, P>(rows, inputs, with),
    }
}

/// The sums of rows whose blocks have so many bytes.
#[inline]
#[target_feature(enable = "neon")]
fn of_bytes<const BYTES: usize, const GROUP: usize, const M: usize, const P: usize>(
    rows: [Row<'_>; P],
    inputs: &[&[Input]; M],
    with: impl Multiply,
) -> [[f32; M]; P] {
    let mut codes: [&[[u8; BYTES]]; P] = [&[]; P];
    let mut last = [[0; BYTES]; P];
    for p in 0..P {
        (codes[p], last[p]) = blocks(rows[p].codes);
    }
    let (all, mut lines) = (inputs[0].len(), *inputs);
    for i in 0..M {
        lines[i] = &lines[i][..all];
    }
    let mut sums = [[vdupq_n_f32(0.0); P]; M];
    for block in 0..all {
        let mut weights = [[vdupq_n_s8(0); 4]; P];
        let mut scales = [[0.0; 4]; P];
        for p in 0..P {
            weights[p] = unpacked(codes[p].get(block).unwrap_or(&last[p]));
            scales[p] = quarters(rows[p].scales, GROUP, block);
        }
        add::<BYTES, GROUP, M, P>(&mut sums, &lines, block, &weights, &scales, with);
    }
    let mut totals = [[0.0; M]; P];
    for p in 0..P {
        for i in 0..M {
            totals[p][i] = vaddvq_f32(sums[i][p]);
        }
    }
    totals
}

/// The whole blocks of `N` bytes of a row, and what is left, filled up with zeros.
fn blocks<const N: usize>(codes: &[u8]) -> (&[[u8; N]], [u8; N]) {
    let (whole, rest) = codes.as_chunks::<N>();
    let mut last = [0; N];
    last[..rest.len()].copy_from_slice(rest);
    (whole, last)
}

/// Parts of a block that have a scale of their own.
const fn parts(group: usize) -> usize {
    if group < BLOCK { BLOCK / group } else { 1 }
}

/// Adds the products of block `block`. There is one call for each set of constants, or the compiler might leave it a call.
#[inline]
#[target_feature(enable = "neon")]
fn add<const BYTES: usize, const GROUP: usize, const M: usize, const P: usize>(
    sums: &mut [[float32x4_t; P]; M],
    inputs: &[&[Input]; M],
    block: usize,
    weights: &[Bytes; P],
    scales: &[[f32; 4]; P],
    with: impl Multiply,
) {
    for i in 0..M {
        let input = &inputs[i][block];
        let (x, of_halves) = (bytes(&input.codes), input.scales);
        for p in 0..P {
            let products = products::<BYTES, GROUP>(&weights[p], &x, with);
            for part in 0..parts(GROUP) {
                let first = part * 4 / parts(GROUP);
                // Codes of four bits are sixteen times what they stand for.
                let product = match BYTES {
                    BLOCK => vcvtq_f32_s32(products[part]),
                    _ => vcvtq_n_f32_s32::<4>(products[part]),
                };
                let scale = scales[p][first] * of_halves[first / 2];
                sums[i][p] = vfmaq_n_f32(sums[i][p], product, scale);
            }
        }
    }
}

/// The sums of products in each part of a block, divided among four lanes.
#[inline]
#[target_feature(enable = "neon")]
fn products<const BYTES: usize, const GROUP: usize>(
    weights: &Bytes,
    x: &Bytes,
    with: impl Multiply,
) -> [int32x4_t; 4] {
    assert!(BYTES == BLOCK || GROUP >= BLOCK / 2, "registers are of one part");
    let mut products = [vdupq_n_s32(0); 4];
    for register in 0..4 {
        // With four bits, the even places of the first half, of the second, and the odd ones.
        let part = match BYTES {
            BLOCK => register * parts(GROUP) / 4,
            _ => register % parts(GROUP),
        };
        products[part] = with.add(products[part], weights[register], x[register]);
    }
    products
}

/// The codes of a block as signed bytes. Those of four bits stay in the high half, sixteenfold: so they are shifted without
/// regard to their signs, which come by turning the highest bit, as 8 is subtracted. Even places come before odd ones.
#[inline]
#[target_feature(enable = "neon")]
fn unpacked<const BYTES: usize>(codes: &[u8; BYTES]) -> Bytes {
    const { assert!(BYTES == BLOCK || BYTES == BLOCK / 2) };
    let codes = codes.as_chunks::<16>().0;
    let mut bytes = [vdupq_n_s8(0); 4];
    for i in 0..codes.len() {
        // SAFETY: the reference is to sixteen bytes.
        let plain = unsafe { vld1q_u8(codes[i].as_ptr()) };
        if BYTES == BLOCK {
            bytes[i] = vreinterpretq_s8_u8(plain);
            continue;
        }
        let signed = veorq_u8(plain, vdupq_n_u8(0x88));
        bytes[i] = vreinterpretq_s8_u8(vshlq_n_u8::<4>(signed));
        bytes[i + 2] = vreinterpretq_s8_u8(vandq_u8(signed, vdupq_n_u8(0xf0)));
    }
    bytes
}

#[inline]
#[target_feature(enable = "neon")]
fn bytes(values: &[i8; BLOCK]) -> Bytes {
    let values = values.as_chunks::<16>().0;
    let mut bytes = [vdupq_n_s8(0); 4];
    for i in 0..4 {
        // SAFETY: the reference is to sixteen bytes.
        bytes[i] = unsafe { vld1q_s8(values[i].as_ptr()) };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{eight, four};
    use super::*;
    use crate::ops::flex::values;

    /// Compares sums of parts with those of quarters, which weights of four bits enter `times` in the kernel.
    fn agree<const BYTES: usize, const GROUP: usize>(
        codes: &[u8; BYTES],
        x: &[i8; BLOCK],
        with: impl Multiply,
    ) {
        let (quarters, times) = match BYTES {
            BLOCK => (eight(codes, x), 1),
            _ => (four(codes, x), 16),
        };
        // SAFETY: every processor of the target has NEON.
        let found = unsafe {
            products::<BYTES, GROUP>(&unpacked(codes), &bytes(x), with)
                .map(|product| vaddvq_s32(product))
        };
        let each = 4 / parts(GROUP);
        for (quarters, found) in quarters.chunks(each).zip(found) {
            let expected = times * quarters.iter().sum::<i32>();
            assert_eq!(found, expected, "{BYTES} bytes, groups of {GROUP}: {codes:?} by {x:?}");
        }
    }

    fn agree_with(codes: &[u8; BLOCK], x: &[i8; BLOCK], with: impl Multiply) {
        agree::<BLOCK, 16>(codes, x, with);
        agree::<BLOCK, 32>(codes, x, with);
        agree::<BLOCK, 64>(codes, x, with);
        agree::<BLOCK, 128>(codes, x, with);
        let [half, _] = codes.as_chunks::<{ BLOCK / 2 }>().0 else { unreachable!() };
        agree::<{ BLOCK / 2 }, 32>(half, x, with);
        agree::<{ BLOCK / 2 }, 64>(half, x, with);
        agree::<{ BLOCK / 2 }, 128>(half, x, with);
    }

    #[test]
    fn sums_of_integers_are_those_of_the_portable_kernel() {
        let mut cases = Vec::new();
        for seed in 0..50 {
            let random = values(2 * BLOCK, seed);
            let code = |i: usize| (random[i] * 127.9) as i8;
            let codes = std::array::from_fn(|i| code(i) as u8);
            cases.push((codes, std::array::from_fn(|i| code(BLOCK + i).max(-127))));
        }
        for code in [0, 1, 0x7f, 0x80, 0x81, 0xff, 0x0f, 0xf0, 0x08, 0x88] {
            cases.extend([127, -127, 1, 0].map(|x| ([code; BLOCK], [x; BLOCK])));
        }
        for (codes, x) in &cases {
            agree_with(codes, x, Pairs);
            if let Some(dot) = Dot::of_this_processor() {
                agree_with(codes, x, dot);
            }
        }
    }
}
