//! Which tensors an export has, under which names, in which shapes and files.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::dtype;
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::blocks::path_of_whole;
use qwen3_vl_model::config::VisionConfig;

use super::ExportError;
use super::tensors::LazyTensor;
use crate::Checkpoint;
use crate::checkpoint::TensorEntry;
use crate::load::{Part, fit, swap_last_axes};
use crate::names::{Layout, stored_name};

const HEAD: &str = "lm_head.weight";

type Read = Box<dyn FnOnce() -> TensorData>;

/// A parameter of the model, whose values are fetched later.
struct Value {
    path: String,
    shape: Vec<usize>,
    dtype: DType,
    /// One after the other, for weights in several buffers.
    reads: Vec<Read>,
}

#[derive(Default)]
struct Values {
    path: Vec<String>,
    found: Vec<Value>,
}

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        self.add(Value::new(path, param.val()));
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

impl Values {
    /// The parameters of a model, side paths merged into their weights as these are read.
    fn of(model: &Qwen3VlModel) -> Self {
        let mut plain = model.clone();
        let mut merged = BTreeMap::new();
        for (path, linear) in plain.linears_mut() {
            if linear.lora.is_some() {
                merged.insert(format!("{path}.weight"), linear.clone());
                linear.lora = None;
            }
        }
        let mut values = Self::default();
        plain.visit(&mut values);
        for value in &mut values.found {
            if let Some(linear) = merged.remove(&value.path) {
                let block = |index| -> Read {
                    let linear = linear.clone();
                    Box::new(move || linear.merged_block(index).into_data())
                };
                value.reads = (0..value.reads.len()).map(block).collect();
            }
        }
        values
    }

    /// Blocks of one weight become the weight.
    fn add(&mut self, value: Value) {
        let whole = path_of_whole(&value.path).map(str::to_owned);
        match (whole, self.found.last_mut()) {
            (Some(path), Some(last)) if last.path == path => {
                last.shape[0] += value.shape[0];
                last.reads.extend(value.reads);
            }
            (Some(path), _) => self.found.push(Value { path, ..value }),
            (None, _) => self.found.push(value),
        }
    }
}

impl Value {
    fn new<const D: usize>(path: String, tensor: Tensor<D>) -> Self {
        let (shape, dtype) = (tensor.dims().to_vec(), tensor.dtype());
        Self { path, shape, dtype, reads: vec![Box::new(move || tensor.into_data())] }
    }

    /// All values, put together on the host.
    fn read(reads: Vec<Read>, shape: &[usize]) -> TensorData {
        let mut parts: Vec<TensorData> = reads.into_iter().map(|read| read()).collect();
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let (dtype, bytes) = (parts[0].dtype(), parts.iter().map(TensorData::as_bytes));
        let bytes = bytes.collect::<Vec<_>>().concat();
        TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype)
    }
}

/// What the tensors of an export are compared with.
pub(super) struct Planner<'s> {
    pub source: Option<&'s Checkpoint>,
    /// What was asked for.
    pub dtype: Option<DType>,
    /// What weights are stored in where the source has none.
    pub fallback: Option<DType>,
}

impl<'s> Planner<'s> {
    /// All tensors of the export, in the order of the model; then those of the source that the model does not use.
    pub fn tensors(&self, model: &Qwen3VlModel) -> Result<Vec<LazyTensor<'s>>, ExportError> {
        let mut values = Values::of(model);
        let stored = |name: &str| self.source.is_some_and(|s| s.tensors().contains_key(name));
        if model.lm_head.is_none() && stored(HEAD) {
            let embedding = model.language_model.embed_tokens.weight.blocks();
            for (index, block) in embedding.iter().enumerate() {
                let path = format!("{HEAD}.parts.{index}");
                values.add(Value::new(path, block.values()));
            }
        }
        let vision = &model.config().vision;
        let tensors = values.found.into_iter().map(|value| self.tensor(value, vision));
        let mut tensors: Vec<LazyTensor<'s>> = tensors.collect::<Result<_, _>>()?;
        self.add_unused(&mut tensors);
        Ok(tensors)
    }

    fn tensor(&self, value: Value, vision: &VisionConfig) -> Result<LazyTensor<'s>, ExportError> {
        let Value { path, shape, dtype, reads } = value;
        let Some((name, layout)) = stored_name(&path) else {
            return Err(ExportError::Parameter { path });
        };
        let entry = self.entry(&name)?;
        let (stored, turned) = match entry {
            None => (own_shape(layout, &shape, vision), false),
            Some(entry) => match fit(layout, &entry.shape, &shape) {
                Some(turned) => (entry.shape.clone(), turned),
                None => return Err(self.misshapen(path, name, shape, entry)),
            },
        };
        let source_dtype = entry.and_then(TensorEntry::burn_dtype);
        let wanted = self.dtype.or(source_dtype).or(self.fallback).unwrap_or(dtype);
        let shape_in_file = stored.clone();
        let label = name.clone();
        let read = move || {
            let mut data = Value::read(reads, &shape).convert_dtype(wanted);
            if turned {
                let bytes = swap_last_axes(data.as_bytes(), &shape, wanted.size());
                data = TensorData::from_bytes_vec(bytes, shape_in_file, wanted);
            }
            match is_finite(data.as_bytes(), wanted) {
                true => Ok(data),
                false => Err(ExportError::NotFinite { name: label, dtype: dtype::name(wanted) }),
            }
        };
        Ok(LazyTensor::fallible(name, wanted, stored, Box::new(read)))
    }

    /// The tensor of the source; an error where there is a source and it has none.
    fn entry(&self, name: &str) -> Result<Option<&'s TensorEntry>, ExportError> {
        let Some(source) = self.source else { return Ok(None) };
        let found = source.tensors().get(name).map(Some);
        found.ok_or_else(|| {
            let folder = source.folder().to_owned();
            ExportError::Missing { folder, name: name.to_owned() }
        })
    }

    fn misshapen(
        &self,
        path: String,
        name: String,
        shape: Vec<usize>,
        entry: &TensorEntry,
    ) -> ExportError {
        let file = self.source.map(|source| source.file(entry).path.clone());
        let (source_file, stored) = (file.unwrap_or_default(), entry.shape.clone());
        ExportError::Shape { part: Part::of(&path), path, shape, source_file, name, stored }
    }

    fn add_unused(&self, tensors: &mut Vec<LazyTensor<'s>>) {
        let Some(source) = self.source else { return };
        let known: std::collections::HashSet<String> =
            tensors.iter().map(|tensor| tensor.name.clone()).collect();
        for (name, entry) in source.tensors().iter().filter(|(name, _)| !known.contains(*name)) {
            tensors.push(copied(source, name, entry));
        }
    }
}

