//! The file that describes a run.

mod method;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use method::{LoraTable, Method, Scaling, TrainGroups, Training};
use serde::{Deserialize, Serialize};

use crate::data::{ColumnMap, Limits, Think, TooLong, TrainOn};
use crate::groups::{Group, Parameter};
use crate::synth::{Bounds, Channel, Mixture, Questions, SynthOptions, TypefaceError, Typefaces};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: `{field}` is {value}; {expected}")]
    Value { path: PathBuf, field: String, value: String, expected: &'static str },
}

/// A run, as its TOML file says. Paths are relative to the folder of that file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Checkpoint folder to start from.
    pub model: PathBuf,
    /// Where checkpoints and logs go; by default `runs/` and the name of the file.
    #[serde(default)]
    pub output: PathBuf,
    #[serde(default)]
    pub init: InitFrom,
    /// How trained layers change: in place, or by LoRA.
    #[serde(default)]
    pub method: Method,
    /// Which groups are trained, and which of them by LoRA.
    #[serde(default)]
    pub train: TrainGroups,
    pub lr: Rates,
    #[serde(default)]
    pub optimizer: Optimizer,
    pub data: Vec<Source>,
    #[serde(default)]
    pub limits: LimitTable,
    #[serde(default)]
    pub batch: BatchTable,
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub eval: Evaluation,
    #[serde(default)]
    pub save: Save,
    /// Optimiser steps; by default as many as `epochs` passes over the data take. Drawn rows need it.
    pub steps: Option<u64>,
    #[serde(default = "one")]
    pub epochs: f64,
    #[serde(default)]
    pub seed: u64,
    /// Weight of the load-balancing loss of expert models (HF `router_aux_loss_coef`); 0 leaves it out.
    #[serde(default)]
    pub router_aux: f64,
}

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitFrom {
    /// The weights in the folder.
    #[default]
    Checkpoint,
    /// Random weights, as the folder's `initializer_range` says; it needs no weight file.
    Random,
}

/// Learning rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of groups that do not say their own.
    pub base: f64,
    pub vision: Option<f64>,
    pub merger: Option<f64>,
    pub llm: Option<f64>,
    pub embed: Option<f64>,
    pub head: Option<f64>,
    /// How many times the rate of its group the `B` of a LoRA pair has (LoRA+, Hayou et al. 2024); by default 1.
    pub b_ratio: Option<f64>,
    /// Share of all steps (below 1) or number of steps over which rates rise from 0.
    #[serde(default = "warmup")]
    pub warmup: f64,
    #[serde(default)]
    pub schedule: Schedule,
    /// Share of the rate that is left at the end.
    #[serde(default)]
    pub floor: f64,
    /// Share of all steps (below 1) or number of steps over which rates fall at the end, with `schedule = "wsd"`.
    #[serde(default = "decay")]
    pub decay: f64,
}

/// How rates fall after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    #[default]
    Cosine,
    Linear,
    Constant,
    /// Warm-up, stable, decay (HF `warmup_stable_decay`): constant, then linear to the floor over the last `decay` steps.
    ///
    /// Until the fall begins nothing depends on the number of steps, so a run can be made longer from a checkpoint before it.
    Wsd,
}

impl Rates {
    /// The highest rate of `group`.
    pub fn of(&self, group: Group) -> f64 {
        let own = match group {
            Group::Vision => self.vision,
            Group::Merger => self.merger,
            Group::Llm => self.llm,
            Group::Embed => self.embed,
            Group::Head => self.head,
        };
        own.unwrap_or(self.base)
    }

    /// The highest rate of `parameter`.
    pub fn of_parameter(&self, parameter: &Parameter) -> f64 {
        let ratio = if parameter.is_lora_b() { self.b_ratio.unwrap_or(1.0) } else { 1.0 };
        self.of(parameter.group) * ratio
    }

    /// What all rates are multiplied by at `step`, from 0, of `steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let count = |share: f64| if share < 1.0 { share * steps as f64 } else { share }.ceil();
        let warmup = count(self.warmup);
        if (step as f64) < warmup {
            return (step + 1) as f64 / warmup;
        }
        let rest = (steps as f64 - warmup).max(1.0);
        let done = ((step as f64 - warmup) / rest).clamp(0.0, 1.0);
        let fall = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Schedule::Linear => 1.0 - done,
            Schedule::Constant => 1.0,
            Schedule::Wsd => {
                ((steps as f64 - step as f64) / count(self.decay).max(1.0)).clamp(0.0, 1.0)
            }
        };
        self.floor + (1.0 - self.floor) * fall
    }
}

