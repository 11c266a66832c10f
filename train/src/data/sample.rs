//! The one form that all dialects become.

use std::path::PathBuf;
use std::sync::Arc;

use qwen3_vl_model::processor::Think;
use qwen3_vl_model::processor::message::Conversation;
use serde::{Deserialize, Serialize};

use super::error::Place;

/// One conversation to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub place: Place,
    /// Name under which losses are summed.
    pub channel: Arc<str>,
    /// Ends with an answer; its media have resolved paths.
    pub conversation: Conversation,
    /// One entry per message: whether this answer is learned.
    pub trained: Vec<bool>,
    pub think: Think,
    /// Boxes of `objects` and of answers, to be drawn.
    pub boxes: Vec<SampleBox>,
    /// Sentences on what was changed while reading.
    pub notes: Vec<String>,
}

impl Sample {
    /// Every answer that is learned, as text, and the conversation before it.
    pub fn questions(&self) -> impl Iterator<Item = (Conversation, String)> {
        let messages = &self.conversation.messages;
        let learned = messages.iter().zip(&self.trained).enumerate();
        learned.filter(|(_, (_, trained))| **trained).map(|(turn, (message, _))| {
            let tools = self.conversation.tools.clone();
            (Conversation { messages: messages[..turn].to_vec(), tools }, message.all_text())
        })
    }
}

/// A box on one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleBox {
    /// Position among all media of the conversation, from 0.
    pub media: usize,
    /// Left, top, right and bottom in thousandths of the picture's width and height; a point has both corners equal.
    pub corners: [f64; 4],
    pub label: Option<String>,
}

/// Which answers are learned where a row does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    #[default]
    All,
    Last,
}

/// Columns of rows without a conversation. Built in are [`ColumnMap::prompt_completion`], [`ColumnMap::query_response`]
/// and [`ColumnMap::alpaca`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnMap {
    /// A text, or a list of messages.
    pub prompt: String,
    /// A text, or a list of messages; all answers in it are learned.
    pub answer: String,
    /// Text that follows the prompt after a line break, unless it is empty.
    #[serde(default)]
    pub input: Option<String>,
    #[serde(default)]
    pub system: Option<String>,
    /// List of pairs of earlier questions and answers.
    #[serde(default)]
    pub history: Option<String>,
}

impl ColumnMap {
    fn new(prompt: &str, answer: &str) -> Self {
        let (prompt, answer) = (prompt.to_owned(), answer.to_owned());
        Self { prompt, answer, input: None, system: None, history: None }
    }

    /// TRL.
    pub fn prompt_completion() -> Self {
        Self::new("prompt", "completion")
    }

    /// ms-swift.
    pub fn query_response() -> Self {
        let (system, history) = (Some("system".to_owned()), Some("history".to_owned()));
        Self { system, history, ..Self::new("query", "response") }
    }

    /// `instruction`, `input`, `output`, `system`, `history`.
    pub fn alpaca() -> Self {
        let names = ["input", "system", "history"].map(|name| Some(name.to_owned()));
        let [input, system, history] = names;
        Self { input, system, history, ..Self::new("instruction", "output") }
    }
}

/// One data file and how its rows are read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceOptions {
    pub path: PathBuf,
    /// Folder that relative paths of media begin at; `None` is the folder of the data file.
    pub root: Option<PathBuf>,
    /// `None` is the name of the data file without its extension.
    pub channel: Option<String>,
    /// For rows without a conversation.
    pub columns: Option<ColumnMap>,
    pub train_on: TrainOn,
    pub think: Think,
    /// Keys of rows that are passed over, beside those that only label a row (`id`, `source` and the like).
    pub ignore: Vec<String>,
    /// Whether coordinates under `bbox_2d` and the like in learned answers must lie in 0 to 1000.
    pub check_boxes: bool,
}

impl SourceOptions {
    /// All answers of a file are learned, reasoning too; boxes are checked.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            root: None,
            channel: None,
            columns: None,
            train_on: TrainOn::default(),
            think: Think::default(),
            ignore: Vec::new(),
            check_boxes: true,
        }
    }
}
