//! Whether the weights have room on cards that tell their memory.

use qwen3_vl_backends::{Placement, SelectedDevice};

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
        let mut needs: Vec<(&SelectedDevice, u64)> = Vec::new();
        // Experts that stay on the host take what --expert-memory gives them, which is found as they come.
        let stays = |path| how.expert_memory.is_some() && parts::is_of_experts(path);
        for item in self.items.iter().filter(|item| !stays(&item.path)) {
            let (device, _) = home(placement, &item.path);
            let bytes = item.buffer(device, how);
            match needs.iter_mut().find(|(known, _)| known.name == device.name) {
                Some((_, sum)) => *sum += bytes,
                None => needs.push((device, bytes)),
            }
        }
        for (device, needed) in needs.into_iter().filter(|(device, _)| !device.kind.is_cpu()) {
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
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
