//! Experts that are left on the host.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use qwen3_vl_backends::SelectedDevice;
use qwen3_vl_backends::dtype::maps_in_place;
use qwen3_vl_backends::memmap::HostBytes;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::experts::{ExpertCache, ExpertMatrix, HostStack, Streamed};
use qwen3_vl_model::roundable::Roundable;

use super::foreign::Packed;
use super::parts::keeps_codes;
use super::rounded::{placed, scales_dtype};
use super::{Item, Loader, Stored, home};
use crate::checkpoint::TensorEntry;
use crate::error::LoadError;

/// Experts with weights that are not rounded.
#[derive(Debug)]
struct Plain {
    /// Each holds a share of every expert, one expert after the other; or each a share of one, those of an expert together.
    parts: Vec<HostBytes>,
    apart: bool,
    /// `[experts, out, in]`.
    shape: [usize; 3],
    /// Whether they are stored as `[experts, in, out]`.
    transposed: bool,
    stored: DType,
    device: Device,
    wanted: DType,
}

impl Plain {
    fn shares(&self, expert: usize) -> Vec<HostBytes> {
        let experts = self.shape[0];
        if self.apart {
            let each = self.parts.len() / experts;
            return self.parts[expert * each..(expert + 1) * each].to_vec();
        }
        let share = |part: &HostBytes| {
            let size = part.len() / experts;
            part.part(expert * size..(expert + 1) * size)
        };
        self.parts.iter().map(share).collect()
    }
}

impl HostStack for Plain {
    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn scheme(&self) -> Option<QuantScheme> {
        None
    }

    fn matrix_bytes(&self) -> u64 {
        (self.shape[1] * self.shape[2] * self.wanted.size()) as u64
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn upload(&self, expert: usize) -> ExpertMatrix {
        let [_, outputs, inputs] = self.shape;
        let shape = if self.transposed { [inputs, outputs] } else { [outputs, inputs] };
        let data = match &self.shares(expert)[..] {
            [whole] => whole.tensor_data(&shape, self.stored),
            parts => {
                let bytes = parts.iter().flat_map(|part| part.as_slice()).copied().collect();
                TensorData::from_bytes_vec(bytes, shape.to_vec(), self.stored)
            }
        };
        let data = data.convert_dtype(self.wanted);
        let weight = Tensor::<2>::from_data(data, (&self.device, self.wanted));
        ExpertMatrix::Dense(if self.transposed { weight.transpose() } else { weight })
    }

    fn announce(&self, expert: usize) {
        self.shares(expert).iter().for_each(HostBytes::announce);
    }
}

/// Rounded matrices in the memory of the host.
#[derive(Debug)]
struct HostCodes {
    codes: HostBytes,
    scales: HostBytes,
    /// Of the scales.
    dtype: DType,
    scheme: QuantScheme,
}

/// Experts with rounded weights.
#[derive(Debug)]
struct Codes {
    held: HostCodes,
    /// `[experts, out, in]`.
    shape: [usize; 3],
    device: Device,
    /// The dtype that scales have on the device.
    scales: DType,
}

impl Codes {
    /// The codes and scales of an expert.
    fn of(&self, expert: usize) -> [HostBytes; 2] {
        [&self.held.codes, &self.held.scales].map(|all| {
            let size = all.len() / self.shape[0];
            all.part(expert * size..(expert + 1) * size)
        })
    }
}

impl HostStack for Codes {
    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn scheme(&self) -> Option<QuantScheme> {
        Some(self.held.scheme)
    }

