//! Weights that are rounded: as they lie in the file, or as they are read.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use qwen3_vl_backends::SelectedDevice;
use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::{Method, Quantisation};
use qwen3_vl_model::weight::Quantised;
use safetensors::Dtype;

use super::foreign::Packed;
use super::parts::{is_of_experts, keeps_codes};
use super::{Item, Loader, Stored, as_matrix, home, swap_last_axes};
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;
use crate::rounding::{is_table, of_table};

/// The scales of a weight in a checkpoint that was rounded.
pub(crate) fn scales_name(name: &str) -> String {
    format!("{name}{}", Quantisation::SCALE)
}

/// The codes and scales of a rounded weight of `shape` called `name`; `None` where it is not rounded, or its scales are
/// missing.
///
/// # Errors
/// When dtypes or shapes are not those of the scheme in `config.json`.
pub(super) fn stored<'c>(
    checkpoint: &'c Checkpoint,
    (name, codes): (&str, &TensorEntry),
    shape: &[usize],
) -> Result<Option<Stored<'c>>, LoadError> {
    let Some(scheme) = own(checkpoint) else { return Ok(None) };
    // Tables have eight bits beside layers of four.
    let scheme = match codes.dtype() {
        Some(Dtype::I8) if is_table(name) => of_table(scheme),
        _ => scheme,
    };
    let wanted = if scheme.bits() == 8 { Dtype::I8 } else { Dtype::U8 };
    if !is_code(codes) {
        return Ok(None);
    }
    let [_, inputs] = as_matrix(shape);
    let Some(scales) = checkpoint.tensors().get(&scales_name(name)) else { return Ok(None) };
    let refuse = |entry: &TensorEntry, what: &str, expected: Dtype| LoadError::Codes {
        path: checkpoint.file(entry).path.clone(),
        tensor: if what == "codes" { name.to_owned() } else { scales_name(name) },
        dtype: entry.storage.to_string(),
        scheme,
        expected: format!("{what} are {expected:?}"),
    };
    if codes.dtype() != Some(wanted) {
        return Err(refuse(codes, "codes", wanted));
    }
    if scales.dtype() != Some(Dtype::BF16) {
        return Err(refuse(scales, "scales", Dtype::BF16));
    }
    let (found, expected) = (*scales.shape.last().unwrap_or(&0), scheme.groups(inputs));
    let outer = shape.len() - 1;
    if found != expected
        || scales.shape.len() != shape.len()
        || scales.shape[..outer] != shape[..outer]
    {
        return Err(LoadError::Groups {
            path: checkpoint.file(scales).path.clone(),
            tensor: scales_name(name),
            found,
            scheme,
            expected,
            inputs,
        });
    }
    Ok(Some(Stored::Codes { scales, scheme }))
}

/// Refuses scales in bf16 `[rows, groups]` of the weight `name` of which one is not finite.
fn check_scales(name: &str, scales: &TensorData) -> Result<(), LoadError> {
    // All bits of the exponent.
    let broken = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7f80 == 0x7f80;
    let found = scales.as_bytes().as_chunks::<2>().0.iter().position(broken);
    found.map_or(Ok(()), |at| {
        let row = at / scales.shape()[1].max(1);
        Err(LoadError::Round { tensor: name.to_owned(), source: QuantError::NotFinite { row } })
    })
}

/// The dtype that the scales of rounded weights have on `device`.
pub(crate) fn scales_dtype(device: &SelectedDevice) -> DType {
    if device.holds(DType::BF16) { DType::BF16 } else { DType::F32 }
}

/// Whether there are codes without scales.
pub(super) fn lacks_scales(checkpoint: &Checkpoint, name: &str, codes: &TensorEntry) -> bool {
    let quantised = own(checkpoint).is_some() && is_code(codes);
    quantised && !checkpoint.tensors().contains_key(&scales_name(name))
}

/// The scheme of a checkpoint that `qwen3-vl quantize` wrote.
fn own(checkpoint: &Checkpoint) -> Option<QuantScheme> {
    let quantisation = checkpoint.config().quantisation?;
    (quantisation.method == Method::Own).then_some(quantisation.scheme)
}

fn is_code(entry: &TensorEntry) -> bool {
    matches!(entry.dtype(), Some(Dtype::I8 | Dtype::U8))
}

