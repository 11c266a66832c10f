//! From a checkpoint to a model on a device, one tensor at a time.

mod foreign;
mod how;
mod parts;
mod repack;
mod room;
pub(crate) mod rounded;
mod streamed;

use std::iter::Peekable;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_backends::{Placement, Precision, SelectedDevice, dtype};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::Quantisation;

use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;
use crate::names::{Layout, stored_name};
use crate::report::{LoadReport, Misshapen};
use crate::rounding::Rounding;
use foreign::Foreign;

pub use how::{LoadHow, check_expert_memory};
pub use parts::{Part, checkpoint_sizes, parameter_counts, part_sizes};
pub(crate) use parts::{as_matrix, computes_rounded, home, parameters, unloaded};

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
/// is read, converted and handed to the device before the next one is touched. Linear weights that other programs rounded
/// keep their codes, in our order; on devices of other machines, and where they are no linear weights, they are expanded.
///
/// # Errors
/// When a tensor is missing, has another shape than the configuration says or a dtype that weights cannot have.
pub fn load_model(
    checkpoint: &Checkpoint,
    device: &SelectedDevice,
    precision: Precision,
    progress: &mut dyn Progress,
) -> Result<(Qwen3VlModel, LoadReport), LoadError> {
    let placement = Placement::whole(device, checkpoint.config().text.layers);
    load_placed(checkpoint, &placement, LoadHow::new(precision, None), progress)
}

/// As [`load_model`], each part to its device, rounding the weights that `how` chooses as they are read. A checkpoint that was
/// rounded before takes none.
///
/// # Errors
/// As [`load_model`], and when the checkpoint is rounded already, a pattern names no layer, a weight is not finite, the
/// device of rounded experts is one of another machine, there are no experts to be left on the host, or a device is lost.
///
/// # Panics
/// When `placement` is one of another number of layers.
pub fn load_placed(
    checkpoint: &Checkpoint,
    placement: &Placement,
    how: LoadHow<'_>,
    progress: &mut dyn Progress,
) -> Result<(Qwen3VlModel, LoadReport), LoadError> {
    let precision = how.precision;
    check_expert_memory(checkpoint.config(), placement, how)?;
    let mut model = Qwen3VlModel::placed(checkpoint.config(), placement, precision);
    let mut plan = LoadPlan::new(checkpoint, &model)?;
    if let Some(rounding) = how.rounding {
        plan.round(checkpoint, &mut model, rounding)?;
    }
    plan.check_devices(placement, how)?;
    plan.check_room(placement, how)?;
    let total = plan.items.iter().map(|item| item.entry.bytes()).sum();
    let mut loader = Loader {
        checkpoint,
        placement,
        device: &placement.embed,
        precision,
        path: Vec::new(),
        items: Vec::new().into_iter().peekable(),
        progress,
        done: 0,
        total,
        error: None,
    };
    let items = match how.expert_memory {
        Some(budget) => loader.stream(&mut model, plan.items, budget)?,
        None => plan.items,
    };
    lost::caught(|| loader.round(&mut model, items))??;
    let model = lost::caught(|| model.map(&mut loader))?;
    assert!(loader.error.is_some() || loader.items.len() == 0, "one item per parameter, in order");
    match loader.error {
        Some(error) => Err(error),
        None => Ok((model, plan.report)),
    }
}

/// Compares a checkpoint with its model without reading a tensor.
pub fn check_checkpoint(checkpoint: &Checkpoint) -> Result<LoadReport, LoadError> {
    LoadPlan::compare(checkpoint, &unloaded(checkpoint.config())).map(|plan| plan.report)
}

/// A parameter and the tensor that fills it.
struct Item<'c> {
    /// Module path of the parameter.
    path: String,
    name: String,
    entry: &'c TensorEntry,
    /// Whether the last two axes must be swapped.
    transposed: bool,
    dtype: DType,
    stored: Stored<'c>,
}

