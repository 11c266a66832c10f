//! Weights that other programs rounded, found beside what belongs to them and turned into our layout. Codes stay what they
//! are, so that every number is the one that their own programs make of it.

mod side;

use burn::tensor::{DType, TensorData, bf16, f16};
use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use qwen3_vl_model::config::Method;
use rayon::prelude::*;
use safetensors::Dtype;

use super::{Item, Loader, repack, swap_last_axes};
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;
use crate::gguf::{BlockType, Storage};
use side::{Side, lacks};

/// How a weight is stored, with what lies beside its codes.
pub(super) enum Foreign<'c> {
    /// Blocks of ggml.
    Blocks(BlockType),
    /// E4M3 numbers with scales for blocks of 128 by 128, for rows, or for all.
    Float8 { scales: &'c TensorEntry },
    /// The same for all experts of a layer, `[experts, out, in]`; or the axes `transposed`, those of the scales too.
    Float8Stack { scales: &'c TensorEntry, transposed: bool },
    /// AutoAWQ: codes `[in, out / 8]`, zero points `[groups, out / 8]`, scales `[groups, out]`.
    Awq { zeros: &'c TensorEntry, scales: &'c TensorEntry, scheme: QuantScheme },
    /// compressed-tensors: codes `[out, in / 8]`, zero points `[out / 8, groups]` or a signed byte each `[out, groups]`, scales
    /// `[out, groups]`.
    Packed { zeros: Option<&'c TensorEntry>, scales: &'c TensorEntry, scheme: QuantScheme },
    /// Matrices of experts that are stored one by one, in the order of the rows: all in the same way.
    Apart(Vec<Piece<'c>>),
}

/// A matrix of an expert.
pub(super) struct Piece<'c> {
    pub name: String,
    pub entry: &'c TensorEntry,
    foreign: Foreign<'c>,
}

impl Foreign<'_> {
    /// The layout that the weight becomes.
    pub fn scheme(&self) -> QuantScheme {
        match self {
            Self::Blocks(block) => block.scheme(),
            Self::Float8 { .. } | Self::Float8Stack { .. } => QuantScheme::FLOAT8,
            Self::Apart(pieces) => pieces[0].foreign.scheme(),
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
            Self::Float8 { scales }
            | Self::Float8Stack { scales, .. }
            | Self::Packed { zeros: None, scales, .. } => scales.burn_dtype().unwrap_or(DType::F32),
            Self::Apart(pieces) => pieces[0].foreign.scale_dtype(),
            Self::Awq { .. } | Self::Packed { .. } => DType::F32,
        }
    }
}

fn is_f32(entry: &TensorEntry) -> bool {
    entry.storage == Storage::Plain(Dtype::F32)
}

/// Names of the tensors that the weight `name` is stored in, and of those which other programs may store beside it.
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
    let mut names: Vec<String> = ends.iter().map(|end| format!("{module}.{end}")).collect();
    names.extend(["", "_scale_inv", "_scale"].map(|end| format!("{name}{end}")));
    names
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
            (Storage::Plain(Dtype::F8_E4M3), &[experts, rows, inputs]) => {
                let scheme = QuantScheme::FLOAT8;
                Side { checkpoint, name, rows, inputs, scheme }.float8_stack(experts)?
            }
            _ => return Ok(None),
        };
        return Ok(Some((entry, foreign)));
    }
    let Some(quantisation) = checkpoint.config().quantisation else { return Ok(None) };
    let (rows, inputs) = match *shape {
        [rows, inputs] => (rows, inputs),
        [experts, rows, inputs] => return apart(checkpoint, name, [experts, rows, inputs]),
        _ => return Ok(None),
    };
    let side = Side { checkpoint, name, rows, inputs, scheme: quantisation.scheme };
    match quantisation.method {
        Method::Awq => side.awq(),
        Method::CompressedTensors => side.packed(quantisation.mixed),
        _ => Ok(None),
    }
}

