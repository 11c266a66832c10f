//! Cross-entropy under a head, a bounded number of logits at a time.

use rayon::prelude::*;

use super::matmul::{Into, Matrix, multiply_parallel, product};
use super::products::matrix_product;
use super::softmax::exponentials;
use super::{Widen, turned};
use crate::ops::reference::logit_rows;

/// `log Σ exp(logits) − logits[target]` of each row of `hidden [n, k]` under `weight [v, k]`.
pub fn cross_entropy<W: Widen>(
    hidden: &[f32],
    weight: &[W],
    targets: &[i64],
    k: usize,
) -> Vec<f32> {
    let vocabulary = weight.len() / k;
    let chunk = logit_rows(targets.len(), vocabulary);
    let mut losses = vec![0.0; targets.len()];
    let parts = losses.chunks_mut(chunk).zip(hidden.chunks(chunk * k)).zip(targets.chunks(chunk));
    for ((losses, hidden), targets) in parts {
        let mut logits = logits_of(hidden, weight, k);
        let rows = logits.par_chunks_mut(vocabulary).zip(targets);
        losses.par_iter_mut().zip(rows).for_each(|(loss, (row, target))| {
            let picked = row[*target as usize];
            let (top, sum) = exponentials(row, f32::NEG_INFINITY);
            *loss = sum.ln() + (top - picked);
        });
    }
    losses
}

/// `hidden · weightᵀ`; weights of half width are widened panel by panel.
fn logits_of<W: Widen>(hidden: &[f32], weight: &[W], k: usize) -> Vec<f32> {
    match W::as_f32(weight) {
        Some(w) => product(Matrix::rows(hidden, k), Matrix::rows(w, k).transposed()),
        None => matrix_product(hidden, weight, [weight.len() / k, k]),
    }
}

/// The gradient of [`cross_entropy`] with respect to `hidden`; `grad` has one value per row. That with respect to the
/// head `[v, k]` is added to `for_head`, where that is given.
pub fn cross_entropy_grads<W: Widen>(
    hidden: &[f32],
    (head, k): (&[W], usize),
    targets: &[i64],
    grad: &[f32],
    mut for_head: Option<&mut [f32]>,
) -> Vec<f32> {
    let vocabulary = head.len() / k;
    let chunk = logit_rows(targets.len(), vocabulary);
    let mut for_hidden = vec![0.0; hidden.len()];
    let parts = for_hidden.chunks_mut(chunk * k).zip(hidden.chunks(chunk * k));
    let parts = parts.zip(targets.chunks(chunk)).zip(grad.chunks(chunk));
    for (((for_hidden, hidden), targets), grad) in parts {
        let mut logits = logits_of(hidden, head, k);
        let rows = logits.par_chunks_mut(vocabulary).zip(targets).zip(grad);
        rows.for_each(|((row, target), grad)| {
            let factor = grad / exponentials(row, f32::NEG_INFINITY).1;
            row.iter_mut().for_each(|p| *p *= factor);
            row[*target as usize] -= grad;
        });
        let hidden = Matrix::rows(hidden, k);
        if let Some(head) = W::as_f32(head) {
            let operands = (Matrix::rows(&logits, vocabulary), Matrix::rows(head, k));
            multiply_parallel(for_hidden, k, operands, Into::Replace);
        } else {
            for_hidden.copy_from_slice(&turned::product(&logits, head, [k, vocabulary]));
        }
        let logits = Matrix::rows(&logits, vocabulary);
        if let Some(for_head) = for_head.as_deref_mut() {
            multiply_parallel(for_head, k, (logits.transposed(), hidden), Into::Add);
        }
    }
    for_hidden
}
