//! What the headers of both files say, as the JSON files of a checkpoint folder.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::header::Header;
use super::{GgufError, GgufModel};

/// The pre-tokenizer of Qwen2 and Qwen3 (`tokenizer.ggml.pre` is `qwen2`).
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens (llama.cpp `LLAMA_TOKEN_TYPE_*`).
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
const UNUSED: f64 = 5.0;

/// Texts of tokens that end an answer, whatever the header names (llama.cpp `special_eog_ids`).
const ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

fn missing(key: impl Into<String>) -> GgufError {
    GgufError::Missing { key: key.into() }
}

/// A size that must be there.
fn size(header: &Header, key: &str) -> Result<usize, GgufError> {
    let number = header.number(key).ok_or_else(|| missing(key))?;
    match number >= 0.0 && number < f64::from(u32::MAX) && number.fract() == 0.0 {
        true => Ok(number as usize),
        false => {
            let found = number.to_string();
            let rule = "it must be a whole number";
            Err(GgufError::Value { key: key.to_owned(), found, rule })
        }
    }
}

/// Refuses the vision towers of other models.
pub(super) fn check_projector(header: &Header) -> Result<(), GgufError> {
    let key = ["clip.vision.projector_type", "clip.projector_type"];
    let key = key.into_iter().find(|key| header.text(key).is_some());
    let key = key.ok_or_else(|| missing("clip.projector_type"))?;
    match header.text(key) {
        Some("qwen3vl_merger") => Ok(()),
        found => Err(GgufError::Value {
            key: key.to_owned(),
            found: format!("`{}`", found.unwrap_or("")),
            rule: "the vision tower of Qwen3-VL has `qwen3vl_merger`",
        }),
    }
}

/// The vision blocks that DeepStack mergers read.
pub(super) fn taps(header: &Header) -> Vec<usize> {
    let flags = header.numbers("clip.vision.is_deepstack_layers").unwrap_or_default();
    flags.iter().enumerate().filter(|(_, flag)| **flag != 0.0).map(|(i, _)| i).collect()
}

impl GgufModel {
    fn header(&self) -> &Header {
        &self.text.header
    }

    /// `config.json`.
    ///
    /// # Errors
    /// When a key is missing or no number.
    pub fn config(&self) -> Result<Json, GgufError> {
        let header = self.header();
        let token = |text: &str| self.token(text).ok_or_else(|| missing(format!("token {text}")));
        let tied = !header.tensors.iter().any(|tensor| tensor.name == "output.weight");
        let vision = match &self.vision {
            Some(vision) => vision_config(&vision.header)?,
            None => self.no_vision_config()?,
        };
        let experts = self.text.architecture() == "qwen3vlmoe";
        Ok(json!({
            "model_type": if experts { "qwen3_vl_moe" } else { "qwen3_vl" },
            "text_config": self.text_config()?,
            "vision_config": vision,
            "image_token_id": token("<|image_pad|>")?,
            "video_token_id": token("<|video_pad|>")?,
            "vision_start_token_id": token("<|vision_start|>")?,
            "vision_end_token_id": token("<|vision_end|>")?,
            "tie_word_embeddings": tied,
        }))
    }

    fn text_config(&self) -> Result<Json, GgufError> {
        let (header, name) = (self.header(), self.text.architecture());
        let key = |rest: &str| format!("{name}.{rest}");
        let number = |rest: &str| size(header, &key(rest));
        let real = |rest: &str| header.number(&key(rest)).ok_or_else(|| missing(key(rest)));
        let mut config = json!({
            "vocab_size": self.tokens()?.len(),
            "hidden_size": number("embedding_length")?,
            "intermediate_size": number("feed_forward_length")?,
            "num_hidden_layers": number("block_count")?,
            "num_attention_heads": number("attention.head_count")?,
            "num_key_value_heads": number("attention.head_count_kv")?,
            "head_dim": number("attention.key_length")?,
            "rms_norm_eps": shortest(real("attention.layer_norm_rms_epsilon")?),
            "max_position_embeddings": number("context_length")?,
            "rope_parameters": self.rope()?,
            "eos_token_id": self.ends(),
        });
        if name == "qwen3vlmoe" {
            config["num_experts"] = number("expert_count")?.into();
            config["num_experts_per_tok"] = number("expert_used_count")?.into();
            config["moe_intermediate_size"] = number("expert_feed_forward_length")?.into();
            config["mlp_only_layers"] = self.dense_layers(number("block_count")?).into();
        }
        Ok(config)
    }

