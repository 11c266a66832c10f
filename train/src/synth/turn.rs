//! One question with its answer.

use serde::{Deserialize, Serialize};

/// What a question is about; the figures of an evaluation are kept apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// What is on the picture.
    Describe,
    /// The colour of an object.
    Color,
    /// The shape of an object.
    Shape,
    /// How many objects of a kind.
    Count,
    /// Left, right, above, below.
    Relation,
    /// Boxes as JSON in thousandths of width and height.
    Box,
    /// Whether there is an object of a kind.
    Exists,
    /// A printed string.
    Text,
    /// Two pictures.
    Compare,
    /// Which way something moves.
    Motion,
    /// When something is visible.
    Interval,
    /// What happens in a video.
    VideoDescribe,
    /// In which part of the picture an object is; learned from, and not evaluated.
    Position,
}

impl Channel {
    /// The channels of evaluation.
    pub const ALL: [Self; 12] = [
        Self::Describe,
        Self::Color,
        Self::Shape,
        Self::Count,
        Self::Relation,
        Self::Box,
        Self::Exists,
        Self::Text,
        Self::Compare,
        Self::Motion,
        Self::Interval,
        Self::VideoDescribe,
    ];

    /// The name in data files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::Box => "box",
            Self::Exists => "exists",
            Self::Text => "text",
            Self::Compare => "compare",
            Self::Motion => "motion",
            Self::Interval => "interval",
            Self::VideoDescribe => "video_describe",
            Self::Position => "position",
        }
    }

    /// The channel of evaluation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }
}

/// A box of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthBox {
    /// Left, top, right and bottom in thousandths of width and height.
    pub bbox_2d: [u32; 4],
    /// Colour and shape.
    pub label: String,
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// [`Channel::name`].
    pub channel: &'static str,
    /// What a person asks.
    pub question: String,
    /// The one right answer.
    pub answer: String,
    /// The boxes of the answer, from left to right.
    pub boxes: Vec<SynthBox>,
    /// Seconds from which to which the answer says that something is visible.
    pub interval: Option<[f64; 2]>,
    /// The two objects of a relation in alphabetical order: asked the other way round, it would be the same question.
    pub(super) pair: Option<[String; 2]>,
}

impl Turn {
    pub(super) fn new(channel: Channel, question: String, answer: String) -> Self {
        Self {
            channel: channel.name(),
            question,
            answer,
            boxes: vec![],
            interval: None,
            pair: None,
        }
    }

    /// An answer of boxes, written as Qwen writes them: Python's JSON with a space after commas and colons.
    pub(super) fn boxed(question: String, boxes: Vec<SynthBox>) -> Self {
        let one = |found: &SynthBox| {
            let [x1, y1, x2, y2] = found.bbox_2d;
            let label = &found.label;
            format!(r#"{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": "{label}"}}"#)
        };
        let answer = format!("[{}]", boxes.iter().map(one).collect::<Vec<_>>().join(", "));
        Self { boxes, ..Self::new(Channel::Box, question, answer) }
    }
}

impl Turn {
    /// Whether the answer holds those of other questions.
    pub(super) fn tells_all(&self) -> bool {
        ["describe", "box", "video_describe"].contains(&self.channel)
    }
    /// Whether both have one answer, or follow from each other.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        self.answer == other.answer || (self.pair.is_some() && self.pair == other.pair)
    }
}
