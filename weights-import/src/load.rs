//! From a checkpoint to a model on a device, one tensor at a time.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use qwen3_vl_backends::{Precision, SelectedDevice, device, dtype};
use qwen3_vl_model::init::Init;
use qwen3_vl_model::{Qwen3VlConfig, Qwen3VlModel};

use crate::checkpoint::{Checkpoint, TensorEntry, burn_dtype};
use crate::error::LoadError;
use crate::names::{Layout, stored_name};
use crate::report::{LoadReport, Misshapen};

/// Told of every tensor that was loaded.
pub trait Progress {
    /// `done` of `total` bytes have been read; `name` was the last tensor.
    fn tensor(&mut self, name: &str, done: u64, total: u64);
}

/// Ignores progress.
impl Progress for () {
    fn tensor(&mut self, _: &str, _: u64, _: u64) {}
}

/// Loads a model.
///
/// On Flex, tensors whose dtype is kept are used where they lie in the mapped file; in every other case a tensor
/// is read, converted and handed to the device before the next one is touched.
///
/// # Errors
/// When a tensor is missing, has another shape than the configuration says or a dtype that weights cannot have.
pub fn load_model(
    checkpoint: &Checkpoint,
    device: &SelectedDevice,
    precision: Precision,
    progress: &mut dyn Progress,
) -> Result<(Qwen3VlModel, LoadReport), LoadError> {
    let model = Qwen3VlModel::new(checkpoint.config(), &Init::new(&device.device, precision));
    let plan = LoadPlan::new(checkpoint, &model)?;
    plan.check_buffers(device, precision)?;
    let total = plan.items.iter().map(|item| item.entry.range.len() as u64).sum();
    let mut loader = Loader {
        checkpoint,
        device: device.device.clone(),
        in_place: dtype::maps_in_place(device.kind),
        precision,
        items: plan.items.into_iter(),
        progress,
        done: 0,
        total,
        error: None,
    };
    let model = model.map(&mut loader);
    match loader.error {
        Some(error) => Err(error),
        None => Ok((model, plan.report)),
    }
}

/// Compares a checkpoint with its model without reading a tensor.
pub fn check_checkpoint(checkpoint: &Checkpoint) -> Result<LoadReport, LoadError> {
    LoadPlan::compare(checkpoint, &unloaded(checkpoint.config())).map(|plan| plan.report)
}

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

/// A model whose lazy parameters nobody will ask for.
fn unloaded(config: &Qwen3VlConfig) -> Qwen3VlModel {
    let cpu = device::open("cpu").or_else(|_| device::select(None));
    let device = cpu.map(|selected| selected.device).unwrap_or_default();
    Qwen3VlModel::new(config, &Init::new(&device, Precision::F32))
}

pub(crate) fn parameters(model: &Qwen3VlModel) -> Vec<(String, Vec<usize>)> {
    let mut list = ParameterList::default();
    model.visit(&mut list);
    list.found
}

/// A parameter and the tensor that fills it.
struct Item<'c> {
    name: String,
    entry: &'c TensorEntry,
    /// Whether the last two axes must be swapped.
    transposed: bool,
    dtype: DType,
}

struct LoadPlan<'c> {
    /// In the order in which the module is traversed.
    items: Vec<Item<'c>>,
    report: LoadReport,
}

impl<'c> LoadPlan<'c> {
    fn new(checkpoint: &'c Checkpoint, model: &Qwen3VlModel) -> Result<Self, LoadError> {
        let plan = Self::compare(checkpoint, model)?;
        if plan.report.is_complete() {
            return Ok(plan);
        }
        let folder = checkpoint.folder().to_owned();
        Err(LoadError::Mismatch { folder, report: Box::new(plan.report) })
    }

    fn compare(checkpoint: &'c Checkpoint, model: &Qwen3VlModel) -> Result<Self, LoadError> {
        let mut plan = Self { items: Vec::new(), report: LoadReport::default() };
        for (path, shape) in parameters(model) {
            let (name, layout) = stored_name(&path)
                .unwrap_or_else(|| panic!("module path {path} is not in the names table"));
            plan.add(checkpoint, name, layout, &shape)?;
        }
        plan.add_unexpected(checkpoint);
        plan.report.loaded = plan.items.len();
        plan.report.add_hints();
        Ok(plan)
    }

