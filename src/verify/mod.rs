//! Conformance: a checkpoint against a reference file that holds every tensor transformers computes.
//!
//! The keys of a reference file are those that `tests/generate/references.py` writes: `in.*` inputs,
//! `position_ids`, `rope_deltas`, `vision.*`, `text.*`, `logits`, `greedy_ids`.

mod compare;
mod divergence;
mod reference;
mod rows;

use std::path::Path;

pub use compare::{Stage, StageKind};
pub use divergence::Divergence;
pub use reference::ReferenceError;

use qwen3_vl_backends::dtype::Precision;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_backends::{BackendKind, ops};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::inputs::InputError;

pub use reference::Reference;

/// Why a checkpoint could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("the inputs of the reference do not fit the checkpoint: {0}")]
    Input(#[from] InputError),
}

/// How far a value may lie from the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// f32 on the CPU: the bounds of each stage (2e-6 for patches, 1e-6 absolute for rotary tables, 1e-5 beyond).
    Exact,
    /// One bound on the maximal error, relative to the largest reference value, for all stages.
    Relative(f64),
    /// Lower precision: only the cosine between the two tensors counts.
    Cosine(f64),
}

impl Tolerance {
    /// The bounds for a model in `precision` on `kind`.
    pub fn for_device(kind: BackendKind, precision: Precision) -> Self {
        match (kind.is_cpu(), precision == Precision::F32) {
            (_, false) => Self::Cosine(0.9995),
            (true, true) => Self::Exact,
            (false, true) => Self::Relative(1e-4),
        }
    }
}

impl Tolerance {
    /// For a model whose linear weights are rounded, whatever its device.
    pub fn of_scheme(scheme: QuantScheme) -> Self {
        Self::Cosine(if scheme.bits() == 8 { 0.99 } else { 0.9 })
    }
}

/// All stages of one comparison.
#[derive(Debug, Clone)]
pub struct Verification {
    pub stages: Vec<Stage>,
    /// How far the probabilities of tokens lie apart, where the reference has logits.
    pub logits: Option<Divergence>,
}

impl Verification {
    /// Whether there were stages and every one lies within its bounds.
    pub fn passed(&self) -> bool {
        !self.stages.is_empty() && self.stages.iter().all(|stage| stage.passed)
    }

    /// The stage that is furthest beyond its bound.
    pub fn worst(&self) -> Option<&Stage> {
        self.stages.iter().max_by(|a, b| a.excess().total_cmp(&b.excess()))
    }
}

/// Runs the model on the inputs of the reference file at `path` and compares every stage.
///
/// # Errors
/// When the file is unreadable, lacks inputs, or does not belong to a model of this configuration.
pub fn verify(
    model: &Qwen3VlModel,
    path: &Path,
    tolerance: Tolerance,
) -> Result<Verification, VerifyError> {
    let reference = Reference::open(path)?;
    let computed = rows::compute(model, &reference)?;
    let stages = compare::compare(&reference, &computed, tolerance)?;
    let logits = compare::float_pair(&reference, &computed, "logits")?;
    let vocabulary = model.config().text.vocab_size;
    let logits = logits.and_then(|(a, b)| Divergence::new(&a, &b, vocabulary));
    Ok(Verification { stages, logits })
}

/// As [`verify`], with every kernel replaced by its reference body while it runs (for the whole process).
///
/// # Errors
/// As [`verify`].
pub fn verify_without_kernels(
    model: &Qwen3VlModel,
    path: &Path,
    tolerance: Tolerance,
) -> Result<Verification, VerifyError> {
    let before = ops::kernels_on();
    ops::set_kernels(false);
    let outcome = verify(model, path, tolerance);
    ops::set_kernels(before);
    outcome
}
