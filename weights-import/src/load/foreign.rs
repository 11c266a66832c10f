//! Weights that other programs rounded, found beside what belongs to them and turned into our layout. Codes stay what they
//! are, so that every number is the one that their own programs make of it.

use burn::tensor::{DType, TensorData, bf16, f16};
use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use qwen3_vl_model::config::Method;
use rayon::prelude::*;
use safetensors::Dtype;

use super::{Item, Loader, repack};
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;
use crate::gguf::{BlockType, Storage};

/// How a weight is stored, with what lies beside its codes.
pub(super) enum Foreign<'c> {
    /// Blocks of ggml.
    Blocks(BlockType),
    /// E4M3 numbers with scales for blocks of 128 by 128, for rows, or for all.
    Float8 { scales: &'c TensorEntry },
    /// AutoAWQ: codes `[in, out / 8]`, zero points `[groups, out / 8]`, scales `[groups, out]`.
    Awq { zeros: &'c TensorEntry, scales: &'c TensorEntry, scheme: QuantScheme },
    /// compressed-tensors: codes `[out, in / 8]`, zero points `[out / 8, groups]`, scales `[out, groups]`.
    Packed { zeros: Option<&'c TensorEntry>, scales: &'c TensorEntry, scheme: QuantScheme },
}

impl Foreign<'_> {
    /// The layout that the weight becomes.
    pub fn scheme(&self) -> QuantScheme {
        match self {
            Self::Blocks(block) => block.scheme(),
            Self::Float8 { .. } => QuantScheme::FLOAT8,
            Self::Awq { scheme, .. } => *scheme,
            // The difference of code and zero point times an f32 scale is no difference of two f32.
            Self::Packed { zeros: Some(_), scales, scheme } if is_f32(scales) => {
                QuantScheme::new(8, scheme.group() as u64).expect("a size of group that is known")
            }
            Self::Packed { scheme, .. } => *scheme,
        }
    }

    /// The dtype of its scales in our layout: their own, and f32 where there are minimums.
    pub fn scale_dtype(&self) -> DType {
        match self {
            Self::Blocks(block) => block.scale_dtype(),
            Self::Float8 { scales } | Self::Packed { zeros: None, scales, .. } => {
                scales.burn_dtype().unwrap_or(DType::F32)
            }
            Self::Awq { .. } | Self::Packed { .. } => DType::F32,
        }
    }
}

fn is_f32(entry: &TensorEntry) -> bool {
    entry.storage == Storage::Plain(Dtype::F32)
}

/// Names of the tensors that belong to the weight `name`, which other programs may store beside it.
pub(super) fn side_names(name: &str) -> Vec<String> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let ends = [
        "qweight",
        "qzeros",
        "scales",
        "weight_packed",
        "weight_scale",
        "weight_scale_inv",
        "weight_zero_point",
        "weight_shape",
        "input_scale",
    ];
    ends.map(|end| format!("{module}.{end}")).into()
}

/// The weight `name` of `shape`, where another program rounded it.
///
/// # Errors
/// When something that belongs to it is missing, or has another shape or dtype.
pub(super) fn find<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    shape: &[usize],
) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
    if let Some(entry) = checkpoint.tensors().get(name) {
        let foreign = match (entry.storage, shape) {
            (Storage::Blocks(block), _) => Foreign::Blocks(block),
            (Storage::Plain(Dtype::F8_E4M3), &[rows, inputs]) => {
                Side { checkpoint, name, rows, inputs, scheme: QuantScheme::FLOAT8 }.float8()?
            }
            _ => return Ok(None),
        };
        return Ok(Some((entry, foreign)));
    }
    let (Some(quantisation), &[rows, inputs]) = (checkpoint.config().quantisation, shape) else {
        return Ok(None);
    };
    let side = Side { checkpoint, name, rows, inputs, scheme: quantisation.scheme };
    match quantisation.method {
        Method::Awq => side.awq(),
        Method::CompressedTensors => side.packed(),
        _ => Ok(None),
    }
}

