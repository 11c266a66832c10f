//! The model of a run, to be written as a checkpoint folder.

use std::path::{Path, PathBuf};

use qwen3_vl_backends::SelectedDevice;
use qwen3_vl_model::Qwen3VlModel;

use crate::checkpoint;
use crate::config::{ConfigError, TrainConfig};
use crate::run::TrainError;
use crate::start::load;

/// Why there is no model of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainedError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] TrainError),
    #[error("{path} holds no checkpoint of a run (a folder `step-NUMBER` with state.json)")]
    NoCheckpoint { path: PathBuf },
}

/// A trained model, and where it is from.
#[derive(Debug)]
pub struct Trained {
    pub model: Qwen3VlModel,
    /// The configuration of the run, with the groups and the method that the checkpoint was trained with; its `model`
    /// is the folder with tokenizer and processor files.
    pub config: TrainConfig,
    /// Steps done.
    pub step: u64,
}

/// Loads the newest checkpoint of a run, given by its TOML file, its output folder or one of its checkpoints.
///
/// # Errors
/// When there is no checkpoint, or it or the model that it began with cannot be read.
pub fn trained(run: &Path, device: &SelectedDevice) -> Result<Trained, TrainedError> {
    let config = match run.is_file() {
        true => Some(TrainConfig::open(run)?),
        false => None,
    };
    let folder = config.as_ref().map_or(run, |config| &config.output);
    let folder = match checkpoint::is_complete(folder) {
        true => folder.to_owned(),
        false => checkpoint::newest(folder)
            .ok_or_else(|| TrainedError::NoCheckpoint { path: folder.to_owned() })?,
    };
    let state = checkpoint::read_state(&folder).map_err(TrainError::from)?;
    let mut config = config.unwrap_or_else(|| state.config.clone());
    (config.method, config.train) = (state.config.method.clone(), state.config.train);
    if !config.model.is_dir() {
        // A hub id or `nano`: the checkpoint knows the folder that it stood for.
        config.model = state.config.model.clone();
    }
    let model = load(&config, device)?;
    let model = checkpoint::restore(&folder, &state, model, None).map_err(TrainError::from)?;
    Ok(Trained { model, config, step: state.step })
}
