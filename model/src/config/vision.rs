//! Configuration of the vision tower.

use super::raw::RawVisionConfig;
use super::{ConfigError, MOST_LAYERS, positive, within};

/// HF `Qwen3VLVisionConfig`, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// HF `depth`: number of blocks.
    pub layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// HF `num_heads`.
    pub heads: usize,
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// HF `spatial_merge_size`: patches per side of one language-model token.
    pub merge_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Width of the features handed to the language model.
    pub out_hidden_size: usize,
    /// Side of the square table of learned positions (`sqrt(num_position_embeddings)`).
    pub position_side: usize,
    /// Rows of the table of learned positions.
    pub position_embeddings: usize,
    /// HF `deepstack_visual_indexes`: blocks whose output is tapped, in order of DeepStack level.
    pub deepstack_indexes: Vec<usize>,
    /// Base of the two-dimensional rotary embedding.
    pub rope_theta: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

impl VisionConfig {
    pub(super) fn from_raw(raw: &RawVisionConfig) -> Result<Self, ConfigError> {
        if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != "gelu_pytorch_tanh") {
            let rule = "only `gelu_pytorch_tanh` is supported";
            return Err(ConfigError::invalid("vision_config.hidden_act", act, rule));
        }
        let size = |field, value: Option<usize>, default| positive(field, value.unwrap_or(default));
        let positions =
            size("vision_config.num_position_embeddings", raw.num_position_embeddings, 2304)?;
        let config = Self {
            layers: within("vision_config.depth", raw.depth.unwrap_or(27), MOST_LAYERS)?,
            hidden_size: size("vision_config.hidden_size", raw.hidden_size, 1152)?,
            intermediate_size: size(
                "vision_config.intermediate_size",
                raw.intermediate_size,
                4304,
            )?,
            heads: size("vision_config.num_heads", raw.num_heads, 16)?,
            in_channels: size("vision_config.in_channels", raw.in_channels, 3)?,
            patch_size: within("vision_config.patch_size", raw.patch_size.unwrap_or(16), 1 << 10)?,
            merge_size: within(
                "vision_config.spatial_merge_size",
                raw.spatial_merge_size.unwrap_or(2),
                1 << 6,
            )?,
            temporal_patch_size: within(
                "vision_config.temporal_patch_size",
                raw.temporal_patch_size.unwrap_or(2),
                1 << 6,
            )?,
            out_hidden_size: size("vision_config.out_hidden_size", raw.out_hidden_size, 3584)?,
            position_side: positions.isqrt(),
            position_embeddings: positions,
            deepstack_indexes: raw
                .deepstack_visual_indexes
                .clone()
                .unwrap_or_else(|| vec![8, 16, 24]),
            rope_theta: raw.rope_parameters.as_ref().and_then(|r| r.rope_theta).unwrap_or(1e4),
            initializer_range: raw.initializer_range.unwrap_or(0.02),
        };
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        if !self.hidden_size.is_multiple_of(self.heads) || !self.head_dim().is_multiple_of(4) {
            let rule = "hidden_size / num_heads must be a whole multiple of 4";
            return Err(ConfigError::invalid("vision_config.num_heads", self.heads, rule));
        }
        if self.in_channels != 3 {
            let rule = "images have 3 channels";
            return Err(ConfigError::invalid("vision_config.in_channels", self.in_channels, rule));
        }
        match self.deepstack_indexes.iter().find(|&&tap| tap >= self.layers) {
            Some(tap) => Err(ConfigError::invalid(
                "vision_config.deepstack_visual_indexes",
                tap,
                format!("block indices must be below depth {}", self.layers),
            )),
            None => Ok(self),
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Length of one flattened patch: channels · frames · side · side.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches that become one language-model token.
    pub fn merge_area(&self) -> usize {
        self.merge_size * self.merge_size
    }
}
