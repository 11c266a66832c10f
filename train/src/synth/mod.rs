//! Data that needs no download: drawn scenes, printed strings, pairs of pictures and short videos, with questions that have one right
//! answer each.
//!
//! A row follows from its seed and index alone, on every machine; two different pairs of seed and index never share a stream of draws.
//! [`row`] gives a conversation of several questions on one subject, [`channel_row`] questions of one channel, [`write_dataset`] a folder
//! of pictures with its `data.jsonl`.

mod ask_scene;
mod blocks;
mod board;
mod canvas;
mod dataset;
mod film;
mod geometry;
mod letters;
mod pair;
mod palette;
mod phrases;
mod rng;
mod scene;
mod shapes;
mod strokes;
pub mod tokenizer;
mod turn;
mod typefaces;
mod words;

use serde_json::{Map, Value, json};

pub use canvas::Drawn;
pub use dataset::{Questions, SynthError, SynthOptions, write_dataset, write_tokenizer};
pub use scene::Bounds;
pub use turn::{Channel, SynthBox, Turn};
pub use typefaces::{TypefaceError, Typefaces};

use ask_scene::ask;
use board::{Board, Page};
use film::{FPS, Film};
use pair::Pair;
use rng::Dice;
use scene::Scene;

/// A conversation over one picture, two pictures or one video.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthRow {
    /// What is shown, in order.
    pub media: Vec<SynthMedia>,
    /// Questions and answers, in order.
    pub turns: Vec<Turn>,
}

/// A picture or a video.
#[derive(Debug, Clone, PartialEq)]
pub enum SynthMedia {
    /// A picture.
    Picture(Drawn),
    /// A video.
    Film {
        /// All frames, of the same size.
        frames: Vec<Drawn>,
        /// Frames per second.
        fps: f64,
    },
}

/// How often each kind of subject comes, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// Pictures of 1 to 4 objects.
    pub scenes: f64,
    /// Printed strings.
    pub strings: f64,
    /// Two pictures.
    pub pairs: f64,
    /// Videos.
    pub films: f64,
    /// Objects in rows, which one answer tells all.
    pub boards: f64,
    /// Lines of characters, which one answer tells all.
    pub pages: f64,
    /// Boards of which the boxes of all objects are asked for.
    pub boxes: f64,
    /// How hard scenes and strings are.
    pub bounds: Bounds,
}

impl Default for Mixture {
    fn default() -> Self {
        Self {
            scenes: 0.5,
            strings: 0.28,
            pairs: 0.1,
            films: 0.12,
            boards: 0.0,
            pages: 0.0,
            boxes: 0.0,
            bounds: Bounds::default(),
        }
    }
}

/// What a row is about, before anything is drawn.
enum Subject {
    Scene(Scene),
    Pair(Box<Pair>),
    Film(Film),
    Board(Board),
    Page(Page),
}

/// Row `index` of `seed`: 3 to 6 questions on one subject, fewer where a subject has no more to ask.
#[must_use]
pub fn row(seed: u64, index: u64, mixture: &Mixture) -> SynthRow {
    let mut dice = Dice::new(seed, index);
    let subject = Subject::new(&mut dice, mixture);
    let turns = subject.conversation(&mut dice);
    SynthRow { media: subject.draw(), turns }
}

/// The questions and answers of [`row`], without drawing anything.
#[must_use]
pub fn turns(seed: u64, index: u64, mixture: &Mixture) -> Vec<Turn> {
    let mut dice = Dice::new(seed, index);
    Subject::new(&mut dice, mixture).conversation(&mut dice)
}

/// Row `index` of `seed` with exactly one question, of `channel`.
#[must_use]
pub fn eval_row(seed: u64, index: u64, channel: Channel, bounds: &Bounds) -> SynthRow {
    channel_row(seed, index, channel, 1, bounds)
}