/// How parameters follow their gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov and Hutter 2019; torch `AdamW`).
    #[default]
    Adamw,
    /// Muon (see [`crate::muon`]) for the matrices inside the layers, AdamW for the rest. It learns in fewer steps from
    /// random weights; rates are those of AdamW.
    Muon,
}

/// The optimiser and clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    /// Of matrices; biases and norms have none.
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Largest norm of all gradients together (HF `max_grad_norm`); 0 switches clipping off.
    pub clip: f64,
    /// How much of the sum of gradients Muon keeps from step to step.
    pub momentum: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip: 1.0,
            momentum: 0.95,
        }
    }
}

/// Where samples come from: a data file, or scenes drawn as they are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// JSON list or JSONL. A path that ends in `%50` takes half of the rows.
    pub path: Option<PathBuf>,
    /// Draws rows instead of reading a file.
    pub synth: Option<Drawing>,
    /// Folder of media; by default that of the file.
    pub root: Option<PathBuf>,
    pub channel: Option<String>,
    /// Share of the rows that each pass takes.
    #[serde(default = "one")]
    pub sample: f64,
    /// How often each row of it is taken, beside other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// A pass takes all rows of the sources of a lower stage first: easy ones before hard ones (Bengio et al. 2009, curriculum
    /// learning).
    #[serde(default)]
    pub stage: u32,
    pub columns: Option<ColumnMap>,
    #[serde(default)]
    pub train_on: TrainOn,
    #[serde(default = "keep")]
    pub think: Think,
}

/// Rows that are drawn as they are needed, see [`crate::synth`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawing {
    /// Different rows.
    pub rows: u64,
    /// Rows of different seeds have nothing in common.
    pub seed: u64,
    #[serde(default)]
    pub mixture: DrawingMixture,
    /// Questions of one channel per row, of these channels in turn; where none is named, conversations on subjects of the mixture.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Questions per row of `channels`, by default 1.
    pub questions: Option<usize>,
    /// Asks `channels` on small pictures with up to `objects` rows and columns of objects.
    #[serde(default)]
    pub crowded: bool,
    /// Most objects of a scene; by default 4.
    pub objects: Option<usize>,
    /// Longest side of scenes and strings in pixels; by default 320.
    pub side: Option<u32>,
    /// Most characters of a printed string; by default 8.
    pub letters: Option<usize>,
    /// Half of the characters of strings are those that are taken for each other, such as `O` and `0`.
    #[serde(default)]
    pub alike: bool,
    /// Objects of films go left or right or stay, and neither up nor down.
    #[serde(default)]
    pub sideways: bool,
    /// Font files (.ttf, .otf) and folders of them, in which two thirds of all strings are written; the others, and without
    /// this all, are in typefaces that are built in.
    #[serde(default)]
    pub typefaces: Vec<PathBuf>,
}

impl Drawing {
    /// Bounds that are not given are those of the full task.
    fn bounds(&self) -> Bounds {
        let whole = Bounds::default();
        Bounds {
            objects: self.objects.unwrap_or(whole.objects),
            side: self.side.unwrap_or(whole.side),
            letters: self.letters.unwrap_or(whole.letters),
            crowded: self.crowded,
            alike: self.alike,
            sideways: self.sideways,
            typefaces: Typefaces::default(),
        }
    }

    /// The field that is out of range, its value, and what it must be.
    fn refused(&self) -> Option<(&'static str, String, &'static str)> {
        let Bounds { objects, side, letters, .. } = self.bounds();
        if let Some(each) = self.questions
            && (self.channels.is_empty() || !(1..=20).contains(&each))
        {
            let expected = "it is 1 to 20, beside `channels`";
            return Some(("questions", each.to_string(), expected));
        }
        if !(1..=4).contains(&objects) {
            return Some(("objects", objects.to_string(), "a scene has 1 to 4 objects"));
        }
        if !(1..=8).contains(&letters) {
            return Some(("letters", letters.to_string(), "a string has 1 to 8 characters"));
        }
        let expected = "pictures are 100 to 320 pixels long";
        (!(100..=320).contains(&side)).then(|| ("side", side.to_string(), expected))
    }
}

