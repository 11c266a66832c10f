//! The loop: rows in, one optimiser step after the other, checkpoints and logs out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use qwen3_vl_backends::device::peak_resident_bytes;
use qwen3_vl_backends::ops::{Products, set_products};
use qwen3_vl_backends::{BackendKind, SelectedDevice};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::inputs::InputError;
use qwen3_vl_model::processor::Processor;
use qwen3_vl_weights::{LoadError, ProcessorError, load_processor};
use serde::{Deserialize, Serialize};

use crate::ahead::Ahead;
use crate::changes::changes;
use crate::checkpoint::{self, CheckpointError, RunState};
use crate::config::{Compute, Recompute, TrainConfig};
use crate::data::TrainRow;
use crate::evaluate::HeldOut;
use crate::gradients::ModelGradients;
use crate::groups::{Group, GroupCount, Parameter, parameters};
use crate::loader::{Loader, LoaderError, Position, StepRows};
use crate::lora::LoraError;
use crate::losses::{ChannelLoss, LossSums};
use crate::metrics::Figures;
use crate::optim::ModelOptimizer;
use crate::pass::{self, Batch, PassOptions};
use crate::recompute::without_gradients;
use crate::report::{Log, ReportError};
use crate::start::{check_head, load};
use crate::trainable::trainable;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    #[error(transparent)]
    Loader(#[from] LoaderError),
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(
        "`memory.compute` is bf16, which {device} does not offer; leave it out, or train with --device flex"
    )]
    Compute { device: String },
    #[error(
        "`{device}` is a device of another machine, on which nothing is trained; train with a device of this one"
    )]
    Remote { device: String },
    #[error(
        "`train.head` is true and every other group is frozen, but the head of this model is its embedding table, so that nothing would be trained; write `embed = true`, which trains both"
    )]
    TiedHead,
    #[error(
        "step {step}: {what} is not finite; rows: {rows}; the last good checkpoint is {checkpoint}"
    )]
    NotFinite { step: u64, what: String, rows: String, checkpoint: String },
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, of `steps`.
    pub step: u64,
    pub steps: u64,
    /// Mean cross-entropy of the targets of this step.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub norm: f64,
    /// Base learning rate of this step.
    pub lr: f64,
    pub tokens: u64,
    pub targets: u64,
    pub seconds: f64,
    pub epoch: u64,
    /// Samples left out so far because they were too long; as in [`Position`], one counts each time that it comes.
    pub dropped: u64,
    /// Samples with smaller pictures and videos so far, and with text that was cut.
    #[serde(default)]
    pub shrunk: u64,
    #[serde(default)]
    pub trimmed: u64,
    /// Largest resident size of the process so far, where the system tells it.
    #[serde(default)]
    pub peak_bytes: Option<u64>,
    /// Learning rate of each group that is trained.
    #[serde(default)]
    pub rates: BTreeMap<String, f64>,
    /// The loss of this step by channel.
    #[serde(default)]
    pub channels: BTreeMap<String, ChannelLoss>,
    /// Mean cross-entropy on the evaluation rows, where this step ended with an evaluation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
    /// The same by channel.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub eval_channels: BTreeMap<String, ChannelLoss>,
    /// Figures of generated answers, of [`ALL`](crate::evaluate::ALL) and by channel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answers: Option<BTreeMap<String, Figures>>,
    /// In the first line after a resumption, what has changed since.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// Follows a run, and may stop it; a stopped run leaves a checkpoint.
pub trait Observer {
    /// After every step.
    fn step(&mut self, report: &StepReport) -> ControlFlow<()>;
    /// After every checkpoint.
    fn saved(&mut self, folder: &std::path::Path);
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub step: u64,
    pub steps: u64,
    /// Passes so far, and how many samples were dropped, shrunk and trimmed in them.
    pub position: Position,
    pub checkpoint: Option<PathBuf>,
}

/// A model in training.
pub struct Trainer {
    config: TrainConfig,
    model: Qwen3VlModel,
    optimizer: ModelOptimizer,
    ahead: Ahead,
    processor: Arc<Processor>,
    state: RunState,
    resumed: bool,
    notes: Vec<String>,
}

