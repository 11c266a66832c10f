//! From a checkpoint to a model on a device, one tensor at a time.

mod foreign;
mod how;
mod parts;
mod plan;
mod repack;
mod room;
pub(crate) mod rounded;
pub(crate) mod split;
pub(crate) mod streamed;

use std::iter::Peekable;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::{Placement, Precision, SelectedDevice, dtype};
use qwen3_vl_model::Qwen3VlModel;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::report::LoadReport;
use plan::{Item, LoadPlan, Stored};

pub use how::{LoadHow, check_expert_memory};
pub use parts::{Part, checkpoint_sizes, held_counts, parameter_counts, part_sizes};
pub(crate) use parts::{as_matrix, computes_rounded, home, parameters, unloaded};
pub(crate) use plan::fit;
pub(crate) use room::check_parts;

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
/// keep their codes, in our order; on devices of other machines, and where they are no linear weights, they are expanded. Tables
/// and linear weights that are larger than the largest buffer of their device lie in several, some rows in each
/// ([`Weight::blocks`](qwen3_vl_model::weight::Weight::blocks)).
///
/// # Errors
/// When a tensor is missing, has another shape than the configuration says or a dtype that weights cannot have, or what is not
/// split, such as the experts of a layer, is larger than a buffer of its device.
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
    let mut model = Qwen3VlModel::placed(checkpoint.config(), placement, precision)
        .with_max_buffer(how.buffer_of_layers(placement));
    let mut plan = LoadPlan::new(checkpoint, &model)?;
    if let Some(rounding) = how.rounding {
        plan.round(checkpoint, &mut model, rounding)?;
    }
    plan.split(&mut model, placement, how);
    plan.check_devices(placement, how)?;
    plan.check_room(placement, how)?;
    let total = plan.items.iter().map(Item::bytes).sum();
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
    lost::caught(|| loader.place(&mut model, items))??;
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
        // The scales of a rounded weight and the blocks of a split one have no item: they are in their places already.
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
        self.done += item.bytes();
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
    use crate::rounding::Rounding;

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