/// Row `index` of `seed` with `questions` questions of `channel`, fewer where its subject has no more to ask.
///
/// Answers of one channel do not give each other away, as those of a [`row`] do: each has to be seen.
#[must_use]
pub fn channel_row(
    seed: u64,
    index: u64,
    channel: Channel,
    questions: usize,
    bounds: &Bounds,
) -> SynthRow {
    let mut dice = Dice::new(seed, index);
    loop {
        let subject = Subject::of(&mut dice, channel, bounds);
        let mut turns: Vec<Turn> = Vec::new();
        for _ in 0..1 + 3 * questions.saturating_sub(1) {
            if turns.len() == questions {
                break;
            }
            let new = subject.ask(channel, &mut dice);
            turns.extend(new.filter(|new| !turns.iter().any(|old| new.repeats(old))));
        }
        if !turns.is_empty() {
            return SynthRow { media: subject.draw(), turns };
        }
    }
}

impl Subject {
    fn new(dice: &mut Dice, mixture: &Mixture) -> Self {
        let Mixture { scenes, strings, pairs, films, boards, pages, boxes, bounds } = mixture;
        let weights = [*scenes, *strings, *pairs, *films, *boards, *pages, *boxes];
        match dice.weighted(&weights) {
            0 => Self::Scene(Scene::bounded(dice, bounds)),
            1 => Self::Scene(Scene::string(dice, bounds)),
            2 => Self::Pair(Box::new(Pair::new(dice))),
            3 => Self::Film(Film::new(dice, bounds)),
            4 => Self::Board(Board::new(dice, bounds, false)),
            5 => Self::Page(Page::new(dice, bounds)),
            _ => Self::Board(Board::new(dice, bounds, true)),
        }
    }

    /// A subject on which `channel` can be asked.
    fn of(dice: &mut Dice, channel: Channel, bounds: &Bounds) -> Self {
        match channel {
            Channel::Text => Self::Scene(Scene::string(dice, bounds)),
            Channel::Compare => Self::Pair(Box::new(Pair::new(dice))),
            Channel::Motion | Channel::Interval | Channel::VideoDescribe => {
                Self::Film(Film::new(dice, bounds))
            }
            _ if bounds.crowded => Self::Scene(board::crowd(dice, bounds)),
            _ => Self::Scene(Scene::bounded(dice, bounds)),
        }
    }

    fn ask(&self, channel: Channel, dice: &mut Dice) -> Option<Turn> {
        match self {
            Self::Scene(scene) => ask(scene, channel, dice),
            Self::Pair(pair) => (channel == Channel::Compare).then(|| pair.ask(dice)),
            Self::Film(film) => film.ask(channel, dice),
            Self::Board(board) => Some(board.ask(dice)),
            Self::Page(page) => (channel == Channel::Text).then(|| page.ask(dice)),
        }
    }

