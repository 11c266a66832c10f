//! What the kernels of several architectures need to take rows apart.

use std::ops::Range;

use super::inputs::{Input, Inputs};

/// The activation rows `some`, up to `M`; behind them the last one again, whose sums are not written.
pub fn some_of<'i, const M: usize>(inputs: &'i Inputs, some: &Range<usize>) -> [&'i [Input]; M] {
    std::array::from_fn(|i| inputs.row((some.start + i).min(some.end - 1)))
}

/// Calls the body of a kernel for the bits and groups of a scheme.
macro_rules! of_scheme {
    ($scheme:expr, $kernel:ident::<$rows:ident> $arguments:tt) => {
        match ($scheme.bits(), $scheme.group()) {
            (8, 16) => $kernel::<8, 16, $rows> $arguments,
            (8, 32) => $kernel::<8, 32, $rows> $arguments,
            (8, 64) => $kernel::<8, 64, $rows> $arguments,
            (8, _) => $kernel::<8, 128, $rows> $arguments,
            (_, 32) => $kernel::<4, 32, $rows> $arguments,
            (_, 64) => $kernel::<4, 64, $rows> $arguments,
            _ => $kernel::<4, 128, $rows> $arguments,
        }
    };
}

pub(super) use of_scheme;

/// The whole blocks of `N` bytes of a row, and what is left, filled up with zeros.
pub fn blocks<const N: usize>(codes: &[u8]) -> (&[[u8; N]], [u8; N]) {
    let (whole, rest) = codes.as_chunks::<N>();
    let mut last = [0; N];
    last[..rest.len()].copy_from_slice(rest);
    (whole, last)
}