impl Trainer {
    /// Loads the model and, where there is a checkpoint in the output folder, goes on from it.
    ///
    /// # Errors
    /// When the model or the data cannot be loaded, or the checkpoint is damaged or was written with another configuration or
    /// other data.
    pub fn new(config: TrainConfig, device: &SelectedDevice) -> Result<Self, TrainError> {
        choose_products(&config, device)?;
        let newest = checkpoint::newest(&config.output);
        let damaged = |error| match &newest {
            Some(folder) => checkpoint::damaged(folder, error),
            None => error,
        };
        let before = newest.as_deref().map(checkpoint::read_state).transpose().map_err(damaged)?;
        let model = load(&config, device)?;
        let mut notes: Vec<String> =
            check_head(&config, model.config())?.map(str::to_owned).into_iter().collect();
        let processor = Arc::new(load_processor(&config.model, model.config())?);
        let mut model = trainable(model, |parameter| config.train.trains(parameter));
        let trained = trained_of(&config, &model);
        let mut optimizer = ModelOptimizer::new(config.optimizer, &config.lr, &trained);
        let position = before.as_ref().map_or(Position::default(), |state| state.position);
        let loader = Loader::new(&config, &config.data, processor.clone(), position)?;
        let mut state = RunState::new(&config, loader.fingerprints()?);
        let resumed = before.is_some();
        match newest.as_ref().zip(before) {
            None => state.steps = steps_of(&config, &loader)?,
            Some((folder, before)) => {
                let changes = changes(&before, &state);
                if !changes.is_empty() {
                    return Err(CheckpointError::Changed { path: folder.clone(), changes }.into());
                }
                let restored = checkpoint::restore(folder, &before, model, Some(&mut optimizer));
                model = restored.map_err(damaged)?;
                let steps = steps_on(&before, &config, &loader)?;
                notes.extend(state.go_on(before, steps));
            }
        }
        let ahead = Ahead::new(loader);
        Ok(Self { config, model, optimizer, ahead, processor, state, resumed, notes })
    }

    /// The configuration of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The model as it is.
    pub fn model(&self) -> &Qwen3VlModel {
        &self.model
    }

    /// Steps and position.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Whether a checkpoint was found.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What its user should know before it goes on.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Parameters of each group: all, trained in place, and of side paths.
    pub fn counts(&self) -> Vec<GroupCount> {
        let list = parameters(&self.model);
        Group::ALL
            .into_iter()
            .map(|group| GroupCount::new(group, &list, &self.config.train))
            .collect()
    }

