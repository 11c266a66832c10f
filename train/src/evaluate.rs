//! Evaluation during training: losses of held-out rows, and answers to their questions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::batch::{Batch, BatchEvent, BatchOptions, SequenceId};
use qwen3_vl_model::generate::GenerateOptions;
use qwen3_vl_model::inputs::ModelInputs;
use qwen3_vl_model::processor::Processor;
use qwen3_vl_model::processor::thinking::ThinkingSplitter;
use qwen3_vl_model::stop::StopMatcher;
use qwen3_vl_model::stream::{StreamEvent, TextAssembler};
use qwen3_vl_weights::load_generation_defaults;

use crate::config::TrainConfig;
use crate::data::{Limits, Preparer, TrainRow};
use crate::loader::{Loader, LoaderError, Position, datasets};
use crate::metrics::{Figures, Tally};
use crate::run::TrainError;

/// The name under which all channels are counted together.
pub const ALL: &str = "all";
/// What ends a turn in every template of Qwen.
const END_OF_TURN: &str = "<|im_end|>";

/// Held-out rows and questions, decoded once.
#[derive(Debug, Default)]
pub(crate) struct HeldOut {
    pub micro: Vec<Vec<TrainRow>>,
    questions: Vec<Question>,
    options: GenerateOptions,
}

/// A prompt, and the answer that the file has.
#[derive(Debug)]
struct Question {
    inputs: ModelInputs,
    thinking: ThinkingSplitter,
    channel: Arc<str>,
    reference: String,
}

impl HeldOut {
    /// Reads what `config.eval` names; nothing where it is switched off.
    pub fn read(config: &TrainConfig, processor: &Arc<Processor>) -> Result<Self, TrainError> {
        let eval = &config.eval;
        if eval.every == 0 || eval.data.is_empty() {
            return Ok(Self::default());
        }
        let mut loader = Loader::new(config, &eval.data, processor.clone(), Position::default())?;
        let mut ends = load_generation_defaults(&config.model)?.eos_token_ids;
        ends.extend(processor.tokenizer().token_to_id(END_OF_TURN));
        let options = GenerateOptions {
            max_new_tokens: eval.answer_tokens,
            eos_token_ids: ends,
            ..GenerateOptions::default()
        };
        Ok(Self {
            micro: loader.all(eval.rows)?,
            questions: questions(config, processor)?,
            options,
        })
    }

    /// Greedy answers against those of the file: figures of all, and of each channel. `None` where no question is asked.
    pub fn answers(
        &self,
        model: &Qwen3VlModel,
        processor: &Processor,
    ) -> Option<BTreeMap<String, Figures>> {
        if self.questions.is_empty() {
            return None;
        }
        let mut tallies = Tallies::default();
        let context = model.config().text.max_position_embeddings;
        let options = GenerateOptions { context, ..self.options.clone() };
        let mut asked = Asked::new(model);
        let mut waiting = self.questions.iter();
        while waiting.len() > 0 || !asked.open.is_empty() {
            while asked.batch.has_room() {
                let Some(question) = waiting.next() else { break };
                match asked.batch.submit(&question.inputs, options.clone()) {
                    Ok(id) => drop(asked.open.insert(id, Open::new(question, processor))),
                    Err(_) => tallies.count(question, None),
                }
            }
            for (question, answer) in asked.step() {
                tallies.count(question, answer.as_deref());
            }
        }
        Some(tallies.0.iter().map(|(name, tally)| (name.clone(), tally.figures())).collect())
    }
}

/// The questions of the first rows, as many as `config.eval.generate` says.
fn questions(config: &TrainConfig, processor: &Processor) -> Result<Vec<Question>, TrainError> {
    let preparer = Preparer::new(processor, Limits::from(&config.limits));
    let sets = datasets(&config.eval.data).map_err(LoaderError::from)?;
    let rows = sets.iter().flat_map(|set| (0..set.len()).map(move |row| (set, row)));
    let mut questions = Vec::new();
    for (set, row) in rows.take(config.eval.generate) {
        for sample in set.samples(row).map_err(LoaderError::from)? {
            for (conversation, reference) in sample.questions() {
                let chat = preparer.prompt(&conversation, &sample.place);
                let chat = chat.map_err(LoaderError::from)?;
                questions.push(Question {
                    thinking: ThinkingSplitter::for_prompt(&chat.rendered),
                    inputs: chat.inputs,
                    channel: sample.channel.clone(),
                    reference,
                });
            }
        }
    }
    Ok(questions)
}

/// What is counted, by channel.
#[derive(Default)]
struct Tallies(BTreeMap<String, Tally>);

impl Tallies {
    fn count(&mut self, question: &Question, answer: Option<&str>) {
        for name in [ALL, &*question.channel] {
            self.0.entry(name.to_owned()).or_default().add(answer, &question.reference);
        }
    }
}

/// Questions that are being answered.
struct Asked<'a> {
    batch: Batch<'a>,
    open: HashMap<SequenceId, Open<'a>>,
}

struct Open<'a> {
    question: &'a Question,
    text: TextAssembler<'a>,
    answer: String,
}

impl<'a> Open<'a> {
    fn new(question: &'a Question, processor: &'a Processor) -> Self {
        let stops = StopMatcher::new(Vec::new()).expect("no stop string, so none is wrong");
        let thinking = question.thinking.clone();
        let text = TextAssembler::new(processor.tokenizer(), stops, thinking);
        Self { question, text, answer: String::new() }
    }
}

impl<'a> Asked<'a> {
    fn new(model: &'a Qwen3VlModel) -> Self {
        Self { batch: Batch::new(model, BatchOptions::default()), open: HashMap::new() }
    }

    /// One token for every open question; returns the answers that are complete, `None` for one that failed.
    fn step(&mut self) -> Vec<(&'a Question, Option<String>)> {
        let events = self.batch.step();
        events.into_iter().filter_map(|(id, event)| self.take(id, event)).collect()
    }

    fn take(
        &mut self,
        id: SequenceId,
        event: BatchEvent,
    ) -> Option<(&'a Question, Option<String>)> {
        let open = self.open.get_mut(&id)?;
        let BatchEvent::Token { token, finish } = event else {
            return Some((self.open.remove(&id)?.question, None));
        };
        let (answer, _) = self.batch.answer(id)?;
        open.text.push(answer, token);
        finish?;
        open.text.finish();
        let mut open = self.open.remove(&id)?;
        while let Some(event) = open.text.pop() {
            if let StreamEvent::Text(text) = event {
                open.answer.push_str(&text);
            }
        }
        Some((open.question, Some(open.answer)))
    }
}
