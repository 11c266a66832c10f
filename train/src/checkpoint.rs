//! Checkpoints of a run: trained weights, moments and position, written so that a crash leaves the one before intact.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_model::Qwen3VlModel;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::Fingerprint;
use crate::groups::{Parameter, parameters};
use crate::loader::Position;
use crate::optim::{ModelOptimizer, Moments};

const WEIGHTS: &str = "weights.safetensors";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.json";
/// Begins the name of a folder that is being written.
const PARTIAL: &str = ".partial-";

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Tensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{path}: {source}")]
    State { path: PathBuf, source: serde_json::Error },
    #[error(
        "{path} has no tensor `{name}` of {expected} values; it belongs to another model or configuration"
    )]
    Missing { path: PathBuf, name: String, expected: usize },
    #[error(
        "{path} was written with another configuration or other data: {changes}; put that back, or choose another `output`"
    )]
    Changed { path: PathBuf, changes: String },
    #[error("{source}; the checkpoint {folder} is damaged: {}", way_out(.folder, .before.as_deref()))]
    Damaged { folder: PathBuf, source: Box<CheckpointError>, before: Option<PathBuf> },
}

fn way_out(folder: &Path, before: Option<&Path>) -> String {
    match before {
        Some(before) => {
            format!("remove that folder, and the run goes on from {}", before.display())
        }
        None => {
            let output = folder.parent().unwrap_or(folder).display();
            format!(
                "there is none before it, so remove {output} or choose another `output` to begin anew"
            )
        }
    }
}

/// What a run needs beside weights and moments to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub steps: u64,
    pub position: Position,
    /// Tokens and targets that were trained on.
    pub tokens: u64,
    pub targets: u64,
    pub config: TrainConfig,
    /// Updates of every trained parameter, by module path.
    pub updates: HashMap<String, u64>,
    /// What each data file held, in the order of `config.data`; empty in checkpoints of older versions.
    #[serde(default)]
    pub data: Vec<Option<Fingerprint>>,
}

impl RunState {
    /// A run that begins, of no step yet.
    pub(crate) fn new(config: &TrainConfig, data: Vec<Option<Fingerprint>>) -> Self {
        Self {
            step: 0,
            steps: 0,
            position: Position::default(),
            tokens: 0,
            targets: 0,
            config: config.clone(),
            updates: HashMap::new(),
            data,
        }
    }

    /// The same run from where `before` ends, to `steps`; says when that is another number.
    pub(crate) fn go_on(&mut self, before: Self, steps: u64) -> Option<String> {
        let Self { config, data, .. } = self.clone();
        let was = before.steps;
        *self = Self { steps, config, data, ..before };
        (steps != was).then(|| {
            format!("the run has {steps} steps now and had {was}; rates follow the new number")
        })
    }
}

/// The newest complete checkpoint in `output`.
pub fn newest(output: &Path) -> Option<PathBuf> {
    all(output).pop()
}

/// The same error for a checkpoint whose files are damaged, with what the user can go on from.
pub(crate) fn damaged(folder: &Path, error: CheckpointError) -> CheckpointError {
    use CheckpointError::{Damaged, Io, State, Tensors};
    if !matches!(error, Io { .. } | Tensors { .. } | State { .. }) {
        return error;
    }
    let mut others = all(folder.parent().unwrap_or(folder)).into_iter();
    let before = others.rfind(|other| other.as_path() < folder);
    Damaged { folder: folder.to_owned(), source: Box::new(error), before }
}

/// Whether `folder` is a checkpoint that was written to its end.
pub fn is_complete(folder: &Path) -> bool {
    folder.join(STATE).is_file()
}

/// Complete checkpoints in `output`, oldest first.
fn all(output: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_complete(path))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")))
        .collect();
    found.sort();
    found
}

/// Writes a checkpoint beside the others, and removes the oldest where there are more than `keep`.
///
/// # Errors
/// When a file cannot be written; the checkpoints before stay as they are.
pub fn save(
    output: &Path,
    keep: usize,
    model: &Qwen3VlModel,
    optimizer: &ModelOptimizer,
    mut state: RunState,
) -> Result<PathBuf, CheckpointError> {
    let name = format!("step-{:08}", state.step);
    let (partial, target) = (output.join(format!("{PARTIAL}{name}")), output.join(&name));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { path, source }
    };
    remove_partials(output);
    std::fs::create_dir_all(&partial).map_err(io(&partial))?;
    let written = write(&partial, model, optimizer, &mut state);
    // A full disk is given back what was written.
    written.inspect_err(|_| remove_partials(output))?;
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(io(&target))?;
    }
    std::fs::rename(&partial, &target).map_err(io(&target))?;
    if let Ok(folder) = File::open(output) {
        // Makes the new name last; some file systems do not allow it, and none needs it to read the files.
        let _ = folder.sync_all();
    }
    let existing = all(output);
    for old in existing.iter().take(existing.len().saturating_sub(keep)) {
        std::fs::remove_dir_all(old).map_err(io(old))?;
    }
    Ok(target)
}

