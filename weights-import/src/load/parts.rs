//! The parameters of a model, without its weights.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use qwen3_vl_backends::{BackendKind, PartSizes, Placement, Precision, SelectedDevice, device};
use qwen3_vl_model::init::Init;
use qwen3_vl_model::{Qwen3VlConfig, Qwen3VlModel};

use super::{Item, LoadHow, LoadPlan, Stored};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// A part of the model, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    VisionTower,
    Mergers,
    Embedding,
    TextLayers,
    Head,
}

impl Part {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::VisionTower => "vision tower",
            Self::Mergers => "mergers",
            Self::Embedding => "embedding",
            Self::TextLayers => "text layers",
            Self::Head => "head",
        }
    }

    pub(crate) fn of(path: &str) -> Self {
        match path {
            _ if path.contains("merger") => Self::Mergers,
            _ if path.starts_with("visual.") => Self::VisionTower,
            _ if path.starts_with("lm_head.") => Self::Head,
            _ if path.contains("embed_tokens") => Self::Embedding,
            _ => Self::TextLayers,
        }
    }
}

/// Parameters of each part of the model that `config` describes; nothing is allocated.
pub fn parameter_counts(config: &Qwen3VlConfig) -> BTreeMap<Part, u64> {
    let mut counts = BTreeMap::new();
    for (path, shape) in parameters(&unloaded(config)) {
        let count = shape.iter().fold(1u64, |n, side| n.saturating_mul(*side as u64));
        let part: &mut u64 = counts.entry(Part::of(&path)).or_default();
        *part = part.saturating_add(count);
    }
    counts
}

/// Those that a checkpoint has which sees pictures or not: a GGUF file without its mmproj has no vision tower.
pub fn held_counts(config: &Qwen3VlConfig, sees: bool) -> BTreeMap<Part, u64> {
    let mut counts = parameter_counts(config);
    counts.retain(|part, _| sees || !matches!(part, Part::VisionTower | Part::Mergers));
    counts
}

/// Bytes of the weights of each part, in the form that `how` says.
pub fn part_sizes(config: &Qwen3VlConfig, how: LoadHow<'_>) -> PartSizes {
    let (precision, rounding) = (how.precision, how.rounding);
    let mut model = unloaded(config);
    let chosen = rounding.and_then(|rounding| rounding.choose(&mut model).ok());
    let rounded = |path: &str| {
        let chosen = chosen.as_ref().is_some_and(|chosen| chosen.contains(path));
        rounding.filter(|_| chosen).map(|rounding| rounding.scheme_of(path))
    };
    let bytes = |(path, shape): (String, Vec<usize>)| {
        let bytes = match rounded(&path) {
            Some(scheme) => scheme.matrix_bytes(as_matrix(&shape)),
            None => {
                let count = shape.iter().fold(1u64, |n, side| n.saturating_mul(*side as u64));
                count.saturating_mul(precision.weights.size() as u64)
            }
        };
        (path, bytes)
    };
    by_place(config, parameters(&model).into_iter().map(bytes).collect(), how.expert_memory)
}

/// Whether the parameter at `path` is one of experts.
pub(crate) fn is_of_experts(path: &str) -> bool {
    path.contains(".moe.experts.")
}

/// Whether weights that other programs rounded keep their codes on `device`; those of other machines get the numbers themselves.
pub(crate) fn keeps_codes(device: &SelectedDevice) -> bool {
    device.kind != BackendKind::Remote
}

/// Refuses what `device`, which is to hold `part`, cannot compute with when it is rounded: experts, on devices of other machines.
pub(crate) fn computes_rounded(
    device: &SelectedDevice,
    path: &str,
    part: String,
) -> Result<(), LoadError> {
    match is_of_experts(path) && device.kind == BackendKind::Remote {
        true => Err(LoadError::QuantDevice { device: device.name.clone(), part }),
        false => Ok(()),
    }
}

/// The bytes of parameters, by module path, as those of the parts that they belong to. Experts have no more than
/// `expert_memory` in all, every layer its share of it.
fn by_place(
    config: &Qwen3VlConfig,
    parameters: Vec<(String, u64)>,
    expert_memory: Option<u64>,
) -> PartSizes {
    let experts = parameters.iter().filter(|(path, _)| is_of_experts(path));
    let experts = experts.fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes)).max(1);
    let kept = |bytes: u64| match expert_memory {
        Some(budget) if budget < experts => {
            (u128::from(bytes) * u128::from(budget) / u128::from(experts)) as u64
        }
        _ => bytes,
    };
    let layers = vec![0; config.text.layers];
    let tied = config.tie_word_embeddings;
    let mut sizes = PartSizes { layers, tied, ..PartSizes::default() };
    for (path, bytes) in parameters {
        let bytes = if is_of_experts(&path) { kept(bytes) } else { bytes };
        let part = match Place::of(&path) {
            Place::Vision => &mut sizes.vision,
            Place::Embed => &mut sizes.embed,
            Place::Layer(index) => &mut sizes.layers[index],
            Place::Head => &mut sizes.head,
        };
        *part = part.saturating_add(bytes);
    }
    sizes
}

