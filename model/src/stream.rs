//! Tokens as text: decoded, cut at stop strings, reasoning told from answer.

use std::collections::VecDeque;

use crate::generate::{FinishReason, GenerateError, GeneratedToken, Generation, Timings};
use crate::processor::detokenize::StreamDecoder;
use crate::processor::thinking::{Segment, ThinkingSplitter};
use crate::processor::tokenizer::Tokenizer;
use crate::stop::StopMatcher;

/// What one step of a [`TextStream`] brings.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// A token, before its text (which may come later, or together with that of other tokens).
    Token(GeneratedToken),
    /// Text of the reasoning of a Thinking checkpoint.
    Reasoning(String),
    /// Text of the answer.
    Text(String),
}

/// An iterator over the text of an answer.
pub struct TextStream<'a> {
    generation: Generation<'a>,
    decoder: StreamDecoder<'a>,
    stops: StopMatcher,
    thinking: ThinkingSplitter,
    pending: VecDeque<StreamEvent>,
    stopped: bool,
    flushed: bool,
}

impl<'a> TextStream<'a> {
    /// The text of `generation`; `thinking` knows whether the prompt opened a reasoning part.
    pub fn new(
        generation: Generation<'a>,
        tokenizer: &'a Tokenizer,
        stops: StopMatcher,
        thinking: ThinkingSplitter,
    ) -> Self {
        Self {
            generation,
            decoder: StreamDecoder::new(tokenizer, true),
            stops,
            thinking,
            pending: VecDeque::new(),
            stopped: false,
            flushed: false,
        }
    }

    /// Ids generated so far.
    pub fn token_ids(&self) -> &[u32] {
        self.generation.generated()
    }

    /// Why the answer ended; interrupted when it was not read to its end.
    pub fn finish_reason(&self) -> FinishReason {
        if self.stopped {
            return FinishReason::Stop;
        }
        self.generation.finish_reason().unwrap_or(FinishReason::Interrupted)
    }

    /// Where the time has gone so far.
    pub fn timings(&self) -> Timings {
        self.generation.timings()
    }

    /// The seed of the sampler.
    pub fn seed(&self) -> u64 {
        self.generation.seed()
    }

    fn take(&mut self, token: GeneratedToken) {
        let text = (!token.is_eos).then(|| self.decoder.push(token.id)).flatten();
        self.pending.push_back(StreamEvent::Token(token));
        self.show(text.as_deref().unwrap_or_default());
    }

    fn show(&mut self, text: &str) {
        let output = self.stops.push(text);
        self.stopped = output.matched.is_some();
        let segments = self.thinking.push(&output.text);
        self.pending.extend(segments.into_iter().map(event));
    }

    fn flush(&mut self) {
        self.flushed = true;
        if !self.stopped {
            let rest = self.decoder.finish().unwrap_or_default();
            self.show(&rest);
        }
        let held = self.stops.finish();
        let segments = self.thinking.push(&held);
        self.pending.extend(segments.into_iter().map(event));
        self.pending.extend(self.thinking.finish().into_iter().map(event));
    }
}

fn event(segment: Segment) -> StreamEvent {
    match segment {
        Segment::Reasoning(text) => StreamEvent::Reasoning(text),
        Segment::Answer(text) => StreamEvent::Text(text),
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<StreamEvent, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            if self.flushed {
                return None;
            }
            match (!self.stopped).then(|| self.generation.next()).flatten() {
                Some(Ok(token)) => self.take(token),
                Some(Err(error)) => return Some(Err(error)),
                None => self.flush(),
            }
        }
    }
}
