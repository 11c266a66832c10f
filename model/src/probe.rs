//! Intermediate tensors on request, for comparison with a reference.

use burn::tensor::{Tensor, TensorData};

/// Collects named intermediate tensors during a forward pass; when off, recording costs nothing.
#[derive(Debug, Default)]
pub struct Probe {
    records: Option<Vec<(String, TensorData)>>,
    prefix: String,
}

impl Probe {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records everything it is shown.
    pub fn on() -> Self {
        Self { records: Some(Vec::new()), prefix: String::new() }
    }

    /// Puts `prefix` before the names that follow.
    pub fn enter(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Reads `tensor` back under `name`, when on.
    pub fn record<const D: usize>(&mut self, name: impl AsRef<str>, tensor: &Tensor<D>) {
        if let Some(records) = &mut self.records {
            records.push((format!("{}{}", self.prefix, name.as_ref()), tensor.to_data()));
        }
    }

    /// Whether tensors are recorded; guards what would be computed for recording only.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// What was recorded, in order of computation.
    pub fn into_records(self) -> Vec<(String, TensorData)> {
        self.records.unwrap_or_default()
    }
}
