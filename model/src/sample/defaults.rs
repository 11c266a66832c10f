//! `generation_config.json`: the checkpoint's own defaults.

use serde_json::{Map, Value as Json};

use super::{SampleError, SamplingOverrides, SamplingParams};

/// Fields that change what transformers generates and that this project does not implement, with the value that
/// switches them off.
const UNSUPPORTED: [(&str, f64); 16] = [
    ("num_beams", 1.0),
    ("num_return_sequences", 1.0),
    ("penalty_alpha", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("top_h", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("length_penalty", 1.0),
    ("diversity_penalty", 0.0),
    ("prompt_lookup_num_tokens", 0.0),
];
/// The same for fields that are not numbers: they are off when absent, null, false or empty.
const UNSUPPORTED_LISTS: [&str; 8] = [
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "stop_strings",
];

/// What `generation_config.json` says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Ids that end an answer; one or several in the file. Empty if the file names none.
    pub eos_token_ids: Vec<u32>,
    /// Padding id.
    pub pad_token_id: Option<u32>,
    /// Whether to draw at random.
    pub do_sample: Option<bool>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f64>,
    /// See [`SamplingParams::top_k`]; transformers takes 50 if the file does not say.
    pub top_k: Option<usize>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f64>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f64>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f64>,
    /// Most tokens of an answer.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of prompt and answer together.
    pub max_length: Option<usize>,
    /// Fields of the file that would change the answer in transformers but are not implemented here; to be shown
    /// to the user as a warning.
    pub unsupported: Vec<String>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`.
    ///
    /// # Errors
    /// [`SampleError::Json`], or [`SampleError::Field`] naming the field and its value.
    pub fn from_json(text: &str) -> Result<Self, SampleError> {
        let file: Map<String, Json> = serde_json::from_str(text)?;
        let fields = Fields(&file);
        Ok(Self {
            eos_token_ids: fields.ids("eos_token_id")?,
            pad_token_id: fields.ids("pad_token_id")?.first().copied(),
            do_sample: fields.get("do_sample", "true or false", Json::as_bool)?,
            temperature: fields.number("temperature")?,
            top_k: fields.count("top_k")?,
            top_p: fields.number("top_p")?,
            min_p: fields.number("min_p")?,
            repetition_penalty: fields.number("repetition_penalty")?,
            max_new_tokens: fields.count("max_new_tokens")?,
            max_length: fields.count("max_length")?,
            unsupported: fields.unsupported(),
        })
    }

    /// The parameters of one answer: the caller's word, else the file's, else that of transformers.
    ///
    /// A caller who gives temperature (above 0), top-k, top-p or min-p wants sampling, whatever the file says.
    ///
    /// # Errors
    /// [`SampleError::Conflict`] for `do_sample = false` beside one of those, [`SampleError::Range`] for a number
    /// outside its range.
    pub fn resolve(&self, caller: &SamplingOverrides) -> Result<SamplingParams, SampleError> {
        let base = SamplingParams::default();
        let sampling_field = caller.sampling_field();
        if let (Some(false), Some(field)) = (caller.do_sample, sampling_field) {
            return Err(SampleError::Conflict { field });
        }
        let implied = sampling_field.map(|_| true);
        let params = SamplingParams {
            do_sample: caller.do_sample.or(implied).or(self.do_sample).unwrap_or(base.do_sample),
            temperature: caller.temperature.or(self.temperature).unwrap_or(base.temperature),
            top_k: caller.top_k.or(self.top_k).unwrap_or(base.top_k),
            top_p: caller.top_p.or(self.top_p).unwrap_or(base.top_p),
            min_p: caller.min_p.or(self.min_p).unwrap_or(base.min_p),
            repetition_penalty: caller
                .repetition_penalty
                .or(self.repetition_penalty)
                .unwrap_or(base.repetition_penalty),
            presence_penalty: caller.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: caller.frequency_penalty.unwrap_or(base.frequency_penalty),
            seed: caller.seed,
            logit_bias: caller.logit_bias.clone(),
        };
        params.validate()?;
        Ok(params)
    }
}

/// The fields of the file; null counts as absent.
struct Fields<'a>(&'a Map<String, Json>);

impl<'a> Fields<'a> {
    fn present(&self, field: &str) -> Option<&'a Json> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn get<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, SampleError> {
        let Some(value) = self.present(field) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(SampleError::Field { field, value: value.to_string(), expected }),
        }
    }

    fn number(&self, field: &'static str) -> Result<Option<f64>, SampleError> {
        self.get(field, "a number", Json::as_f64)
    }

    fn count(&self, field: &'static str) -> Result<Option<usize>, SampleError> {
        self.get(field, "a whole number of at least 0", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    fn ids(&self, field: &'static str) -> Result<Vec<u32>, SampleError> {
        let id = |value: &Json| u32::try_from(value.as_u64()?).ok();
        let read = |value: &'a Json| match value {
            Json::Array(ids) => ids.iter().map(id).collect(),
            single => Some(vec![id(single)?]),
        };
        Ok(self.get(field, "a token id or a list of token ids", read)?.unwrap_or_default())
    }

    fn unsupported(&self) -> Vec<String> {
        let is_on = |value: &Json| match value {
            Json::Bool(on) => *on,
            Json::Array(items) => !items.is_empty(),
            Json::Object(map) => !map.is_empty(),
            _ => true,
        };
        let numbers = UNSUPPORTED
            .iter()
            .filter(|(field, off)| {
                self.present(field).is_some_and(|value| value.as_f64() != Some(*off))
            })
            .map(|(field, _)| *field);
        let lists = UNSUPPORTED_LISTS
            .iter()
            .copied()
            .filter(|field| self.present(field).is_some_and(is_on));
        numbers.chain(lists).map(str::to_owned).collect()
    }
}
