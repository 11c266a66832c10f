//! Serde mirror of `config.json`, as transformers 4 and 5 write it. Nothing is validated here.
//!
//! Unknown keys are ignored, absent ones stay `None`; [`super::Qwen3VlConfig`] resolves them.

use serde::Deserialize;

/// Top level of `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct RawConfig {
    pub model_type: Option<String>,
    pub architectures: Option<Vec<String>>,
    pub text_config: Option<RawTextConfig>,
    pub vision_config: Option<RawVisionConfig>,
    pub image_token_id: Option<u32>,
    pub video_token_id: Option<u32>,
    pub vision_start_token_id: Option<u32>,
    pub vision_end_token_id: Option<u32>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(alias = "torch_dtype")]
    pub dtype: Option<String>,
    pub transformers_version: Option<String>,
    pub quantization_config: Option<serde_json::Value>,
}

/// `text_config`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RawTextConfig {
    pub model_type: Option<String>,
    pub vocab_size: Option<usize>,
    pub hidden_size: Option<usize>,
    pub intermediate_size: Option<usize>,
    pub num_hidden_layers: Option<usize>,
    pub num_attention_heads: Option<usize>,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub hidden_act: Option<String>,
    pub rms_norm_eps: Option<f64>,
    pub max_position_embeddings: Option<usize>,
    pub attention_bias: Option<bool>,
    pub initializer_range: Option<f64>,
    pub rope_theta: Option<f64>,
    pub rope_scaling: Option<RawRope>,
    pub rope_parameters: Option<RawRope>,
    #[serde(alias = "torch_dtype")]
    pub dtype: Option<String>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<OneOrMany>,
    pub pad_token_id: Option<u32>,
    pub moe_intermediate_size: Option<usize>,
    /// transformers 4 name; transformers 5 writes `num_local_experts`.
    pub num_experts: Option<usize>,
    pub num_local_experts: Option<usize>,
    pub num_experts_per_tok: Option<usize>,
    pub decoder_sparse_step: Option<usize>,
    pub mlp_only_layers: Option<Vec<usize>>,
    pub router_aux_loss_coef: Option<f64>,
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4).
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RawRope {
    pub rope_type: Option<String>,
    /// The name of `rope_type` in old files.
    #[serde(rename = "type")]
    pub legacy_type: Option<String>,
    pub rope_theta: Option<f64>,
    pub mrope_section: Option<Vec<usize>>,
    pub factor: Option<f64>,
    pub original_max_position_embeddings: Option<usize>,
    pub attention_factor: Option<f64>,
    pub beta_fast: Option<f64>,
    pub beta_slow: Option<f64>,
    pub truncate: Option<bool>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
}

/// `vision_config`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RawVisionConfig {
    pub depth: Option<usize>,
    pub hidden_size: Option<usize>,
    pub hidden_act: Option<String>,
    pub intermediate_size: Option<usize>,
    pub num_heads: Option<usize>,
    pub in_channels: Option<usize>,
    pub patch_size: Option<usize>,
    pub spatial_merge_size: Option<usize>,
    pub temporal_patch_size: Option<usize>,
    pub out_hidden_size: Option<usize>,
    pub num_position_embeddings: Option<usize>,
    pub deepstack_visual_indexes: Option<Vec<usize>>,
    pub initializer_range: Option<f64>,
    pub rope_parameters: Option<RawRope>,
}

/// A token id or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    /// The ids as a list.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}
