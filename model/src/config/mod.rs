//! `config.json` in two stages: a raw serde mirror, then a validated [`Qwen3VlConfig`] that nothing re-checks.

mod quantisation;
pub mod raw;
mod rope;
mod text;
mod vision;

pub use quantisation::{Method, Quantisation};
pub use rope::{RopeConfig, YarnConfig};
pub use text::{MoeConfig, TextConfig};
pub use vision::VisionConfig;

use raw::RawConfig;

/// What is wrong with a `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("config.json is not valid JSON for a Qwen3-VL model: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "config.json has model_type `{found}`, which is not supported; expected `qwen3_vl` or `qwen3_vl_moe`"
    )]
    ModelType { found: String },
    #[error("config.json has no `{field}`; a Qwen3-VL checkpoint needs it")]
    Missing { field: &'static str },
    #[error("config.json: `{field}` is {value}, but {rule}")]
    Invalid { field: &'static str, value: String, rule: String },
}

impl ConfigError {
    pub(crate) fn invalid(
        field: &'static str,
        value: impl std::fmt::Debug,
        rule: impl Into<String>,
    ) -> Self {
        Self::Invalid { field, value: format!("{value:?}"), rule: rule.into() }
    }
}

/// Largest width, head count or patch side that is believed; nothing published comes near.
const LARGEST_SIZE: usize = 1 << 20;
/// Most layers that are believed.
pub(crate) const MOST_LAYERS: usize = 4096;

/// Refuses a zero, or what no model has, where a size is expected.
pub(crate) fn positive(field: &'static str, value: usize) -> Result<usize, ConfigError> {
    within(field, value, LARGEST_SIZE)
}

/// Refuses what does not lie between 1 and `most`.
pub(crate) fn within(field: &'static str, value: usize, most: usize) -> Result<usize, ConfigError> {
    match (1..=most).contains(&value) {
        true => Ok(value),
        false => {
            Err(ConfigError::invalid(field, value, format!("it must lie between 1 and {most}")))
        }
    }
}

/// A validated Qwen3-VL configuration (HF `Qwen3VLConfig` / `Qwen3VLMoeConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen3VlConfig {
    pub text: TextConfig,
    pub vision: VisionConfig,
    pub image_token_id: u32,
    pub video_token_id: u32,
    pub vision_start_token_id: u32,
    pub vision_end_token_id: u32,
    /// Whether `lm_head` is the embedding table. Only the top-level flag of the file counts.
    pub tie_word_embeddings: bool,
    /// End-of-sequence ids of the text configuration; `generation_config.json` overrides them.
    pub eos_token_ids: Vec<u32>,
    /// The dtype that the file says its weights have, e.g. `bfloat16`.
    pub dtype: Option<String>,
    /// The version of transformers that wrote the file.
    pub transformers_version: Option<String>,
    /// How linear weights are rounded, where they are.
    pub quantisation: Option<Quantisation>,
}

impl Qwen3VlConfig {
    /// Parses and validates the text of a `config.json`.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::from_raw(serde_json::from_str(json)?)
    }

    /// Validates a raw configuration.
    pub fn from_raw(raw: RawConfig) -> Result<Self, ConfigError> {
        let moe = is_moe(&raw)?;
        let quantisation = Quantisation::from_raw(raw.quantization_config.as_ref())?;
        let text_raw = raw.text_config.ok_or(ConfigError::Missing { field: "text_config" })?;
        let vision_raw =
            raw.vision_config.ok_or(ConfigError::Missing { field: "vision_config" })?;
        let text = TextConfig::from_raw(&text_raw, moe)?;
        let vision = VisionConfig::from_raw(&vision_raw)?;
        check_towers_fit(&text, &vision)?;
        Self {
            image_token_id: raw.image_token_id.unwrap_or(151655),
            video_token_id: raw.video_token_id.unwrap_or(151656),
            vision_start_token_id: raw.vision_start_token_id.unwrap_or(151652),
            vision_end_token_id: raw.vision_end_token_id.unwrap_or(151653),
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            eos_token_ids: text_raw.eos_token_id.as_ref().map(|e| e.to_vec()).unwrap_or_default(),
            dtype: raw.dtype.or(text_raw.dtype),
            transformers_version: raw.transformers_version,
            quantisation,
            text,
            vision,
        }
        .check_tokens()
    }

    /// `qwen3_vl` or `qwen3_vl_moe`.
    pub fn model_type(&self) -> &'static str {
        if self.text.moe.is_some() { "qwen3_vl_moe" } else { "qwen3_vl" }
    }

    /// The configuration with its rotary embedding scaled as a JSON object says, such as
    /// `{"rope_type":"yarn","factor":3.0,"original_max_position_embeddings":262144}` (vLLM `--rope-scaling`). With
    /// YaRN the context grows to `factor` times the original one.
    ///
    /// # Errors
    /// When the text is no object, has a key that would have no effect, or a value is out of range.
    pub fn with_rope_scaling(mut self, json: &str) -> Result<Self, ConfigError> {
        let text = &mut self.text;
        text.rope = text.rope.overridden(json, text.head_dim, text.max_position_embeddings)?;
        if let Some(yarn) = &text.rope.yarn {
            let stretched = (yarn.original_max_position_embeddings as f64 * yarn.factor) as usize;
            text.max_position_embeddings = text.max_position_embeddings.max(stretched);
        }
        Ok(self)
    }

    /// The configuration with a context of at most `tokens` (vLLM `--max-model-len`).
    ///
    /// # Errors
    /// When that is 0, or more than positions are trained for.
    pub fn with_max_model_len(mut self, tokens: usize) -> Result<Self, ConfigError> {
        let limit = self.text.max_position_embeddings;
        if tokens == 0 || tokens > limit {
            let rule = format!(
                "it must be from 1 to max_position_embeddings {limit}; for more, stretch the positions by \
                 --rope-scaling '{{\"rope_type\":\"yarn\",\"factor\":2.0}}'"
            );
            return Err(ConfigError::invalid("max_model_len", tokens, rule));
        }
        self.text.max_position_embeddings = tokens;
        Ok(self)
    }

    fn check_tokens(self) -> Result<Self, ConfigError> {
        for (field, id) in [
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ] {
            if id as usize >= self.text.vocab_size {
                let rule = format!("it must be below vocab_size {}", self.text.vocab_size);
                return Err(ConfigError::invalid(field, id, rule));
            }
        }
        Ok(self)
    }
}

