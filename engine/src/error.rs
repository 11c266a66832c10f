//! Everything that can go wrong between a checkpoint's name and an answer.

use crate::grammar::GrammarError;
use crate::nano::NanoError;
use qwen3_vl_backends::{DeviceError, DeviceFailure, DeviceLost};
use qwen3_vl_model::config::ConfigError;
use qwen3_vl_model::generate::GenerateError;
use qwen3_vl_model::processor::ProcessError;
use qwen3_vl_model::processor::message::MessageError;
use qwen3_vl_model::sample::SampleError;
use qwen3_vl_model::stop::StopError;
use qwen3_vl_weights::adapter::AdapterError;
use qwen3_vl_weights::hub::HubError;
use qwen3_vl_weights::{LoadError, MediaError, ProcessorError};

/// An error of [`crate::Qwen3Vl`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Nano(#[from] NanoError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(transparent)]
    Sampling(#[from] SampleError),
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error(
        "{path} holds the language model alone, which reads no pictures and videos; give its vision tower by --mmproj FILE, or put that file beside it under a name that begins with mmproj"
    )]
    NoVision { path: std::path::PathBuf },
    #[error("max_tokens is 0; ask for at least 1 token")]
    NoTokens,
    #[error("`{field}` has token id {id}, which is not below the vocabulary size {vocabulary}")]
    TokenId { field: &'static str, id: u32, vocabulary: usize },
    #[error(
        "`prompt_logprobs` of {tokens} tokens are {values} values, but at most {limit} are told; ask for fewer alternatives or shorten the prompt"
    )]
    PromptLogprobs { tokens: usize, values: usize, limit: usize },
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

impl Error {
    /// What a device did not compute, where that is what went wrong.
    pub fn device_failure(&self) -> Option<&DeviceFailure> {
        match self {
            Self::Generate(GenerateError::Device(failure))
            | Self::Load(LoadError::Device(failure)) => Some(failure),
            _ => None,
        }
    }

    /// The device that was lost, where that is what went wrong. Nothing is computed on it any more.
    pub fn lost_device(&self) -> Option<&DeviceLost> {
        match self.device_failure()? {
            DeviceFailure::Lost(lost) => Some(lost),
            DeviceFailure::Refused { .. } => None,
        }
    }
}
