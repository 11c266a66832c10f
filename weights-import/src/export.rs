//! From a model to a Hugging Face checkpoint folder.

mod error;
mod folder;
mod plan;
mod quantize;
mod tensors;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::Quantisation;
use serde_json::{Map, Value, json};

pub use error::ExportError;
pub use folder::remove_unfinished;
pub use quantize::{QuantizeOptions, quantize_checkpoint};
pub use tensors::{LazyTensor, save_tensors};

use crate::Checkpoint;
use crate::checkpoint::{INDEX_FILE, SINGLE_FILE};
use crate::error::LoadError;
use crate::load::Progress;
pub(crate) use folder::NewFolder;
use plan::{Planner, shards};
pub(crate) use tensors::write_tensors;

/// How an export is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// `F32`, `BF16` or `F16`; without it, each tensor has the dtype that it has in the source.
    pub dtype: Option<DType>,
    /// Most bytes of one file, unless a single tensor has more (5 GB, as in transformers 4).
    pub max_shard_bytes: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportReport {
    pub folder: PathBuf,
    /// Files with tensors.
    pub weight_files: Vec<String>,
    /// Other files, in order of their names.
    pub copied: Vec<String>,
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// How the names of files begin that belong to a checkpoint beside its weights.
const COMPANIONS: [&str; 12] = [
    "added_tokens.json",
    "chat_template.",
    "generation_config.json",
    "LICENSE",
    "merges.txt",
    "NOTICE",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer",
    "video_preprocessor_config.json",
    "vocab.",
];

/// Writes `model` as a checkpoint folder with the key set, shapes and orientation of the checkpoint in `source`, the
/// one that it was loaded from, and with its configuration, tokenizer and processor files.
///
/// Side paths (LoRA) are merged into their weights. Tensors of the source that the model does not use are copied. A source without weights (a configuration whose
/// model was made at random) gives the names and shapes that transformers writes. Values are converted one tensor at
/// a time. The folder appears under its name when it is complete and on disk.
///
/// # Errors
/// When `out` exists and is not an empty folder, the model is not that of `source`, a value is not finite, or a file
/// cannot be read or written.
pub fn export_model(
    model: &Qwen3VlModel,
    source: &Path,
    out: &Path,
    options: &ExportOptions,
    progress: &mut dyn Progress,
) -> Result<ExportReport, ExportError> {
    if let Some(dtype) = options.dtype.filter(|d| !is_weight_dtype(*d)) {
        return Err(ExportError::WeightDtype { dtype: format!("{dtype:?}") });
    }
    let config = Config::read(source)?;
    let checkpoint = match Checkpoint::open(source) {
        Ok(checkpoint) => Some(checkpoint),
        Err(LoadError::NoWeights { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let fallback = config.dtype();
    let planner = Planner { source: checkpoint.as_ref(), dtype: options.dtype, fallback };
    let tensors = planner.tensors(model)?;
    let config = config.text(options.dtype);
    write_folder((source, out), tensors, &config, options.max_shard_bytes, progress)
}

/// Writes weights and config to `out` and copies the other files of `source`; the folder appears complete.
fn write_folder(
    (source, out): (&Path, &Path),
    tensors: Vec<LazyTensor<'_>>,
    config: &str,
    max_shard_bytes: u64,
    progress: &mut dyn Progress,
) -> Result<ExportReport, ExportError> {
    let folder = NewFolder::begin(out)?;
    let mut report = ExportReport {
        folder: PathBuf::new(),
        weight_files: Vec::new(),
        copied: Vec::new(),
        tensors: tensors.len(),
        bytes: tensors.iter().map(LazyTensor::bytes).sum(),
    };
    report.weight_files = write_shards(&folder, tensors, max_shard_bytes, progress)?;
    folder.write("config.json", config.as_bytes())?;
    report.copied = copy_companions(source, &folder)?;
    report.folder = folder.finish()?;
    Ok(report)
}

fn is_weight_dtype(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
}

fn write_shards(
    folder: &NewFolder,
    tensors: Vec<LazyTensor<'_>>,
    limit: u64,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, ExportError> {
    let total = tensors.iter().map(LazyTensor::bytes).sum();
    let shards = shards(tensors, limit);
    let count = shards.len();
    let (mut files, mut map) = (Vec::new(), Map::new());
    let state = RefCell::new((progress, 0));
    for (index, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        let shard = shard.into_iter().map(|tensor| tensor.reported(&state, total)).collect();
        tensors::write_tensors(&folder.create(&name)?, &folder.path(&name), shard)?;
        files.push(name);
    }
    if count > 1 {
        map.sort_keys();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        folder.write(INDEX_FILE, pretty(&index).as_bytes())?;
    }
    Ok(files)
}

fn copy_companions(source: &Path, folder: &NewFolder) -> Result<Vec<String>, ExportError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(source).map_err(LoadError::io(source))? {
        let entry = entry.map_err(LoadError::io(source))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Through links: a hub cache consists of them.
        let is_file = entry.path().is_file();
        if is_file && COMPANIONS.iter().any(|start| name.starts_with(start)) {
            folder.copy(&entry.path(), &name)?;
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The source's `config.json`.
struct Config {
    text: String,
    object: Map<String, Value>,
}

impl Config {
    fn read(source: &Path) -> Result<Self, ExportError> {
        let path = source.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => Ok(Self { text, object }),
            _ => Err(ExportError::Config { path }),
        }
    }

    /// The dtype that it names.
    fn dtype(&self) -> Option<DType> {
        let name = ["dtype", "torch_dtype"].iter().find_map(|key| self.object.get(*key)?.as_str());
        [DType::F32, DType::F16, DType::BF16].into_iter().find(|d| Some(torch_name(*d)) == name)
    }

    /// The file's text with a `quantization_config`.
    fn quantised(&self, quantisation: Quantisation) -> String {
        let mut object = self.object.clone();
        object.insert("quantization_config".into(), quantisation.to_json());
        pretty(&Value::Object(object))
    }

    /// The file's text; where another dtype was asked for, that is stated wherever a dtype stands.
    fn text(&self, dtype: Option<DType>) -> String {
        let Some(dtype) = dtype.filter(|dtype| self.dtype() != Some(*dtype)) else {
            return self.text.clone();
        };
        let mut object = self.object.clone();
        if !object.contains_key("dtype") && !object.contains_key("torch_dtype") {
            object.insert("dtype".into(), Value::Null);
        }
        state_dtype(&mut object, torch_name(dtype));
        for part in ["text_config", "vision_config"] {
            if let Some(Value::Object(part)) = object.get_mut(part) {
                state_dtype(part, torch_name(dtype));
            }
        }
        pretty(&Value::Object(object))
    }
}

fn state_dtype(object: &mut Map<String, Value>, name: &str) {
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = object.get_mut(key) {
            *value = json!(name);
        }
    }
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