fn is_moe(raw: &RawConfig) -> Result<bool, ConfigError> {
    match raw.model_type.as_deref() {
        Some("qwen3_vl") => Ok(false),
        Some("qwen3_vl_moe") => Ok(true),
        Some(found) => Err(ConfigError::ModelType { found: found.to_owned() }),
        None => Err(ConfigError::Missing { field: "model_type" }),
    }
}

fn check_towers_fit(text: &TextConfig, vision: &VisionConfig) -> Result<(), ConfigError> {
    if vision.out_hidden_size != text.hidden_size {
        let rule = format!("it must equal text_config.hidden_size {}", text.hidden_size);
        return Err(ConfigError::invalid(
            "vision_config.out_hidden_size",
            vision.out_hidden_size,
            rule,
        ));
    }
    if vision.deepstack_indexes.len() > text.layers {
        let rule = format!("there are only {} text layers to add them to", text.layers);
        let taps = &vision.deepstack_indexes;
        return Err(ConfigError::invalid("vision_config.deepstack_visual_indexes", taps, rule));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = r#"{"model_type":"qwen3_vl","tie_word_embeddings":true,
      "text_config":{"vocab_size":151936,"hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":8,
        "num_hidden_layers":28,"intermediate_size":6144,"rope_theta":5000000,"tie_word_embeddings":false,
        "rope_scaling":{"type":"default","mrope_section":[24,20,20]},"eos_token_id":[1,2]},
      "vision_config":{"out_hidden_size":2048}}"#;

    fn with(from: &str, to: &str) -> Result<Qwen3VlConfig, ConfigError> {
        assert!(V4.contains(from), "the test's pattern {from} is not in the config");
        Qwen3VlConfig::from_json(&V4.replace(from, to))
    }

    #[test]
    fn the_rope_of_both_file_formats_is_read() {
        let v4 = Qwen3VlConfig::from_json(V4).unwrap();
        assert_eq!(v4.text.rope.theta, 5e6);
        let v5 = V4.replace("\"rope_theta\":5000000,", "").replace(
            "\"rope_scaling\":{\"type\":\"default\",",
            "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5000000,",
        );
        assert_eq!(Qwen3VlConfig::from_json(&v5).unwrap(), v4);
    }

    #[test]
    fn only_the_top_level_tie_flag_counts() {
        assert!(Qwen3VlConfig::from_json(V4).unwrap().tie_word_embeddings);
        assert!(!with("\"tie_word_embeddings\":true,", "").unwrap().tie_word_embeddings);
    }

    #[test]
    fn absent_head_dim_is_128_whatever_the_width() {
        let narrow = with("\"hidden_size\":2048,", "\"hidden_size\":2560,");
        assert!(narrow.unwrap_err().to_string().contains("out_hidden_size"));
        assert_eq!(Qwen3VlConfig::from_json(V4).unwrap().text.head_dim, 128);
    }

    #[test]
    fn errors_name_field_value_and_rule() {
        let cases = [
            ("\"qwen3_vl\"", "\"llama\"", "llama"),
            (",\n      \"vision_config\":{\"out_hidden_size\":2048}", "", "vision_config"),
            ("[24,20,20]", "[24,20,21]", "mrope_section"),
            ("\"num_key_value_heads\":8", "\"num_key_value_heads\":5", "num_key_value_heads"),
            ("\"num_hidden_layers\":28", "\"num_hidden_layers\":0", "num_hidden_layers"),
            ("\"type\":\"default\"", "\"type\":\"linear\"", "linear"),
            ("151936", "1000", "image_token_id"),
        ];
        for (from, to, expected) in cases {
            let message = with(from, to).unwrap_err().to_string();
            assert!(message.contains(expected), "{to}: {message}");
        }
    }

    #[test]
    fn rope_scaling_stretches_the_context() {
        let plain = Qwen3VlConfig::from_json(V4).unwrap();
        let context = plain.text.max_position_embeddings;
        let yarn = r#"{"rope_type":"yarn","factor":3.0}"#;
        let scaled = plain.clone().with_rope_scaling(yarn).unwrap();
        let rope = scaled.text.rope.yarn.as_ref().unwrap();
        assert_eq!((rope.factor, rope.original_max_position_embeddings), (3.0, context));
        assert_eq!(scaled.text.max_position_embeddings, 3 * context);
        assert_eq!(scaled.text.rope.theta, plain.text.rope.theta);
        let short = scaled.with_max_model_len(100).unwrap();
        assert_eq!(short.text.max_position_embeddings, 100);
        let long = plain.clone().with_max_model_len(context + 1).unwrap_err().to_string();
        assert!(long.contains("--rope-scaling") && long.contains(&context.to_string()), "{long}");
        for (json, expected) in [
            (r#"{"factr":2}"#, "factr"),
            (r#"{"rope_type":"yarn","factor":0.5}"#, "0.5"),
            (r#"{"rope_type":"dynamic"}"#, "dynamic"),
            ("[1]", "map"),
        ] {
            let error = plain.clone().with_rope_scaling(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
