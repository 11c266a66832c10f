//! A checkpoint folder: `config.json` and the tensors of one or more safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl_backends::memmap::MappedFile;
use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::config::Quantisation;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::LoadError;

/// Name of the file that lists shards.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of the file of a checkpoint that is not sharded.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";

/// An opened checkpoint: headers are read, tensors are not.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Qwen3VlConfig,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// One mapped safetensors file.
#[derive(Debug)]
pub struct WeightFile {
    pub path: PathBuf,
    pub map: MappedFile,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry {
    /// Index of the file.
    pub file: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub range: Range<usize>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Reads `config.json` and the headers of all weight files in `folder`.
    ///
    /// # Errors
    /// When a file is missing, truncated or malformed, or a shard lacks a tensor that the index lists.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let config = read_config(folder)?;
        let mut checkpoint =
            Self { folder: folder.to_owned(), config, files: Vec::new(), tensors: BTreeMap::new() };
        let index = folder.join(INDEX_FILE);
        let single = folder.join(SINGLE_FILE);
        // Where both exist, the single file counts, as in transformers.
        if single.exists() {
            checkpoint.add_file(&single)?;
        } else if index.exists() {
            checkpoint.add_shards(&index)?;
        } else {
            return Err(LoadError::NoWeights { folder: folder.to_owned() });
        }
        Ok(checkpoint)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The validated configuration.
    pub fn config(&self) -> &Qwen3VlConfig {
        &self.config
    }

    /// Replaces the configuration, as options of the user change it.
    #[must_use]
    pub fn with_config(mut self, config: Qwen3VlConfig) -> Self {
        self.config = config;
        self
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    /// The file that holds `entry`.
    pub fn file(&self, entry: &TensorEntry) -> &WeightFile {
        &self.files[entry.file]
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// The dtype that most bytes of the checkpoint have.
    pub fn main_dtype(&self) -> DType {
        let mut bytes: HashMap<DType, usize> = HashMap::new();
        let scales = |name: &str| name.ends_with(&format!(".weight{}", Quantisation::SCALE));
        for (_, entry) in self.tensors.iter().filter(|(name, _)| !scales(name)) {
            if let Some(dtype) = burn_dtype(entry.dtype) {
                *bytes.entry(dtype).or_default() += entry.range.len();
            }
        }
        bytes.into_iter().max_by_key(|(_, n)| *n).map_or(DType::F32, |(dtype, _)| dtype)
    }

    fn add_shards(&mut self, index: &Path) -> Result<(), LoadError> {
        let map: ShardIndex = read_json(index)?;
        let mut shards: Vec<&String> = map.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            self.add_shard(index, &map, shard)?;
        }
        let lost = map.weight_map.iter().find(|(name, _)| !self.tensors.contains_key(*name));
        match lost {
            Some((tensor, shard)) => {
                Err(shard_error(index, tensor, shard, "which does not contain it"))
            }
            None => Ok(()),
        }
    }

    fn add_shard(&mut self, index: &Path, map: &ShardIndex, shard: &str) -> Result<(), LoadError> {
        let tensor = || {
            let mut named = map.weight_map.iter().filter(|(_, s)| *s == shard);
            named.next().map_or("", |(name, _)| name.as_str())
        };
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard);
        let path = self.folder.join(shard);
        match (plain, path.exists()) {
            (false, _) => {
                Err(shard_error(index, tensor(), shard, "which is not a plain file name"))
            }
            (_, false) => Err(shard_error(index, tensor(), shard, "which is not in the folder")),
            _ => self.add_file(&path),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), LoadError> {
        let map = MappedFile::open(path).map_err(LoadError::io(path))?;
        let header = |source| LoadError::Header { path: path.to_owned(), source };
        let (header_len, metadata) = SafeTensors::read_metadata(map.as_slice()).map_err(header)?;
        let start = 8 + header_len;
        let held = map.as_slice().len() - start;
        if metadata.data_len() != held {
            return Err(header(safetensors::SafeTensorError::MetadataIncompleteBuffer));
        }
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let entry = TensorEntry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: start + from..start + to,
            };
            self.tensors.insert(name, entry);
        }
        self.files.push(WeightFile { path: path.to_owned(), map });
        Ok(())
    }
}

/// Reads and validates `config.json`.
pub fn read_config(folder: &Path) -> Result<Qwen3VlConfig, LoadError> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
    Qwen3VlConfig::from_json(&text).map_err(|source| LoadError::Config { path, source })
}

/// The dtype of the weights in `folder`, or, where there are none yet, the one that `config` names.
///
/// # Errors
/// When there are weight files and they cannot be opened.
pub fn stored_dtype(folder: &Path, config: &Qwen3VlConfig) -> Result<DType, LoadError> {
    match Checkpoint::open(folder) {
        Ok(checkpoint) => Ok(checkpoint.main_dtype()),
        Err(LoadError::NoWeights { .. }) => Ok(match config.dtype.as_deref() {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::BF16,
        }),
        Err(error) => Err(error),
    }
}

/// The Burn dtype of a float tensor that weights may have.
pub fn burn_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text = std::fs::read_to_string(path).map_err(LoadError::io(path))?;
    serde_json::from_str(&text).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

fn shard_error(index: &Path, tensor: &str, shard: &str, reason: &'static str) -> LoadError {
    LoadError::Shard {
        index: index.to_owned(),
        tensor: tensor.to_owned(),
        shard: shard.to_owned(),
        reason,
    }
}
