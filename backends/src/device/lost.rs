//! Devices that may be gone while a model runs, as those of other machines are.
//!
//! What is computed there is sent without waiting, so that a loss is noticed when something is read back. A forward pass
//! returns no error; it is left by unwinding, past the panic hook, with a [`DeviceLost`], of which [`caught`] makes an error.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::{DType, Device, Tensor, TensorData};

#[cfg(feature = "remote")]
use super::remote;

/// A device of another machine that does not answer any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device `{device}` was lost: {reason}")]
pub struct DeviceLost {
    /// As `--device` names it.
    pub device: String,
    pub reason: String,
}

impl DeviceLost {
    /// Leaves what is being computed, for the nearest [`caught`].
    #[cfg(feature = "remote")]
    pub(super) fn leave(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

/// Runs `work`, which may lose its device. Other panics go on.
///
/// # Errors
/// When it has lost it. Then caches that `work` was extending are half written.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, DeviceLost> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast() {
        Ok(lost) => *lost,
        Err(other) => resume_unwind(other),
    })
}

/// Whether `device` is one of another machine.
pub fn is_remote(device: &Device) -> bool {
    #[cfg(feature = "remote")]
    return remote::is_remote(device);
    #[cfg(not(feature = "remote"))]
    {
        let _ = device;
        false
    }
}

/// The values of `tensor` on the host.
///
/// # Panics
/// With a [`DeviceLost`] when its device is lost, see [`caught`].
pub fn read<const D: usize>(tensor: Tensor<D>) -> TensorData {
    #[cfg(feature = "remote")]
    if is_remote(&tensor.device()) {
        return remote::read(tensor);
    }
    tensor.into_data()
}

/// `tensor` on `device`. Between two machines it goes through this one.
///
/// # Panics
/// As [`read`].
pub fn moved<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    #[cfg(feature = "remote")]
    if remote::is_away(&tensor.device(), device) {
        let dtype = tensor.dtype();
        return Tensor::from_data(read(tensor), (device, dtype));
    }
    tensor.to_device(device)
}

/// A weight on `device`. What is large goes to another machine in pieces, each of which is waited for.
///
/// # Panics
/// As [`read`].
pub fn upload<const D: usize>(data: TensorData, device: &Device, dtype: DType) -> Tensor<D> {
    #[cfg(feature = "remote")]
    if is_remote(device) {
        return remote::upload(data.convert_dtype(dtype), device);
    }
    Tensor::from_data(data, (device, dtype))
}

/// Waits until all that was sent to `device` is computed.
///
/// # Panics
/// As [`read`].
pub fn settle(device: &Device) {
    #[cfg(feature = "remote")]
    if is_remote(device) {
        return remote::settle(device);
    }
    // Who reads afterwards is told what went wrong.
    let _ = device.sync();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_panics_go_on() {
        assert_eq!(caught(|| 3), Ok(3));
        let other = catch_unwind(|| caught::<()>(|| resume_unwind(Box::new("another panic"))));
        assert_eq!(other.unwrap_err().downcast_ref(), Some(&"another panic"));
    }

    #[test]
    fn a_loss_becomes_an_error() {
        let lost = DeviceLost { device: "remote:box:3000".into(), reason: "it is gone".into() };
        let told = lost.clone();
        let found = caught::<()>(move || resume_unwind(Box::new(told)));
        assert_eq!(found, Err(lost));
    }
}
