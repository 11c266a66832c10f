//! GEMM over panels of weight rows, each widened to f32 once.

use std::any::TypeId;

use rayon::prelude::*;

use super::Widen;

/// Bytes of one widened panel: large enough for GEMM's own blocking, small beside any model.
const PANEL_BYTES: usize = 16 << 20;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn gemm<W: Widen + 'static>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    assert!(x.len() == m * k && w.len() == n * k, "operands of a [{m}, {k}] x [{n}, {k}] product");
    let mut out = vec![0.0; m * n];
    let widened = TypeId::of::<W>() != TypeId::of::<f32>();
    let rows = if widened { (PANEL_BYTES / 4 / k.max(1)).max(64) } else { n };
    let mut panel = vec![0.0f32; if widened { rows.min(n) * k } else { 0 }];
    for start in (0..n).step_by(rows.max(1)) {
        let columns = rows.min(n - start);
        let part = &w[start * k..(start + columns) * k];
        let weights = if widened {
            widen(part, &mut panel[..columns * k]);
            panel.as_ptr()
        } else {
            part.as_ptr().cast::<f32>()
        };
        // SAFETY: `weights` points at `columns * k` f32 values (the panel just filled, or the f32 weights
        // themselves, whose type was compared), `x` at `m * k`, and columns `start..start + columns` of the
        // row-major `out [m, n]` lie inside its `m * n` values; the strides below address exactly these.
        // `out` is exclusively borrowed and overlaps none of the inputs.
        unsafe {
            gemm::gemm(
                m,
                columns,
                k,
                out.as_mut_ptr().add(start),
                1,
                n as isize,
                false,
                x.as_ptr(),
                1,
                k as isize,
                weights,
                k as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    }
    out
}

fn widen<W: Widen>(from: &[W], to: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    });
}
