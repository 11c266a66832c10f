//! Rows in the order of a run: shuffled per pass, mixed over the sources of a stage, put together to micro-batches. The order depends
//! on the seed and the position alone, so that a resumed run goes on with the very next row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qwen3_vl_model::processor::Processor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::{BatchTable, Source, TrainConfig};
use crate::data::{
    self, DataError, Dataset, Fingerprint, Limits, Note, Prepared, Preparer, Sample, SampleError,
    SourceOptions, TrainRow,
};
use crate::synth::SynthOptions;

/// Why rows cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error("none of the {rows} rows fits into {limit} tokens; raise limits.sequence")]
    NothingFits { rows: usize, limit: usize },
}

/// How far a run has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the data so far.
    pub epoch: u64,
    /// Rows of this pass so far.
    pub row: usize,
    /// Samples left out so far because they were too long; one that comes in several passes counts each time.
    pub dropped: u64,
    /// Samples whose pictures and videos were made smaller so far, and those whose text was cut.
    #[serde(default)]
    pub shrunk: u64,
    #[serde(default)]
    pub trimmed: u64,
}

impl Position {
    fn count(&mut self, prepared: &Prepared) {
        match prepared {
            Prepared::Dropped(_) => self.dropped += 1,
            Prepared::Row(row) => {
                let is = |shrunk: bool| {
                    row.changes.iter().any(|note| match note {
                        Note::Shrunk { .. } => shrunk,
                        Note::Trimmed { .. } => !shrunk,
                        Note::Frames { .. } => false,
                    })
                };
                self.shrunk += u64::from(is(true));
                self.trimmed += u64::from(is(false));
            }
        }
    }
}

/// The micro-batches of one optimiser step; none behind the last row.
#[derive(Debug)]
pub struct StepRows {
    pub micro: Vec<Vec<TrainRow>>,
    /// Where the next step begins.
    pub after: Position,
}

impl StepRows {
    /// Tokens that are predicted with loss.
    pub fn targets(&self) -> usize {
        self.micro.iter().flatten().map(TrainRow::predicted).sum()
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.micro.iter().flatten().map(|row| row.inputs.ids.len()).sum()
    }
}

/// Reads rows step by step.
pub struct Loader {
    sources: Vec<(Source, Dataset)>,
    processor: Arc<Processor>,
    limits: Limits,
    batch: BatchTable,
    seed: u64,
    position: Position,
    /// (source, row) of this pass.
    order: Vec<(u32, u32)>,
    /// Rows of all passes together, where these and no number of steps end the run.
    end: Option<usize>,
}

impl Loader {
    /// A loader that begins at `position`.
    ///
    /// # Errors
    /// When a data file cannot be read.
    pub fn new(
        config: &TrainConfig,
        sources: &[Source],
        processor: Arc<Processor>,
        position: Position,
    ) -> Result<Self, LoaderError> {
        let sources = sources.iter().cloned().zip(datasets(sources)?).collect();
        let mut loader = Self {
            sources,
            processor,
            limits: Limits::from(&config.limits),
            batch: config.batch,
            seed: config.seed,
            position,
            order: Vec::new(),
            end: None,
        };
        loader.order = loader.order_of(position.epoch);
        loader.end = config.steps.is_none().then(|| loader.rows_of(config.epochs));
        Ok(loader)
    }

    /// Length and hash of every data file, in the order of the sources; `None` for one that is drawn.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprints(&self) -> Result<Vec<Option<Fingerprint>>, LoaderError> {
        let found = self.sources.iter().map(|(_, dataset)| dataset.fingerprint());
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Rows of `epochs` passes.
    fn rows_of(&self, epochs: f64) -> usize {
        (self.order.len() as f64 * epochs).ceil() as usize
    }

    /// Optimiser steps that `epochs` passes take, from the tokens of every row; nothing is decoded.
    ///
    /// # Errors
    /// When a row is malformed, a medium is missing, or every row is too long.
    pub fn steps_of(&self, epochs: f64) -> Result<u64, LoaderError> {
        let preparer = Preparer::new(&self.processor, self.limits.clone());
        let mut known: HashMap<(u32, u32), usize> = HashMap::new();
        let mut rest = self.rows_of(epochs);
        let (mut micro, mut held, mut epoch) = (0u64, 0, 0);
        while rest > 0 {
            let order = self.order_of(epoch);
            for place in order.iter().take(rest) {
                let tokens = match known.get(place) {
                    Some(tokens) => *tokens,
                    None => self.measure(&preparer, *place)?,
                };
                known.insert(*place, tokens);
                // As in `next_micro`: a row that does not fit begins the next micro-batch.
                if held > 0 && held + tokens > self.batch.tokens {
                    (micro, held) = (micro + 1, 0);
                }
                held += tokens;
                if held >= self.batch.tokens {
                    (micro, held) = (micro + 1, 0);
                }
            }
            rest -= rest.min(order.len());
            epoch += 1;
        }
        micro += u64::from(held > 0);
        match micro.div_ceil(self.batch.accumulate as u64) {
            0 => Err(self.nothing_fits()),
            steps => Ok(steps),
        }
    }

    fn nothing_fits(&self) -> LoaderError {
        LoaderError::NothingFits { rows: self.order.len(), limit: self.limits.sequence }
    }

    /// Tokens of a row without the samples that are dropped.
    fn measure(
        &self,
        preparer: &Preparer<'_>,
        (source, row): (u32, u32),
    ) -> Result<usize, LoaderError> {
        let (_, dataset) = &self.sources[source as usize];
        let mut tokens = 0;
        for sample in dataset.samples(row as usize)? {
            let measured = preparer.measure(&sample)?;
            tokens += if measured.dropped { 0 } else { measured.tokens };
        }
        Ok(tokens)
    }

