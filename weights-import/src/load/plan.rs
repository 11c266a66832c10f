//! Which tensor fills which parameter, and what becomes of it.

use std::collections::BTreeMap;

use burn::tensor::DType;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_backends::{Placement, SelectedDevice};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::Quantisation;

use super::foreign::{self, Foreign};
use super::parts::{self, as_matrix, computes_rounded, home, parameters};
use super::{LoadHow, rounded, split};
use crate::apart;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;
use crate::names::{Layout, stored_name};
use crate::report::{LoadReport, Misshapen};
use crate::rounding::Rounding;

/// A parameter and the tensor that fills it.
pub(super) struct Item<'c> {
    /// Module path of the parameter.
    pub path: String,
    pub name: String,
    /// Of the parameter.
    pub shape: Vec<usize>,
    pub entry: &'c TensorEntry,
    /// Whether the last two axes must be swapped.
    pub transposed: bool,
    pub dtype: DType,
    pub stored: Stored<'c>,
    /// Rows of each block but the last, where the weight is split.
    pub block: Option<usize>,
}

/// What becomes of a tensor.
pub(super) enum Stored<'c> {
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
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self.stored {
            Stored::Plain | Stored::Foreign(_) => None,
            Stored::Round { scheme } | Stored::Codes { scheme, .. } => Some(scheme),
        }
    }

    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        match &self.stored {
            Stored::Foreign(Foreign::Apart(pieces)) => {
                pieces.iter().map(|piece| piece.entry.bytes()).sum()
            }
            _ => self.entry.bytes(),
        }
    }

    /// Bytes of its largest buffer on `device`, were it not split.
    pub fn buffer(&self, device: &SelectedDevice, how: LoadHow<'_>) -> u64 {
        // Experts that stay on the host come one by one.
        let alone = how.expert_memory.is_some() && parts::is_of_experts(&self.path);
        let shape = &self.shape[usize::from(alone)..];
        let codes = |scheme: QuantScheme| {
            let [rows, inputs] = as_matrix(shape);
            rows as u64 * scheme.row_bytes(inputs) as u64
        };
        match &self.stored {
            Stored::Codes { scheme, .. } | Stored::Round { scheme } => codes(*scheme),
            Stored::Foreign(foreign) if parts::keeps_codes(device) => codes(foreign.scheme()),
            _ => {
                let count: u64 = shape.iter().map(|side| *side as u64).product();
                count * how.precision.of_rank(shape.len()).size() as u64
            }
        }
    }

    /// Bytes of its scales on `device`, beside the codes.
    pub fn scales(&self, device: &SelectedDevice) -> u64 {
        let scales = match &self.stored {
            Stored::Codes { scheme, .. } | Stored::Round { scheme } => Some((*scheme, DType::BF16)),
            Stored::Foreign(foreign) if parts::keeps_codes(device) => {
                Some((foreign.scheme(), foreign.scale_dtype()))
            }
            _ => None,
        };
        scales.map_or(0, |(scheme, dtype)| {
            let [rows, inputs] = as_matrix(&self.shape);
            let dtype = if device.holds(dtype) { dtype } else { DType::F32 };
            (rows * scheme.scale_columns(inputs) * dtype.size()) as u64
        })
    }
}

/// What is to be loaded, and what does not fit.
pub(super) struct LoadPlan<'c> {
    /// In the order in which the module is traversed.
    pub items: Vec<Item<'c>>,
    pub report: LoadReport,
}

impl<'c> LoadPlan<'c> {
    pub fn new(checkpoint: &'c Checkpoint, model: &Qwen3VlModel) -> Result<Self, LoadError> {
        let plan = Self::compare(checkpoint, model)?;
        if plan.report.is_complete() {
            return Ok(plan);
        }
        let folder = checkpoint.folder().to_owned();
        Err(LoadError::Mismatch { folder, report: Box::new(plan.report) })
    }