    fn matrix_bytes(&self) -> u64 {
        let ([_, rows, inputs], scheme) = (self.shape, self.held.scheme);
        let scales = scheme.scale_columns(inputs) * self.scales.size();
        (rows * (scheme.row_bytes(inputs) + scales)) as u64
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn upload(&self, expert: usize) -> ExpertMatrix {
        let ([_, rows, inputs], scheme) = (self.shape, self.held.scheme);
        let [codes, scales] = self.of(expert);
        let codes = codes.tensor_data(&[rows, scheme.row_bytes(inputs)], scheme.code_dtype());
        let shape = [rows, scheme.scale_columns(inputs)];
        let scales = scales.tensor_data(&shape, self.held.dtype);
        let place = (&self.device, self.scales);
        ExpertMatrix::Rounded(Box::new(placed((codes, scales), (scheme, inputs), place)))
    }

    fn announce(&self, expert: usize) {
        self.of(expert).iter().for_each(HostBytes::announce);
    }
}

/// One layer's worth of experts on the host whose numbers were made up, for all layers of one shape to copy from.
#[derive(Debug, Clone)]
pub(crate) enum MadeUp {
    /// In the dtype and the orientation of published files, bf16 and `[experts, in, out]`.
    Plain(HostBytes),
    /// Codes, and scales in bf16.
    Codes { codes: HostBytes, scales: HostBytes, scheme: QuantScheme },
}

impl MadeUp {
    /// As a stack of `shape [experts, out, in]` whose matrices are copied to `device`, dense ones as `wanted`.
    pub fn stack(
        &self,
        shape: [usize; 3],
        device: &SelectedDevice,
        wanted: DType,
    ) -> Arc<dyn HostStack> {
        let at = device.device.clone();
        match self.clone() {
            Self::Plain(bytes) => {
                let (parts, apart, stored) = (vec![bytes], false, DType::BF16);
                let transposed = true;
                Arc::new(Plain { parts, apart, shape, transposed, stored, device: at, wanted })
            }
            Self::Codes { codes, scales, scheme } => {
                let held = HostCodes { codes, scales, dtype: DType::BF16, scheme };
                Arc::new(Codes { held, shape, device: at, scales: scales_dtype(device) })
            }
        }
    }
}

/// Refuses a `budget` without room for one matrix of `host`, which `tensor` names.
pub(crate) fn check_budget(
    host: &dyn HostStack,
    budget: u64,
    tensor: &str,
) -> Result<(), LoadError> {
    let needed = host.matrix_bytes();
    match needed > budget {
        true => Err(LoadError::ExpertMemory { budget, needed, tensor: tensor.to_owned() }),
        false => Ok(()),
    }
}

impl<'c> Loader<'_, 'c> {
    /// Leaves the experts of `items` on the host that are not on a device which uses them in place there, with `budget` bytes
    /// for those on devices; returns the other items.
    ///
    /// # Errors
    /// When `budget` has no room for one of them.
    pub(super) fn stream(
        &mut self,
        model: &mut Qwen3VlModel,
        mut items: Vec<Item<'c>>,
        budget: u64,
    ) -> Result<Vec<Item<'c>>, LoadError> {
        let cache = Arc::new(ExpertCache::new(budget));
        let mut index = 0;
        for (path, mut weight) in model.roundable_mut() {
            let Roundable::Experts(stack) = &weight else { continue };
            let shape = stack.shape();
            if maps_in_place(home(self.placement, &path).0.kind) {
                continue;
            }
            let Some(at) = items.iter().position(|item| item.path == path) else { continue };
            let item = items.remove(at);
            self.turn_to(&item);
            let host = self.host_stack(&item, shape)?;
            check_budget(host.as_ref(), budget, &item.name)?;
            weight.stream(Streamed::new(host, cache.clone(), index));
            index += 1;
            self.tell(&item);
        }
        Ok(items)
    }

    fn host_stack(
        &self,
        item: &Item<'c>,
        shape: [usize; 3],
    ) -> Result<Arc<dyn HostStack>, LoadError> {
        let (device, [experts, rows, inputs]) = (&self.device.device, shape);
        let plain = |(parts, apart), transposed, stored| {
            let (device, wanted) = (device.clone(), self.precision.weights);
            Plain { parts, apart, shape, transposed, stored, device, wanted }
        };
        Ok(match &item.stored {
            Stored::Plain => {
                let parts = item.entry.parts().map(|part| self.checkpoint.part(part)).collect();
                let apart = item.entry.turns < experts;
                Arc::new(plain(
                    (parts, apart && !item.entry.rest.is_empty()),
                    item.transposed,
                    item.dtype,
                ))
            }
            Stored::Foreign(foreign) if !keeps_codes(self.device) => {
                let wanted = (&shape[..], self.precision.weights);
                let data = self.expanded(item, foreign, wanted)?;
                let bytes = HostBytes::from(data.as_bytes().to_vec());
                Arc::new(plain((vec![bytes], false), false, self.precision.weights))
            }
            _ => {
                let held = self.host_codes(item, [experts * rows, inputs])?;
                let scales = if self.device.holds(held.dtype) { held.dtype } else { DType::F32 };
                Arc::new(Codes { held, shape, device: device.clone(), scales })
            }
        })
    }

    /// What an item that is rounded, or becomes so, has of codes and scales.
    fn host_codes(&self, item: &Item<'c>, size: [usize; 2]) -> Result<HostCodes, LoadError> {
        if let Stored::Codes { scales, scheme } = item.stored {
            let part =
                |entry: &TensorEntry| self.checkpoint.file(entry).map.part(entry.range.clone());
            let (codes, scales) = (part(item.entry), part(scales));
            return Ok(HostCodes { codes, scales, dtype: DType::BF16, scheme });
        }
        let Packed { codes, scales, scheme } = self.codes_of(item, size)?;
        let bytes = |data: &TensorData| HostBytes::from(data.as_bytes().to_vec());
        let (dtype, codes) = (scales.dtype(), bytes(&codes));
        Ok(HostCodes { codes, scales: bytes(&scales), dtype, scheme })
    }
}
