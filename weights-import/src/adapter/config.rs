//! `adapter_config.json` (peft `LoraConfig`).

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::AdapterError;
use crate::checkpoint::read_json;

/// Which modules an adapter changes, as peft selects them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// A regular expression that the whole name of a module in transformers must match.
    Pattern(String),
    /// Names of modules in transformers, or their endings. Empty: exactly the modules that have a pair.
    Names(Vec<String>),
}

impl Default for Targets {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

/// Settings of a LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank of the pairs.
    pub r: usize,
    /// The update is `B·A` times `alpha / r`, or with `rslora` times `alpha / √r`.
    pub alpha: f64,
    pub rslora: bool,
    /// Of the inputs of `A`, while training.
    pub dropout: f64,
    pub targets: Targets,
    /// Modules that are stored whole, by their names in transformers or endings. Empty: those of
    /// [`Adapter::saved`](super::Adapter::saved).
    pub modules_to_save: Vec<String>,
    /// Ranks of modules with these endings, in order of preference.
    pub rank_pattern: Vec<(String, usize)>,
    /// As `rank_pattern`, for `alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// The checkpoint that the adapter belongs to, as the file says.
    pub base_model: Option<String>,
}

impl AdapterConfig {
    /// A plain adapter without patterns.
    pub fn new(r: usize, alpha: f64) -> Self {
        Self {
            r,
            alpha,
            rslora: false,
            dropout: 0.0,
            targets: Targets::default(),
            modules_to_save: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            base_model: None,
        }
    }

    /// The rank of the module that transformers calls `name`.
    pub(super) fn rank_of(&self, name: &str) -> usize {
        pattern_value(&self.rank_pattern, name).unwrap_or(self.r)
    }

    /// What `B·A` is multiplied by in a module of rank `rank` that transformers calls `name`.
    pub(super) fn scale_of(&self, name: &str, rank: usize) -> f64 {
        let alpha = pattern_value(&self.alpha_pattern, name).unwrap_or(self.alpha);
        match self.rslora {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }
}

/// The first entry whose key is the name or its ending (peft `get_pattern_key`).
fn pattern_value<T: Copy>(patterns: &[(String, T)], name: &str) -> Option<T> {
    let fits = |key: &str| match key.strip_prefix('^') {
        Some(whole) => name == whole,
        None => name.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    };
    patterns.iter().find(|(key, _)| fits(key)).map(|(_, value)| *value)
}

/// The keys that mean something here; `rest` has the others.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Option<Targets>,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Settings that change nothing in how weights that are there are used.
const HARMLESS: [&str; 12] = [
    "auto_mapping",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
];

/// Ways to begin training that leave the weights of the base model as they were.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

const ONLY_LORA: &str = "only plain LoRA and rsLoRA adapters are supported";

/// Reads a configuration.
///
/// # Errors
/// When the file is not JSON, lacks a setting, or has one that is not supported.
pub(super) fn read(path: &Path) -> Result<AdapterConfig, AdapterError> {
    let raw: Raw = read_json(path)?;
    let field = |field: &str, found: String, expected| {
        let (path, field) = (path.to_owned(), field.to_owned());
        Err(AdapterError::Field { path, field, found, expected })
    };
    if raw.peft_type != "LORA" {
        return field("peft_type", format!("`{}`", raw.peft_type), ONLY_LORA);
    }
    if raw.r == 0 {
        return field("r", "0".into(), "a rank is at least 1");
    }
    for (key, value) in &raw.rest {
        let fine = match key.as_str() {
            "bias" => value == "none",
            "init_lora_weights" => {
                value.as_str().map_or(value.is_boolean() || value.is_null(), |start| {
                    PLAIN_STARTS.contains(&start)
                })
            }
            known => HARMLESS.contains(&known) || is_off(value),
        };
        if !fine {
            return field(key, value.to_string(), ONLY_LORA);
        }
    }
    let patterns = |key, map| patterns(path, key, map);
    let ranks = patterns("rank_pattern", raw.rank_pattern)?;
    if let Some((key, rank)) = ranks.iter().find(|(_, r)| *r < 1.0 || r.fract() != 0.0) {
        return field("rank_pattern", format!("{rank} for `{key}`"), "a rank is a whole number");
    }
    Ok(AdapterConfig {
        r: raw.r,
        alpha: raw.lora_alpha,
        rslora: raw.use_rslora,
        dropout: raw.lora_dropout,
        targets: raw.target_modules.unwrap_or_default(),
        modules_to_save: raw.modules_to_save.unwrap_or_default(),
        rank_pattern: ranks.into_iter().map(|(key, rank)| (key, rank as usize)).collect(),
        alpha_pattern: patterns("alpha_pattern", raw.alpha_pattern)?,
        base_model: raw.base_model_name_or_path,
    })
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
    }
}

fn patterns(
    path: &Path,
    field: &str,
    map: Option<Map<String, Value>>,
) -> Result<Vec<(String, f64)>, AdapterError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let entry = |(key, value): (String, Value)| {
        let refused = |found, expected| {
            let (path, field) = (path.to_owned(), field.to_owned());
            AdapterError::Field { path, field, found, expected }
        };
        if !key.strip_prefix('^').unwrap_or(&key).chars().all(plain) {
            let found = format!("given for `{key}`");
            return Err(refused(found, "only names of modules and their endings are supported"));
        }
        match value.as_f64() {
            Some(number) => Ok((key, number)),
            None => Err(refused(format!("{value} for `{key}`"), "it must be a number")),
        }
    };
    map.unwrap_or_default().into_iter().map(entry).collect()
}

/// The file as peft writes it, for modules with these names in transformers.
pub(super) fn text(
    config: &AdapterConfig,
    base_model: &str,
    targets: Vec<String>,
    saved: Vec<String>,
) -> String {
    let targets = match &config.targets {
        Targets::Names(names) if names.is_empty() => json!(targets),
        Targets::Names(names) => json!(names),
        Targets::Pattern(pattern) => json!(pattern),
    };
    let saved = match (config.modules_to_save.is_empty(), saved.is_empty()) {
        (false, _) => json!(config.modules_to_save),
        (true, false) => json!(saved),
        (true, true) => Value::Null,
    };
    let ranks: Map<String, Value> =
        config.rank_pattern.iter().map(|(key, rank)| (key.clone(), json!(rank))).collect();
    let alphas: Map<String, Value> =
        config.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha))).collect();
    let text = json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(config.alpha),
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": saved,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets,
        "target_parameters": null,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": null,
        "use_dora": false,
        "use_rslora": config.rslora,
    });
    format!("{text:#}\n")
}

/// Whole numbers without a decimal point, as peft's are.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_endings_of_names() {
        let patterns = [("self_attn.q_proj".to_owned(), 8), ("^lm_head".to_owned(), 2)];
        let value = |name| pattern_value(&patterns, name);
        assert_eq!(value("model.language_model.layers.0.self_attn.q_proj"), Some(8));
        assert_eq!(value("self_attn.q_proj"), Some(8));
        assert_eq!(value("model.layers.0.xself_attn.q_proj"), None);
        assert_eq!((value("lm_head"), value("model.lm_head")), (Some(2), None));
    }

    #[test]
    fn rank_and_alpha_give_the_scale() {
        let mut config = AdapterConfig::new(16, 8.0);
        assert_eq!(config.scale_of("m", 16), 0.5);
        config.rslora = true;
        assert_eq!(config.scale_of("m", 16), 2.0);
        config.alpha_pattern = vec![("m".into(), 4.0)];
        assert_eq!(config.scale_of("a.m", 16), 1.0);
    }
}
