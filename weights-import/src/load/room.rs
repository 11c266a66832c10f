//! Whether the weights have room on cards that tell their memory.

use qwen3_vl_backends::{PartSizes, Placement, SelectedDevice};

use super::{LoadHow, LoadPlan, home, parts};
use crate::error::LoadError;

impl LoadPlan<'_> {
    /// Refuses what does not fit before anything is allocated: Burn tells of an allocation that failed when the tensor is
    /// read, which a weight may never be.
    pub(super) fn check_room(
        &self,
        placement: &Placement,
        how: LoadHow<'_>,
    ) -> Result<(), LoadError> {
        // Experts that stay on the host take what --expert-memory gives them, which is found as they come.
        let stays = |path| how.expert_memory.is_some() && parts::is_of_experts(path);
        let items = self.items.iter().filter(|item| !stays(&item.path));
        check_room(items.map(|item| {
            let (device, _) = home(placement, &item.path);
            (device, item.buffer(device, how) + item.scales(device))
        }))
    }
}

/// As [`check_room`], of all parts of a model.
///
/// # Errors
/// When a card tells that less is free.
pub(crate) fn check_parts(placement: &Placement, sizes: &PartSizes) -> Result<(), LoadError> {
    let layers = sizes.layers.iter().enumerate();
    let layers = layers.map(|(index, bytes)| (placement.layer(index), *bytes));
    let ends = [
        (&placement.vision, sizes.vision),
        (&placement.embed, sizes.embed),
        (&placement.head, sizes.head),
    ];
    check_room(layers.chain(ends))
}

/// Refuses parts of a model, by bytes on their devices, that a card has no room for together.
///
/// # Errors
/// When a card tells that less is free.
pub(crate) fn check_room<'d>(
    parts: impl Iterator<Item = (&'d SelectedDevice, u64)>,
) -> Result<(), LoadError> {
    let mut needs: Vec<(&SelectedDevice, u64)> = Vec::new();
    for (device, bytes) in parts.filter(|(device, _)| !device.kind.is_cpu()) {
        match needs.iter_mut().find(|(known, _)| known.name == device.name) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => needs.push((device, bytes)),
        }
    }
    for (device, needed) in needs {
        let Some(memory) = device.memory().filter(|memory| needed > memory.available) else {
            continue;
        };
        return Err(LoadError::Room {
            device: device.name.clone(),
            needed: mebibytes(needed),
            free: mebibytes(memory.available),
            total: mebibytes(memory.total),
        });
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
