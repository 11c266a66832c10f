//! Which kernel multiplies: by the number of rows, by what they are of, and by how operands may be rounded.

use super::super::{Products, choose_products, products, steps};
use super::quantised::Weights;
use super::widen::Widen;
use super::{TILE_ROWS, dot, matmul, panel, quantised};
use crate::cpu::Level;
use crate::quant::Codes;

/// From this many rows on, converting the weight for GEMM costs less than repeated dot products.
const GEMM_ROWS: usize = 65;

/// A matrix of no more rows, such as a router, costs so little that it is multiplied row by row wherever a row must get the same
/// whatever it is computed with.
const FEW_OUTPUTS: usize = 128;

/// From this many rows on, repacking rounded weights costs less than repeated dot products.
const ROUNDED_ROWS: usize = 16;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub(super) fn matrix_product<W: Widen>(x: &[f32], w: &[W], sizes: [usize; 2]) -> Vec<f32> {
    affine_product(x, w, None, sizes)
}

/// [`matrix_product`], plus `bias [n]` on every row if there is one.
pub(super) fn affine_product<W: Widen>(
    x: &[f32],
    w: &[W],
    bias: Option<&[f32]>,
    [n, k]: [usize; 2],
) -> Vec<f32> {
    if n <= FEW_OUTPUTS && steps().is_some() {
        return row_by_row(x, w, bias, [n, k]);
    }
    if panel::tiles().is_some() && products() == Products::Rounded {
        return in_kinds(x, k, TILE_ROWS, |x, kind| {
            if kind == Kind::Prompts {
                return panel::gemm(x, w, bias, [n, k]);
            }
            // One alone is computed in f32, and several as nearly so as tiles can.
            let _chosen = choose_products(Some(Products::Split));
            by_count(x, w, bias, [n, k])
        });
    }
    by_count(x, w, bias, [n, k])
}

/// [`affine_product`] by the number of rows.
fn by_count<W: Widen>(x: &[f32], w: &[W], bias: Option<&[f32]>, [n, k]: [usize; 2]) -> Vec<f32> {
    let tiles =
        panel::tiles().is_some() && (W::as_f32(w).is_none() || products() == Products::Rounded);
    let few = if tiles { TILE_ROWS } else { GEMM_ROWS };
    match x.len() / k < few {
        true => row_by_row(x, w, bias, [n, k]),
        false => panel::gemm(x, w, bias, [n, k]),
    }
}

fn row_by_row<W: Widen>(x: &[f32], w: &[W], bias: Option<&[f32]>, [n, k]: [usize; 2]) -> Vec<f32> {
    let mut out = dot::rows(x, w, x.len() / k, n, k);
    panel::add(&mut out, bias);
    out
}

/// How rows are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As one alone.
    Steps,
    /// As many.
    Prompts,
}

impl Kind {
    /// What a pass says of its rows when all are of one kind; nothing where it does not say.
    pub(super) fn said() -> Option<Self> {
        steps().map(|steps| if steps > 0 { Self::Steps } else { Self::Prompts })
    }
}

/// What `product` makes of the rows of `x`, those of each kind by themselves. Where nobody says which are steps, all are where they
/// are fewer than `many`.
fn in_kinds(
    x: &[f32],
    k: usize,
    many: usize,
    product: impl Fn(&[f32], Kind) -> Vec<f32>,
) -> Vec<f32> {
    let m = x.len() / k.max(1);
    let steps = steps().unwrap_or(if m < many { m } else { 0 }).min(m);
    let (first, others) = x.split_at(steps * k);
    if others.is_empty() {
        return product(first, Kind::Steps);
    }
    if first.is_empty() {
        return product(others, Kind::Prompts);
    }
    let mut out = product(first, Kind::Steps);
    out.extend(product(others, Kind::Prompts));
    out
}

/// `x [m, k] · w [n, k]ᵀ -> [m, n]` with rounded weights.
pub(super) fn product_of_codes(x: &[f32], weights: Weights<'_>, n: usize) -> Vec<f32> {
    let product = |x: &[f32], kind| match kind {
        Kind::Steps => quantised::rows(x, weights, Level::chosen()),
        Kind::Prompts => many_rows_of_codes(x, weights, n),
    };
    // Where codes have a point, neither kernel rounds activations.
    if weights.scheme.codes() == Codes::Float8 {
        let few = x.len() < ROUNDED_ROWS * weights.k;
        return product(x, if few { Kind::Steps } else { Kind::Prompts });
    }
    in_kinds(x, weights.k, ROUNDED_ROWS, product)
}

fn many_rows_of_codes(x: &[f32], weights: Weights<'_>, n: usize) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if let Some(tiling) = panel::tiles().filter(|tiling| weights.pay_in(tiling.with)) {
        return quantised::in_tiles(x, weights, tiling);
    }
    quantised::many_rows(x, weights, Level::chosen(), products() == Products::Rounded)
        .unwrap_or_else(|| in_panels_of_codes(x, weights, n))
}

/// A product with weights that are expanded to f32, panel by panel.
fn in_panels_of_codes(x: &[f32], weights: Weights<'_>, n: usize) -> Vec<f32> {
    let expand = |first, out: &mut [f32]| weights.expand(first, out);
    let (m, k) = (x.len() / weights.k.max(1), weights.k);
    let least = matmul::least_rows(n.max(1));
    if m >= least || steps().is_none() {
        return panel::by_panels(x, [m, n, k], expand);
    }
    // Zeros make it large enough for a row to get the same as among many.
    let mut x = x.to_vec();
    x.resize(least * k, 0.0);
    let mut out = panel::by_panels(&x, [least, n, k], expand);
    out.truncate(m * n);
    out
}
