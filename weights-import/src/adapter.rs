//! LoRA adapters in the format of peft: `adapter_config.json` and `adapter_model.safetensors`.

mod attach;
mod config;
mod error;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use qwen3_vl_backends::memmap::MappedFile;
use qwen3_vl_model::Qwen3VlModel;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

pub use config::{AdapterConfig, Targets};
pub use error::AdapterError;

use crate::checkpoint::burn_dtype;
use crate::error::LoadError;
use crate::export::{LazyTensor, NewFolder, write_tensors};
use crate::load::{fit, parameters, unloaded};
use crate::names::{Layout, module_path, stored_name};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Begins every name in the file of weights.
const PREFIX: &str = "base_model.model.";

/// A low-rank update `scale · B·A` of one weight `[out, in]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPair {
    /// `[rank, in]`.
    pub a: TensorData,
    /// `[out, rank]`.
    pub b: TensorData,
}

/// An adapter: what it adds to weights, and what it puts in their place.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub config: AdapterConfig,
    /// By module path of this implementation, such as `language_model.layers.0.self_attn.q_proj`.
    pub pairs: BTreeMap<String, LoraPair>,
    /// Whole parameters (peft `modules_to_save`), by path, such as `visual.merger.norm.weight`. Shapes are those of a
    /// checkpoint: the weight of `visual.patch_embed.proj` has five axes.
    pub saved: BTreeMap<String, TensorData>,
}

impl LoraPair {
    /// The rank.
    pub fn rank(&self) -> usize {
        self.a.shape().first().copied().unwrap_or_default()
    }

    fn check(&self, module: &str) -> Result<(), AdapterError> {
        let (a, b) = (self.a.shape().to_vec(), self.b.shape().to_vec());
        match (&a[..], &b[..]) {
            ([rank, _], [_, same]) if rank == same && *rank > 0 => Ok(()),
            _ => Err(AdapterError::Pair { module: module.to_owned(), a, b }),
        }
    }
}

impl Adapter {
    /// What `B·A` of the module at `path` is multiplied by; `None` where the adapter has no pair.
    pub fn scale(&self, path: &str) -> Option<f64> {
        let rank = self.pairs.get(path)?.rank();
        Some(self.config.scale_of(&module_name(path).ok()?, rank))
    }

    /// Checks that the adapter fits `model`.
    ///
    /// # Errors
    /// When it changes a module that the model has not, or one of another shape.
    pub fn check(&self, model: &Qwen3VlModel) -> Result<(), AdapterError> {
        // As the configuration describes it: some weights of `model` may be rounded.
        let known: BTreeMap<_, _> = parameters(&unloaded(model.config())).into_iter().collect();
        let find = |path: &str, module: &str| {
            known.get(path).ok_or_else(|| unknown(module, path, known.keys()))
        };
        for (module, pair) in &self.pairs {
            pair.check(module)?;
            let expected = find(&format!("{module}.weight"), module)?;
            let found = vec![pair.b.shape()[0], pair.a.shape()[1]];
            if found != *expected {
                let (module, expected) = (module.clone(), expected.clone());
                return Err(AdapterError::Shape { module, found, expected });
            }
        }
        for (path, data) in &self.saved {
            let (expected, found) = (find(path, path)?, data.shape().to_vec());
            let layout = stored_name(path).map_or(Layout::Same, |(_, layout)| layout);
            if fit(layout, &found, expected) != Some(false) {
                let (module, expected) = (path.clone(), expected.clone());
                return Err(AdapterError::Shape { module, found, expected });
            }
        }
        Ok(())
    }

    /// Checks the pairs by themselves.
    fn check_pairs(&self) -> Result<(), AdapterError> {
        for (module, pair) in &self.pairs {
            pair.check(module)?;
            let (found, expected) = (pair.rank(), self.config.rank_of(&module_name(module)?));
            if found != expected {
                return Err(AdapterError::Rank { module: module.clone(), found, expected });
            }
        }
        Ok(())
    }
}

fn unknown<'k>(module: &str, path: &str, known: impl Iterator<Item = &'k String>) -> AdapterError {
    let likeness = |other: &&String| strsim::normalized_levenshtein(path, other);
    let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = nearest.filter(|other| likeness(other) > 0.6).cloned();
    AdapterError::Unknown { module: module.to_owned(), nearest }
}

/// The name in transformers of the module at `path`.
fn module_name(path: &str) -> Result<String, AdapterError> {
    let weight = parameter_name(&format!("{path}.weight"))?;
    Ok(weight.strip_suffix(".weight").unwrap_or(&weight).to_owned())
}

fn parameter_name(path: &str) -> Result<String, AdapterError> {
    let name = stored_name(path).map(|(name, _)| name);
    name.ok_or_else(|| AdapterError::Nameless { module: path.to_owned() })
}

// --- reading

