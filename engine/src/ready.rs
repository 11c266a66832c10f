//! Requests with everything that their answers need, made once and before they wait for their turn.

use qwen3_vl_model::batch::BatchOptions;
use qwen3_vl_model::generate::GenerateOptions;
use qwen3_vl_model::processor::thinking::{ThinkingSplitter, opens_thinking};
use qwen3_vl_model::session::PREFILL_CHUNK;
use qwen3_vl_model::stop::StopMatcher;
use qwen3_vl_model::stream::TextAssembler;

use crate::grammar::{Guide, Start};
use crate::{Error, Prepared, Qwen3Vl, Request};

/// New tokens when neither the request nor the checkpoint sets a limit.
const DEFAULT_MAX_TOKENS: usize = 512;

/// A request that a batch takes: its prompt, how it is generated, where it ends and what form the answer has.
#[derive(Debug, Clone)]
pub struct Ready {
    pub(crate) prepared: Prepared,
    pub(crate) options: GenerateOptions,
    pub(crate) stops: StopMatcher,
    pub(crate) guide: Option<Guide>,
}

impl Ready {
    /// The prompt.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// Whether log probabilities of single tokens are asked for.
    pub fn tells_tokens(&self) -> bool {
        self.options.logprobs.is_some()
    }

    /// The same as answer `index` of several. With a seed, each has its own. Only the first tells of the prompt, which
    /// is the same for all.
    #[must_use]
    pub fn numbered(mut self, index: usize) -> Self {
        let seed = &mut self.options.sampling.seed;
        *seed = seed.map(|seed| seed.wrapping_add(index as u64));
        self.options.prompt_logprobs = self.options.prompt_logprobs.filter(|_| index == 0);
        self
    }
}

impl Qwen3Vl {
    /// Looks at everything for which a batch with these `limits` would refuse a request, so that none has to wait for its
    /// turn to be refused.
    ///
    /// # Errors
    /// When the request does not fit the model or the memory, or a setting is wrong.
    pub fn check(
        &self,
        prepared: Prepared,
        request: &Request,
        limits: &BatchOptions,
    ) -> Result<Ready, Error> {
        let ready = self.ready(prepared, request)?;
        limits.check(self.model(), &ready.prepared.chat.inputs, &ready.options)?;
        Ok(ready)
    }

    /// As [`Self::check`], but for the prompt and the memory.
    pub(crate) fn ready(&self, prepared: Prepared, request: &Request) -> Result<Ready, Error> {
        let options = self.options(&prepared, request)?;
        let stops = StopMatcher::new(request.stop.clone())?;
        let guide = self.guide(&prepared, request)?;
        Ok(Ready { prepared, options, stops, guide })
    }

    /// Makes text of the tokens that answer a prompt.
    pub(crate) fn assembler(&self, prepared: &Prepared, stops: StopMatcher) -> TextAssembler<'_> {
        let thinking = ThinkingSplitter::for_prompt(&prepared.chat.rendered);
        TextAssembler::new(self.processor().tokenizer(), stops, thinking)
    }

    /// Rules out tokens that the form of the answer does not allow.
    fn guide(&self, prepared: &Prepared, request: &Request) -> Result<Option<Guide>, Error> {
        let start = Start {
            tokenizer: self.processor().tokenizer(),
            vocabulary: self.model().config().text.vocab_size,
            ends: &self.defaults().eos_token_ids,
            reasoning: opens_thinking(&prepared.chat.rendered),
            budget: request.reasoning_budget,
        };
        Ok(self.grammars.guide(&request.format, &start)?)
    }

    /// How a request is generated: its own settings, then the checkpoint's.
    fn options(&self, prepared: &Prepared, request: &Request) -> Result<GenerateOptions, Error> {
        request.check_prompt_logprobs(prepared.chat.inputs.ids.len())?;
        let (defaults, text) = (self.defaults(), &self.model().config().text);
        let max_new_tokens =
            request.max_tokens.or(defaults.max_new_tokens).unwrap_or(DEFAULT_MAX_TOKENS);
        if max_new_tokens == 0 {
            return Err(Error::NoTokens);
        }
        let eos = if request.ignore_eos { &[][..] } else { &defaults.eos_token_ids };
        request.check_ids(text.vocab_size)?;
        Ok(GenerateOptions {
            max_new_tokens,
            eos_token_ids: [eos, &request.stop_token_ids].concat(),
            sampling: defaults.resolve(&request.sampling)?,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            prefill_chunk: PREFILL_CHUNK,
            context: text.max_position_embeddings,
            lookup: request.lookup,
        })
    }
}
