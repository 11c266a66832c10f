//! Configuration of the language model.

use super::raw::RawTextConfig;
use super::{ConfigError, MOST_LAYERS, RopeConfig, positive, within};

/// HF `Qwen3VLTextConfig` / `Qwen3VLMoeTextConfig`, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Width of the dense SwiGLU.
    pub intermediate_size: usize,
    /// HF `num_hidden_layers`.
    pub layers: usize,
    /// HF `num_attention_heads`.
    pub heads: usize,
    /// HF `num_key_value_heads`.
    pub kv_heads: usize,
    /// Width of one head; independent of `hidden_size / heads`.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub max_position_embeddings: usize,
    pub rope: RopeConfig,
    pub moe: Option<MoeConfig>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

/// Mixture-of-experts part of the language model.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// HF `num_experts` (4) or `num_local_experts` (5).
    pub experts: usize,
    /// HF `num_experts_per_tok`.
    pub experts_per_token: usize,
    /// HF `moe_intermediate_size`.
    pub intermediate_size: usize,
    /// HF `decoder_sparse_step`.
    pub sparse_step: usize,
    /// HF `mlp_only_layers`: layers with a dense SwiGLU.
    pub dense_layers: Vec<usize>,
}

impl TextConfig {
    pub(super) fn from_raw(raw: &RawTextConfig, moe: bool) -> Result<Self, ConfigError> {
        check_fixed(raw)?;
        let hidden_size = raw.hidden_size.unwrap_or(if moe { 2048 } else { 4096 });
        let heads = raw.num_attention_heads.unwrap_or(if moe { 16 } else { 32 });
        let heads = positive("text_config.num_attention_heads", heads)?;
        let kv_heads = kv_heads(raw, heads, moe)?;
        let default_head_dim = if moe { hidden_size / heads } else { 128 };
        let head_dim = positive("text_config.head_dim", raw.head_dim.unwrap_or(default_head_dim))?;
        let max_position_embeddings = within(
            "text_config.max_position_embeddings",
            raw.max_position_embeddings.unwrap_or(128_000),
            1 << 31,
        )?;
        Ok(Self {
            vocab_size: within(
                "text_config.vocab_size",
                raw.vocab_size.unwrap_or(151_936),
                1 << 24,
            )?,
            hidden_size: positive("text_config.hidden_size", hidden_size)?,
            intermediate_size: positive(
                "text_config.intermediate_size",
                raw.intermediate_size.unwrap_or(if moe { 5632 } else { 22_016 }),
            )?,
            layers: within(
                "text_config.num_hidden_layers",
                raw.num_hidden_layers.unwrap_or(if moe { 24 } else { 32 }),
                MOST_LAYERS,
            )?,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: epsilon(raw)?,
            max_position_embeddings,
            rope: RopeConfig::from_raw(raw, head_dim, max_position_embeddings)?,
            moe: if moe { Some(MoeConfig::from_raw(raw)?) } else { None },
            initializer_range: raw.initializer_range.unwrap_or(0.02),
        })
    }

    /// Whether layer `index` holds experts instead of a dense SwiGLU (HF `Qwen3VLMoeTextDecoderLayer`).
    pub fn is_moe_layer(&self, index: usize) -> bool {
        self.moe.as_ref().is_some_and(|moe| {
            !moe.dense_layers.contains(&index) && (index + 1).is_multiple_of(moe.sparse_step)
        })
    }
}

impl MoeConfig {
    fn from_raw(raw: &RawTextConfig) -> Result<Self, ConfigError> {
        let experts = raw.num_experts.or(raw.num_local_experts).unwrap_or(60);
        let experts = positive("text_config.num_experts", experts)?;
        let per_token = raw.num_experts_per_tok.unwrap_or(4);
        if per_token == 0 || per_token > experts {
            let rule = format!("it must lie between 1 and num_experts {experts}");
            return Err(ConfigError::invalid("text_config.num_experts_per_tok", per_token, rule));
        }
        Ok(Self {
            experts,
            experts_per_token: per_token,
            intermediate_size: positive(
                "text_config.moe_intermediate_size",
                raw.moe_intermediate_size.unwrap_or(1408),
            )?,
            sparse_step: positive(
                "text_config.decoder_sparse_step",
                raw.decoder_sparse_step.unwrap_or(1),
            )?,
            dense_layers: raw.mlp_only_layers.clone().unwrap_or_default(),
        })
    }
}

/// Refuses what the published family never has and this implementation does not compute.
fn check_fixed(raw: &RawTextConfig) -> Result<(), ConfigError> {
    if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != "silu") {
        return Err(ConfigError::invalid(
            "text_config.hidden_act",
            act,
            "only `silu` is supported",
        ));
    }
    if raw.attention_bias == Some(true) {
        let rule = "attention biases are not supported";
        return Err(ConfigError::invalid("text_config.attention_bias", true, rule));
    }
    Ok(())
}

fn epsilon(raw: &RawTextConfig) -> Result<f64, ConfigError> {
    let epsilon = raw.rms_norm_eps.unwrap_or(1e-6);
    match epsilon > 0.0 && epsilon < 1.0 {
        true => Ok(epsilon),
        false => {
            let rule = "it must lie between 0 and 1";
            Err(ConfigError::invalid("text_config.rms_norm_eps", epsilon, rule))
        }
    }
}

fn kv_heads(raw: &RawTextConfig, heads: usize, moe: bool) -> Result<usize, ConfigError> {
    let default = if moe { 16 } else { heads };
    let kv_heads = raw.num_key_value_heads.unwrap_or(default);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let rule = format!("it must divide num_attention_heads {heads}");
        return Err(ConfigError::invalid("text_config.num_key_value_heads", kv_heads, rule));
    }
    Ok(kv_heads)
}
