//! Token by token: sample, stop, feed back.

mod answer;
mod draft;
mod logits;
mod runner;
mod score;

use std::time::{Duration, Instant};

use qwen3_vl_backends::DeviceFailure;
use qwen3_vl_backends::device::lost::caught;

pub use answer::Answer;
pub use draft::Lookup;
pub(crate) use logits::Logits;
pub use score::PromptLogprob;
pub(crate) use score::read_rows;

use crate::inputs::{InputError, ModelInputs};
use crate::model::Qwen3VlModel;
use crate::replay::Stepping;
use crate::sample::{Constraint, ConstraintError, SampleError, SamplingParams, TokenLogprobs};
use crate::session::{PREFILL_CHUNK, Session};
use draft::Drafts;
use runner::Runner;

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens of an answer (HF `max_new_tokens`).
    pub max_new_tokens: usize,
    /// Ids that end an answer; they belong to the generated ids.
    pub eos_token_ids: Vec<u32>,
    pub sampling: SamplingParams,
    /// Report log probabilities of the chosen token and this many alternatives.
    pub logprobs: Option<usize>,
    /// Report them of the tokens of the prompt too, with this many alternatives.
    pub prompt_logprobs: Option<usize>,
    /// Tokens of the prompt that run at once.
    pub prefill_chunk: usize,
    /// Most tokens of prompt and answer together.
    pub context: usize,
    /// Guesses several tokens ahead; for one answer at a time ([`Generation`]), not in a batch.
    pub lookup: Option<Lookup>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 512,
            eos_token_ids: Vec::new(),
            sampling: SamplingParams::greedy(),
            logprobs: None,
            prompt_logprobs: None,
            prefill_chunk: PREFILL_CHUNK,
            context: usize::MAX,
            lookup: None,
        }
    }
}

/// Why generation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(
        "the prompt has {tokens} tokens, {over} more than the context of {limit} allows with room for one token of answer; shorten it or lower --max-pixels"
    )]
    ContextOverflow { tokens: usize, limit: usize, over: usize },
    #[error(
        "prompt and answer may have {tokens} tokens, whose keys and values need {needed} bytes, but all caches together may have {budget}; ask for fewer tokens"
    )]
    Memory { tokens: usize, needed: u64, budget: u64 },
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    #[error(transparent)]
    Device(#[from] DeviceFailure),
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// The limit of new tokens or of the context.
    Length,
    /// The caller stopped reading.
    Interrupted,
}

impl FinishReason {
    /// `stop`, `length` (as OpenAI spells them) or `interrupted`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    pub id: u32,
    /// Whether it is one of the ids that end an answer.
    pub is_eos: bool,
    /// Of the raw distribution, when asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// In the vision tower.
    pub vision: Duration,
    /// From there to the logits of the first token.
    pub prefill: Duration,
    /// In all steps after the first token.
    pub decode: Duration,
    /// Tokens of the prompt that an earlier turn had left in the cache.
    pub reused_tokens: usize,
    /// Tokens that were guessed and run, and how many of these the answer has.
    pub drafted_tokens: usize,
    pub accepted_tokens: usize,
    /// Tokens that were run by replaying a recorded step.
    pub replayed_tokens: usize,
    /// Tokens whose step was launched before the host knew them: the device guessed them, and was right.
    pub foreseen_tokens: usize,
}

/// The session that an answer extends: the caller's, or one of its own.
#[derive(Debug)]
pub enum SessionSlot<'a> {
    Owned(Box<Session>),
    Borrowed(&'a mut Session),
}

impl SessionSlot<'_> {
    fn get(&mut self) -> &mut Session {
        match self {
            Self::Owned(session) => session,
            Self::Borrowed(session) => session,
        }
    }
}

/// An answer being generated: an iterator over its tokens.
pub struct Generation<'a> {
    runner: Runner<'a>,
    answer: Answer,
    /// Logits after the last token that was run.
    logits: Logits,
    drafts: Option<Drafts>,
    failed: bool,
    timings: Timings,
}