impl<'c> Loader<'_, 'c> {
    /// Puts the weights in their places that are rounded or split, and keeps the other items for later.
    pub(super) fn place(
        &mut self,
        model: &mut Qwen3VlModel,
        mut items: Vec<Item<'c>>,
    ) -> Result<(), LoadError> {
        for (path, mut weight) in model.roundable_mut() {
            let comes = |item: &Item<'c>| self.has_codes(item) || item.block.is_some();
            let found = items.iter().position(|item| item.path == path && comes(item));
            let Some(index) = found else { continue };
            let item = items.remove(index);
            self.turn_to(&item);
            let shape = weight.shape();
            match item.block {
                Some(rows) => weight.split(self.blocks(&item, shape, rows)?),
                None => weight.round(self.weight_of(self.codes_of(&item, shape)?, shape[1])),
            }
            self.tell(&item);
        }
        self.items = items.into_iter().peekable();
        Ok(())
    }

    /// Whether an item of a linear layer, a table or experts becomes a rounded weight.
    pub(super) fn has_codes(&self, item: &Item<'_>) -> bool {
        let foreign = matches!(item.stored, Stored::Foreign(_));
        item.scheme().is_some() || foreign && keeps_codes(home(self.placement, &item.path).0)
    }

    /// Codes and scales of an item that becomes a rounded weight of this size.
    pub(super) fn codes_of(
        &self,
        item: &Item<'c>,
        [rows, inputs]: [usize; 2],
    ) -> Result<Packed, LoadError> {
        match &item.stored {
            Stored::Foreign(foreign) => {
                self.packed((&item.name, item.entry), foreign, [rows, inputs])
            }
            Stored::Codes { scales, scheme } => {
                let (shape, dtype) = ([rows, scheme.row_bytes(inputs)], scheme.code_dtype());
                let codes = self.bytes(item.entry, &shape, dtype)?;
                let scales = self.bytes(scales, &[rows, scheme.groups(inputs)], DType::BF16)?;
                // Those of experts are left for the first that asks for them.
                if !is_of_experts(&item.path) {
                    check_scales(&item.name, &scales)?;
                }
                Ok(Packed { codes, scales, scheme: *scheme })
            }
            Stored::Round { scheme } => {
                let (codes, scales) = self.round_now(item, *scheme)?;
                Ok(Packed { codes, scales, scheme: *scheme })
            }
            Stored::Plain => unreachable!("what is not rounded has no codes"),
        }
    }

    /// Codes and scales as a weight of `inputs` columns on the device.
    pub(super) fn weight_of(&self, packed: Packed, inputs: usize) -> Quantised {
        let Packed { codes, scales, scheme } = packed;
        let dtype = if self.device.holds(scales.dtype()) { scales.dtype() } else { DType::F32 };
        placed((codes, scales), (scheme, inputs), (&self.device.device, dtype))
    }

    /// Codes and scales of a tensor that is rounded as it is read.
    pub(super) fn round_now(
        &self,
        item: &Item<'c>,
        scheme: QuantScheme,
    ) -> Result<(TensorData, TensorData), LoadError> {
        let matrices = Matrices {
            name: &item.name,
            bytes: self.checkpoint.read(item.entry)?,
            shape: &item.entry.shape,
            dtype: item.dtype,
            transposed: item.transposed,
        };
        matrices.round(scheme)
    }

    /// The bytes of a tensor, in place where that is possible.
    pub(super) fn bytes(
        &self,
        entry: &TensorEntry,
        shape: &[usize],
        dtype: DType,
    ) -> Result<TensorData, LoadError> {
        let file = self.checkpoint.file(entry);
        let range = entry.range.clone();
        if self.in_place() {
            return Ok(file.map.tensor_data(range, shape, dtype));
        }
        let bytes = file.map.read(range).map_err(LoadError::io(&file.path))?;
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype))
    }
}

/// Codes and scales on a device, where scales have the dtype beside it, as the weight of a layer of `inputs` columns.
pub(crate) fn placed(
    (codes, scales): (TensorData, TensorData),
    (scheme, inputs): (QuantScheme, usize),
    (device, dtype): (&Device, DType),
) -> Quantised {
    let codes = Tensor::<2, Int>::from_data(codes, (device, scheme.code_dtype()));
    let scales = Tensor::<2>::from_data(scales.convert_dtype(dtype), (device, dtype));
    Quantised::new(codes, scales, scheme, inputs)
}

/// Matrices one after the other, as a file holds them.
pub(crate) struct Matrices<'n> {
    pub name: &'n str,
    pub bytes: Vec<u8>,
    /// `[out, in]`, or `[matrices, out, in]`.
    pub shape: &'n [usize],
    pub dtype: DType,
    /// Whether they are `[in, out]` instead.
    pub transposed: bool,
}

impl Matrices<'_> {
    /// The codes and scales of all of them, rounded one after the other.
    pub fn round(self, scheme: QuantScheme) -> Result<(TensorData, TensorData), LoadError> {
        let [a, b] = as_matrix(&self.shape[self.shape.len().saturating_sub(2)..]);
        let shape = if self.transposed { [b, a] } else { [a, b] };
        let size = (a * b * self.dtype.size()).max(1);
        let matrices = self.bytes.chunks(size).map(|bytes| {
            let bytes = match self.transposed {
                true => swap_last_axes(bytes, &[1, a, b], self.dtype.size()),
                false => bytes.to_vec(),
            };
            TensorData::from_bytes_vec(bytes, shape.to_vec(), self.dtype).convert_dtype(DType::F32)
        });
        round(self.name, shape[1], matrices, scheme)
    }
}

/// Codes and scales of f32 matrices of `inputs` columns, one after the other, called `name` together.
pub(crate) fn round(
    name: &str,
    inputs: usize,
    matrices: impl Iterator<Item = TensorData>,
    scheme: QuantScheme,
) -> Result<(TensorData, TensorData), LoadError> {
    let (mut codes, mut scales, mut rows) = (Vec::new(), Vec::new(), 0);
    for matrix in matrices {
        let values = matrix.as_slice::<f32>().expect("the matrix was made in f32");
        let rounded = scheme.round(values, inputs).map_err(|source| LoadError::Round {
            tensor: name.to_owned(),
            source: match source {
                QuantError::NotFinite { row } => QuantError::NotFinite { row: rows + row },
                other => other,
            },
        })?;
        rows += values.len() / inputs.max(1);
        // Mostly there is one.
        if codes.is_empty() {
            (codes, scales) = (rounded.codes, rounded.scales);
        } else {
            codes.extend(rounded.codes);
            scales.extend(rounded.scales);
        }
    }
    let shape = vec![rows, scheme.row_bytes(inputs)];
    let codes = TensorData::from_bytes_vec(codes, shape, scheme.code_dtype());
    Ok((codes, TensorData::new(scales, [rows, scheme.groups(inputs)])))
}