/// The tensors beside a weight.
#[derive(Clone, Copy)]
struct Side<'c, 'n> {
    checkpoint: &'c Checkpoint,
    name: &'n str,
    rows: usize,
    inputs: usize,
    scheme: QuantScheme,
}

impl<'c> Side<'c, '_> {
    fn named(&self, end: &str) -> (String, Option<&'c TensorEntry>) {
        let name = format!("{}.{end}", self.name.strip_suffix(".weight").unwrap_or(self.name));
        let entry = self.checkpoint.tensors().get(&name);
        (name, entry)
    }

    /// A tensor that must be there, with one of `dtypes` and `shape`.
    fn needed(
        &self,
        beside: (&str, &TensorEntry),
        end: &str,
        dtypes: &[Dtype],
        shape: [usize; 2],
    ) -> Result<&'c TensorEntry, LoadError> {
        let (side, entry) = self.named(end);
        let entry = entry.ok_or_else(|| LoadError::Side {
            path: self.checkpoint.file(beside.1).path.clone(),
            tensor: beside.0.to_owned(),
            side: side.clone(),
        })?;
        self.check((&side, entry), dtypes, &[&shape])?;
        Ok(entry)
    }

    fn check(
        &self,
        (name, entry): (&str, &TensorEntry),
        dtypes: &[Dtype],
        shapes: &[&[usize]],
    ) -> Result<(), LoadError> {
        let typed = entry.dtype().is_some_and(|dtype| dtypes.contains(&dtype));
        if typed && shapes.contains(&&entry.shape[..]) {
            return Ok(());
        }
        let kinds: Vec<String> = dtypes.iter().map(|dtype| format!("{dtype:?}")).collect();
        let Self { rows, inputs, scheme, .. } = self;
        let (kinds, shape) = (kinds.join(" or "), shapes[0]);
        Err(LoadError::Layout {
            path: self.checkpoint.file(entry).path.clone(),
            tensor: name.to_owned(),
            found: format!("{} {:?}", entry.storage, entry.shape),
            expected: format!(
                "the weight of {rows} by {inputs} values in {scheme} needs {kinds} {shape:?}"
            ),
        })
    }

    fn float8(&self) -> Result<Foreign<'c>, LoadError> {
        let entry = &self.checkpoint.tensors()[self.name];
        self.check((self.name, entry), &[Dtype::F8_E4M3], &[&[self.rows, self.inputs]])?;
        let (inverse, named) = (self.named("weight_scale_inv"), self.named("weight_scale"));
        let (name, scales) = if inverse.1.is_some() { inverse } else { named };
        let scales = scales.ok_or_else(|| LoadError::Side {
            path: self.checkpoint.file(entry).path.clone(),
            tensor: self.name.to_owned(),
            side: format!("{}_scale_inv", self.name),
        })?;
        let blocks = [self.rows.div_ceil(128), self.inputs.div_ceil(128)];
        let shapes: [&[usize]; 5] = [&blocks, &[self.rows, 1], &[self.rows], &[1], &[]];
        self.check((&name, scales), &FLOATS, &shapes)?;
        Ok(Foreign::Float8 { scales })
    }

    fn awq(&self) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
        let (name, Some(codes)) = self.named("qweight") else { return Ok(None) };
        let (scheme, columns) = (self.scheme, self.rows.div_ceil(8));
        self.check((&name, codes), &[Dtype::I32], &[&[self.inputs, columns]])?;
        let (groups, beside) = (scheme.groups(self.inputs), (&name[..], codes));
        let zeros = self.needed(beside, "qzeros", &[Dtype::I32], [groups, columns])?;
        let halves = [Dtype::F16, Dtype::BF16];
        let scales = self.needed(beside, "scales", &halves, [groups, self.rows])?;
        Ok(Some((codes, Foreign::Awq { zeros, scales, scheme })))
    }

    fn packed(&self) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
        let (name, Some(codes)) = self.named("weight_packed") else { return Ok(None) };
        let scheme = self.scheme;
        self.check((&name, codes), &[Dtype::I32], &[&[self.rows, self.inputs.div_ceil(8)]])?;
        let (groups, beside) = (scheme.groups(self.inputs), (&name[..], codes));
        let (side, scales) = self.named("weight_scale");
        let whole = [self.rows, 1];
        let scales = match scales.filter(|scales| scales.shape == whole && scheme.group() == 128) {
            Some(scales) => {
                self.check((&side, scales), &FLOATS, &[&whole])?;
                scales
            }
            None => self.needed(beside, "weight_scale", &FLOATS, [self.rows, groups])?,
        };
        let zeros = match scheme.has_minimums() {
            false => None,
            true => {
                let shape = [self.rows.div_ceil(8), scales.shape[1]];
                Some(self.needed(beside, "weight_zero_point", &[Dtype::I32], shape)?)
            }
        };
        Ok(Some((codes, Foreign::Packed { zeros, scales, scheme })))
    }
}