/// What becomes of a tensor.
enum Stored<'c> {
    /// The parameter holds it.
    Plain,
    /// It is rounded as it is read.
    Round { scheme: QuantScheme },
    /// It holds the codes of a rounded weight.
    Codes { scales: &'c TensorEntry, scheme: QuantScheme },
    /// Another program rounded it.
    Foreign(Foreign<'c>),
}

impl Item<'_> {
    fn scheme(&self) -> Option<QuantScheme> {
        match self.stored {
            Stored::Plain | Stored::Foreign(_) => None,
            Stored::Round { scheme } | Stored::Codes { scheme, .. } => Some(scheme),
        }
    }

    /// Bytes of its largest buffer on `device`.
    fn buffer(&self, device: &SelectedDevice, how: LoadHow<'_>) -> u64 {
        // Experts that stay on the host come one by one.
        let alone = how.expert_memory.is_some() && parts::is_of_experts(&self.path);
        let shape = &self.entry.shape[usize::from(alone)..];
        let count: u64 = shape.iter().map(|side| *side as u64).product();
        match &self.stored {
            Stored::Codes { .. } => count,
            Stored::Round { scheme } => count * scheme.bits() as u64 / 8,
            Stored::Foreign(foreign) if parts::keeps_codes(device) => match self.entry.dtype() {
                // Blocks are counted by the numbers that they hold, and others by words or bytes.
                None => count * foreign.scheme().bits() as u64 / 8,
                Some(_) => self.entry.bytes(),
            },
            _ => count * how.precision.of_rank(shape.len()).size() as u64,
        }
    }
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
        let seen = |path: &str| checkpoint.sees() || !path.starts_with("visual.");
        for (path, shape) in parameters(model).into_iter().filter(|(path, _)| seen(path)) {
            let (name, layout) = stored_name(&path)
                .unwrap_or_else(|| panic!("module path {path} is not in the names table"));
            plan.add(checkpoint, (path, name, layout), &shape)?;
        }
        plan.add_unexpected(checkpoint);
        plan.report.loaded = plan.items.len();
        plan.report.add_hints();
        Ok(plan)
    }

    /// Marks what is to be rounded.
    fn round(
        &mut self,
        checkpoint: &Checkpoint,
        model: &mut Qwen3VlModel,
        rounding: &Rounding,
    ) -> Result<(), LoadError> {
        if let Some(Quantisation { scheme, .. }) = checkpoint.config().quantisation {
            return Err(LoadError::Rounded { folder: checkpoint.folder().to_owned(), scheme });
        }
        let chosen = rounding.choose(model)?;
        for item in self.items.iter_mut().filter(|item| chosen.contains(&item.path)) {
            item.stored = Stored::Round { scheme: rounding.scheme_of(&item.path) };
        }
        Ok(())
    }

    /// Refuses rounded experts where nothing computes with them, and what is larger than the largest buffer.
    fn check_devices(&self, placement: &Placement, how: LoadHow<'_>) -> Result<(), LoadError> {
        for item in &self.items {
            let (device, part) = home(placement, &item.path);
            if item.scheme().is_some() {
                computes_rounded(device, &item.path, part)?;
            }
            let bytes = item.buffer(device, how);
            if let Some(limit) = device.max_buffer().filter(|limit| bytes > *limit) {
                let (tensor, device) = (item.name.clone(), device.name.clone());
                return Err(LoadError::Buffer { tensor, bytes, device, limit });
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        checkpoint: &'c Checkpoint,
        (path, name, layout): (String, String, Layout),
        shape: &[usize],
    ) -> Result<(), LoadError> {
        if let Some((entry, foreign)) = foreign::find(checkpoint, &name, shape)? {
            // Whatever its codes are, what is checked here is the shape of blocks; that of others was checked already.
            let stored = entry.dtype().map_or(&entry.shape[..], |_| shape);
            match fit(layout, stored, shape) {
                Some(false) => self.items.push(Item {
                    path,
                    name,
                    entry,
                    transposed: false,
                    dtype: DType::U8,
                    stored: Stored::Foreign(foreign),
                }),
                _ => self.add_misshapen(name, entry, shape),
            }
            return Ok(());
        }
        let Some(entry) = checkpoint.tensors().get(&name) else {
            self.report.missing.push((name, None));
            return Ok(());
        };
        if let Some(stored) = rounded::stored(checkpoint, (&name, entry), shape)? {
            self.add_codes(
                Item { path, name, entry, transposed: false, dtype: DType::U8, stored },
                shape,
            );
            return Ok(());
        }
        if rounded::lacks_scales(checkpoint, &name, entry) {
            self.report.missing.push((rounded::scales_name(&name), None));
            return Ok(());
        }
        let Some(dtype) = entry.burn_dtype() else {
            return Err(LoadError::Dtype {
                path: checkpoint.file(entry).path.clone(),
                tensor: name,
                dtype: entry.storage.to_string(),
            });
        };
        match fit(layout, &entry.shape, shape) {
            Some(transposed) => {
                let stored = Stored::Plain;
                self.items.push(Item { path, name, entry, transposed, dtype, stored });
            }
            None => self.add_misshapen(name, entry, shape),
        }
        Ok(())
    }

    fn add_misshapen(&mut self, name: String, entry: &TensorEntry, shape: &[usize]) {
        let (found, expected) = (entry.shape.clone(), shape.to_vec());
        self.report.misshapen.push(Misshapen { name, found, expected });
    }

    /// A rounded weight of `shape`.
    fn add_codes(&mut self, item: Item<'c>, shape: &[usize]) {
        let [_, inputs] = as_matrix(shape);
        let mut expected = shape.to_vec();
        expected.splice(shape.len() - 1.., item.scheme().map(|scheme| scheme.row_bytes(inputs)));
        match item.entry.shape == expected {
            true => self.items.push(item),
            false => {
                let found = item.entry.shape.clone();
                self.report.misshapen.push(Misshapen { name: item.name, found, expected });
            }
        }
    }

    fn add_unexpected(&mut self, checkpoint: &Checkpoint) {
        let name = |item: &Item<'_>| match item.stored {
            Stored::Codes { .. } => vec![item.name.clone(), rounded::scales_name(&item.name)],
            Stored::Foreign(_) => {
                let mut names = foreign::side_names(&item.name);
                names.push(item.name.clone());
                names
            }
            _ => vec![item.name.clone()],
        };
        let mut known: Vec<String> = self.items.iter().flat_map(name).collect();
        known.extend(self.report.misshapen.iter().map(|m| m.name.clone()));
        known.sort_unstable();
        for name in checkpoint.tensors().keys() {
            if name == "lm_head.weight" && checkpoint.config().tie_word_embeddings {
                self.report.ignored_head = true;
            } else if known.binary_search(name).is_err() {
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

struct Loader<'a, 'c> {
    checkpoint: &'c Checkpoint,
    placement: &'a Placement,
    /// Where the tensor goes that is being read.
    device: &'a SelectedDevice,
    precision: Precision,
    /// Where the traversal is.
    path: Vec<String>,
    items: Peekable<std::vec::IntoIter<Item<'c>>>,
    progress: &'a mut dyn Progress,
    done: u64,
    total: u64,
    error: Option<LoadError>,
}

impl ModuleMapper for Loader<'_, '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // The scales of a rounded weight have no item: they are in their places already.
        let path = self.path.join(".");
        let Some(item) = self.items.next_if(|item| self.error.is_none() && item.path == path)
        else {
            return param;
        };
        self.turn_to(&item);
        let shape = param.lazy_shape().to_vec();
        match self.data(&item, &shape) {
            Ok(data) => {
                self.tell(&item);
                let dtype = self.precision.of_rank(D);
                let (id, turned) = (param.id, data.shape().to_vec() != shape);
                let tensor = lost::upload::<D>(data, &self.device.device, dtype);
                // A view, as the file holds it.
                let tensor = if turned { tensor.swap_dims(D - 2, D - 1) } else { tensor };
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

impl Loader<'_, '_> {
    /// Turns to the device of an item.
    fn turn_to(&mut self, item: &Item<'_>) {
        self.device = home(self.placement, &item.path).0;
    }

    /// Whether tensors are used where they lie in the mapped file.
    fn in_place(&self) -> bool {
        dtype::maps_in_place(self.device.kind)
    }

    /// Tells that an item was read.
    fn tell(&mut self, item: &Item<'_>) {
        self.done += item.entry.bytes();
        self.progress.tensor(&item.name, self.done, self.total);
    }

    /// The tensor in the dtype and shape of the parameter; with its last two axes swapped where it is used in place so.
    fn data(&self, item: &Item<'_>, shape: &[usize]) -> Result<TensorData, LoadError> {
        let file = self.checkpoint.file(item.entry);
        let wanted = self.precision.of_rank(shape.len());
        if let Stored::Foreign(foreign) = &item.stored {
            return self.expanded(item, foreign, (shape, wanted));
        }
        if item.scheme().is_some() {
            return Err(LoadError::Dtype {
                path: file.path.clone(),
                tensor: item.name.clone(),
                dtype: item.entry.storage.to_string(),
            });
        }
        let in_one_part = item.entry.rest.is_empty();
        if self.in_place() && wanted == item.dtype && in_one_part {
            let shape = if item.transposed { &item.entry.shape[..] } else { shape };
            return Ok(file.map.tensor_data(item.entry.range.clone(), shape, item.dtype));
        }
        self.read(item, shape, wanted)
    }

    /// A copy of the tensor in `wanted`.
    fn read(
        &self,
        item: &Item<'_>,
        shape: &[usize],
        wanted: DType,
    ) -> Result<TensorData, LoadError> {
        let mut bytes = self.checkpoint.read(item.entry)?;
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
    use qwen3_vl_backends::{BackendKind, Stage, device};

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

    /// Both are processors that are called something else; nothing is computed on them.
    #[test]
    fn rounded_experts_are_refused_on_another_machine_and_nothing_on_a_card() {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
        let cpu = device::select(Some("cpu")).unwrap();
        let load = |name: &str, kind: BackendKind, exclude: &[&str]| {
            let other = SelectedDevice { kind, name: format!("{}:0", kind.name()), ..cpu.clone() };
            let checkpoint = Checkpoint::open(format!("{fixtures}{name}").as_ref()).unwrap();
            let layers = checkpoint.config().text.layers;
            let mut placement = Placement::whole(&cpu, layers);
            placement.stages[0].layers = 0..1;
            placement.stages.push(Stage { layers: 1..layers, device: other });
            let exclude = exclude.iter().map(|pattern| pattern.to_string()).collect();
            let rounding = Rounding { exclude, ..Rounding::new("int8".parse().unwrap()) };
            let how = LoadHow::new(Precision::F32, Some(&rounding));
            load_placed(&checkpoint, &placement, how, &mut ()).map(|_| ())
        };
        let message = load("moe", BackendKind::Remote, &[]).unwrap_err().to_string();
        assert!(message.contains("`remote:0` yet, which is to hold layer 2;"), "{message}");
        load("moe", BackendKind::Remote, &["*.experts.*"]).unwrap();
        load("dense_untied", BackendKind::Remote, &[]).unwrap();
        load("moe", BackendKind::Cuda, &[]).unwrap();
    }
}