impl<'a> Generation<'a> {
    /// Runs the prompt; the tokens come from the iterator.
    ///
    /// # Errors
    /// When the prompt does not fit the model or its context, a sampling parameter is out of range, or a device fails.
    pub fn start(
        model: &'a Qwen3VlModel,
        mut session: SessionSlot<'a>,
        inputs: &ModelInputs,
        options: GenerateOptions,
    ) -> Result<Self, GenerateError> {
        let drafts = options.lookup.map(|lookup| Drafts::new(lookup, &inputs.ids));
        let mut answer = Answer::new(options, inputs.ids.clone())?;
        let begun = caught(|| Self::prefill(model, session.get(), inputs, &mut answer));
        let (logits, timings) = begun.unwrap_or_else(|failure| {
            *session.get() = Session::new(model);
            Err(failure.into())
        })?;
        let runner = Runner::new(model, session);
        Ok(Self { runner, answer, logits, drafts, failed: false, timings })
    }

    /// Logits after the prompt.
    fn prefill(
        model: &Qwen3VlModel,
        session: &mut Session,
        inputs: &ModelInputs,
        answer: &mut Answer,
    ) -> Result<(Logits, Timings), GenerateError> {
        let chunk = answer.options.prefill_chunk;
        let prefill = session.prefill_for(Some(answer), model, inputs, chunk)?;
        let start = Instant::now();
        let logits = Logits::read(prefill.logits, &[answer.deciding()]).swap_remove(0);
        let timings = Timings {
            vision: prefill.vision,
            prefill: prefill.language + start.elapsed(),
            reused_tokens: prefill.reused,
            ..Timings::default()
        };
        Ok((logits, timings))
    }

    /// The answer so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Where the time has gone so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Runs the steps of the answer as `stepping` says; guessed tokens are always run in ordinary ones.
    #[must_use]
    pub fn stepping(mut self, stepping: Stepping) -> Self {
        self.runner.stepping = stepping;
        self
    }

    /// Lets `constraint` rule out tokens.
    #[must_use]
    pub fn with_constraint(mut self, constraint: Option<Box<dyn Constraint>>) -> Self {
        self.answer = self.answer.with_constraint(constraint);
        self
    }

    fn advance(&mut self) -> Result<GeneratedToken, GenerateError> {
        if let Some(last) = self.answer.generated.last() {
            let start = Instant::now();
            self.logits = self.logits_after(*last);
            self.timings.decode += start.elapsed();
        }
        self.answer.sample(&self.logits)
    }

    /// Runs the token that was chosen last, and a draft behind it; or has that done already.
    fn logits_after(&mut self, last: u32) -> Logits {
        let Some(drafts) = &mut self.drafts else {
            let logits = self.runner.logits_after(last, &self.answer);
            self.timings.replayed_tokens = self.runner.replayed;
            self.timings.foreseen_tokens = self.runner.foreseen;
            return logits;
        };
        let (session, need) = (self.runner.session.get(), self.answer.deciding());
        if let Some(logits) = drafts.take(last) {
            self.timings.accepted_tokens += 1;
            return logits;
        }
        session.take_back(drafts.drop_wrong());
        let mut ids = vec![last];
        // The last token of an answer is not run.
        ids.extend(drafts.guess(self.answer.room().saturating_sub(1)));
        let needs = vec![need; ids.len()];
        let mut rows = Logits::read(session.step(self.runner.model, &ids), &needs).into_iter();
        let logits = rows.next().expect("a row of logits for each token");
        self.timings.drafted_tokens += ids.len() - 1;
        drafts.keep(ids.split_off(1), rows);
        logits
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<GeneratedToken, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.answer.finish.is_some() {
            return None;
        }
        let token = caught(|| self.advance()).unwrap_or_else(|failure| {
            self.runner.forget();
            Err(failure.into())
        });
        self.failed = token.is_err();
        Some(token)
    }
}