/// Removes what interrupted saves left behind.
fn remove_partials(output: &Path) {
    for entry in std::fs::read_dir(output).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// All files of a checkpoint.
fn write(
    partial: &Path,
    model: &Qwen3VlModel,
    optimizer: &ModelOptimizer,
    state: &mut RunState,
) -> Result<(), CheckpointError> {
    let list = parameters(model);
    let weights = values_of(model, &list);
    write_tensors(&partial.join(WEIGHTS), weights)?;
    let mut moments = Vec::new();
    for parameter in &list {
        if let Some(m) = optimizer.moments.get(&parameter.id) {
            moments.push((format!("first.{}", parameter.path), Stored::new(m.first.clone())));
            let second = m.second.clone().map(Stored::new);
            moments.extend(second.map(|values| (format!("second.{}", parameter.path), values)));
            state.updates.insert(parameter.path.clone(), m.updates);
        }
    }
    write_tensors(&partial.join(MOMENTS), moments)?;
    let path = partial.join(STATE);
    let io = |source| CheckpointError::Io { path: path.clone(), source };
    let file = File::create(&path).map_err(io)?;
    serde_json::to_writer_pretty(&file, &state)
        .map_err(|source| CheckpointError::State { path: path.clone(), source })?;
    file.sync_all().map_err(io)
}

/// Reads what a run was doing.
///
/// # Errors
/// When the file is missing or malformed.
pub fn read_state(folder: &Path) -> Result<RunState, CheckpointError> {
    let path = folder.join(STATE);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|source| CheckpointError::State { path, source })
}

/// Puts trained weights into `model`, and moments into `optimizer`.
///
/// # Errors
/// When a tensor is missing or has another size.
pub fn restore(
    folder: &Path,
    state: &RunState,
    model: Qwen3VlModel,
    optimizer: Option<&mut ModelOptimizer>,
) -> Result<Qwen3VlModel, CheckpointError> {
    let list = parameters(&model);
    let path = folder.join(WEIGHTS);
    let bytes = std::fs::read(&path)
        .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|source| CheckpointError::Tensors { path: path.clone(), source })?;
    let mut values = Vec::with_capacity(list.len());
    for parameter in &list {
        // Frozen parameters are not stored, but side paths always are.
        let stored = parameter.is_lora() || tensors.tensor(&parameter.path).is_ok();
        values.push(match stored {
            true => Some(read(&tensors, &path, &parameter.path, parameter.len())?),
            false => None,
        });
    }
    if let Some(optimizer) = optimizer {
        restore_moments(folder, state, &model, &list, optimizer)?;
    }
    Ok(model.map(&mut Fill { values: values.into_iter() }))
}

fn restore_moments(
    folder: &Path,
    state: &RunState,
    model: &Qwen3VlModel,
    list: &[Parameter],
    optimizer: &mut ModelOptimizer,
) -> Result<(), CheckpointError> {
    let path = folder.join(MOMENTS);
    let bytes = std::fs::read(&path)
        .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|source| CheckpointError::Tensors { path: path.clone(), source })?;
    let device = model.device();
    for parameter in list {
        let Some(updates) = state.updates.get(&parameter.path) else { continue };
        let part = |part: &str| {
            let name = format!("{part}.{}", parameter.path);
            let values = read(&tensors, &path, &name, parameter.len())?;
            let data = TensorData::new(values, [parameter.len()]);
            Ok::<_, CheckpointError>(Tensor::<1>::from_data(data, (&device, DType::F32)))
        };
        let both = !optimizer.has_one_moment(parameter.id);
        let second = both.then(|| part("second")).transpose()?;
        let moments = Moments { first: part("first")?, second, updates: *updates };
        optimizer.moments.insert(parameter.id, moments);
    }
    Ok(())
}

struct Fill {
    values: std::vec::IntoIter<Option<Vec<f32>>>,
}

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = self.values.next().expect("one entry per parameter, in the same order");
        let Some(values) = values else { return param };
        let (id, old) = (param.id, param.into_value());
        let data = TensorData::new(values, old.shape());
        let new = Tensor::<D>::from_data(data, (&old.device().without_autodiff(), DType::F32));
        match old.is_autodiff() {
            true => Param::initialized(id, new.autodiff().require_grad()),
            false => Param::initialized(id, new),
        }
    }
}

/// The trained parameters, by module path.
fn values_of(model: &Qwen3VlModel, list: &[Parameter]) -> Vec<(String, Stored)> {
    struct Values {
        found: Vec<Option<Stored>>,
    }
    impl burn::module::ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let flat = |v: Tensor<D>| {
                let count = v.shape().num_elements();
                Stored::new(v.inner().reshape([count]))
            };
            self.found.push(value.is_autodiff().then(|| flat(value)));
        }
    }
    let mut values = Values { found: Vec::new() };
    model.visit(&mut values);
    let pairs = list.iter().zip(values.found);
    pairs.filter_map(|(parameter, values)| Some((parameter.path.clone(), values?))).collect()
}

/// A tensor whose bytes are read when they are written, so that one at a time is in memory twice.
struct Stored {
    shape: [usize; 1],
    values: Tensor<1>,
}

impl Stored {
    fn new(values: Tensor<1>) -> Self {
        Self { shape: values.dims(), values }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values.clone().into_data_dtype(DType::F32).try_to_vec::<f32>();
        let values = values.expect("converted to f32");
        Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape[0]
    }
}

fn write_tensors(path: &Path, tensors: Vec<(String, Stored)>) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::Tensors { path: path.to_owned(), source };
    safetensors::serialize_to_file(tensors, None, path).map_err(failed)?;
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    File::open(path).and_then(|file| file.sync_all()).map_err(io)
}

fn read(
    tensors: &SafeTensors<'_>,
    path: &Path,
    name: &str,
    count: usize,
) -> Result<Vec<f32>, CheckpointError> {
    let tensor = tensors.tensor(name).ok();
    let tensor = tensor.filter(|t| t.dtype() == Dtype::F32 && t.data().len() == 4 * count);
    let missing = || CheckpointError::Missing {
        path: path.to_owned(),
        name: name.to_owned(),
        expected: count,
    };
    let bytes = tensor.ok_or_else(missing)?;
    let (words, _) = bytes.data().as_chunks::<4>();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
