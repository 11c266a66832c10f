//! A checkpoint with its linear weights and its experts rounded, written so that it loads without conversion.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::config::Quantisation;
use safetensors::Dtype;

use super::plan::copied;
use super::tensors::LazyTensor;
use super::{Config, ExportError, ExportReport, write_folder};
use crate::Checkpoint;
use crate::checkpoint::TensorEntry;
use crate::error::LoadError;
use crate::load::rounded::{Matrices, scales_name};
use crate::load::{Progress, as_matrix, check_checkpoint, fit, parameters, unloaded};
use crate::names::{Layout, module_path};
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
    let mut model = unloaded(checkpoint.config());
    let chosen = rounding.choose(&mut model)?;
    let shapes: BTreeMap<String, Vec<usize>> = parameters(&model).into_iter().collect();
    let mut tensors = Vec::new();
    for (name, entry) in checkpoint.tensors() {
        let path = module_path(name).filter(|path| chosen.contains(path));
        match path.and_then(|path| shapes.get(&path)) {
            Some(shape) => {
                let stored = Stored { checkpoint, name, entry, shape: shape.clone() };
                tensors.extend(stored.rounded(rounding.scheme_of(name)));
            }
            None => tensors.push(copied(checkpoint, name, entry)),
        }
    }
    Ok(tensors)
}

/// A tensor that is to be rounded.
#[derive(Clone)]
struct Stored<'c> {
    checkpoint: &'c Checkpoint,
    name: &'c str,
    entry: &'c TensorEntry,
    /// That of the parameter, which rounded weights have in the file: groups lie along its last axis.
    shape: Vec<usize>,
}

impl<'c> Stored<'c> {
    /// Codes and scales, each rounded when it is written: the scales of all weights come before the codes of all, and keeping
    /// either until then would take the memory of the whole checkpoint.
    fn rounded(self, scheme: QuantScheme) -> [LazyTensor<'c>; 2] {
        let (name, inputs) = (self.name, as_matrix(&self.shape)[1]);
        let with_last = |last: usize| {
            let mut shape = self.shape.clone();
            shape.splice(shape.len() - 1.., [last]);
            shape
        };
        let (codes_shape, groups) =
            (with_last(scheme.row_bytes(inputs)), with_last(scheme.groups(inputs)));
        let dtype = if scheme.bits() == 8 { Dtype::I8 } else { Dtype::U8 };
        let again = self.clone();
        let codes = move || Ok(self.round(scheme)?.0);
        let scales = move || Ok(again.round(scheme)?.1);
        [
            LazyTensor::raw(name.to_owned(), dtype, codes_shape, Box::new(codes)),
            LazyTensor::raw(scales_name(name), Dtype::BF16, groups, Box::new(scales)),
        ]
    }

    fn round(&self, scheme: QuantScheme) -> Result<(TensorData, TensorData), LoadError> {
        let (name, shape) = (self.name, &self.entry.shape);
        let file = self.checkpoint.file(self.entry);
        let Some(dtype) = self.entry.burn_dtype() else {
            let (tensor, dtype) = (name.to_owned(), self.entry.storage.to_string());
            return Err(LoadError::Dtype { path: file.path.clone(), tensor, dtype });
        };
        let bytes = self.checkpoint.read(self.entry)?;
        let transposed = fit(Layout::Experts, shape, &self.shape) == Some(true);
        Matrices { name, bytes, shape, dtype, transposed }.round(scheme)
    }
}
