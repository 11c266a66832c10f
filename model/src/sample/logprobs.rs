//! Log probabilities as OpenAI and vLLM report them.

use std::cmp::Ordering;

use super::{SampleError, check_logits, index_of};

/// Log probabilities at one position, natural logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// Of the most probable tokens, best first; of equals, the smaller id first.
    pub top: Vec<(u32, f32)>,
}

/// Log-softmax of the **raw** logits (before penalties, temperature and cuts) for the chosen token and the `n` best.
///
/// # Errors
/// [`SampleError`] for logits that are NaN, infinite or all -inf, and for a `chosen` id outside of them.
pub fn logprobs(logits: &[f32], chosen: u32, n: usize) -> Result<TokenLogprobs, SampleError> {
    check_logits(logits)?;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return Err(SampleError::NoCandidate { vocab: logits.len() });
    }
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
    let log_sum = f64::from(largest) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let index = index_of(chosen, logits.len())?;
    let top = best(logits, n).into_iter().map(|(id, logit)| (id, logprob(logit))).collect();
    Ok(TokenLogprobs { chosen: logprob(logits[index]), top })
}

/// The `n` largest logits, best first.
fn best(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| {
        b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
    };
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    if n == 0 {
        return Vec::new();
    }
    if n < all.len() {
        all.select_nth_unstable_by(n - 1, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}