    /// Layers without a router.
    fn dense_layers(&self, layers: usize) -> Vec<usize> {
        let has = |layer: &usize| {
            let router = format!("blk.{layer}.ffn_gate_inp.weight");
            self.header().tensors.iter().any(|tensor| tensor.name == router)
        };
        (0..layers.min(4096)).filter(|layer| !has(layer)).collect()
    }

    fn rope(&self) -> Result<Json, GgufError> {
        let (header, name) = (self.header(), self.text.architecture());
        let key = |rest: &str| format!("{name}.rope.{rest}");
        let base = header.number(&key("freq_base")).filter(|base| base.is_finite());
        let base = base.ok_or_else(|| missing(key("freq_base")))?;
        let sections = header.numbers(&key("dimension_sections"));
        let sections = sections.ok_or_else(|| missing(key("dimension_sections")))?;
        let sections: Vec<u64> = sections.iter().take(3).map(|section| *section as u64).collect();
        let mut rope =
            json!({"rope_type": "default", "rope_theta": base, "mrope_section": sections});
        match header.text(&key("scaling.type")) {
            None | Some("none") => {}
            Some(kind) => {
                rope["rope_type"] = kind.into();
                rope["factor"] = header.number(&key("scaling.factor")).into();
                let original = header.number(&key("scaling.original_context_length"));
                rope["original_max_position_embeddings"] = original.map(|n| n as u64).into();
            }
        }
        Ok(rope)
    }

    /// A vision tower that nothing will be asked of.
    fn no_vision_config(&self) -> Result<Json, GgufError> {
        let name = self.text.architecture();
        let hidden = size(self.header(), &format!("{name}.embedding_length"))?;
        Ok(json!({"depth": 1, "out_hidden_size": hidden, "deepstack_visual_indexes": []}))
    }

    fn tokens(&self) -> Result<&[String], GgufError> {
        let key = "tokenizer.ggml.tokens";
        self.header().texts(key).ok_or_else(|| missing(key))
    }

    /// The id of a token by its text.
    fn token(&self, text: &str) -> Option<usize> {
        self.tokens().ok()?.iter().position(|token| token == text)
    }