const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];

/// A weight in our layout.
pub(super) struct Packed {
    /// `[rows, row_bytes]`.
    pub codes: TensorData,
    /// `[rows, scale_columns]`.
    pub scales: TensorData,
    pub scheme: QuantScheme,
}

impl Loader<'_, '_> {
    /// The numbers themselves in `wanted`, for what is no linear layer, such as the embedding.
    pub(super) fn expanded(
        &self,
        item: &Item<'_>,
        foreign: &Foreign<'_>,
        (shape, wanted): (&[usize], DType),
    ) -> Result<TensorData, LoadError> {
        let whole = if matches!(foreign, Foreign::Blocks(_)) { &item.entry.shape } else { shape };
        let inputs = whole.last().copied().unwrap_or(1);
        let rows = whole.iter().product::<usize>() / inputs.max(1);
        let packed = self.packed(item, foreign, [rows, inputs])?;
        let bytes = packed.expand([rows, inputs], wanted);
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), wanted))
    }

    /// The weight in our layout.
    pub(super) fn packed(
        &self,
        item: &Item<'_>,
        foreign: &Foreign<'_>,
        [rows, inputs]: [usize; 2],
    ) -> Result<Packed, LoadError> {
        let (scheme, size) = (foreign.scheme(), [rows, inputs]);
        let (codes, scales) = match foreign {
            Foreign::Blocks(block) => {
                let (codes, scales) =
                    repack::blocks(*block, &self.checkpoint.read(item.entry)?, size);
                (self.made(codes, rows, scheme), scales)
            }
            Foreign::Float8 { scales } => {
                let codes = self.bytes(item.entry, &[rows, inputs], DType::U8)?;
                refuse_nan(&item.name, codes.as_bytes(), inputs)?;
                (codes, repack::block_scales(&self.floats(scales)?, size))
            }
            Foreign::Awq { zeros, scales, .. } => {
                let (codes, zeros) = (self.words(item.entry)?, self.words(zeros)?);
                let codes = repack::awq_codes(&codes, size);
                let scales = repack::awq_scales(&zeros, &self.floats(scales)?, size, scheme);
                (self.made(codes, rows, scheme), scales)
            }
            Foreign::Packed { zeros, scales, scheme: stored } => {
                let scales = repack::per_group(&self.floats(scales)?, size, *stored);
                match zeros {
                    None => (self.nibbles(item.entry, size, scheme)?, scales),
                    Some(zeros) => {
                        let zeros = repack::zero_points(&self.words(zeros)?, size, *stored);
                        self.shifted(item.entry, (zeros, scales), size, (*stored, scheme))?
                    }
                }
            }
        };
        let row = scales.iter().position(|scale| !scale.is_finite());
        if let Some(at) = row {
            let row = at / scheme.scale_columns(inputs).max(1);
            let source = QuantError::NotFinite { row };
            return Err(LoadError::Round { tensor: item.name.clone(), source });
        }
        let scales = TensorData::new(scales, [rows, scheme.scale_columns(inputs)]);
        let scales = scales.convert_dtype(foreign.scale_dtype());
        Ok(Packed { codes, scales, scheme })
    }

    /// Codes of compressed-tensors with zero points: with minimums, or as differences where scales are f32.
    fn shifted(
        &self,
        entry: &TensorEntry,
        (zeros, scales): (Vec<u8>, Vec<f32>),
        size: [usize; 2],
        (stored, scheme): (QuantScheme, QuantScheme),
    ) -> Result<(TensorData, Vec<f32>), LoadError> {
        let codes = self.nibbles(entry, size, stored)?;
        if scheme.has_minimums() {
            let scales = repack::with_minimums(&scales, &zeros, stored.groups(size[1]));
            return Ok((codes, scales));
        }
        let codes = repack::differences(codes.as_bytes(), &zeros, size, stored);
        Ok((self.made(codes, size[0], scheme), scales))
    }

    /// Codes of four bits whose rows are padded to whole words, in place where there is no padding.
    fn nibbles(
        &self,
        entry: &TensorEntry,
        [rows, inputs]: [usize; 2],
        scheme: QuantScheme,
    ) -> Result<TensorData, LoadError> {
        let (stored, bytes) = (4 * inputs.div_ceil(8), scheme.row_bytes(inputs));
        if stored == bytes {
            return self.bytes(entry, &[rows, bytes], DType::U8);
        }
        let all = self.checkpoint.read(entry)?;
        let codes = all.chunks(stored).flat_map(|row| &row[..bytes]).copied().collect();
        Ok(self.made(codes, rows, scheme))
    }

    fn made(&self, codes: Vec<u8>, rows: usize, scheme: QuantScheme) -> TensorData {
        let shape = vec![rows, codes.len() / rows.max(1)];
        TensorData::from_bytes_vec(codes, shape, scheme.code_dtype())
    }

    /// A small tensor of floats in f32.
    fn floats(&self, entry: &TensorEntry) -> Result<Vec<f32>, LoadError> {
        let dtype = entry.burn_dtype().expect("the dtype was checked");
        let bytes = self.checkpoint.read(entry)?;
        let data = TensorData::from_bytes_vec(bytes, entry.shape.clone(), dtype);
        let data = data.convert_dtype(DType::F32);
        Ok(data.as_slice::<f32>().expect("converted to f32").to_vec())
    }

    fn words(&self, entry: &TensorEntry) -> Result<Vec<u32>, LoadError> {
        let bytes = self.checkpoint.read(entry)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}

