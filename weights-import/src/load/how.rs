//! In which form weights are loaded.

use qwen3_vl_backends::dtype::maps_in_place;
use qwen3_vl_backends::{Placement, Precision, SelectedDevice};
use qwen3_vl_model::Qwen3VlConfig;

use crate::error::LoadError;
use crate::rounding::Rounding;

/// In which form weights are held.
#[derive(Debug, Clone, Copy)]
pub struct LoadHow<'r> {
    pub precision: Precision,
    /// Which weights are rounded as they are read, and how.
    pub rounding: Option<&'r Rounding>,
    /// Leaves experts on the host, with as many bytes of them on the devices.
    pub expert_memory: Option<u64>,
    /// Most bytes of one buffer, where that is less than what a device has.
    pub max_buffer: Option<u64>,
    /// Refuses matrices that are larger than a buffer, as training wants them in one piece, and splits none.
    pub whole: bool,
}

impl<'r> LoadHow<'r> {
    /// Everything on the devices, in `precision`, and what `rounding` chooses rounded.
    pub fn new(precision: Precision, rounding: Option<&'r Rounding>) -> Self {
        Self { precision, rounding, expert_memory: None, max_buffer: None, whole: false }
    }

    /// Most bytes of one buffer on every device that holds layers.
    pub(crate) fn buffer_of_layers(&self, placement: &Placement) -> Option<u64> {
        placement.stages.iter().filter_map(|stage| self.buffer_of(&stage.device)).min()
    }

    /// Most bytes of one buffer on `device`, where there is a limit.
    pub(crate) fn buffer_of(&self, device: &SelectedDevice) -> Option<u64> {
        [device.max_buffer(), self.max_buffer].into_iter().flatten().min()
    }
}

/// Refuses experts that are to stay on the host where there are none, or where no device would hold any of them.
///
/// # Errors
/// As it says.
pub fn check_expert_memory(
    config: &Qwen3VlConfig,
    placement: &Placement,
    how: LoadHow<'_>,
) -> Result<(), LoadError> {
    let layers = 0..config.text.layers;
    let mut devices =
        layers.filter(|index| config.text.is_moe_layer(*index)).map(|index| placement.layer(index));
    match (how.expert_memory, devices.next()) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(LoadError::NoExperts),
        (Some(_), Some(first)) => {
            let moved = |device: &SelectedDevice| !maps_in_place(device.kind);
            let device = first.name.clone();
            let any = moved(first) || devices.any(moved);
            any.then_some(()).ok_or(LoadError::ExpertsInPlace { device })
        }
    }
}
