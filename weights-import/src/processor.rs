//! The processor and generation files of a checkpoint folder.

use std::path::{Path, PathBuf};

use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::processor::{ProcessError, Processor, ProcessorFiles};
use qwen3_vl_model::sample::{GenerationDefaults, SampleError};

use crate::error::LoadError;

/// Why the processor of a checkpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    #[error(transparent)]
    File(#[from] LoadError),
    #[error("{folder}: {source}")]
    Process { folder: PathBuf, source: Box<ProcessError> },
    #[error("{path}: {source}")]
    Generation { path: PathBuf, source: SampleError },
}

/// Reads tokenizer, chat template, image and video settings from `folder`.
///
/// # Errors
/// When the tokenizer is absent, or a file is malformed or disagrees with `config`.
pub fn load_processor(folder: &Path, config: &Qwen3VlConfig) -> Result<Processor, ProcessorError> {
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer = std::fs::read(&tokenizer_path).map_err(LoadError::io(tokenizer_path))?;
    let tokenizer_config = optional(folder, "tokenizer_config.json")?;
    let jinja = optional(folder, "chat_template.jinja")?;
    let json = optional(folder, "chat_template.json")?;
    let preprocessor = optional(folder, "preprocessor_config.json")?;
    let video = optional(folder, "video_preprocessor_config.json")?;
    let combined = optional(folder, "processor_config.json")?;
    let files = ProcessorFiles {
        tokenizer: &tokenizer,
        tokenizer_config: tokenizer_config.as_deref(),
        chat_template_jinja: jinja.as_deref(),
        chat_template_json: json.as_deref(),
        preprocessor_config: preprocessor.as_deref(),
        video_preprocessor_config: video.as_deref(),
        processor_config: combined.as_deref(),
    };
    Processor::new(config, files).map_err(|source| ProcessorError::Process {
        folder: folder.to_owned(),
        source: Box::new(source),
    })
}

/// Reads `generation_config.json`; a checkpoint without one has no defaults.
///
/// # Errors
/// When the file is malformed.
pub fn load_generation_defaults(folder: &Path) -> Result<GenerationDefaults, ProcessorError> {
    let name = "generation_config.json";
    match optional(folder, name)? {
        None => Ok(GenerationDefaults::default()),
        Some(text) => GenerationDefaults::from_json(&text)
            .map_err(|source| ProcessorError::Generation { path: folder.join(name), source }),
    }
}

/// The text of a file that a checkpoint need not have.
fn optional(folder: &Path, name: &str) -> Result<Option<String>, LoadError> {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LoadError::io(path)(error)),
    }
}
