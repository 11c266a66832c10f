//! Rotary position embedding of the language model: interleaved M-RoPE and YaRN.

use super::ConfigError;
use super::raw::{RawRope, RawTextConfig};

/// HF `rope_parameters` (5) or `rope_theta` + `rope_scaling` (4), validated.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    /// HF `mrope_section`: frequencies per axis (time, height, width); they sum to `head_dim / 2`.
    pub sections: [usize; 3],
    pub yarn: Option<YarnConfig>,
}

/// YaRN context extension (arXiv:2309.00071), HF `_compute_yarn_parameters`.
#[derive(Debug, Clone, PartialEq)]
pub struct YarnConfig {
    pub factor: f64,
    pub original_max_position_embeddings: usize,
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// Whether the bounds of the ramp are rounded outwards.
    pub truncate: bool,
    /// Multiplies both cos and sin.
    pub attention_factor: f64,
}

/// Keys of a `--rope-scaling` object; another one would have no effect.
const OVERRIDES: [&str; 12] = [
    "rope_type",
    "type",
    "rope_theta",
    "mrope_section",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "truncate",
    "mscale",
    "mscale_all_dim",
];

impl RopeConfig {
    pub(super) fn from_raw(
        raw: &RawTextConfig,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, ConfigError> {
        let empty = RawRope::default();
        let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).unwrap_or(&empty);
        let theta = rope.rope_theta.or(raw.rope_theta).unwrap_or(500_000.0);
        let sections = rope.mrope_section.clone().unwrap_or_else(|| vec![24, 20, 20]);
        Self::checked(rope, theta, sections, (head_dim, max_positions))
    }

    /// This configuration with the keys of a JSON object put in their place (vLLM `--rope-scaling`); angles and
    /// sections that the object does not name stay.
    pub(super) fn overridden(
        &self,
        json: &str,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, ConfigError> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json)?;
        if let Some(key) = object.keys().find(|key| !OVERRIDES.contains(&key.as_str())) {
            let rule = format!("it is none of {}", OVERRIDES.join(", "));
            return Err(ConfigError::invalid("rope_scaling", key, rule));
        }
        let rope: RawRope = serde_json::from_value(object.into())?;
        let theta = rope.rope_theta.unwrap_or(self.theta);
        let sections = rope.mrope_section.clone().unwrap_or_else(|| self.sections.to_vec());
        Self::checked(&rope, theta, sections, (head_dim, max_positions))
    }

    fn checked(
        rope: &RawRope,
        theta: f64,
        sections: Vec<usize>,
        (head_dim, max_positions): (usize, usize),
    ) -> Result<Self, ConfigError> {
        if !theta.is_finite() || theta <= 1.0 {
            return Err(ConfigError::invalid("rope_theta", theta, "it must be above 1"));
        }
        let kind = rope.rope_type.as_deref().or(rope.legacy_type.as_deref()).unwrap_or("default");
        let yarn = match kind {
            "default" | "mrope" => None,
            "yarn" => Some(YarnConfig::from_raw(rope, max_positions)?),
            other => {
                let rule = "only `default` and `yarn` are supported";
                return Err(ConfigError::invalid("rope_type", other, rule));
            }
        };
        Ok(Self { theta, sections: checked_sections(sections, head_dim)?, yarn })
    }
}

fn checked_sections(sections: Vec<usize>, head_dim: usize) -> Result<[usize; 3], ConfigError> {
    let half = head_dim / 2;
    let fits = |s: &[usize; 3]| s.iter().sum::<usize>() == half && head_dim.is_multiple_of(2);
    <[usize; 3]>::try_from(sections.clone()).ok().filter(fits).ok_or_else(|| {
        let rule = format!("it must be three numbers that sum to head_dim / 2 = {half}");
        ConfigError::invalid("mrope_section", sections, rule)
    })
}

impl YarnConfig {
    fn from_raw(rope: &RawRope, max_positions: usize) -> Result<Self, ConfigError> {
        let factor = rope.factor.ok_or(ConfigError::Missing { field: "rope_parameters.factor" })?;
        if !factor.is_finite() || factor < 1.0 {
            return Err(ConfigError::invalid("rope factor", factor, "it must be at least 1"));
        }
        Ok(Self {
            factor,
            original_max_position_embeddings: rope
                .original_max_position_embeddings
                .unwrap_or(max_positions),
            beta_fast: rope.beta_fast.unwrap_or(32.0),
            beta_slow: rope.beta_slow.unwrap_or(1.0),
            truncate: rope.truncate.unwrap_or(true),
            attention_factor: rope
                .attention_factor
                .unwrap_or_else(|| attention_factor(rope, factor)),
        })
    }
}

/// `0.1·m·ln(factor) + 1`, or the quotient of two such terms when both `mscale` keys are set.
fn attention_factor(rope: &RawRope, factor: f64) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    match (rope.mscale, rope.mscale_all_dim) {
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
        _ => scale(1.0),
    }
}
