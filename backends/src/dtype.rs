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
/// On the CPU, bf16 and f16 are storage formats: weights keep them, arithmetic runs in f32 or as exactly in tiles, so results
/// lie closer to an f32 reference than a computation that rounds every activation, unless
/// [`Products::Rounded`](crate::ops::Products::Rounded) is chosen.
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

    /// Resolves a request for a model that is spread over several devices. Every one must hold the dtype, and compute in
    /// the same one: without a request, what one of them cannot becomes f32 on all.
    ///
    /// # Errors
    /// When a device does not hold the dtype that was asked for, or computes in another one than the others.
    pub fn resolve_all<'d>(
        devices: impl IntoIterator<Item = &'d SelectedDevice>,
        request: DtypeRequest,
        stored: DType,
    ) -> Result<Self, DeviceError> {
        let devices: Vec<&SelectedDevice> = devices.into_iter().collect();
        let resolved = devices.iter().map(|device| Self::resolve(device, request, stored));
        let resolved = resolved.collect::<Result<Vec<Self>, _>>()?;
        let Some((first, others)) = resolved.split_first() else { return Ok(Self::F32) };
        if others.iter().all(|other| other == first) {
            return Ok(*first);
        }
        let side = |cpu: bool| devices.iter().find(|device| device.kind.is_cpu() == cpu);
        match (request, side(true), side(false)) {
            (DtypeRequest::Exact(dtype), Some(cpu), Some(card)) => {
                let (cpu, card) = (cpu.name.clone(), card.name.clone());
                Err(DeviceError::MixedCompute { dtype: name(dtype), cpu, card })
            }
            _ => Ok(Self::F32),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::select;

    /// A device that is called a card; nothing is computed on it.
    fn pair() -> [SelectedDevice; 2] {
        let cpu = select(None).unwrap();
        let card = SelectedDevice { kind: BackendKind::Cuda, name: "cuda:0".into(), ..cpu.clone() };
        [cpu, card]
    }

    #[test]
    fn devices_of_two_sorts_agree_on_f32_alone() {
        let [cpu, card] = pair();
        if !cpu.kind.is_cpu() || !cpu.holds(DType::BF16) {
            println!("skipped: the device of this build holds no bf16, or is no processor");
            return;
        }
        let of = |devices: &[SelectedDevice], request| {
            Precision::resolve_all(devices, request, DType::BF16).map_err(|e| e.to_string())
        };
        let (cpus, mixed) = ([cpu.clone(), cpu.clone()], [cpu, card]);
        let stored = Precision { weights: DType::BF16, compute: DType::F32 };
        assert_eq!(of(&cpus, DtypeRequest::Auto), Ok(stored));
        assert_eq!(of(&mixed, DtypeRequest::Auto), Ok(Precision::F32));
        assert_eq!(of(&mixed, DtypeRequest::Exact(DType::F32)), Ok(Precision::F32));
        let message = of(&mixed, DtypeRequest::Exact(DType::BF16)).unwrap_err();
        assert!(message.contains("cuda:0") && message.contains("use f32"), "{message}");
    }
}
