//! Cross-entropy under a head, a bounded number of logits at a time.

use rayon::prelude::*;

use super::matmul::{Into, Matrix, multiply_parallel, product};
use super::softmax::exponentials;
use crate::ops::reference::logit_rows;

/// `log Σ exp(logits) − logits[target]` of each row of `hidden [n, k]` under `weight [v, k]`.
pub fn cross_entropy(hidden: &[f32], weight: &[f32], targets: &[i64], k: usize) -> Vec<f32> {
    let vocabulary = weight.len() / k;
    let chunk = logit_rows(targets.len(), vocabulary);
    let mut losses = vec![0.0; targets.len()];
    let parts = losses.chunks_mut(chunk).zip(hidden.chunks(chunk * k)).zip(targets.chunks(chunk));
    for ((losses, hidden), targets) in parts {
        let mut logits = product(Matrix::rows(hidden, k), Matrix::rows(weight, k).transposed());
        let rows = logits.par_chunks_mut(vocabulary).zip(targets);
        losses.par_iter_mut().zip(rows).for_each(|(loss, (row, target))| {
            let picked = row[*target as usize];
            let (top, sum) = exponentials(row, f32::NEG_INFINITY);
            *loss = sum.ln() + (top - picked);
        });
    }
    losses
}

/// The gradient of [`cross_entropy`] with respect to `hidden`; `grad` has one value per row. That with respect to the
/// head `[v, k]` is added to `for_head`, where that is given.
pub fn cross_entropy_grads(
    hidden: &[f32],
    head: Matrix<'_>,
    targets: &[i64],
    grad: &[f32],
    mut for_head: Option<&mut [f32]>,
) -> Vec<f32> {
    let (vocabulary, k) = (head.rows, head.columns);
    let chunk = logit_rows(targets.len(), vocabulary);
    let mut for_hidden = vec![0.0; hidden.len()];
    let parts = for_hidden.chunks_mut(chunk * k).zip(hidden.chunks(chunk * k));
    let parts = parts.zip(targets.chunks(chunk)).zip(grad.chunks(chunk));
    for (((for_hidden, hidden), targets), grad) in parts {
        let hidden = Matrix::rows(hidden, k);
        let mut logits = product(hidden, head.transposed());
        let rows = logits.par_chunks_mut(vocabulary).zip(targets).zip(grad);
        rows.for_each(|((row, target), grad)| {
            let factor = grad / exponentials(row, f32::NEG_INFINITY).1;
            row.iter_mut().for_each(|p| *p *= factor);
            row[*target as usize] -= grad;
        });
        let logits = Matrix::rows(&logits, vocabulary);
        multiply_parallel(for_hidden, k, (logits, head), Into::Replace);
        if let Some(for_head) = for_head.as_deref_mut() {
            multiply_parallel(for_head, k, (logits.transposed(), hidden), Into::Add);
        }
    }
    for_hidden
}
