//! A checkpoint with its linear weights rounded, written so that it loads without conversion.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use qwen3_vl_model::config::Quantisation;
use safetensors::Dtype;

use super::plan::copied;
use super::tensors::LazyTensor;
use super::{Config, ExportError, ExportReport, write_folder};
use crate::Checkpoint;
use crate::checkpoint::TensorEntry;
use crate::error::LoadError;
use crate::load::rounded::{round, scales_name};
use crate::load::{Progress, check_checkpoint, unloaded};
use crate::names::module_path;
use crate::rounding::Rounding;

/// What is rounded, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeOptions {
    pub rounding: Rounding,
    /// Most bytes of one file, unless a single tensor has more.
    pub max_shard_bytes: u64,
}

/// Writes the checkpoint in `source` to the new folder `out` with the weights that the options choose rounded, and every
/// other tensor as it is; `config.json` gets a `quantization_config`, and tokenizer and processor files are copied.
///
/// One tensor at a time is in memory. The folder appears under its name when it is complete and on disk.
///
/// # Errors
/// When `out` exists and is not an empty folder, the checkpoint is incomplete or rounded already, a pattern names no
/// layer, a weight is not finite, or a file cannot be read or written.
pub fn quantize_checkpoint(
    source: &Path,
    out: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn Progress,
) -> Result<ExportReport, ExportError> {
    let (config, checkpoint) = (Config::read(source)?, Checkpoint::open(source)?);
    let tensors = tensors(&checkpoint, &options.rounding)?;
    let config = config.quantised(Quantisation::own(options.rounding.scheme));
    write_folder((source, out), tensors, &config, options.max_shard_bytes, progress)
}

fn tensors<'c>(
    checkpoint: &'c Checkpoint,
    rounding: &Rounding,
) -> Result<Vec<LazyTensor<'c>>, LoadError> {
    let folder = checkpoint.folder().to_owned();
    if let Some(Quantisation { scheme, .. }) = checkpoint.config().quantisation {
        return Err(LoadError::Rounded { folder, scheme });
    }
    let report = check_checkpoint(checkpoint)?;
    if !report.is_complete() {
        return Err(LoadError::Mismatch { folder, report: Box::new(report) });
    }
    let chosen = rounding.choose(&mut unloaded(checkpoint.config()))?;
    let is_chosen = |name: &str| {
        let path = module_path(name);
        let layer = path.as_deref().and_then(|path| path.strip_suffix(".weight"));
        layer.is_some_and(|layer| chosen.contains(layer))
    };
    let mut tensors = Vec::new();
    for (name, entry) in checkpoint.tensors() {
        match is_chosen(name) {
            true => tensors.extend(rounded(checkpoint, (name, entry), rounding)),
            false => tensors.push(copied(checkpoint, name, entry)),
        }
    }
    Ok(tensors)
}

/// Codes and scales, each rounded when it is written: the scales of all weights come before the codes of all, and keeping
/// either until then would take the memory of the whole checkpoint.
fn rounded<'c>(
    checkpoint: &'c Checkpoint,
    (name, entry): (&'c str, &'c TensorEntry),
    rounding: &Rounding,
) -> [LazyTensor<'c>; 2] {
    let scheme = rounding.scheme_of(name);
    let (rows, inputs) = (entry.shape[0], entry.shape[1]);
    let both = move || {
        let file = checkpoint.file(entry);
        let Some(dtype) = entry.burn_dtype() else {
            let (tensor, dtype) = (name.to_owned(), entry.storage.to_string());
            return Err(LoadError::Dtype { path: file.path.clone(), tensor, dtype });
        };
        let bytes = file.map.read(entry.range.clone()).map_err(LoadError::io(&file.path))?;
        let data = TensorData::from_bytes_vec(bytes, vec![rows, inputs], dtype);
        round(name, data.convert_dtype(DType::F32), scheme)
    };
    let dtype = if scheme.bits() == 8 { Dtype::I8 } else { Dtype::U8 };
    let shape = vec![rows, scheme.row_bytes(inputs)];
    let codes = move || Ok(both()?.0);
    let scales = move || Ok(both()?.1);
    let groups = vec![rows, scheme.groups(inputs)];
    [
        LazyTensor::raw(name.to_owned(), dtype, shape, Box::new(codes)),
        LazyTensor::raw(scales_name(name), Dtype::BF16, groups, Box::new(scales)),
    ]
}
