//! Devices that may fail while a model runs: those of other machines are gone, cards have no memory left.
//!
//! What is computed there is sent without waiting, so that a failure is noticed when something is read back. A forward pass
//! returns no error; it is left by unwinding, past the panic hook, with a [`DeviceFailure`], of which [`caught`] makes an error.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::MemoryInfo;
#[cfg(feature = "remote")]
use super::remote;
use crate::threads::is_processor;

/// A device that computes nothing any more: one of another machine that does not answer, or a card that its driver gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device `{device}` was lost: {reason}")]
pub struct DeviceLost {
    /// As `--device` names it.
    pub device: String,
    pub reason: String,
}

/// Why a device did not compute what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFailure {
    #[error(transparent)]
    Lost(#[from] DeviceLost),
    /// It goes on with what it is asked next.
    #[error("device `{device}` could not compute this: {reason}")]
    Refused {
        /// As `--device` names it.
        device: String,
        reason: String,
    },
}

impl DeviceFailure {
    /// Leaves what is being computed, for the nearest [`caught`].
    pub(crate) fn leave(self) -> ! {
        resume_unwind(Box::new(self))
    }

    /// What `device` of this machine said that does not tell whether it goes on: waiting for it does.
    pub(crate) fn found_out(device: &Device, said: &str) -> Self {
        let poisoned = device.sync().is_err_and(|waited| waited.is_device_poisoned());
        Self::of(device, poisoned, said)
    }

    /// What `device` of this machine said when it was to be read.
    pub(crate) fn of(device: &Device, poisoned: bool, said: &str) -> Self {
        let found = super::present().into_iter().find(|present| present.device == *device);
        let name = found.as_ref().map_or("of this machine".to_owned(), |d| d.name.clone());
        match poisoned {
            true => DeviceLost { device: name, reason: gist(said) }.into(),
            false => {
                let free = found.and_then(|device| device.memory_as_it_is());
                let reason = out_of_memory(said, free).unwrap_or_else(|| gist(said));
                Self::Refused { device: name, reason }
            }
        }
    }
}

/// What is said of a buffer that a card had no room for, or that no card of its kind has, with `free` as its memory is then; nothing where that is not it.
fn out_of_memory(said: &str, free: Option<MemoryInfo>) -> Option<String> {
    let wanted_behind = |words: &str| {
        let (_, rest) = said.split_once(words)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(digits.parse::<u64>().ok()?.div_ceil(1 << 20))
    };
    if let Some(wanted) = wanted_behind("can't allocate buffer of size: ") {
        return Some(format!(
            "a buffer of {wanted} MiB is larger than any that the device has, whatever is free; shorten the prompt, lower \
             --max-pixels or --max-num-seqs, or take another device"
        ));
    }
    let wanted = wanted_behind("out of device memory allocating ")?;
    let mebibytes = |bytes: u64| bytes >> 20;
    let free = free.map_or(String::new(), |memory| {
        let (free, total) = (mebibytes(memory.available), mebibytes(memory.total));
        format!(", of whose {total} MiB {free} are free")
    });
    Some(format!(
        "out of memory: a buffer of {wanted} MiB has no room on the card{free}; shorten the prompt, lower --max-pixels, or load \
         the weights with --quant; in training lower batch.tokens"
    ))
}

/// What failed, and the first of its causes, without the backtrace.
fn gist(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let trace = ["Backtrace", "No backtrace", "0:"];
    let lines = lines.take_while(|line| !trace.iter().any(|begin| line.starts_with(begin)));
    let lines: Vec<&str> = lines.collect();
    match lines.as_slice() {
        [first, .., last] if *last != "Caused by:" => format!("{first}: {last}"),
        [first, ..] => (*first).to_owned(),
        [] => "it does not say why".to_owned(),
    }
}

/// Runs `work`, whose device may fail. Other panics go on.
///
/// # Errors
/// When it failed. Then caches that `work` was extending are half written.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, DeviceFailure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast() {
        Ok(failure) => *failure,
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
/// With a [`DeviceFailure`] when its device failed, see [`caught`].
pub fn read<const D: usize>(tensor: Tensor<D>) -> TensorData {
    #[cfg(feature = "remote")]
    if is_remote(&tensor.device()) {
        return remote::read(tensor);
    }
    let device = tensor.device();
    let data = tensor.try_into_data().unwrap_or_else(|error| {
        DeviceFailure::of(&device, error.is_device_poisoned(), error.reason()).leave()
    });
    // A card's values are read when they are first looked at, which is to be here.
    if !is_processor(&device)
        && let Err(error) = data.bytes().read(Default::default())
    {
        DeviceFailure::found_out(&device, &error.to_string()).leave();
    }
    data
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
    fn a_failure_becomes_an_error() {
        let lost = DeviceLost { device: "remote:box:3000".into(), reason: "it is gone".into() };
        let told = DeviceFailure::from(lost.clone());
        assert_eq!(caught::<()>(move || told.leave()), Err(lost.into()));
    }

    #[test]
    fn what_had_no_room_is_told_with_figures() {
        let said = "An IO error happened\nCaused by:\n  out of device memory allocating 3145729 bytes\n  0: main";
        let memory = MemoryInfo { total: 80 << 20, available: 2 << 20 };
        let reason = out_of_memory(said, Some(memory)).unwrap();
        let figures = "a buffer of 4 MiB has no room on the card, of whose 80 MiB 2 are free;";
        assert!(reason.contains(figures), "{reason}");
        assert_eq!(out_of_memory("the kernel trapped", Some(memory)), None);
        let said = "IO error: can't allocate buffer of size: 5000000";
        let reason = out_of_memory(said, Some(memory)).unwrap();
        let figure = "a buffer of 5 MiB is larger than any that the device has";
        assert!(reason.contains(figure) && !reason.contains("free are"), "{reason}");
        for (said, expected) in [
            (
                "A trap\nCaused by:\n  A launch\nCaused by:\n  address 0\nBacktrace:\n   0: main",
                "A trap: address 0",
            ),
            ("A trap\nBacktrace:\n   0: main", "A trap"),
            ("A trap\nCaused by:\n  address 0\nNo backtrace available", "A trap: address 0"),
            ("", "it does not say why"),
        ] {
            assert_eq!(gist(said), expected);
        }
    }

    /// A card that tells its memory is asked for more, and goes on.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_card_without_room_goes_on() {
        let cards = crate::device::present().into_iter();
        let card = cards
            .filter(|d| d.kind == crate::BackendKind::Cuda)
            .find_map(|d| Some((d.memory()?, d)));
        let Some((memory, card)) = card else {
            println!("skipped: no CUDA card on this machine");
            return;
        };
        let values = usize::try_from(memory.total / 4 / 2 + 1).unwrap();
        let filled = || Tensor::<1>::ones([values], (&card.device, DType::F32));
        for _ in 0..2 {
            let both = caught(|| read((filled() + 1.0).mul(filled() * 3.0).sum()));
            let Err(DeviceFailure::Refused { device, reason }) = both else { panic!("{both:?}") };
            // More than half of the memory is more than one buffer may have, too.
            let told = ["out of memory: a buffer of", "is larger than any that the device has"];
            let told = told.iter().any(|words| reason.contains(words));
            assert!(device == card.name && told, "{device}: {reason}");
            let few = Tensor::<1>::ones([4], (&card.device, DType::F32)) * 3.0;
            assert_eq!(caught(|| read(few)).unwrap().try_to_vec::<f32>().unwrap(), [3.0; 4]);
        }
    }
}
