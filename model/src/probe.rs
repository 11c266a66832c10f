//! Intermediate tensors on request, for comparison with a reference.

use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::device::lost;

/// Collects named intermediate tensors during a forward pass; when off, recording costs nothing.
#[derive(Debug, Default)]
pub struct Probe {
    records: Option<Vec<(String, TensorData)>>,
    prefix: String,
    router: Option<Vec<Tensor<2>>>,
}

impl Probe {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records everything it is shown.
    pub fn on() -> Self {
        Self { records: Some(Vec::new()), ..Self::default() }
    }

    /// Records nothing, but keeps the logits of every router as they are computed, gradients and all.
    pub fn router() -> Self {
        Self { router: Some(Vec::new()), ..Self::default() }
    }

    /// Router logits `[rows, experts]` of the layers so far, where they are kept.
    pub fn take_router(&mut self) -> Vec<Tensor<2>> {
        self.router.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn keep_router(&mut self, logits: &Tensor<2>) {
        if let Some(router) = &mut self.router {
            router.push(logits.clone());
        }
    }

    /// Puts `prefix` before the names that follow.
    pub fn enter(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Reads `tensor` back under `name`, in f32, when on.
    pub fn record<const D: usize>(&mut self, name: impl AsRef<str>, tensor: &Tensor<D>) {
        let Some(records) = &mut self.records else { return };
        // GPU data is read lazily, from a buffer that later operations may write: copy it now.
        let values = lost::read(tensor.clone()).convert_dtype(DType::F32);
        let values: Vec<f32> = values.try_to_vec().expect("converted to f32");
        let data = TensorData::new(values, tensor.dims());
        records.push((format!("{}{}", self.prefix, name.as_ref()), data));
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