    /// Micro-batches of the next optimiser step. Those of the last step of a run whose end is that of its passes may be fewer.
    ///
    /// # Errors
    /// When a row is malformed, a medium is missing or damaged, or no row at all fits.
    pub fn next_step(&mut self) -> Result<StepRows, LoaderError> {
        let mut micro = Vec::with_capacity(self.batch.accumulate);
        for _ in 0..self.batch.accumulate {
            let rows = self.next_micro()?;
            if rows.is_empty() {
                break;
            }
            micro.push(rows);
        }
        Ok(StepRows { micro, after: self.position })
    }

    /// All rows of one pass as micro-batches, in file order.
    ///
    /// # Errors
    /// As [`Self::next_step`].
    pub fn all(&mut self, most: Option<usize>) -> Result<Vec<Vec<TrainRow>>, LoaderError> {
        let mut order = self.order.clone();
        order.sort_unstable();
        order.truncate(most.unwrap_or(usize::MAX));
        let rows = order.len();
        let mut micro = Vec::new();
        let mut current: Vec<TrainRow> = Vec::new();
        for place in order {
            for row in self.read(place)? {
                let tokens: usize = current.iter().map(TrainRow::tokens).sum();
                if !current.is_empty() && tokens + row.tokens() > self.batch.tokens {
                    micro.push(std::mem::take(&mut current));
                }
                current.push(row);
            }
        }
        if !current.is_empty() {
            micro.push(current);
        }
        match micro.is_empty() {
            true => Err(LoaderError::NothingFits { rows, limit: self.limits.sequence }),
            false => Ok(micro),
        }
    }

    /// None where the requested passes are over.
    fn next_micro(&mut self) -> Result<Vec<TrainRow>, LoaderError> {
        let (mut rows, mut tokens) = (Vec::new(), 0);
        let mut empty = 0;
        while tokens < self.batch.tokens && !self.is_over() {
            let before = self.position;
            let next = self.next_rows()?;
            let more: usize = next.iter().map(TrainRow::tokens).sum();
            empty = if next.is_empty() { empty + 1 } else { 0 };
            if rows.is_empty() && empty > self.order.len() {
                return Err(self.nothing_fits());
            }
            if !rows.is_empty() && tokens + more > self.batch.tokens {
                // It begins the next micro-batch; a resumed run reads it again.
                self.position = before;
                break;
            }
            rows.extend(next);
            tokens += more;
        }
        Ok(rows)
    }

    /// Whether the run has had all rows of its passes.
    fn is_over(&self) -> bool {
        let Position { epoch, row, .. } = self.position;
        self.end.is_some_and(|end| epoch as usize * self.order.len() + row >= end)
    }

    /// The samples of the next row; none where they are too long.
    fn next_rows(&mut self) -> Result<Vec<TrainRow>, LoaderError> {
        if self.position.row >= self.order.len() {
            self.position.epoch += 1;
            self.position.row = 0;
            self.order = self.order_of(self.position.epoch);
        }
        let place = self.order[self.position.row];
        self.position.row += 1;
        self.read(place)
    }

    fn read(&mut self, (source, row): (u32, u32)) -> Result<Vec<TrainRow>, LoaderError> {
        let (_, dataset) = &self.sources[source as usize];
        let samples: Vec<Sample> = dataset.samples(row as usize)?;
        let preparer = Preparer::new(&self.processor, self.limits.clone());
        let mut rows = Vec::with_capacity(samples.len());
        for sample in &samples {
            let prepared = preparer.prepare(sample)?;
            self.position.count(&prepared);
            match prepared {
                Prepared::Row(row) => rows.push(*row),
                Prepared::Dropped(dropped) => {
                    tracing::debug!(place = ?dropped.place, tokens = dropped.tokens, "too long");
                }
            }
        }
        Ok(rows)
    }

    /// The rows of pass `epoch` in order.
    fn order_of(&self, epoch: u64) -> Vec<(u32, u32)> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (epoch + 1).wrapping_mul(0x9E37_79B9));
        let mut stages: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for (index, (source, dataset)) in self.sources.iter().enumerate() {
            let mut rows: Vec<u32> = (0..dataset.len() as u32).collect();
            rows.shuffle(&mut rng);
            let wanted = (rows.len() as f64 * source.sample * source.weight).round() as usize;
            let taken = rows.iter().cycle().take(wanted.max(1));
            let stage = stages.entry(source.stage).or_default();
            stage.extend(taken.map(|row| (index as u32, *row)));
        }
        stages.values_mut().for_each(|stage| stage.shuffle(&mut rng));
        stages.into_values().flatten().collect()
    }
}

/// Opens the data files of `sources`, in order.
///
/// # Errors
/// When one cannot be read.
pub fn datasets(sources: &[Source]) -> Result<Vec<Dataset>, DataError> {
    sources.iter().map(open).collect()
}

fn open(source: &Source) -> Result<Dataset, DataError> {
    let Some(path) = &source.path else {
        let drawing = source.synth.clone().unwrap_or_default();
        return Ok(data::drawn(SynthOptions::try_from(&drawing)?));
    };
    data::read(SourceOptions {
        root: source.root.clone(),
        channel: source.channel.clone(),
        columns: source.columns.clone(),
        train_on: source.train_on,
        think: source.think,
        check_boxes: source.check_boxes,
        ..SourceOptions::new(path)
    })
}
