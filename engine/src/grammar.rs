//! Answers that must have a form: JSON by a schema, calls of tools, reasoning within a budget. llguidance rules out
//! every token that cannot go on.

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use qwen3_vl_model::processor::detokenize::token_bytes;
use qwen3_vl_model::processor::tokenizer::Tokenizer;
use qwen3_vl_model::sample::{Constraint, ConstraintError};
use serde_json::{Value, json};

use crate::request::Format;
use crate::tools;

/// A format that no grammar can be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    #[error("the schema cannot be used: {0}")]
    Schema(String),
    #[error("the tokenizer cannot be used for constrained answers: {0}")]
    Tokenizer(String),
    #[error("the tokenizer has no token `{0}`, which the reasoning of this model needs")]
    NoToken(&'static str),
}

/// Makes constraints for one tokenizer; the table of its tokens is made once, when it is first needed.
#[derive(Default)]
pub(crate) struct Grammars {
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// What a constraint starts from.
pub(crate) struct Start<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Rows of the logits.
    pub vocabulary: usize,
    /// Ids that end an answer.
    pub ends: &'a [u32],
    /// Whether the prompt opened a reasoning part.
    pub reasoning: bool,
    pub budget: Option<usize>,
}

impl Grammars {
    /// The constraint of an answer in `format`; `None` where everything is allowed.
    ///
    /// # Errors
    /// When the schema is none that llguidance knows.
    pub(crate) fn guide(
        &self,
        format: &Format,
        start: &Start<'_>,
    ) -> Result<Option<Guide>, GrammarError> {
        let budget = start.budget.filter(|_| start.reasoning);
        let matcher = match format {
            Format::Text if budget.is_none() => return Ok(None),
            Format::Text => None,
            Format::Schema(schema) => {
                let grammar = TopLevelGrammar::from_json_schema(bounded(schema.clone()));
                Some(self.matcher(grammar, start)?)
            }
            Format::Calls(functions) => {
                let grammar = TopLevelGrammar::from_lark(calls(functions, start.tokenizer));
                Some(self.matcher(grammar, start)?)
            }
        };
        let close = match start.reasoning {
            true => Some(start.tokenizer.token_to_id(CLOSE).ok_or(GrammarError::NoToken(CLOSE))?),
            false => None,
        };
        let ends = start.ends.to_vec();
        Ok(Some(Guide { matcher, reasoning: close, budget, thought: 0, ends }))
    }

    fn matcher(
        &self,
        grammar: TopLevelGrammar,
        start: &Start<'_>,
    ) -> Result<Matcher, GrammarError> {
        let factory = self.factory.get_or_init(|| factory(start).map_err(|e| e.to_string()));
        let factory = factory.as_ref().map_err(|e| GrammarError::Tokenizer(e.clone()))?;
        let parser = factory.create_parser(grammar);
        let parser = parser.map_err(|error| GrammarError::Schema(format!("{error:#}")))?;
        let mut matcher = Matcher::new(Ok(parser));
        // What allows no first token would fail when its answer is begun.
        matcher.compute_mask_or_eos().map_err(|e| GrammarError::Schema(cause(&e)))?;
        Ok(matcher)
    }
}

const CLOSE: &str = "</think>";

fn factory(
    start: &Start<'_>,
) -> Result<Arc<ParserFactory>, Box<dyn std::error::Error + Send + Sync>> {
    let end = start.ends.first().copied().or_else(|| start.tokenizer.eos_token_id());
    let end = end.ok_or("it names no token that ends an answer")?;
    let mut words: Vec<Vec<u8>> = (0..start.vocabulary as u32)
        .map(|id| {
            let bytes = token_bytes(start.tokenizer, id);
            // 0xff is how toktrie tells control tokens from text that is spelt like them.
            let is_control = start.tokenizer.is_special(id) || start.ends.contains(&id);
            if is_control { [&[0xff], bytes.as_slice()].concat() } else { bytes }
        })
        .collect();
    for id in
        ["<tool_call>", "</tool_call>", "<think>", CLOSE].map(|t| start.tokenizer.token_to_id(t))
    {
        if let Some(word) = id.and_then(|id| words.get_mut(id as usize))
            && word.first() != Some(&0xff)
        {
            word.insert(0, 0xff);
        }
    }
    let info = TokRxInfo::new(start.vocabulary as u32, end);
    let trie = TokTrie::from(&info, &words);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env)?;
    factory.quiet();
    Ok(Arc::new(factory))
}

/// A schema whose JSON has at most 20 blanks in a row: a weak model could go on with them for ever.
fn bounded(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        let blanks = || json!({ "whitespace_pattern": r"[\x20\x0A]{1,20}" });
        object.entry("x-guidance").or_insert_with(blanks);
    }
    schema
}

/// One or more calls, in Qwen3's layout. The markers are tokens of their own where the tokenizer has them.
fn calls(functions: &[(String, Value)], tokenizer: &Tokenizer) -> String {
    let marker = |text: &str| match tokenizer.token_to_id(text) {
        Some(_) => text.to_owned(),
        None => format!("\"{text}\""),
    };
    let one = |(name, schema): &(String, Value)| {
        json!({
            "type": "object",
            "properties": { "name": { "const": name }, "arguments": schema },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    let any = bounded(json!({ "anyOf": functions.iter().map(one).collect::<Vec<_>>() }));
    let (open, close) = (marker(tools::OPEN), marker(tools::CLOSE));
    format!(
        "start: call (\"\\n\" call)*\ncall: {open} \"\\n\" body \"\\n\" {close}\nbody: %json {any}\n"
    )
}

/// The constraint of one answer. Clones begin where it is, and share what is known of the grammar.
#[derive(Clone)]
pub(crate) struct Guide {
    matcher: Option<Matcher>,
    /// The id that ends the reasoning, while there is any.
    reasoning: Option<u32>,
    budget: Option<usize>,
    thought: usize,
    ends: Vec<u32>,
}

impl Guide {
    pub(crate) fn boxed(self) -> Box<dyn Constraint> {
        Box::new(self)
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}

impl Constraint for Guide {
    fn restrict(&mut self, scores: &mut [f32]) -> Result<(), ConstraintError> {
        if let Some(close) = self.reasoning {
            if self.budget.is_some_and(|budget| self.thought >= budget) {
                keep(scores, |id| id == close);
            } else if self.matcher.is_some() {
                // An answer that ended within its reasoning would have no form at all.
                self.ends.iter().for_each(|id| rule_out(scores, *id));
            }
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else { return Ok(()) };
        let mask = matcher.compute_mask_or_eos().map_err(|e| ConstraintError(cause(&e)))?;
        keep(scores, |id| mask.is_allowed(id));
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, ConstraintError> {
        if let Some(close) = self.reasoning {
            self.thought += 1;
            if id == close {
                self.reasoning = None;
            }
            return Ok(false);
        }
        let Some(matcher) = &mut self.matcher else { return Ok(false) };
        matcher.consume_token(id).map_err(|e| ConstraintError(cause(&e)))?;
        Ok(matcher.is_stopped())
    }
}

/// What llguidance says of an error, without the state of its parser: that is long, and has the text of the answer in it.
fn cause(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn keep(scores: &mut [f32], allowed: impl Fn(u32) -> bool) {
    for (id, score) in (0..).zip(scores) {
        if !allowed(id) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn rule_out(scores: &mut [f32], id: u32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = f32::NEG_INFINITY;
    }
}