    /// Refuses a tensor that is larger than the largest buffer of the device.
    fn check_buffers(
        &self,
        device: &SelectedDevice,
        precision: Precision,
    ) -> Result<(), LoadError> {
        let Some(limit) = device.max_buffer() else { return Ok(()) };
        for item in &self.items {
            let shape = &item.entry.shape;
            let count: u64 = shape.iter().map(|side| *side as u64).product();
            let bytes = count * precision.of_rank(shape.len()).size() as u64;
            if bytes > limit {
                let (tensor, device) = (item.name.clone(), device.name.clone());
                return Err(LoadError::Buffer { tensor, bytes, device, limit });
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        checkpoint: &'c Checkpoint,
        name: String,
        layout: Layout,
        shape: &[usize],
    ) -> Result<(), LoadError> {
        let Some(entry) = checkpoint.tensors().get(&name) else {
            self.report.missing.push((name, None));
            return Ok(());
        };
        let Some(dtype) = burn_dtype(entry.dtype) else {
            return Err(LoadError::Dtype {
                path: checkpoint.file(entry).path.clone(),
                tensor: name,
                dtype: format!("{:?}", entry.dtype),
            });
        };
        match fit(layout, &entry.shape, shape) {
            Some(transposed) => self.items.push(Item { name, entry, transposed, dtype }),
            None => self.report.misshapen.push(Misshapen {
                name,
                found: entry.shape.clone(),
                expected: shape.to_vec(),
            }),
        }
        Ok(())
    }

    fn add_unexpected(&mut self, checkpoint: &Checkpoint) {
        let mut known: Vec<&str> = self.items.iter().map(|item| item.name.as_str()).collect();
        known.extend(self.report.misshapen.iter().map(|m| m.name.as_str()));
        known.sort_unstable();
        for name in checkpoint.tensors().keys() {
            if name == "lm_head.weight" && checkpoint.config().tie_word_embeddings {
                self.report.ignored_head = true;
            } else if known.binary_search(&name.as_str()).is_err() {
                self.report.unexpected.push(name.clone());
            }
        }
    }
}

/// Whether a stored shape can fill a parameter, and if so whether its last two axes are swapped.
pub(crate) fn fit(layout: Layout, stored: &[usize], parameter: &[usize]) -> Option<bool> {
    match layout {
        _ if stored == parameter => Some(false),
        Layout::ConvAsMatrix
            if stored.len() == 5
                && stored[0] == parameter[0]
                && stored[1..].iter().product::<usize>() == parameter[1] =>
        {
            Some(false)
        }
        Layout::Experts
            if stored.len() == 3 && [stored[0], stored[2], stored[1]] == parameter[..] =>
        {
            Some(true)
        }
        _ => None,
    }
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

struct Loader<'a, 'c> {
    checkpoint: &'c Checkpoint,
    device: Device,
    in_place: bool,
    precision: Precision,
    items: std::vec::IntoIter<Item<'c>>,
    progress: &'a mut dyn Progress,
    done: u64,
    total: u64,
    error: Option<LoadError>,
}

impl ModuleMapper for Loader<'_, '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let item = self.items.next().expect("one item per parameter, in the same order");
        let shape = param.lazy_shape().to_vec();
        match self.data(&item, &shape) {
            Ok(data) => {
                self.done += item.entry.range.len() as u64;
                self.progress.tensor(&item.name, self.done, self.total);
                let dtype = self.precision.of_rank(D);
                let id = param.id;
                let tensor = Tensor::<D>::from_data(data, (&self.device, dtype));
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

impl Loader<'_, '_> {
    /// The tensor in the dtype and shape of the parameter.
    fn data(&self, item: &Item<'_>, shape: &[usize]) -> Result<TensorData, LoadError> {
        let file = self.checkpoint.file(item.entry);
        let wanted = self.precision.of_rank(shape.len());
        let range = item.entry.range.clone();
        if self.in_place && wanted == item.dtype && !item.transposed {
            return Ok(file.map.tensor_data(range, shape, item.dtype));
        }
        let mut bytes = file.map.read(range).map_err(LoadError::io(&file.path))?;
        if item.transposed {
            bytes = swap_last_axes(&bytes, &item.entry.shape, item.dtype.size());
        }
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), item.dtype).convert_dtype(wanted))
    }
}

/// `[e, a, b] -> [e, b, a]` for elements of `size` bytes.
pub(crate) fn swap_last_axes(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let (a, b) = (shape[1], shape[2]);
    let mut out = Vec::with_capacity(bytes.len());
    for matrix in bytes.chunks_exact(a * b * size) {
        for column in 0..b {
            for row in 0..a {
                let at = (row * b + column) * size;
                out.extend_from_slice(&matrix[at..at + size]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_fit_in_both_orientations_and_nothing_else_is_turned() {
        assert_eq!(fit(Layout::Experts, &[6, 48, 40], &[6, 40, 48]), Some(true));
        assert_eq!(fit(Layout::Experts, &[6, 40, 48], &[6, 40, 48]), Some(false));
        assert_eq!(fit(Layout::Same, &[48, 40], &[40, 48]), None);
        assert_eq!(fit(Layout::ConvAsMatrix, &[32, 3, 2, 8, 8], &[32, 384]), Some(false));
        assert_eq!(fit(Layout::ConvAsMatrix, &[32, 3, 2, 8, 9], &[32, 384]), None);
    }

    #[test]
    fn axes_are_swapped_element_by_element() {
        let bytes: Vec<u8> = (0..12).collect();
        let swapped = swap_last_axes(&bytes, &[1, 2, 3], 2);
        assert_eq!(swapped, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
}