    /// Channels and how often they are drawn.
    fn channels(&self) -> &'static [(Channel, f64)] {
        match self {
            Self::Scene(Scene { label: None, .. }) => &[
                (Channel::Describe, 0.13),
                (Channel::Color, 0.15),
                (Channel::Shape, 0.13),
                (Channel::Count, 0.17),
                (Channel::Relation, 0.2),
                (Channel::Box, 0.16),
                (Channel::Exists, 0.12),
                (Channel::Text, 0.01),
            ],
            Self::Scene(_) => &[
                (Channel::Text, 0.66),
                (Channel::Describe, 0.12),
                (Channel::Color, 0.1),
                (Channel::Shape, 0.04),
                (Channel::Box, 0.04),
                (Channel::Exists, 0.04),
            ],
            Self::Pair(_) => &[(Channel::Compare, 1.0)],
            Self::Board(board) if board.boxed => &[(Channel::Box, 1.0)],
            Self::Board(_) => &[(Channel::Describe, 1.0)],
            Self::Page(_) => &[(Channel::Text, 1.0)],
            Self::Film(_) => &[
                (Channel::Motion, 0.36),
                (Channel::Interval, 0.34),
                (Channel::VideoDescribe, 0.18),
                (Channel::Color, 0.07),
                (Channel::Shape, 0.05),
            ],
        }
    }

    /// 3 to 6 questions with different answers; long answers that give others away come last as a rule.
    fn conversation(&self, dice: &mut Dice) -> Vec<Turn> {
        let wanted = dice.whole(3, 6);
        let weights: Vec<f64> = self.channels().iter().map(|(_, weight)| *weight).collect();
        let mut turns: Vec<Turn> = Vec::new();
        for _ in 0..5 * wanted {
            if turns.len() == wanted {
                break;
            }
            let channel = self.channels()[dice.weighted(&weights)].0;
            let new = self.drawn(channel, dice);
            turns.extend(new.filter(|new| !turns.iter().any(|old| old.answer == new.answer)));
        }
        if turns.is_empty() {
            turns.extend(self.ask(self.channels()[0].0, dice));
        }
        if dice.chance(0.7) {
            turns.sort_by_key(Turn::tells_all);
        }
        turns
    }

    /// A question of training, which has kinds that evaluation leaves out.
    fn drawn(&self, channel: Channel, dice: &mut Dice) -> Option<Turn> {
        match self {
            Self::Scene(scene) if channel == Channel::Text && dice.chance(0.3) => {
                ask_scene::character(scene, dice)
            }
            Self::Scene(scene) if channel == Channel::Relation && dice.chance(0.2) => {
                ask_scene::position(scene, dice)
            }
            Self::Film(film) if channel == Channel::Interval && dice.chance(0.35) => {
                film.ask_moment(dice)
            }
            _ => self.ask(channel, dice),
        }
    }

    fn draw(&self) -> Vec<SynthMedia> {
        match self {
            Self::Scene(scene) => vec![SynthMedia::Picture(scene.draw())],
            Self::Pair(pair) => {
                [&pair.first, &pair.second].map(|s| SynthMedia::Picture(s.draw())).into()
            }
            Self::Film(film) => vec![SynthMedia::Film { frames: film.draw(), fps: FPS }],
            Self::Board(board) => vec![SynthMedia::Picture(board.draw())],
            Self::Page(page) => vec![SynthMedia::Picture(page.draw())],
        }
    }
}

impl SynthRow {
    /// The row as a line of a data file: messages whose contents are parts, as in Hugging Face's chat templates.
    ///
    /// `save` keeps a picture and returns what the row calls it: a file's name, or a `data:` URI.
    ///
    /// # Errors
    /// Those of `save`.
    pub fn to_json<E>(
        &self,
        save: &mut dyn FnMut(&Drawn) -> Result<String, E>,
    ) -> Result<Value, E> {
        let mut parts =
            self.media.iter().map(|m| m.to_json(save)).collect::<Result<Vec<_>, E>>()?;
        let mut messages = Vec::with_capacity(2 * self.turns.len());
        for turn in &self.turns {
            parts.push(json!({"type": "text", "text": turn.question}));
            messages.push(json!({"role": "user", "content": std::mem::take(&mut parts)}));
            messages.push(json!({"role": "assistant", "content": turn.answer}));
        }
        let mut row = Map::new();
        row.insert("messages".into(), Value::Array(messages));
        row.insert("channel".into(), self.channel().into());
        Ok(Value::Object(row))
    }

    /// The channel of all questions, or "mixed".
    #[must_use]
    pub fn channel(&self) -> &'static str {
        match self.turns.split_first() {
            Some((first, rest)) if rest.iter().all(|turn| turn.channel == first.channel) => {
                first.channel
            }
            _ => "mixed",
        }
    }
}

impl SynthMedia {
    fn to_json<E>(&self, save: &mut dyn FnMut(&Drawn) -> Result<String, E>) -> Result<Value, E> {
        match self {
            Self::Picture(drawn) => Ok(json!({"type": "image", "image": save(drawn)?})),
            Self::Film { frames, fps } => {
                let names = frames.iter().map(save).collect::<Result<Vec<_>, E>>()?;
                Ok(json!({"type": "video", "video": names, "sample_fps": fps}))
            }
        }
    }
}

#[cfg(test)]
mod tests;