    pub fn compare(checkpoint: &'c Checkpoint, model: &Qwen3VlModel) -> Result<Self, LoadError> {
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
    pub fn round(
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
            let known = match &item.stored {
                Stored::Foreign(foreign) => Some(foreign.scheme()),
                _ => item.scheme(),
            };
            if let Some(scheme) = known {
                return Err(LoadError::Rounded { folder: checkpoint.folder().to_owned(), scheme });
            }
            item.stored = Stored::Round { scheme: rounding.scheme_of(&item.path) };
        }
        Ok(())
    }

    /// Marks the matrices that are split by rows, for they are larger than the largest buffer. Those of experts are none.
    pub fn split(&mut self, model: &mut Qwen3VlModel, placement: &Placement, how: LoadHow<'_>) {
        if how.whole {
            return;
        }
        let matrices = model.roundable_mut().into_iter().filter(|(_, weight)| weight.is_matrix());
        let rows: BTreeMap<String, usize> =
            matrices.map(|(path, weight)| (path, weight.shape()[0])).collect();
        for item in &mut self.items {
            let (device, _) = home(placement, &item.path);
            if let (Some(rows), Some(limit)) = (rows.get(&item.path), how.buffer_of(device)) {
                item.block = split::block_rows(*rows, item.buffer(device, how), limit);
            }
        }
    }

    /// Refuses rounded experts where nothing computes with them, and what is larger than the largest buffer and not split.
    pub fn check_devices(&self, placement: &Placement, how: LoadHow<'_>) -> Result<(), LoadError> {
        for item in &self.items {
            let (device, part) = home(placement, &item.path);
            if item.scheme().is_some() {
                computes_rounded(device, &item.path, part)?;
            }
            let bytes = item.buffer(device, how);
            let limit = how.buffer_of(device).filter(|_| item.block.is_none());
            if let Some(limit) = limit.filter(|limit| bytes > *limit) {
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
                    shape: shape.to_vec(),
                    entry,
                    transposed: false,
                    dtype: DType::U8,
                    stored: Stored::Foreign(foreign),
                    block: None,
                }),
                _ => self.add_misshapen(name, entry, shape),
            }
            return Ok(());
        }
        let Some(entry) = checkpoint.tensors().get(&name) else {
            apart::differing(checkpoint, &name, shape)?;
            self.report.missing.push((name, None));
            return Ok(());
        };
        if let Some(stored) = rounded::stored(checkpoint, (&name, entry), shape)? {
            let (transposed, dtype, shape) = (false, DType::U8, shape.to_vec());
            let block = None;
            self.add_codes(Item { path, name, shape, entry, transposed, dtype, stored, block });
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
                let (stored, shape, block) = (Stored::Plain, shape.to_vec(), None);
                self.items.push(Item {
                    path,
                    name,
                    shape,
                    entry,
                    transposed,
                    dtype,
                    stored,
                    block,
                });
            }
            None => self.add_misshapen(name, entry, shape),
        }
        Ok(())
    }

    fn add_misshapen(&mut self, name: String, entry: &TensorEntry, shape: &[usize]) {
        let (found, expected) = (entry.shape.clone(), shape.to_vec());
        self.report.misshapen.push(Misshapen { name, found, expected });
    }

    /// A rounded weight.
    fn add_codes(&mut self, item: Item<'c>) {
        let [_, inputs] = as_matrix(&item.shape);
        let mut expected = item.shape.clone();
        expected.splice(expected.len() - 1.., item.scheme().map(|scheme| scheme.row_bytes(inputs)));
        match item.entry.shape == expected {
            true => self.items.push(item),
            false => {
                let found = item.entry.shape.clone();
                self.report.misshapen.push(Misshapen { name: item.name, found, expected });
            }
        }
    }

    fn add_unexpected(&mut self, checkpoint: &Checkpoint) {
        let name = |item: &Item<'_>| match &item.stored {
            Stored::Codes { .. } => vec![item.name.clone(), rounded::scales_name(&item.name)],
            Stored::Foreign(Foreign::Apart(pieces)) => {
                pieces.iter().flat_map(|piece| foreign::side_names(&piece.name)).collect()
            }
            Stored::Foreign(_) => foreign::side_names(&item.name),
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
}