    /// Ids of tokens that end an answer.
    fn ends(&self) -> Vec<usize> {
        let named = self.header().number("tokenizer.ggml.eos_token_id").map(|id| id as usize);
        let mut ends: Vec<usize> = named.into_iter().collect();
        for id in ENDS.into_iter().filter_map(|text| self.token(text)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    /// `tokenizer.json`.
    ///
    /// # Errors
    /// When the vocabulary is missing or of another kind than Qwen's.
    pub fn tokenizer(&self) -> Result<Json, GgufError> {
        let header = self.header();
        for (key, expected) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "qwen2")] {
            let found = header.text(key).unwrap_or(expected);
            if found != expected {
                let (key, found) = (key.to_owned(), format!("`{found}`"));
                let rule = "Qwen3-VL has byte-level BPE, `gpt2`, with the pre-tokenizer `qwen2`";
                return Err(GgufError::Value { key, found, rule });
            }
        }
        let kinds = header.numbers("tokenizer.ggml.token_type").unwrap_or_default();
        let merges = header.texts("tokenizer.ggml.merges");
        let merges = merges.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let (mut vocabulary, mut added) = (Map::new(), Vec::new());
        for (id, token) in self.tokens()?.iter().enumerate() {
            let kind = kinds.get(id).copied().unwrap_or_default();
            if kind == CONTROL || kind == USER_DEFINED {
                added.push(added_token(id, token, kind == CONTROL));
            }
            if kind != UNUSED {
                vocabulary.insert(token.clone(), id.into());
            }
        }
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": vocabulary, "merges": merges,
            },
        }))
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Json {
        let header = self.header();
        let text = |key: &str| {
            let id = header.number(key)? as usize;
            self.tokens().ok()?.get(id).cloned()
        };
        json!({
            "eos_token": text("tokenizer.ggml.eos_token_id"),
            "pad_token": text("tokenizer.ggml.padding_token_id"),
            "chat_template": header.text("tokenizer.chat_template"),
        })
    }

    /// `generation_config.json`.
    pub fn generation(&self) -> Json {
        let mut config = json!({"eos_token_id": self.ends()});
        for (ours, theirs) in [
            ("temperature", "temp"),
            ("top_k", "top_k"),
            ("top_p", "top_p"),
            ("min_p", "min_p"),
            ("repetition_penalty", "penalty_repeat"),
        ] {
            let Some(number) = self.header().number(&format!("general.sampling.{theirs}")) else {
                continue;
            };
            config[ours] = if ours == "top_k" {
                (number.max(0.0) as u64).into()
            } else {
                shortest(number).into()
            };
            config["do_sample"] = true.into();
        }
        config
    }

    /// `preprocessor_config.json`; that of videos is the same but for the bounds on areas.
    ///
    /// # Errors
    /// When a key of the mmproj file is no number.
    pub fn preprocessor(&self, video: bool) -> Result<Json, GgufError> {
        let mut config = json!({});
        let Some(vision) = &self.vision else { return Ok(config) };
        let header = &vision.header;
        config["patch_size"] = size(header, "clip.vision.patch_size")?.into();
        config["temporal_patch_size"] = 2.into();
        config["merge_size"] = merge_size(header)?.into();
        for (ours, theirs) in [("image_mean", "image_mean"), ("image_std", "image_std")] {
            if let Some(numbers) = header.numbers(&format!("clip.vision.{theirs}")) {
                let numbers: Vec<f64> = numbers.iter().map(|n| shortest(*n)).collect();
                config[ours] = numbers.into();
            }
        }
        for name in ["min_pixels", "max_pixels"].into_iter().filter(|_| !video) {
            let key = format!("clip.vision.image_{name}");
            if header.number(&key).is_some() {
                config[name] = size(header, &key)?.into();
            }
        }
        Ok(config)
    }
}

/// A number that was written as f32, as people would have written it: 1e-6 and not 9.99999997e-7.
fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

fn merge_size(header: &Header) -> Result<usize, GgufError> {
    let key = "clip.vision.spatial_merge_size";
    header.number(key).map_or(Ok(2), |_| size(header, key))
}

fn vision_config(header: &Header) -> Result<Json, GgufError> {
    let number = |rest: &str| size(header, &format!("clip.vision.{rest}"));
    let shapes: HashMap<&str, &[usize]> =
        header.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
    let positions = shapes.get("v.position_embd.weight").and_then(|shape| shape.first());
    let positions = positions.ok_or_else(|| missing("v.position_embd.weight"))?;
    Ok(json!({
        "depth": number("block_count")?,
        "hidden_size": number("embedding_length")?,
        "intermediate_size": number("feed_forward_length")?,
        "num_heads": number("attention.head_count")?,
        "in_channels": 3,
        "patch_size": number("patch_size")?,
        "temporal_patch_size": 2,
        "spatial_merge_size": merge_size(header)?,
        "out_hidden_size": number("projection_dim")?,
        "num_position_embeddings": positions,
        "deepstack_visual_indexes": taps(header),
    }))
}

fn added_token(id: usize, text: &str, special: bool) -> Json {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}
