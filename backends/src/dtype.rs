//! In which precision a model is held and computed.

use std::str::FromStr;

use burn::tensor::DType;

use crate::device::{BackendKind, DeviceError, SelectedDevice};

/// What `--dtype` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeRequest {
    /// The checkpoint's own dtype where the device has it, else f32.
    #[default]
    Auto,
    /// Exactly this one.
    Exact(DType),
}

impl FromStr for DtypeRequest {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" | "fp32" | "float" => Ok(Self::Exact(DType::F32)),
            "bf16" | "bfloat16" => Ok(Self::Exact(DType::BF16)),
            "f16" | "float16" | "fp16" | "half" => Ok(Self::Exact(DType::F16)),
            _ => Err(DeviceError::UnknownDtype { name: name.to_owned() }),
        }
    }
}

/// The dtype of weight matrices and the dtype of activations.
///
/// On the CPU, bf16 and f16 are storage formats: weights keep them, arithmetic runs in f32, so results
/// lie closer to an f32 reference than a computation that rounds every activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Matrices, tables and experts. Vectors (norms, biases) are always held in [`Self::compute`].
    pub weights: DType,
    /// Activations, caches and logits.
    pub compute: DType,
}

impl Precision {
    /// Everything in f32.
    pub const F32: Self = Self { weights: DType::F32, compute: DType::F32 };

    /// Resolves a request for a checkpoint whose weights are stored as `stored`.
    pub fn resolve(
        device: &SelectedDevice,
        request: DtypeRequest,
        stored: DType,
    ) -> Result<Self, DeviceError> {
        let weights = match request {
            DtypeRequest::Auto if device.holds(stored) => stored,
            DtypeRequest::Auto => DType::F32,
            DtypeRequest::Exact(dtype) if device.holds(dtype) => dtype,
            DtypeRequest::Exact(dtype) => {
                let supported: Vec<_> = device.dtypes().into_iter().map(name).collect();
                return Err(DeviceError::UnsupportedDtype {
                    device: device.name.clone(),
                    dtype: name(dtype),
                    supported: supported.join(", "),
                });
            }
        };
        let compute = if device.kind.is_cpu() { DType::F32 } else { weights };
        Ok(Self { weights, compute })
    }

    /// The dtype of a parameter with `rank` dimensions.
    pub fn of_rank(&self, rank: usize) -> DType {
        if rank < 2 { self.compute } else { self.weights }
    }
}

/// `f32`, `bf16`, `f16`.
pub fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::F64 => "f64",
        _ => "another dtype",
    }
}

/// Whether weights of this kind are used where they lie in a memory-mapped file.
pub fn maps_in_place(kind: BackendKind) -> bool {
    matches!(kind, BackendKind::Flex)
}
