//! What was sampled of an answer, and whether it goes on.

use super::score::Scores;
use super::{FinishReason, GenerateError, GenerateOptions, GeneratedToken, Logits};
use crate::sample::{Constraint, Sampler, TokenLogprobs, logprobs};

/// The state of one answer: what was sampled, and whether it goes on. It runs no model, so that one answer
/// ([`super::Generation`]) and many at once ([`crate::batch::Batch`]) are sampled by the same code.
#[derive(Debug)]
pub struct Answer {
    pub(super) options: GenerateOptions,
    pub(super) sampler: Sampler,
    pub(super) prompt: Vec<u32>,
    pub(super) generated: Vec<u32>,
    pub(super) finish: Option<FinishReason>,
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) scores: Scores,
}

impl Answer {
    /// An answer to the prompt `prompt`, with nothing sampled yet.
    ///
    /// # Errors
    /// When the prompt leaves no room in the context, or a sampling parameter is out of range.
    pub fn new(options: GenerateOptions, prompt: Vec<u32>) -> Result<Self, GenerateError> {
        let (limit, tokens) = (options.context, prompt.len());
        if tokens >= limit {
            return Err(GenerateError::ContextOverflow { tokens, limit, over: tokens + 1 - limit });
        }
        Ok(Self {
            sampler: Sampler::new(options.sampling.clone())?,
            prompt,
            generated: Vec::new(),
            finish: (options.max_new_tokens == 0).then_some(FinishReason::Length),
            constraint: None,
            scores: Scores::default(),
            options,
        })
    }

    /// Lets `constraint` rule out tokens.
    #[must_use]
    pub fn with_constraint(self, constraint: Option<Box<dyn Constraint>>) -> Self {
        Self { constraint, ..self }
    }

    /// Samples the next token from the logits after the last one.
    ///
    /// # Errors
    /// When the logits cannot be sampled from, the constraint leaves nothing, or the prompt could not be scored.
    pub(crate) fn sample(&mut self, logits: &Logits) -> Result<GeneratedToken, GenerateError> {
        if let Some(error) = self.scores.failed.take() {
            return Err(error.into());
        }
        let (id, complete, logprobs) = match self.decided(logits) {
            Some(id) => (id, false, None),
            None => self.sample_of_all(&logits.all())?,
        };
        self.generated.push(id);
        let is_eos = self.options.eos_token_ids.contains(&id);
        self.finish = match (is_eos || complete, self.room()) {
            (true, _) => Some(FinishReason::Stop),
            (_, 0) => Some(FinishReason::Length),
            _ => None,
        };
        Ok(GeneratedToken { id, is_eos, logprobs })
    }

    /// How many of the largest logits decide the next token; nothing where all may.
    pub(crate) fn deciding(&self) -> Option<usize> {
        let all = self.options.logprobs.is_some() || self.constraint.is_some();
        self.options.sampling.deciding().filter(|_| !all)
    }

    /// The next id, where the largest logits alone decide it.
    fn decided(&mut self, logits: &Logits) -> Option<u32> {
        self.deciding()?;
        self.sampler.sample_largest(logits.best()?)
    }

    /// The next id, whether the answer is complete with it, and log probabilities where they are asked for.
    fn sample_of_all(
        &mut self,
        logits: &[f32],
    ) -> Result<(u32, bool, Option<TokenLogprobs>), GenerateError> {
        let (id, complete) = self.choose(logits)?;
        let told = self.options.logprobs.map(|n| logprobs(logits, id, n)).transpose()?;
        Ok((id, complete, told))
    }

    /// The next id, and whether the constraint has the answer complete with it.
    fn choose(&mut self, logits: &[f32]) -> Result<(u32, bool), GenerateError> {
        let Some(constraint) = &mut self.constraint else {
            return Ok((self.sampler.sample(logits, &self.prompt, &self.generated)?, false));
        };
        let mut allowed = logits.to_vec();
        constraint.restrict(&mut allowed)?;
        let id = self.sampler.sample(&allowed, &self.prompt, &self.generated)?;
        Ok((id, constraint.accept(id)?))
    }

    /// Who chooses the tokens.
    pub(crate) fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// How many more tokens the answer may have.
    pub(crate) fn room(&self) -> usize {
        let context = self.options.context.saturating_sub(self.prompt.len());
        self.options.max_new_tokens.min(context).saturating_sub(self.generated.len())
    }

    /// Ids generated so far.
    pub fn generated(&self) -> &[u32] {
        &self.generated
    }

    /// Why the answer ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The seed of the sampler.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }
}
