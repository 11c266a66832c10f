//! Tokens as text: decoded, cut at stop strings, reasoning told from answer.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::generate::{
    Answer, FinishReason, GenerateError, GeneratedToken, Generation, PromptLogprob, Timings,
};
use crate::processor::detokenize::StreamDecoder;
use crate::processor::thinking::{Segment, ThinkingSplitter};
use crate::processor::tokenizer::Tokenizer;
use crate::stop::StopMatcher;

/// What one step of a [`TextStream`] brings.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// Log probabilities of the tokens of the prompt but the first, before anything of the answer, where they were asked for.
    Prompt(Arc<[PromptLogprob]>),
    /// A token, before its text (which may come later, or together with that of other tokens).
    Token(GeneratedToken),
    /// Text of the reasoning of a Thinking checkpoint.
    Reasoning(String),
    /// Text of the answer.
    Text(String),
}

/// Turns tokens into text: decodes them, cuts at stop strings, tells reasoning from answer.
pub struct TextAssembler<'t> {
    decoder: StreamDecoder<'t>,
    stops: StopMatcher,
    thinking: ThinkingSplitter,
    /// Told the text before stop strings hold any of it back, so that it knows to which part each token belongs.
    counter: ThinkingSplitter,
    reasoning_tokens: usize,
    pending: VecDeque<StreamEvent>,
    stopped: Option<usize>,
    flushed: bool,
}

impl<'t> TextAssembler<'t> {
    /// An assembler; `thinking` knows whether the prompt opened a reasoning part.
    pub fn new(tokenizer: &'t Tokenizer, stops: StopMatcher, thinking: ThinkingSplitter) -> Self {
        Self {
            decoder: StreamDecoder::new(tokenizer, true),
            stops,
            counter: thinking.clone(),
            thinking,
            reasoning_tokens: 0,
            pending: VecDeque::new(),
            stopped: None,
            flushed: false,
        }
    }

    /// Takes the token that `answer` has got. Before the first one stands what is known of the prompt.
    pub fn push(&mut self, answer: &Answer, token: GeneratedToken) {
        let scores = answer.prompt_logprobs().filter(|_| answer.generated().len() == 1);
        self.pending.extend(scores.map(|scores| StreamEvent::Prompt(scores.into())));
        let text = (!token.is_eos).then(|| self.decoder.push(token.id)).flatten();
        let inside = self.counter.is_reasoning() && !token.is_eos;
        self.counter.push(text.as_deref().unwrap_or_default());
        self.reasoning_tokens += usize::from(inside && self.counter.is_reasoning());
        self.pending.push_back(StreamEvent::Token(token));
        self.show(text.as_deref().unwrap_or_default());
    }

    /// Releases what was held back; no token follows.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.flushed, true) {
            return;
        }
        if self.stopped.is_none() {
            let rest = self.decoder.finish().unwrap_or_default();
            self.show(&rest);
        }
        let held = self.stops.finish();
        let segments = self.thinking.push(&held);
        self.pending.extend(segments.into_iter().map(event));
        self.pending.extend(self.thinking.finish().into_iter().map(event));
    }

    /// The next event that is ready.
    pub fn pop(&mut self) -> Option<StreamEvent> {
        self.pending.pop_front()
    }

    /// Tokens of the reasoning so far, without the one that closes it.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Whether a stop string has ended the answer.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// The stop string that has ended the answer.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stopped.map(|index| self.stops.stops()[index].as_str())
    }

    fn show(&mut self, text: &str) {
        let output = self.stops.push(text);
        self.stopped = output.matched;
        let segments = self.thinking.push(&output.text);
        self.pending.extend(segments.into_iter().map(event));
    }
}

/// An iterator over the text of an answer.
pub struct TextStream<'a> {
    generation: Generation<'a>,
    text: TextAssembler<'a>,
}

impl<'a> TextStream<'a> {
    /// The text of `generation`.
    pub fn new(generation: Generation<'a>, text: TextAssembler<'a>) -> Self {
        Self { generation, text }
    }

    /// The answer so far.
    pub fn answer(&self) -> &Answer {
        self.generation.answer()
    }

    /// The stop string that has ended the answer.
    pub fn stopped_by(&self) -> Option<&str> {
        self.text.stopped_by()
    }

    /// Tokens of the reasoning so far, without the one that closes it.
    pub fn reasoning_tokens(&self) -> usize {
        self.text.reasoning_tokens()
    }

    /// Why the answer ended; interrupted when it was not read to its end.
    pub fn finish_reason(&self) -> FinishReason {
        if self.text.is_stopped() {
            return FinishReason::Stop;
        }
        self.answer().finish_reason().unwrap_or(FinishReason::Interrupted)
    }

    /// Where the time has gone so far.
    pub fn timings(&self) -> Timings {
        self.generation.timings()
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
            if let Some(event) = self.text.pop() {
                return Some(Ok(event));
            }
            if self.text.flushed {
                return None;
            }
            match (!self.text.is_stopped()).then(|| self.generation.next()).flatten() {
                Some(Ok(token)) => self.text.push(self.generation.answer(), token),
                Some(Err(error)) => return Some(Err(error)),
                None => self.text.finish(),
            }
        }
    }
}
