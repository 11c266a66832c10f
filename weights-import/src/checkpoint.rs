//! The tensors of a model: one or more safetensors files with a `config.json`, or GGUF files.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl_backends::memmap::{HostBytes, MappedFile};
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::config::{Method, Quantisation};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::apart;
use crate::error::LoadError;
use crate::gguf::{GgufModel, Storage};

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
    sees: bool,
}

/// One mapped file of tensors.
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
    pub storage: Storage,
    pub shape: Vec<usize>,
    /// Bytes in the file; of the first part, where a weight is stored in parts.
    pub range: Range<usize>,
    /// Files and bytes of the other parts.
    pub rest: Vec<(usize, Range<usize>)>,
    /// How often the parts take turns: each gives that share of its bytes before the next one does.
    pub turns: usize,
}

impl TensorEntry {
    /// Its dtype in safetensors' terms; `None` for blocks.
    pub fn dtype(&self) -> Option<Dtype> {
        match self.storage {
            Storage::Plain(dtype) => Some(dtype),
            Storage::Blocks(_) => None,
        }
    }

    /// The Burn dtype, where it holds floats one after the other.
    pub fn burn_dtype(&self) -> Option<DType> {
        self.dtype().and_then(burn_dtype)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts().map(|(_, range)| range.len() as u64).sum()
    }

    /// Files and bytes of all parts.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        let rest = self.rest.iter().map(|(file, range)| (*file, range));
        std::iter::once((self.file, &self.range)).chain(rest)
    }
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
        let mut checkpoint = Self {
            folder: folder.to_owned(),
            config,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            sees: true,
        };
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
        apart::join(&mut checkpoint.tensors);
        Ok(checkpoint)
    }

    /// The tensors of GGUF files.
    pub(crate) fn of_gguf(gguf: GgufModel) -> Result<Self, LoadError> {
        let mut config = gguf.validated()?;
        let (folder, sees) = (gguf.text.path.clone(), gguf.vision.is_some());
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for (file, entries) in gguf.into_files()? {
            files.push(file);
            tensors.extend(entries);
        }
        let mut bytes: HashMap<QuantScheme, u64> = HashMap::new();
        for entry in tensors.values() {
            if let Storage::Blocks(block) = entry.storage {
                *bytes.entry(block.scheme()).or_default() += entry.bytes();
            }
        }
        let main = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
        config.quantisation =
            main.map(|(scheme, _)| Quantisation { method: Method::Gguf, scheme, mixed: true });
        Ok(Self { folder, config, files, tensors, sees })
    }

    /// Whether it has a vision tower; a GGUF file without its mmproj has none.
    pub fn sees(&self) -> bool {
        self.sees
    }

    /// The folder; of a GGUF model, the file of the language model.
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

    /// A part of a tensor, as it is mapped.
    pub fn part(&self, (file, range): (usize, &Range<usize>)) -> HostBytes {
        self.files[file].map.part(range.clone())
    }

    /// All tensors by name. Experts of a layer that are stored one by one and are not rounded are one tensor, as they are where
    /// transformers wrote them.
    pub fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    /// The file that holds `entry`, the first of them where it is in parts.
    pub fn file(&self, entry: &TensorEntry) -> &WeightFile {
        &self.files[entry.file]
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(TensorEntry::bytes).sum()
    }

    /// A copy of the bytes of a tensor, its parts put together, read past the mapping.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, entry: &TensorEntry) -> Result<Vec<u8>, LoadError> {
        let read = |(file, range): (usize, &Range<usize>)| {
            let WeightFile { path, map } = &self.files[file];
            map.read(range.clone()).map_err(LoadError::io(path))
        };
        if entry.rest.is_empty() {
            return read((entry.file, &entry.range));
        }
        let parts = entry.parts().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut bytes = Vec::with_capacity(entry.bytes() as usize);
        for turn in 0..entry.turns {
            for part in &parts {
                let share = part.len() / entry.turns;
                bytes.extend_from_slice(&part[turn * share..][..share]);
            }
        }
        Ok(bytes)
    }

    /// The dtype that most bytes of the checkpoint have. Blocks count as f16, which their scales have, and E4M3 as bf16.
    pub fn main_dtype(&self) -> DType {
        let mut bytes: HashMap<DType, u64> = HashMap::new();
        for (_, entry) in self.tensors.iter().filter(|(name, _)| !holds_scales(name)) {
            let dtype = match entry.storage {
                Storage::Blocks(_) => Some(DType::F16),
                Storage::Plain(Dtype::F8_E4M3) => Some(DType::BF16),
                Storage::Plain(dtype) => burn_dtype(dtype),
            };
            if let Some(dtype) = dtype {
                *bytes.entry(dtype).or_default() += entry.bytes();
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
                storage: Storage::Plain(info.dtype),
                shape: info.shape.clone(),
                range: start + from..start + to,
                rest: Vec::new(),
                turns: 1,
            };
            self.tensors.insert(name, entry);
        }
        self.files.push(WeightFile { path: path.to_owned(), map });
        Ok(())
    }
}

/// Whether a tensor of this name holds the scales of a weight.
fn holds_scales(name: &str) -> bool {
    [".scales", Quantisation::SCALE, ".weight_scale_inv"].iter().any(|end| name.ends_with(end))
}

/// Reads and validates `config.json`.
///
/// # Errors
/// When it cannot be read, or what it says cannot be computed.
pub fn read_config(folder: &Path) -> Result<Qwen3VlConfig, LoadError> {
    if folder.is_file() {
        return Err(LoadError::NoFolder { path: folder.to_owned() });
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
    Qwen3VlConfig::from_json(&text).map_err(|source| LoadError::Config { path, source })
}

/// The dtype of the weights, or, where there are none yet, the one that `config` names.
pub fn stored_dtype(weights: Option<&Checkpoint>, config: &Qwen3VlConfig) -> DType {
    match (weights, config.dtype.as_deref()) {
        (Some(checkpoint), _) => checkpoint.main_dtype(),
        (None, Some("float32")) => DType::F32,
        (None, Some("float16")) => DType::F16,
        _ => DType::BF16,
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