impl Packed {
    /// The numbers as bytes of `wanted`, some rows at a time.
    fn expand(&self, [rows, inputs]: [usize; 2], wanted: DType) -> Vec<u8> {
        const ROWS: usize = 1024;
        let (bytes, columns) = (self.scheme.row_bytes(inputs), self.scheme.scale_columns(inputs));
        let codes = self.codes.as_bytes();
        let mut out = Vec::with_capacity(rows * inputs * wanted.size());
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let mut values = vec![0.0f32; count * inputs];
            values.par_chunks_mut(inputs.max(1)).enumerate().for_each(|(row, values)| {
                let row = first + row;
                let scales = wide(&self.scales, row * columns..(row + 1) * columns);
                self.scheme.expand_row(&codes[row * bytes..][..bytes], &scales, values);
            });
            let data = TensorData::new(values, [count * inputs]).convert_dtype(wanted);
            out.extend_from_slice(data.as_bytes());
        }
        out
    }
}

/// Some scales in f32.
fn wide(scales: &TensorData, range: std::ops::Range<usize>) -> Vec<f32> {
    let known = "scales are floats";
    match scales.dtype() {
        DType::BF16 => {
            scales.as_slice::<bf16>().expect(known)[range].iter().map(|s| s.to_f32()).collect()
        }
        DType::F16 => {
            scales.as_slice::<f16>().expect(known)[range].iter().map(|s| s.to_f32()).collect()
        }
        _ => scales.as_slice::<f32>().expect(known)[range].to_vec(),
    }
}

/// Refuses the codes of E4M3 that are no numbers.
fn refuse_nan(tensor: &str, codes: &[u8], inputs: usize) -> Result<(), LoadError> {
    let bad = codes.par_iter().position_first(|code| code & 0x7f == 0x7f);
    bad.map_or(Ok(()), |at| {
        let source = QuantError::NotFinite { row: at / inputs.max(1) };
        Err(LoadError::Round { tensor: tensor.to_owned(), source })
    })
}
