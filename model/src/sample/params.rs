//! Sampling parameters and what a caller may override.

use super::SampleError;

/// Most logits of a row that are read where the largest decide; with more, all are read.
const MOST_DECIDING: usize = 64;

/// Below this, dividing logits overflows; ask for greedy decoding instead.
const LEAST_TEMPERATURE: f64 = 1e-6;

/// All numbers that decide the next token. `Default` is what transformers does when nothing is said: greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Draw at random; otherwise take the largest logit.
    pub do_sample: bool,
    /// Divides the logits; 0 means greedy.
    pub temperature: f64,
    /// Keeps this many largest logits, and all that equal the smallest of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f64,
    /// Drops tokens less probable than this share of the most probable one; 0 drops none.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of ids in prompt and answer; 1 is off.
    pub repetition_penalty: f64,
    /// Subtracted from the logits of ids in the answer; 0 is off.
    pub presence_penalty: f64,
    /// Subtracted once per occurrence in the answer; 0 is off.
    pub frequency_penalty: f64,
    /// Seed of the draws; `None` draws a seed.
    pub seed: Option<u64>,
    /// Added to the logits of these ids before everything else.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Greedy decoding without penalties.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Whether the next token needs no random number.
    pub fn is_greedy(&self) -> bool {
        !self.do_sample || self.temperature == 0.0
    }

    /// How many of the largest logits decide the next token, unless more are equal to the last of these; nothing where all
    /// logits may count. One more than `top_k`: it shows where these end.
    pub fn deciding(&self) -> Option<usize> {
        let penalties = [self.presence_penalty, self.frequency_penalty].iter().any(|p| *p != 0.0);
        if penalties || self.repetition_penalty != 1.0 || !self.logit_bias.is_empty() {
            return None;
        }
        match self.is_greedy() {
            true => Some(1),
            false => self.top_k.checked_add(1).filter(|n| (2..=MOST_DECIDING).contains(n)),
        }
    }

    /// What a device has to know to guess the next token, see [`qwen3_vl_backends::ops::fixed::draw_of_rows`].
    pub(crate) fn terms(&self) -> [f32; 4] {
        if self.is_greedy() {
            return [0.0; 4];
        }
        let rest = if self.top_p < 1.0 { (1.0 - self.top_p) as f32 } else { -1.0 };
        [self.temperature as f32, self.top_k as f32, rest, self.min_p as f32]
    }

    /// Checks every number, also those that greedy decoding does not use.
    ///
    /// # Errors
    /// [`SampleError::Range`].
    pub fn validate(&self) -> Result<(), SampleError> {
        let finite = f64::is_finite;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let penalty = |x: f64| (-2.0..=2.0).contains(&x);
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature == 0.0
                    || finite(self.temperature) && self.temperature >= LEAST_TEMPERATURE,
                "be finite and at least 0.000001, or 0 (0 means greedy)",
            ),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "lie in (0, 1]"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "lie in [0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                positive(self.repetition_penalty),
                "be above 0 and finite (1 is off)",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                penalty(self.presence_penalty),
                "lie in [-2, 2]",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                penalty(self.frequency_penalty),
                "lie in [-2, 2]",
            ),
        ];
        match checks.into_iter().find(|(_, _, ok, _)| !ok) {
            Some((field, value, _, must)) => Err(SampleError::Range { field, value, must }),
            None => Ok(()),
        }
    }
}

/// What a caller sets; `None` leaves the checkpoint's default in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingOverrides {
    /// See [`SamplingParams::do_sample`]. `None` with one of the four sampling numbers below means: sample.
    pub do_sample: Option<bool>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f64>,
    /// See [`SamplingParams::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f64>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f64>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f64>,
    /// See [`SamplingParams::presence_penalty`].
    pub presence_penalty: Option<f64>,
    /// See [`SamplingParams::frequency_penalty`].
    pub frequency_penalty: Option<f64>,
    /// See [`SamplingParams::seed`].
    pub seed: Option<u64>,
    /// See [`SamplingParams::logit_bias`].
    pub logit_bias: Vec<(u32, f32)>,
}

impl SamplingOverrides {
    /// The first field that only sampling uses; a temperature of 0 asks for greedy decoding and is none.
    pub(super) fn sampling_field(&self) -> Option<&'static str> {
        let fields = [
            ("temperature", self.temperature.is_some_and(|t| t != 0.0)),
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("min_p", self.min_p.is_some()),
        ];
        fields.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}
