//! What can be wrong with sampling parameters, `generation_config.json` and logits.

/// Sampling cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A parameter outside its range; NaN is outside every range.
    #[error("{field} is {value}, but it must {must}.")]
    Range {
        /// Name of the parameter.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What would be right.
        must: &'static str,
    },
    /// Greedy decoding was asked for together with a parameter that only sampling uses.
    #[error("{field} was given together with do_sample = false; greedy decoding would ignore it.")]
    Conflict {
        /// Name of the parameter.
        field: &'static str,
    },
    /// `generation_config.json` is not JSON.
    #[error("generation_config.json is not valid JSON: {source}.")]
    Json {
        /// Where the reader stopped.
        #[from]
        source: serde_json::Error,
    },
    /// A field of `generation_config.json` has the wrong type.
    #[error("generation_config.json: `{field}` is {value}, but it must be {expected}.")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value as JSON.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A logit that no softmax can use: the model or the backend has failed.
    #[error(
        "The logit of token {id} is {value}; logits must be finite (or -inf for a token that is ruled out)."
    )]
    Logit {
        /// Token id.
        id: usize,
        /// Its logit.
        value: f32,
    },
    /// Every token is ruled out, or there is none.
    #[error("None of the {vocab} tokens can be chosen: all their logits are -inf.")]
    NoCandidate {
        /// Number of logits.
        vocab: usize,
    },
    /// An id of the prompt or of the answer has no logit.
    #[error("Token id {id} lies outside the {vocab} logits.")]
    TokenId {
        /// The id.
        id: u32,
        /// Number of logits.
        vocab: usize,
    },
}
