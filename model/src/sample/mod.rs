//! Choosing the next token: penalties, temperature, top-k, top-p, min-p and the draw (spec section 9).
//!
//! The order is that of transformers: biases (vLLM's `logit_bias`), repetition penalty, frequency and presence penalty (vLLM's, on generated
//! tokens only), then, when sampling, temperature, top-k, top-p, min-p, softmax and one draw.

mod constraint;
mod defaults;
mod error;
mod logprobs;
mod params;
mod rng;
mod warp;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

pub use constraint::{Constraint, ConstraintError};
pub use defaults::GenerationDefaults;
pub use error::SampleError;
pub use logprobs::{TokenLogprobs, logprobs};
pub use params::{SamplingOverrides, SamplingParams};
pub use rng::Pcg32;

/// A token that may still be chosen, with its score after all penalties and cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Logit after penalties and temperature.
    pub score: f32,
}

/// Chooses one token after another. One sampler belongs to one answer: its random numbers are a stream.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    rng: Pcg32,
    scores: Vec<f32>,
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler at the start of an answer. Without a seed one is drawn; [`Sampler::seed`] tells it.
    ///
    /// # Errors
    /// [`SampleError::Range`] naming the field, its value and its range.
    pub fn new(params: SamplingParams) -> Result<Self, SampleError> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(random_seed);
        Ok(Self { params, seed, rng: Pcg32::new(seed), scores: Vec::new(), seen: Vec::new() })
    }

    /// The seed in use. The same seed, parameters and logits give the same tokens in every version: the generator is
    /// PCG32 (see [`Pcg32`]), not the platform's.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The parameters in use.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The next token for the `logits` (one per token id) of the last position, given the ids of the prompt and
    /// those generated so far.
    ///
    /// Greedy decoding takes the largest penalised logit and, of equals, the smallest id.
    ///
    /// # Errors
    /// [`SampleError`] for logits that are NaN, infinite or empty, and for ids outside the vocabulary.
    pub fn sample(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<u32, SampleError> {
        if self.params.is_greedy() {
            self.penalise(logits, prompt, generated)?;
            return first_largest(&self.scores);
        }
        let candidates = self.candidates(logits, prompt, generated)?;
        Ok(self.draw(&candidates))
    }

    /// As [`Sampler::sample`], from the largest logits alone, best first and of equal ones the first: at least as many as
    /// [`SamplingParams::deciding`] says. Nothing, and no randomness is consumed, where these do not decide, or are no numbers.
    pub fn sample_largest(&mut self, largest: &[Candidate]) -> Option<u32> {
        let first = largest.first().filter(|first| first.score.is_finite())?;
        if self.params.is_greedy() {
            return Some(first.id);
        }
        let candidates = warp::warp_largest(largest, &self.params)?;
        Some(self.draw(&candidates))
    }

    /// What the next two draws take, which are those of the next two tokens. Consumes no randomness.
    pub(crate) fn peek(&self) -> [f32; 2] {
        if self.params.is_greedy() {
            return [0.0; 2];
        }
        let mut rng = self.rng.clone();
        [(); 2].map(|()| rng.next_f64() as f32)
    }

    /// Whether [`Sampler::sample_largest`] chooses from these.
    pub(crate) fn is_decided_by(&self, largest: &[Candidate]) -> bool {
        self.params.is_greedy() || warp::warp_largest(largest, &self.params).is_some()
    }

    /// The tokens from which [`Sampler::sample`] would draw, in order of their ids, with the scores whose softmax is the
    /// distribution. Consumes no randomness.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn candidates(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<Vec<Candidate>, SampleError> {
        self.penalise(logits, prompt, generated)?;
        first_largest(&self.scores)?;
        Ok(warp::warp(&mut self.scores, &self.params))
    }

    /// Fills `scores` with the penalised logits.
    fn penalise(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<(), SampleError> {
        check_logits(logits)?;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        for &(id, bias) in &self.params.logit_bias {
            self.scores[index_of(id, logits.len())?] += bias;
        }
        if self.params.repetition_penalty != 1.0 {
            self.penalise_repetition(prompt, generated)?;
        }
        if self.params.frequency_penalty != 0.0 || self.params.presence_penalty != 0.0 {
            self.penalise_presence(generated)?;
        }
        Ok(())
    }

    /// transformers `RepetitionPenaltyLogitsProcessor`: once for each distinct id of prompt and answer.
    fn penalise_repetition(
        &mut self,
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<(), SampleError> {
        let penalty = self.params.repetition_penalty as f32;
        self.seen.clear();
        self.seen.resize(self.scores.len(), false);
        for &id in prompt.iter().chain(generated) {
            let index = index_of(id, self.scores.len())?;
            if !std::mem::replace(&mut self.seen[index], true) {
                let score = &mut self.scores[index];
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
        Ok(())
    }

    /// vLLM's frequency penalty (times the count), then its presence penalty.
    fn penalise_presence(&mut self, generated: &[u32]) -> Result<(), SampleError> {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &id in generated {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            let score = index_of(id, self.scores.len()).map(|index| &mut self.scores[index])?;
            *score -= self.params.frequency_penalty as f32 * count as f32;
            *score -= self.params.presence_penalty as f32;
        }
        Ok(())
    }

    /// Inverse of the cumulative distribution in order of ids, in f64.
    fn draw(&mut self, candidates: &[Candidate]) -> u32 {
        let weights = warp::weights(candidates);
        let total: f64 = weights.iter().sum();
        let mut left = self.rng.next_f64() * total;
        let mut chosen = 0;
        for (candidate, weight) in
            candidates.iter().zip(weights).filter(|(_, weight)| *weight > 0.0)
        {
            chosen = candidate.id;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}

fn index_of(id: u32, vocab: usize) -> Result<usize, SampleError> {
    usize::try_from(id)
        .ok()
        .filter(|index| *index < vocab)
        .ok_or(SampleError::TokenId { id, vocab })
}

/// NaN and +inf have no place in a softmax; -inf is a token that is ruled out.
fn check_logits(logits: &[f32]) -> Result<(), SampleError> {
    match logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        Some(id) => Err(SampleError::Logit { id, value: logits[id] }),
        None => Ok(()),
    }
}

fn first_largest(scores: &[f32]) -> Result<u32, SampleError> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &score) in scores.iter().enumerate() {
        if score > best.map_or(f32::NEG_INFINITY, |(_, score)| score) {
            best = Some((id, score));
        }
    }
    let (id, _) = best.ok_or(SampleError::NoCandidate { vocab: scores.len() })?;
    u32::try_from(id).map_err(|_| SampleError::NoCandidate { vocab: scores.len() })
}

/// A seed from the operating system, by way of the standard library's hash keys.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
