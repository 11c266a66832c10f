//! Temperature, top-k, top-p and min-p: transformers' "logits warpers" on a list of candidates.
//!
//! Scores are f32 as in transformers; probabilities are f64 and rounded to f32 where transformers compares f32.

use std::cmp::Ordering;

use super::{Candidate, SamplingParams};

/// Applies all four in order. `scores` hold no NaN, and at least one is above -inf. The result is sorted by id.
pub(super) fn warp(scores: &mut [f32], params: &SamplingParams) -> Vec<Candidate> {
    heat(scores.iter_mut(), params);
    cut(top_k(scores, params.top_k), params)
}

/// As [`warp`], from the largest scores alone, best first; nothing where others may be among the candidates.
pub(super) fn warp_largest(
    largest: &[Candidate],
    params: &SamplingParams,
) -> Option<Vec<Candidate>> {
    let mut candidates = largest.to_vec();
    heat(candidates.iter_mut().map(|candidate| &mut candidate.score), params);
    let threshold = candidates.get(params.top_k.checked_sub(1)?)?.score;
    let kept = candidates.iter().take_while(|candidate| candidate.score >= threshold).count();
    // Those behind the last one may equal it.
    if kept == candidates.len() || threshold == f32::NEG_INFINITY {
        return None;
    }
    candidates.truncate(kept);
    // In this order the others come, and sums depend on it.
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    Some(cut(candidates, params))
}

fn heat<'a>(scores: impl Iterator<Item = &'a mut f32>, params: &SamplingParams) {
    if params.temperature != 1.0 {
        let temperature = params.temperature as f32;
        scores.for_each(|score| *score /= temperature);
    }
}

/// Top-p and min-p of what top-k has left.
fn cut(mut candidates: Vec<Candidate>, params: &SamplingParams) -> Vec<Candidate> {
    if params.top_p < 1.0 {
        top_p(&mut candidates, params.top_p);
    }
    if params.min_p > 0.0 {
        min_p(&mut candidates, params.min_p);
    }
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    candidates
}

/// `exp(score - largest)` of each candidate.
pub(super) fn weights(candidates: &[Candidate]) -> Vec<f64> {
    let largest = candidates.iter().fold(f32::NEG_INFINITY, |largest, c| largest.max(c.score));
    candidates.iter().map(|c| weight(c, largest)).collect()
}

fn weight(candidate: &Candidate, largest: f32) -> f64 {
    (f64::from(candidate.score) - f64::from(largest)).exp()
}

/// transformers `TopKLogitsWarper`: drops scores below the k-th largest, so ties at the threshold survive.
fn top_k(scores: &[f32], k: usize) -> Vec<Candidate> {
    let threshold = if k == 0 { f32::NEG_INFINITY } else { kth_largest(scores, k) };
    let all = (0..).zip(scores).map(|(id, &score)| Candidate { id, score });
    all.filter(|candidate| candidate.score >= threshold).collect()
}

/// The k-th largest score in one pass: a buffer of 2k scores is cut back to its k largest whenever it is full.
fn kth_largest(scores: &[f32], k: usize) -> f32 {
    if k >= scores.len() {
        return f32::NEG_INFINITY;
    }
    let mut largest: Vec<f32> = Vec::with_capacity(2 * k);
    let mut floor = f32::NEG_INFINITY;
    for &score in scores.iter().filter(|score| **score > f32::NEG_INFINITY) {
        if score > floor {
            largest.push(score);
            if largest.len() == 2 * k {
                floor = cut_to(&mut largest, k);
            }
        }
    }
    if largest.len() < k { f32::NEG_INFINITY } else { cut_to(&mut largest, k) }
}

/// Keeps the k largest and returns the smallest of them.
fn cut_to(scores: &mut Vec<f32>, k: usize) -> f32 {
    let (_, kth, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = *kth;
    scores.truncate(k);
    kth
}

/// Larger scores first; of equals, the larger id first, because transformers drops from the front of a stable
/// ascending sort.
fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal).then(b.id.cmp(&a.id))
}

/// transformers `TopPLogitsWarper`: in ascending order, drops tokens while the cumulative probability is at most
/// `1 - p`; the largest always stays. Sorted from the top in growing blocks, so that the tail is never sorted.
fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let largest = candidates.iter().fold(f32::NEG_INFINITY, |largest, c| largest.max(c.score));
    let total: f64 = candidates.iter().map(|c| weight(c, largest)).sum();
    let threshold = (1.0 - p) as f32;
    let (mut above, mut sorted, mut block) = (0.0, 0, 256);
    while sorted < candidates.len() {
        let end = candidates.len().min(sorted + block);
        let rest = &mut candidates[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted - 1, descending);
        }
        candidates[sorted..end].sort_unstable_by(descending);
        for index in sorted..end {
            // Everything from here down, this token included, is its cumulative probability.
            let cumulative = ((total - above) / total) as f32;
            if index > 0 && cumulative <= threshold {
                candidates.truncate(index);
                return;
            }
            above += weight(&candidates[index], largest);
        }
        (sorted, block) = (end, block * 4);
    }
}

/// transformers `MinPLogitsWarper`: drops tokens less probable than `p` times the most probable one.
fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    let weights = weights(candidates);
    let total: f64 = weights.iter().sum();
    let threshold = p as f32 * (1.0 / total) as f32;
    let mut weights = weights.into_iter();
    candidates
        .retain(|_| weights.next().is_some_and(|weight| (weight / total) as f32 >= threshold));
}