    /// Trains to the end, or until `observer` stops it.
    ///
    /// # Errors
    /// When a row cannot be read, a value is not finite or a file cannot be written.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Finished, TrainError> {
        let mut log = Log::open(&self.config.output, self.state.step)?;
        let held_out = HeldOut::read(&self.config, &self.processor)?;
        let mut last = checkpoint::newest(&self.config.output);
        let mut notes = if self.resumed { self.notes.clone() } else { Vec::new() };
        while self.state.step < self.state.steps {
            let rows = self.next_rows()?;
            if rows.micro.is_empty() {
                // Fewer rows fitted than were counted: the passes are over.
                self.state.steps = self.state.step;
                last = Some(self.save()?);
                break;
            }
            let mut report = self.step(rows, last.as_deref())?;
            report.notes = std::mem::take(&mut notes);
            let step = self.state.step;
            let every = self.config.eval.every;
            if every > 0 && (step.is_multiple_of(every) || step == self.state.steps) {
                self.evaluate(&held_out, &mut report)?;
            }
            log.write(&report)?;
            let stop = observer.step(&report).is_break();
            if stop || step.is_multiple_of(self.config.save.every) || step == self.state.steps {
                let folder = self.save()?;
                log.draw()?;
                observer.saved(&folder);
                last = Some(folder);
            }
            if stop {
                break;
            }
        }
        let RunState { step, steps, position, .. } = self.state;
        Ok(Finished { step, steps, position, checkpoint: last })
    }

    fn next_rows(&mut self) -> Result<StepRows, TrainError> {
        let mut rows = self.ahead.next_step()?;
        if self.config.steps.is_none() && self.state.step + 1 == self.state.steps {
            // Rows behind the last sample are too long, and are counted too.
            let rest = self.ahead.next_step()?;
            if rest.micro.is_empty() {
                rows.after = rest.after;
            }
        }
        Ok(rows)
    }

    fn save(&self) -> Result<PathBuf, TrainError> {
        let (output, keep) = (&self.config.output, self.config.save.keep);
        let state = self.state.clone();
        Ok(checkpoint::save(output, keep, &self.model, &self.optimizer, state)?)
    }

    /// One optimiser step on `rows`, of which there are some.
    fn step(
        &mut self,
        rows: StepRows,
        last: Option<&std::path::Path>,
    ) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let (tokens, targets) = (rows.tokens() as u64, rows.targets());
        let (gradients, losses) = self.gradients(&rows)?;
        let norm = gradients.norm();
        let (loss, step) = (losses.mean().unwrap_or(0.0), self.state.step);
        for (what, value) in [("the loss", loss), ("the gradient", norm)] {
            if !value.is_finite() {
                return Err(self.not_finite(what, &gradients, &rows, last));
            }
        }
        let factor = self.config.lr.factor(step, self.state.steps);
        self.model = self.optimizer.step(self.model.clone(), gradients, norm, factor);
        self.state.step += 1;
        self.state.position = rows.after;
        self.state.tokens += tokens;
        self.state.targets += targets as u64;
        Ok(StepReport {
            step: self.state.step,
            steps: self.state.steps,
            loss,
            norm,
            lr: self.config.lr.base * factor,
            tokens,
            targets: targets as u64,
            seconds: start.elapsed().as_secs_f64(),
            epoch: rows.after.epoch,
            dropped: rows.after.dropped,
            shrunk: rows.after.shrunk,
            trimmed: rows.after.trimmed,
            peak_bytes: peak_resident_bytes(),
            rates: self.rates(factor),
            channels: losses.by_channel(),
            eval_loss: None,
            eval_channels: BTreeMap::new(),
            answers: None,
            notes: Vec::new(),
        })
    }

    /// Rates of the groups that have something to train; a tied head has not.
    fn rates(&self, factor: f64) -> BTreeMap<String, f64> {
        let trained = trained_of(&self.config, &self.model).into_iter();
        let rate = |group: Group| (group.name().to_owned(), self.config.lr.of(group) * factor);
        trained.map(|parameter| rate(parameter.group)).collect()
    }

    /// Gradients of the mean loss over all targets of the step, and the losses.
    fn gradients(&self, rows: &StepRows) -> Result<(ModelGradients, LossSums), TrainError> {
        let mut gradients = ModelGradients::default();
        let mut losses = LossSums::default();
        let options = PassOptions {
            scale: 1.0 / rows.targets().max(1) as f64,
            recompute: self.config.memory.recompute == Recompute::Block,
            router_aux: self.config.router_aux / rows.micro.len() as f64,
        };
        for micro in rows.micro.iter().flat_map(|micro| self.passes(micro)) {
            let batch = self.batch(micro)?;
            let result = pass::backward(&self.model, batch, &options, &mut gradients);
            losses.add(micro, &result.losses);
        }
        Ok((gradients, losses))
    }

    /// All rows in one pass, or each in its own.
    fn passes<'r>(&self, rows: &'r [TrainRow]) -> Vec<&'r [TrainRow]> {
        match self.config.batch.pack {
            true => vec![rows],
            false => rows.chunks(1).collect(),
        }
    }

    fn batch(&self, rows: &[TrainRow]) -> Result<Batch, InputError> {
        let packed = self.model.pack(rows.iter().map(|row| &row.inputs))?;
        let trained: Vec<bool> = rows.iter().flat_map(|row| row.targets.iter().copied()).collect();
        Ok(Batch::new(packed, &trained))
    }

    fn evaluate(&self, held_out: &HeldOut, report: &mut StepReport) -> Result<(), TrainError> {
        let model = without_gradients(&self.model);
        let mut sums = LossSums::default();
        for micro in &held_out.micro {
            for rows in self.passes(micro) {
                sums.add(rows, &pass::losses(&model, self.batch(rows)?));
            }
        }
        (report.eval_loss, report.eval_channels) = (sums.mean(), sums.by_channel());
        report.answers = held_out.answers(&model, &self.processor);
        Ok(())
    }

    fn not_finite(
        &self,
        what: &str,
        gradients: &ModelGradients,
        rows: &StepRows,
        last: Option<&std::path::Path>,
    ) -> TrainError {
        let broken = parameters(&self.model).into_iter().find(|parameter| {
            let sum = gradients.get(parameter.id).map(|g| g.clone().abs().sum());
            sum.is_some_and(|sum| !pass::value(sum).is_finite())
        });
        let what = match broken {
            Some(parameter) => format!("{what} (first at {})", parameter.path),
            None => what.to_owned(),
        };
        let places = rows.micro.iter().flatten().map(|row| row.place.to_string());
        let rows = places.take(8).collect::<Vec<_>>().join(", ");
        let checkpoint = last.map_or("not there yet".into(), |path| path.display().to_string());
        TrainError::NotFinite { step: self.state.step + 1, what, rows, checkpoint }
    }
}

/// Sets what large products are computed in, where the device has it.
fn choose_products(config: &TrainConfig, device: &SelectedDevice) -> Result<(), TrainError> {
    if device.kind == BackendKind::Remote {
        return Err(TrainError::Remote { device: device.name.clone() });
    }
    let rounded = config.memory.compute == Compute::Bf16;
    if rounded && device.kind != BackendKind::Flex {
        return Err(TrainError::Compute { device: device.name.clone() });
    }
    set_products(if rounded { Products::Rounded } else { Products::Exact });
    Ok(())
}

/// Steps of a run that begins.
fn steps_of(config: &TrainConfig, loader: &Loader) -> Result<u64, LoaderError> {
    config.steps.map_or_else(|| loader.steps_of(config.epochs), Ok)
}

/// Steps of a run that goes on: passes are counted again only where their number has changed.
fn steps_on(state: &RunState, config: &TrainConfig, loader: &Loader) -> Result<u64, LoaderError> {
    let before = &state.config;
    match before.steps.is_none() && config.steps.is_none() && before.epochs == config.epochs {
        true => Ok(state.steps),
        false => steps_of(config, loader),
    }
}

fn trained_of(config: &TrainConfig, model: &Qwen3VlModel) -> Vec<Parameter> {
    parameters(model).into_iter().filter(|p| config.train.trains(p)).collect()
}
