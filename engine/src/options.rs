//! Where and how a checkpoint is loaded.

use std::path::PathBuf;

use qwen3_vl_backends::DtypeRequest;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::cache::KvDtype;
use qwen3_vl_model::config::ConfigError;
use qwen3_vl_model::processor::VideoRules;
use qwen3_vl_weights::MediaLimits;
use qwen3_vl_weights::hub::HubOptions;

/// Where and how to load a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// As `--device`; without it `QWEN3_VL_DEVICE`, else the best device present.
    pub device: Option<String>,
    pub dtype: DtypeRequest,
    /// Bounds on the area of images after resizing, in pixels.
    pub min_pixels: Option<usize>,
    pub max_pixels: Option<usize>,
    /// How videos are sampled, sized and written into the prompt.
    pub video: VideoRules,
    pub context: ContextOptions,
    /// How keys and values are stored.
    pub kv_cache_dtype: KvDtype,
    /// How hub ids are downloaded; without it as the environment says.
    pub hub: Option<HubOptions>,
    pub media: MediaLimits,
    /// Rounds the linear weights of the language model as they are read; vision tower, mergers, embedding, head and experts
    /// stay as they are. For checkpoints that are not rounded yet, on the CPU.
    pub quant: Option<QuantScheme>,
    /// The GGUF file of the vision tower, for a model that is a GGUF file; without it, the file beside the model whose name
    /// begins with `mmproj`.
    pub mmproj: Option<PathBuf>,
    /// Folder of a LoRA adapter as peft writes it, whose side paths are computed beside the weights.
    pub adapter: Option<PathBuf>,
}

/// How long a prompt may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextOptions {
    /// Most tokens of prompt and answer, no more than the checkpoint allows (vLLM `max_model_len`).
    pub max_model_len: Option<usize>,
    /// A JSON object that scales the rotary embedding, see [`Qwen3VlConfig::with_rope_scaling`].
    pub rope_scaling: Option<String>,
}

impl ContextOptions {
    /// The configuration as these options change it.
    ///
    /// # Errors
    /// When the object is malformed or the length is out of range.
    pub fn apply(&self, mut config: Qwen3VlConfig) -> Result<Qwen3VlConfig, ConfigError> {
        if let Some(json) = &self.rope_scaling {
            config = config.with_rope_scaling(json)?;
        }
        match self.max_model_len {
            Some(tokens) => config.with_max_model_len(tokens),
            None => Ok(config),
        }
    }
}