/// What a device map places as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Vision tower and mergers.
    Vision,
    Embed,
    Layer(usize),
    /// Final norm and head.
    Head,
}

impl Place {
    /// Of the parameter at `path`.
    fn of(path: &str) -> Self {
        let layer = path.strip_prefix("language_model.layers.");
        let layer = layer.and_then(|rest| rest.split('.').next()?.parse().ok());
        match layer {
            Some(index) => Self::Layer(index),
            None if path.starts_with("visual.") => Self::Vision,
            None if path.contains("embed_tokens") => Self::Embed,
            None => Self::Head,
        }
    }

    /// Its name for people, and as device maps have it.
    fn name(self) -> String {
        match self {
            Self::Vision => "vision".to_owned(),
            Self::Embed => "embed".to_owned(),
            Self::Layer(index) => format!("layer {index}"),
            Self::Head => "head".to_owned(),
        }
    }
}

/// The device of the parameter at `path`, and the part that is placed there with it.
pub(crate) fn home<'p>(placement: &'p Placement, path: &str) -> (&'p SelectedDevice, String) {
    let place = Place::of(path);
    let device = match place {
        Place::Vision => &placement.vision,
        Place::Embed => &placement.embed,
        Place::Layer(index) => placement.layer(index),
        Place::Head => &placement.head,
    };
    (device, place.name())
}

/// Bytes of the weights of each part of a checkpoint on devices of this machine, in the form that `how` says, but for what that
/// rounds.
///
/// # Errors
/// When what belongs to a rounded weight is missing or has another shape.
pub fn checkpoint_sizes(checkpoint: &Checkpoint, how: LoadHow<'_>) -> Result<PartSizes, LoadError> {
    let precision = how.precision;
    let mut model = unloaded(checkpoint.config());
    let roundable = model.roundable_mut().into_iter().map(|(path, _)| path);
    let roundable: BTreeSet<String> = roundable.collect();
    let shapes: BTreeMap<String, Vec<usize>> = parameters(&model).into_iter().collect();
    let bytes = |item: &Item<'_>| match (&item.stored, &shapes[&item.path]) {
        (Stored::Foreign(foreign), shape) if roundable.contains(&item.path) => {
            let (scheme, [rows, inputs]) = (foreign.scheme(), as_matrix(shape));
            let scales = scheme.scale_columns(inputs) * foreign.scale_dtype().size();
            (rows * (scheme.row_bytes(inputs) + scales)) as u64
        }
        (Stored::Codes { scheme, .. }, shape) => scheme.matrix_bytes(as_matrix(shape)),
        (_, shape) => {
            shape.iter().product::<usize>() as u64 * precision.of_rank(shape.len()).size() as u64
        }
    };
    let plan = LoadPlan::compare(checkpoint, &model)?;
    let items = plan.items.iter().map(|item| (item.path.clone(), bytes(item))).collect();
    Ok(by_place(checkpoint.config(), items, how.expert_memory))
}

/// Rows and columns of a matrix, or of matrices one after the other.
pub(crate) fn as_matrix(shape: &[usize]) -> [usize; 2] {
    let (inputs, outer) = shape.split_last().map_or((1, &[][..]), |(last, outer)| (*last, outer));
    [outer.iter().product(), inputs]
}

/// A model whose lazy parameters nobody will ask for.
pub(crate) fn unloaded(config: &Qwen3VlConfig) -> Qwen3VlModel {
    let cpu = device::open("cpu").or_else(|_| device::select(None));
    let device = cpu.map(|selected| selected.device).unwrap_or_default();
    Qwen3VlModel::new(config, &Init::new(&device, Precision::F32))
}

pub(crate) fn parameters(model: &Qwen3VlModel) -> Vec<(String, Vec<usize>)> {
    let mut list = ParameterList::default();
    model.visit(&mut list);
    list.found
}

/// Module paths and shapes, in order of traversal, without initialising anything.
#[derive(Default)]
struct ParameterList {
    path: Vec<String>,
    found: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for ParameterList {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), param.lazy_shape().to_vec()));
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