impl TryFrom<&Drawing> for SynthOptions {
    type Error = TypefaceError;

    /// Reads the typefaces.
    fn try_from(drawing: &Drawing) -> Result<Self, TypefaceError> {
        let Drawing { rows, seed, mixture, channels, questions, .. } = drawing;
        let questions = match channels.is_empty() {
            true => Questions::Conversations,
            false => Questions::Of { channels: channels.clone(), each: questions.unwrap_or(1) },
        };
        let typefaces = Typefaces::of(&drawing.typefaces)?;
        let bounds = Bounds { typefaces, ..drawing.bounds() };
        let mixture = Mixture { bounds, ..(*mixture).into() };
        Ok(Self { rows: *rows, seed: *seed, mixture, questions })
    }
}

/// How often each kind of subject is drawn, relative to the others (see [`Mixture`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrawingMixture {
    pub scenes: f64,
    pub strings: f64,
    pub pairs: f64,
    pub films: f64,
    pub boards: f64,
    pub pages: f64,
    pub boxes: f64,
}

impl Default for DrawingMixture {
    fn default() -> Self {
        let Mixture { scenes, strings, pairs, films, boards, pages, boxes, bounds: _ } =
            Mixture::default();
        Self { scenes, strings, pairs, films, boards, pages, boxes }
    }
}

impl From<DrawingMixture> for Mixture {
    fn from(table: DrawingMixture) -> Self {
        let DrawingMixture { scenes, strings, pairs, films, boards, pages, boxes } = table;
        Self { scenes, strings, pairs, films, boards, pages, boxes, bounds: Bounds::default() }
    }
}

/// Bounds on samples, see [`Limits`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitTable {
    pub sequence: usize,
    pub image_tokens: Option<usize>,
    pub video_tokens: Option<usize>,
    pub frames: Option<usize>,
    pub fps: Option<f64>,
    pub too_long: TooLong,
}

impl Default for LimitTable {
    fn default() -> Self {
        let too_long = TooLong::Drop;
        Self {
            sequence: 4096,
            image_tokens: None,
            video_tokens: None,
            frames: None,
            fps: None,
            too_long,
        }
    }
}

impl From<&LimitTable> for Limits {
    fn from(table: &LimitTable) -> Self {
        let LimitTable { sequence, image_tokens, video_tokens, frames, fps, too_long } =
            table.clone();
        Self { sequence, image_tokens, video_tokens, frames, fps, too_long }
    }
}

/// How samples are put together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchTable {
    /// Most tokens of a micro-batch; a single longer sample makes one of its own.
    pub tokens: usize,
    /// Micro-batches per optimiser step.
    pub accumulate: usize,
    /// Whether the samples of a micro-batch run in one pass; otherwise one by one.
    pub pack: bool,
}

impl Default for BatchTable {
    fn default() -> Self {
        Self { tokens: 8192, accumulate: 1, pack: true }
    }
}

/// What is kept for the backward pass, and how exactly it is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    pub recompute: Recompute,
    pub compute: Compute,
}

/// What the large products of a step are computed in. Weights, sums, moments and all other operations are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    #[default]
    F32,
    /// Operands rounded to bf16, sums in f32 (torch `autocast`), see
    /// [`Products::Rounded`](qwen3_vl_backends::ops::Products::Rounded). On the CPU only.
    Bf16,
}

/// What is computed a second time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    #[default]
    None,
    /// Every block, of whose first run only the input is kept.
    Block,
}

/// Losses on rows that are not trained on, and answers to their questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluation {
    /// Steps between evaluations; 0 for none.
    pub every: u64,
    /// Rows that are used.
    pub rows: Option<usize>,
    /// Of the first so many rows, questions are answered and the answers compared with those of the file; 0 for none.
    pub generate: usize,
    /// Most tokens of such an answer.
    pub answer_tokens: usize,
    pub data: Vec<Source>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { every: 0, rows: None, generate: 0, answer_tokens: 256, data: Vec::new() }
    }
}

/// Checkpoints of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Save {
    /// Steps between checkpoints.
    pub every: u64,
    /// Checkpoints that are kept.
    pub keep: usize,
}

impl Default for Save {
    fn default() -> Self {
        Self { every: 200, keep: 3 }
    }
}

fn one() -> f64 {
    1.0
}

fn decay() -> f64 {
    0.2
}

fn warmup() -> f64 {
    0.03
}

