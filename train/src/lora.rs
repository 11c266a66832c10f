//! LoRA in training: which layers get a side path, how it begins, and the adapter that it becomes.

mod targets;

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::Qwen3VlConfig;
use qwen3_vl_model::lora::Lora;
use qwen3_vl_weights::adapter::{Adapter, AdapterConfig, LoraPair};
use qwen3_vl_weights::names::{Layout, stored_name};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{LoraTable, Scaling, TrainConfig, Training};
use crate::groups::{Group, Parameter, parameters};
use targets::Choice;

/// Why LoRA cannot be put on a model as a configuration says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    #[error(
        "`method.targets` names `{target}`, which is no linear layer and no part of the model{}",
        nearest.as_ref().map_or(String::new(), |name| format!("; the nearest name is `{name}`"))
    )]
    Unknown { target: String, nearest: Option<String> },
    #[error("`method.targets` names `{target}`: {reason}")]
    Unsupported { target: String, reason: &'static str },
    #[error(
        "`method.targets` names `{target}`, which is in group {group}; that is trained with LoRA only where `{field}` is \"lora\"",
        group = group.name(), field = group.field()
    )]
    Group { target: String, group: Group },
    #[error(
        "`{}` is \"lora\", but `method.targets` names no layer in that group", group.field()
    )]
    Untouched { group: Group },
    #[error(
        "`method.rank` is {rank}, but the weight of `{layer}` is {shape:?}: a pair of that rank would be no smaller"
    )]
    Rank { rank: usize, layer: String, shape: Vec<usize> },
    #[error(
        "an adapter cannot hold {path}, which is trained as a whole and is the head too: peft would change only one of the two; export the merged checkpoint"
    )]
    Tied { path: String },
}

/// A linear layer that gets a side path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    path: String,
    /// Place among all linear layers, so that a layer begins alike whatever else is chosen.
    place: u64,
    outputs: usize,
    inputs: usize,
}

/// The side paths of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    layers: Vec<Layer>,
    rank: usize,
    scale: f64,
    seed: u64,
}

impl Plan {
    /// The side paths that `config` wants in a model of this shape; `None` for a run without LoRA. No weight is made.
    ///
    /// # Errors
    /// When a target is unknown, not supported or outside the groups with LoRA, such a group has no target, or the
    /// rank is that of a whole weight.
    pub fn new(config: &TrainConfig, shape: &Qwen3VlConfig) -> Result<Option<Self>, LoraError> {
        let Some(table) = config.lora() else { return Ok(None) };
        let mut choice = Choice::new(&config.train, shape);
        for target in &table.targets {
            choice.add(target)?;
        }
        let layers = choice.finish()?;
        let (rank, scale, seed) = (table.rank, table.scale(), config.seed);
        match layers.iter().find(|layer| layer.outputs.min(layer.inputs) < rank) {
            Some(Layer { path, outputs, inputs, .. }) => {
                let shape = vec![*outputs, *inputs];
                Err(LoraError::Rank { rank, layer: path.clone(), shape })
            }
            None => Ok(Some(Self { layers, rank, scale, seed })),
        }
    }

    /// Module paths of the layers that get a side path, in the order of the model.
    pub fn paths(&self) -> Vec<&str> {
        self.layers.iter().map(|layer| layer.path.as_str()).collect()
    }

    /// Puts side paths beside the layers: `A` at random, `B` zero, both in f32, so that nothing changes yet.
    pub fn attach(&self, mut model: Qwen3VlModel) -> Qwen3VlModel {
        let device = model.device();
        let mut linears: BTreeMap<_, _> = model.linears_mut().into_iter().collect();
        for layer in &self.layers {
            let linear = linears.get_mut(&layer.path).expect("a layer of a model of this shape");
            let b = Tensor::zeros([layer.outputs, self.rank], (&device, DType::F32));
            linear.lora = Some(Lora::new(self.first(layer, &device), b, self.scale));
        }
        model
    }

    /// `A` as peft begins it, torch's `kaiming_uniform_(a=√5)`: uniform between `±1/√inputs`.
    fn first(&self, layer: &Layer, device: &Device) -> Tensor<2> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(layer.place);
        let bound = 1.0 / (layer.inputs as f32).sqrt();
        let values = (0..self.rank * layer.inputs).map(|_| rng.random_range(-bound..bound));
        let data = TensorData::new(values.collect::<Vec<f32>>(), [self.rank, layer.inputs]);
        Tensor::from_data(data, (device, DType::F32))
    }
}

/// What a run with LoRA has learned, as an adapter: its pairs, and whole the parameters of groups that are trained in full.
///
/// # Errors
/// When the embedding table is trained in full and is the head too.
pub fn adapter(model: &Qwen3VlModel, config: &TrainConfig) -> Result<Adapter, LoraError> {
    let table = config.lora().cloned().unwrap_or_default();
    let mut pairs = BTreeMap::new();
    for (path, linear) in model.clone().linears_mut() {
        if let Some(lora) = &linear.lora {
            let data = |param: &Param<Tensor<2>>| param.val().inner().into_data();
            pairs.insert(path, LoraPair { a: data(&lora.a), b: data(&lora.b) });
        }
    }
    Ok(Adapter { config: settings(&table), pairs, saved: whole(model, config)? })
}

/// The parameters of groups that are trained in full, in the shapes of a checkpoint.
fn whole(
    model: &Qwen3VlModel,
    config: &TrainConfig,
) -> Result<BTreeMap<String, TensorData>, LoraError> {
    let full = |p: &Parameter| config.train.of(p.group) == Training::Full;
    let chosen: Vec<Parameter> = parameters(model).into_iter().filter(full).collect();
    let tied = chosen.iter().find(|p| p.group == Group::Embed && model.lm_head.is_none());
    if let Some(Parameter { path, .. }) = tied {
        return Err(LoraError::Tied { path: path.clone() });
    }
    let vision = &model.config().vision;
    let (frames, side) = (vision.temporal_patch_size, vision.patch_size);
    let mut whole = Whole {
        chosen: chosen.into_iter().map(|p| (p.id, p.path)).collect(),
        kernel: [vision.hidden_size, vision.in_channels, frames, side, side],
        found: BTreeMap::new(),
    };
    model.visit(&mut whole);
    Ok(whole.found)
}

fn settings(table: &LoraTable) -> AdapterConfig {
    let rslora = table.scaling == Scaling::Rs;
    AdapterConfig { rslora, ..AdapterConfig::new(table.rank, table.alpha()) }
}

struct Whole {
    /// What is wanted.
    chosen: HashMap<ParamId, String>,
    /// Shape of the patch embedding in a checkpoint.
    kernel: [usize; 5],
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Whole {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(path) = self.chosen.remove(&param.id) else { return };
        let value = param.val();
        let data = match stored_name(&path) {
            Some((_, Layout::ConvAsMatrix)) => value.reshape(self.kernel).into_data(),
            _ => value.into_data(),
        };
        self.found.insert(path, data);
    }
}