/// The parameter `name` of experts whose matrices another program rounded one by one; `None` where the first is not there.
fn apart<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    [experts, rows, inputs]: [usize; 3],
) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
    let Some((each, names)) = crate::apart::names(name, experts) else { return Ok(None) };
    if !rows.is_multiple_of(each) {
        return Ok(None);
    }
    let mut pieces: Vec<Piece<'c>> = Vec::new();
    for name in names {
        let found = find(checkpoint, &name, &[rows / each, inputs])?;
        let Some((entry, foreign)) = found else {
            // None of them: nothing is there. Some of them: the first that is not is named.
            let Some(first) = pieces.first() else { return Ok(None) };
            return Err(lacks(checkpoint, (&first.name, first.entry), name));
        };
        let kind = |foreign: &Foreign<'_>| (foreign.scheme(), foreign.scale_dtype());
        if let Some(first) = pieces.first().filter(|first| kind(&first.foreign) != kind(&foreign)) {
            let shown = |(scheme, dtype)| format!("in {scheme} with scales in {dtype:?}");
            return Err(LoadError::Layout {
                path: checkpoint.file(entry).path.clone(),
                tensor: name,
                found: shown(kind(&foreign)),
                expected: format!("`{}` is {}", first.name, shown(kind(&first.foreign))),
            });
        }
        pieces.push(Piece { name, entry, foreign });
    }
    let first = pieces.first().map(|piece| piece.entry);
    Ok(first.map(|entry| (entry, Foreign::Apart(pieces))))
}

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
        let packed = self.packed((&item.name, item.entry), foreign, [rows, inputs])?;
        let bytes = packed.expand([rows, inputs], wanted);
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), wanted))
    }

    /// The weight in our layout.
    pub(super) fn packed(
        &self,
        (name, entry): (&str, &TensorEntry),
        foreign: &Foreign<'_>,
        [rows, inputs]: [usize; 2],
    ) -> Result<Packed, LoadError> {
        let (scheme, size) = (foreign.scheme(), [rows, inputs]);
        let (codes, scales) = match foreign {
            Foreign::Blocks(block) => {
                let (codes, scales) = repack::blocks(*block, &self.checkpoint.read(entry)?, size);
                (self.made(codes, rows, scheme), scales)
            }
            Foreign::Float8 { scales } => {
                let codes = self.bytes(entry, &[rows, inputs], DType::U8)?;
                refuse_nan(name, codes.as_bytes(), inputs)?;
                (codes, repack::block_scales(&self.floats(scales)?, &scales.shape, size))
            }
            Foreign::Float8Stack { scales, transposed } => {
                let codes = match transposed {
                    false => self.bytes(entry, &[rows, inputs], DType::U8)?,
                    true => {
                        let codes = swap_last_axes(&self.checkpoint.read(entry)?, &entry.shape, 1);
                        self.made(codes, rows, scheme)
                    }
                };
                refuse_nan(name, codes.as_bytes(), inputs)?;
                let (experts, [a, b]) = (entry.shape[0], [scales.shape[1], scales.shape[2]]);
                let size = [rows / experts.max(1), inputs];
                let scales = self.floats(scales)?;
                let of_expert = |scales: &[f32]| match transposed {
                    false => repack::block_scales(scales, &[a, b], size),
                    true => repack::block_scales(&repack::turned(scales, b), &[b, a], size),
                };
                (codes, scales.chunks((a * b).max(1)).flat_map(of_expert).collect())
            }
            Foreign::Apart(pieces) => return self.together(pieces, size),
            Foreign::Awq { zeros, scales, .. } => {
                let (codes, zeros) = (self.words(entry)?, self.words(zeros)?);
                let codes = repack::awq_codes(&codes, size);
                let scales = repack::awq_scales(&zeros, &self.floats(scales)?, size, scheme);
                (self.made(codes, rows, scheme), scales)
            }
            Foreign::Packed { zeros, scales, scheme: stored } => {
                let scales = repack::per_group(&self.floats(scales)?, size, *stored);
                match zeros {
                    None => (self.nibbles(entry, size, scheme)?, scales),
                    Some(zeros) => {
                        let zeros = match zeros.dtype() {
                            Some(Dtype::I8) => {
                                let columns = zeros.shape[1];
                                let bytes = self.checkpoint.read(zeros)?;
                                repack::signed_zero_points(&bytes, columns, stored.groups(inputs))
                            }
                            _ => repack::zero_points(&self.words(zeros)?, size, *stored),
                        };
                        self.shifted(entry, (zeros, scales), size, (*stored, scheme))?
                    }
                }
            }
        };
        let row = scales.iter().position(|scale| !scale.is_finite());
        if let Some(at) = row {
            let row = at / scheme.scale_columns(inputs).max(1);
            let source = QuantError::NotFinite { row };
            return Err(LoadError::Round { tensor: name.to_owned(), source });
        }
        let scales = TensorData::new(scales, [rows, scheme.scale_columns(inputs)]);
        let scales = scales.convert_dtype(foreign.scale_dtype());
        Ok(Packed { codes, scales, scheme })
    }

    /// The rows of all pieces, one after the other.
    fn together(
        &self,
        pieces: &[Piece<'_>],
        [rows, inputs]: [usize; 2],
    ) -> Result<Packed, LoadError> {
        let each = rows / pieces.len().max(1);
        let (scheme, dtype) = (pieces[0].foreign.scheme(), pieces[0].foreign.scale_dtype());
        let columns = scheme.scale_columns(inputs);
        let mut codes = Vec::with_capacity(rows * scheme.row_bytes(inputs));
        let mut scales = Vec::with_capacity(rows * columns * dtype.size());
        for Piece { name, entry, foreign } in pieces {
            let piece = self.packed((name, entry), foreign, [each, inputs])?;
            codes.extend_from_slice(piece.codes.as_bytes());
            scales.extend_from_slice(piece.scales.as_bytes());
        }
        let scales = TensorData::from_bytes_vec(scales, vec![rows, columns], dtype);
        Ok(Packed { codes: self.made(codes, rows, scheme), scales, scheme })
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