fn keep() -> Think {
    Think::Keep
}

impl TrainConfig {
    /// Reads and checks a file, and resolves its paths.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown or a value is out of range.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(io)?;
        let toml = |source| ConfigError::Toml { path: path.to_owned(), source: Box::new(source) };
        let mut config: Self = toml::from_str(&text).map_err(toml)?;
        config.check(path)?;
        // Checkpoints keep the configuration; its paths must hold wherever they are read from.
        let file = std::path::absolute(path).map_err(io)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let stem = path.file_stem().unwrap_or_default();
        if config.output.as_os_str().is_empty() {
            config.output = Path::new("runs").join(stem);
        }
        config.model = folder.join(&config.model);
        config.output = folder.join(&config.output);
        for source in config.data.iter_mut().chain(&mut config.eval.data) {
            source.resolve(folder);
        }
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |field: &str, value: String, expected| {
            let (path, field) = (path.to_owned(), field.to_owned());
            Err(ConfigError::Value { path, field, value, expected })
        };
        let positive = "it must be a number above 0";
        if !(self.lr.base > 0.0 && self.lr.base.is_finite()) {
            return refuse("lr.base", self.lr.base.to_string(), positive);
        }
        for (field, value) in [("lr.warmup", self.lr.warmup), ("lr.decay", self.lr.decay)] {
            if !(value >= 0.0 && value.is_finite()) {
                let expected = "it must be a share of all steps below 1, or a number of steps";
                return refuse(field, value.to_string(), expected);
            }
        }
        if self.data.is_empty() {
            return refuse("data", "empty".into(), "name at least one source");
        }
        if self.batch.tokens == 0 || self.batch.accumulate == 0 {
            return refuse("batch", "0".into(), "tokens and accumulate must be at least 1");
        }
        if self.epochs.is_nan() || self.epochs <= 0.0 || self.steps == Some(0) {
            return refuse("steps", "0".into(), "train for at least one step or part of a pass");
        }
        if self.steps.is_none() && self.data.iter().any(|source| source.synth.is_some()) {
            let expected = "drawn rows are too many to be counted first; say how many steps";
            return refuse("steps", "missing".into(), expected);
        }
        if self.eval.every > 0 && self.eval.data.is_empty() {
            return refuse("eval.data", "empty".into(), "name rows that are not trained on");
        }
        if self.eval.answer_tokens == 0 {
            return refuse("eval.answer_tokens", "0".into(), "it must be at least 1");
        }
        if self.save.every == 0 || self.save.keep == 0 {
            return refuse("save", "0".into(), "every and keep must be at least 1");
        }
        if let Some((field, value, expected)) = self.refused_method() {
            return refuse(field, value, expected);
        }
        for (index, source) in self.data.iter().chain(&self.eval.data).enumerate() {
            let field = format!("data[{index}]");
            if let Some((name, value, expected)) = source.synth.as_ref().and_then(Drawing::refused)
            {
                return refuse(&format!("{field}.synth.{name}"), value, expected);
            }
            if source.path.is_some() == source.synth.is_some() {
                return refuse(&field, "ambiguous".into(), "give either `path` or `synth`");
            }
            if !(source.sample > 0.0 && source.sample <= 1.0) {
                return refuse(
                    &field,
                    source.sample.to_string(),
                    "sample lies above 0 and up to 1",
                );
            }
            if !(source.weight > 0.0 && source.weight.is_finite()) {
                return refuse(&field, source.weight.to_string(), positive);
            }
        }
        Ok(())
    }
}

impl Source {
    /// Splits `%50` off the path, and makes paths relative to `folder`.
    fn resolve(&mut self, folder: &Path) {
        if let Some(path) = &self.path {
            let text = path.to_string_lossy().into_owned();
            let cut = text.rsplit_once('%').and_then(|(path, share)| {
                let share: f64 = share.parse().ok()?;
                (share > 0.0 && share <= 100.0).then(|| (path.to_owned(), share / 100.0))
            });
            let path = match cut {
                Some((path, share)) => {
                    self.sample *= share;
                    PathBuf::from(path)
                }
                None => path.clone(),
            };
            self.path = Some(folder.join(path));
        }
        self.root = self.root.as_ref().map(|root| folder.join(root));
        for path in self.synth.iter_mut().flat_map(|drawing| &mut drawing.typefaces) {
            *path = folder.join(&path);
        }
    }
}