/// A tensor of `source` as it is.
pub(super) fn copied<'s>(
    source: &'s Checkpoint,
    name: &str,
    entry: &'s TensorEntry,
) -> LazyTensor<'s> {
    let read = move || {
        let bytes = source.read(entry)?;
        let length = [bytes.len()];
        Ok(TensorData::from_bytes_vec(bytes, length, DType::U8))
    };
    let dtype = entry.dtype().expect("a folder holds no blocks");
    LazyTensor::raw(name.to_owned(), dtype, entry.shape.clone(), Box::new(read))
}

/// The shape that transformers writes.
fn own_shape(layout: Layout, shape: &[usize], vision: &VisionConfig) -> Vec<usize> {
    match layout {
        Layout::Same | Layout::Experts => shape.to_vec(),
        Layout::ConvAsMatrix => {
            let (frames, side) = (vision.temporal_patch_size, vision.patch_size);
            vec![shape[0], vision.in_channels, frames, side, side]
        }
    }
}

/// Whether no exponent is all ones.
fn is_finite(bytes: &[u8], dtype: DType) -> bool {
    let short = |mask: u16| {
        let numbers = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        numbers.fold(true, |finite, bits| finite & (bits & mask != mask))
    };
    match dtype {
        DType::BF16 => short(0x7f80),
        DType::F16 => short(0x7c00),
        _ => {
            let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            bytes.chunks_exact(4).map(word).all(|bits| bits & 0x7f80_0000 != 0x7f80_0000)
        }
    }
}

/// The files of an export: tensors in order, each file filled up to `limit` bytes; a larger tensor has its own.
pub(super) fn shards<'a>(tensors: Vec<LazyTensor<'a>>, limit: u64) -> Vec<Vec<LazyTensor<'a>>> {
    let mut shards: Vec<Vec<LazyTensor<'a>>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        match shards.last_mut() {
            Some(shard) if shard.is_empty() || filled + bytes <= limit => {
                shard.push(tensor);
                filled += bytes;
            }
            _ => {
                shards.push(vec![tensor]);
                filled = bytes;
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_up_to_the_limit() {
        let tensor = |count: usize| {
            LazyTensor::new(count.to_string(), DType::F32, &[count], || unreachable!())
        };
        let sizes = |limit| -> Vec<Vec<u64>> {
            let tensors = [2, 1, 1, 9, 1, 3].map(tensor).into();
            let bytes = |shard: Vec<LazyTensor<'_>>| shard.iter().map(|t| t.bytes() / 4).collect();
            shards(tensors, limit).into_iter().map(bytes).collect()
        };
        assert_eq!(sizes(16), [vec![2, 1, 1], vec![9], vec![1, 3]]);
        assert_eq!(sizes(68), [[2, 1, 1, 9, 1, 3]]);
        assert_eq!(sizes(1).len(), 6);
    }

    #[test]
    fn infinities_are_seen_in_every_dtype() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let data = |value: f32| TensorData::new(vec![1.0, -value], [2]).convert_dtype(dtype);
            assert!(is_finite(data(60000.0).as_bytes(), dtype), "{dtype:?}");
            assert!(!is_finite(data(f32::INFINITY).as_bytes(), dtype), "{dtype:?}");
            assert!(!is_finite(data(f32::NAN).as_bytes(), dtype), "{dtype:?}");
        }
        let large = TensorData::new(vec![1e6f32], [1]).convert_dtype(DType::F16);
        assert!(!is_finite(large.as_bytes(), DType::F16));
    }
}