/// Reads an adapter folder that peft (or [`write_adapter`]) wrote.
///
/// # Errors
/// When a file is missing or malformed, or holds anything but plain LoRA or rsLoRA pairs of linear layers and whole
/// modules. Whether it fits a model is told by [`Adapter::check`].
pub fn read_adapter(folder: &Path) -> Result<Adapter, AdapterError> {
    let config = config::read(&folder.join(CONFIG_FILE))?;
    let path = folder.join(WEIGHTS_FILE);
    let map = MappedFile::open(&path).map_err(LoadError::io(&path))?;
    let header = |source| LoadError::Header { path: path.clone(), source };
    let file = SafeTensors::deserialize(map.as_slice()).map_err(header)?;
    let mut reader = Reader { path, halves: BTreeMap::new(), saved: BTreeMap::new() };
    for (name, view) in file.iter() {
        reader.take(name, &view)?;
    }
    let pairs = reader.halves.into_iter().map(|(module, (a, b))| match (a, b) {
        (Some(a), Some(b)) => Ok((module, LoraPair { a, b })),
        (None, _) => Err(AdapterError::Unpaired { module, missing: "lora_A" }),
        (_, None) => Err(AdapterError::Unpaired { module, missing: "lora_B" }),
    });
    let pairs = pairs.collect::<Result<_, _>>()?;
    let adapter = Adapter { config, pairs, saved: reader.saved };
    adapter.check_pairs()?;
    Ok(adapter)
}

struct Reader {
    path: PathBuf,
    halves: BTreeMap<String, (Option<TensorData>, Option<TensorData>)>,
    saved: BTreeMap<String, TensorData>,
}

impl Reader {
    fn take(&mut self, name: &str, view: &TensorView<'_>) -> Result<(), AdapterError> {
        let Some(plain) = name.strip_prefix(PREFIX) else {
            return Err(self.refused(name, format!("does not begin with `{PREFIX}`")));
        };
        if let Some(reason) = refusal(plain) {
            return Err(self.refused(name, reason.to_owned()));
        }
        let Some(dtype) = burn_dtype(view.dtype()) else {
            let reason = format!("has dtype {:?}; it must be F32, F16 or BF16", view.dtype());
            return Err(self.refused(name, reason));
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        let half = [".lora_A.weight", ".lora_B.weight"].map(|end| plain.strip_suffix(end));
        match half {
            [Some(module), _] => {
                self.halves.entry(self.module(name, module)?).or_default().0 = Some(data)
            }
            [_, Some(module)] => {
                self.halves.entry(self.module(name, module)?).or_default().1 = Some(data)
            }
            _ => {
                let path = module_path(plain).ok_or_else(|| self.not_ours(name))?;
                self.saved.insert(path, data);
            }
        }
        Ok(())
    }

    /// Our path of the module that transformers calls `module`.
    fn module(&self, name: &str, module: &str) -> Result<String, AdapterError> {
        let path = module_path(&format!("{module}.weight")).ok_or_else(|| self.not_ours(name))?;
        Ok(path.strip_suffix(".weight").unwrap_or(&path).to_owned())
    }

    fn not_ours(&self, name: &str) -> AdapterError {
        self.refused(name, "belongs to no module of Qwen3-VL".to_owned())
    }

    fn refused(&self, name: &str, reason: String) -> AdapterError {
        AdapterError::Tensor { path: self.path.clone(), name: name.to_owned(), reason }
    }
}

/// Why a tensor is of a kind that is not supported.
fn refusal(name: &str) -> Option<&'static str> {
    let kinds = [
        (".lora_embedding_", "is LoRA on the embedding table, which is not supported"),
        (".lora_magnitude_vector", "belongs to DoRA, which is not supported"),
        (".lora_B.bias", "is a bias of LoRA, which is not supported"),
        (".base_layer.", "is a changed layer under LoRA, which is not supported"),
        (".token_adapter.", "belongs to single trained tokens, which are not supported"),
    ];
    kinds.into_iter().find(|(part, _)| name.contains(part)).map(|(_, reason)| reason)
}

// --- writing

/// Writes an adapter folder that peft loads onto `base_model_name` (a hub id or a path, for peft alone).
///
/// The folder appears under its name when it is complete and on disk.
///
/// # Errors
/// When `folder` exists and is not empty, a pair has shapes or a rank that do not fit, or a file cannot be written.
pub fn write_adapter(
    folder: &Path,
    adapter: &Adapter,
    base_model_name: &str,
) -> Result<(), AdapterError> {
    adapter.check_pairs()?;
    let mut tensors = Vec::new();
    let mut add = |name: String, data: &TensorData| {
        let (dtype, shape, data) = (data.dtype(), data.shape().to_vec(), data.clone());
        tensors.push(LazyTensor::new(format!("{PREFIX}{name}"), dtype, &shape, move || data));
    };
    let (mut targets, mut modules) = (Vec::new(), Vec::new());
    for (path, pair) in &adapter.pairs {
        let module = module_name(path)?;
        add(format!("{module}.lora_A.weight"), &pair.a);
        add(format!("{module}.lora_B.weight"), &pair.b);
        targets.push(module);
    }
    for (path, data) in &adapter.saved {
        let name = parameter_name(path)?;
        if matches!(stored_name(path), Some((_, Layout::ConvAsMatrix))) && data.rank() != 5 {
            let (module, found) = (path.clone(), data.shape().to_vec());
            return Err(AdapterError::Flat { module, found });
        }
        modules.extend(name.rsplit_once('.').map(|(module, _)| module.to_owned()));
        add(name, data);
    }
    modules.dedup();
    let folder = NewFolder::begin(folder)?;
    write_tensors(&folder.create(WEIGHTS_FILE)?, &folder.path(WEIGHTS_FILE), tensors)?;
    let text = config::text(&adapter.config, base_model_name, targets, modules);
    folder.write(CONFIG_FILE, text.as_bytes())?;
    folder.finish()?;
    Ok(())
}
