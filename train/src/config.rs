//! The file that describes a run.

mod check;
mod method;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use method::{LoraTable, Method, Scaling, TrainGroups, Training};
use serde::{Deserialize, Serialize};
pub use source::{Drawing, DrawingMixture, Source};

use crate::data::{Limits, TooLong};
use crate::groups::{Group, Parameter};

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
    /// Checkpoint folder to start from; a hub id or `nano` until it is resolved, where no folder has that name.
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
    /// Passes over the data, where `steps` is not given: every row is used so often, and the last step ends with the last row.
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
    /// Whether the samples of a micro-batch run in one pass, each with attention to itself alone; otherwise one by one. Neither
    /// pads: a pass has the tokens of its samples, and no others.
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

impl TrainConfig {
    /// Reads and checks a file, and resolves its paths. `model` stays as it is written where it may be a hub id or `nano`,
    /// which this crate cannot find.
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
        let model = folder.join(&config.model);
        if model.exists() || !is_name(&config.model) {
            config.model = model;
        }
        config.output = folder.join(&config.output);
        for source in config.data.iter_mut().chain(&mut config.eval.data) {
            source.resolve(folder);
        }
        Ok(config)
    }
}

/// Whether this may be the name of a model and no path: `nano`, or `OWNER/NAME` of a hub.
fn is_name(model: &Path) -> bool {
    let parts: Vec<_> = model.iter().map(|part| part.to_string_lossy()).collect();
    match &parts[..] {
        [name] => name == "nano",
        [owner, name] => !owner.starts_with(['.', '/', '~']) && !name.starts_with('.'),
        _ => false,
    }
}
