//! Work that a card does again and again on the same tensors: recorded once, then replayed.
//!
//! A step of a model is some hundred launches, each of which the host prepares. Recorded, they are one (CUDA and HIP graphs), or
//! a list that only has to be sent (wgpu). What is replayed reads and writes the very memory that it had when it was recorded.

use std::sync::{OnceLock, PoisonError, RwLock};
use std::thread::{self, ThreadId};

use burn::backend::{Backend, BackendGraph, Dispatch, DispatchDevice};
use burn::tensor::{Device, Tensor};

use crate::device::DeviceFailure;
use crate::device::lost::{self, caught};
use crate::threads::on_queue;

/// The environment variable that, set to `off`, has every step launched anew.
pub const GRAPH_VARIABLE: &str = "QWEN3_VL_GRAPH";

/// Times that work is done before it is recorded; each of the first may take other memory than all later ones.
const WARM_UPS: usize = 3;

/// Held alone by who records, and by many who work beside recordings. It is one for all devices, as CUDA's global mode is.
static RECORDS: RwLock<()> = RwLock::new(());

/// [`GRAPH_VARIABLE`] has a value that says nothing.
#[derive(Debug, thiserror::Error)]
#[error("{GRAPH_VARIABLE} is `{value}`; it must be off, or on as without it")]
pub struct GraphError {
    value: String,
}

/// Whether steps are recorded where that is possible. A wrong [`GRAPH_VARIABLE`] is reported when a device is opened, and has no
/// effect here.
pub fn graphs_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| wanted().unwrap_or(true))
}

/// What the environment says.
///
/// # Errors
/// When it is neither.
pub fn wanted() -> Result<bool, GraphError> {
    let value = std::env::var_os(GRAPH_VARIABLE).unwrap_or_default();
    named(&value.to_string_lossy())
}

fn named(value: &str) -> Result<bool, GraphError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "on" | "1" | "true" => Ok(true),
        "off" | "0" | "false" => Ok(false),
        _ => Err(GraphError { value: value.to_owned() }),
    }
}

/// Does `work`, which uses a device on a thread of its own, while nothing is recorded: it waits for a recording, and the next one
/// waits for it. It may not record itself. All such work is on one queue of a card ([`on_queue`]).
pub fn beside_recordings<T>(work: impl FnOnce() -> T) -> T {
    let _many = RECORDS.read().unwrap_or_else(PoisonError::into_inner);
    on_queue(0, work)
}

type Work<'a, T> = Box<dyn FnMut() -> T + Send + 'a>;

/// Recorded work, and all that it may touch.
pub struct Recording<'a, T> {
    /// What the work gave when it was recorded; replays overwrite it.
    found: T,
    /// Owns the tensors that the work touches; those that it borrows live for `'a`.
    _work: Work<'a, T>,
    graph: BackendGraph<Dispatch>,
    device: Device,
    /// Whose stream it was recorded on.
    thread: ThreadId,
}

impl<'a, T> Recording<'a, T> {
    /// Does `work` a few times, so that kernels are compiled and memory is there, and records it. Its launches must be the same each
    /// time, read nothing back and upload nothing, and what it writes for the next time must be written in place, as by
    /// [`crate::ops::fixed::write_rows`].
    ///
    /// What other threads allocate on a CUDA card meanwhile is refused (CubeCL captures in CUDA's global mode), unless they do it
    /// in [`beside_recordings`]; [`GRAPH_VARIABLE`] switches recording off where they cannot.
    ///
    /// Nothing where the device records nothing, or the recording failed; then what `work` writes to is not to be read any more.
    ///
    /// # Panics
    /// With a [`DeviceFailure`] when `work` finds the device lost.
    pub fn of(device: &Device, work: impl FnMut() -> T + Send + 'a) -> Option<Self> {
        let mut work: Work<'a, T> = Box::new(work);
        let _alone = RECORDS.write().unwrap_or_else(PoisonError::into_inner);
        match caught(|| record(device, &mut work)) {
            Ok(recorded) => {
                let (found, graph) = recorded?;
                let (device, thread) = (device.clone(), thread::current().id());
                Some(Self { found, _work: work, graph, device, thread })
            }
            // It reads something, or takes more memory than there is.
            Err(DeviceFailure::Refused { .. }) => None,
            Err(lost) => lost.leave(),
        }
    }

    /// Whether this is the thread that recorded. On another one nothing is replayed, and what was is not to be read.
    pub fn is_here(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// Has the work done again, without waiting for it. What it gives lies where it lay before: the last values are overwritten.
    /// Nothing, and nothing is done, on another thread than that which recorded it.
    ///
    /// # Panics
    /// With a [`DeviceFailure`] when the device failed, see [`caught`].
    pub fn replay(&mut self) -> Option<&T> {
        if !self.is_here() {
            return None;
        }
        // SAFETY: everything that was read or written when the work was recorded still exists: it belongs to the closure or
        // to the output, which are held here, or is borrowed by the closure for longer than the graph lives; memory that the
        // work took and gave back while it was recorded is kept for the graph by the runtime. A stream belongs to a thread, and
        // this is the thread that recorded, so that whatever the same thread launches before or after keeps its order.
        let replayed = unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) };
        if let Err(error) = replayed {
            DeviceFailure::found_out(&self.device, error.reason()).leave();
        }
        Some(&self.found)
    }
}

/// What `work` gives, and its recording; nothing where the device makes none.
fn record<T>(device: &Device, work: &mut Work<'_, T>) -> Option<(T, BackendGraph<Dispatch>)> {
    let window = Window::prepare(device.as_dispatch());
    for _ in 0..WARM_UPS {
        let found = work();
        // Who reads afterwards is told what went wrong.
        let _ = device.sync();
        drop(found);
    }
    Dispatch::graph_start_capture(window.on).ok()?;
    let found = work();
    Some((found, window.close()?))
}

/// A capture, which is closed however it ends: a stream that was left open would record all that comes after.
struct Window<'d> {
    on: &'d DispatchDevice,
    open: bool,
}

impl<'d> Window<'d> {
    /// Has what is allocated from now on stay for the recording.
    fn prepare(on: &'d DispatchDevice) -> Self {
        // Where nothing is recorded, that is told when the capture starts.
        let _ = Dispatch::graph_prepare(on);
        Self { on, open: true }
    }

    fn close(mut self) -> Option<BackendGraph<Dispatch>> {
        self.open = false;
        Dispatch::graph_stop_capture(self.on).ok()
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        if self.open {
            let _ = Dispatch::graph_stop_capture(self.on);
        }
    }
}

/// Values on their way to the host.
pub struct Reading(Values);

enum Values {
    Here(Vec<f32>),
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    Coming(coming::Coming),
}

impl Reading {
    /// Begins to read `tensor`, in f32, as it is now: work that is launched from now on may overwrite it. Cards go on; elsewhere
    /// the values are there at once.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        let tensor = match coming::begin(tensor) {
            Ok(coming) => return Self(Values::Coming(coming)),
            Err(tensor) => tensor,
        };
        let data = lost::read(tensor);
        Self(Values::Here(data.try_to_vec().expect("what is read is in f32")))
    }

    /// Waits for the values.
    ///
    /// # Panics
    /// With a [`crate::DeviceFailure`] when the device failed, see [`crate::device::lost::caught`].
    pub fn wait(self) -> Vec<f32> {
        match self.0 {
            Values::Here(values) => values,
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            Values::Coming(coming) => coming::wait(coming),
        }
    }
}

/// Burn's own reading of a card's tensor looks at the memory when the values are first wanted, which would be too late.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod coming {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use burn::backend::{BackendTensor, DispatchTensorKind};
    use burn::tensor::{DType, Device, Tensor};
    use burn_cubecl::cubecl::bytes::Bytes;
    use burn_cubecl::cubecl::future::block_on;
    use burn_cubecl::cubecl::server::{CopyDescriptor, ServerError};

    use crate::device::DeviceFailure;

    type Found = Result<Bytes, ServerError>;

    /// What came, or comes. It is waited for in any case: wgpu takes the memory that it is copied to for the next reading.
    pub(super) struct Coming {
        device: Device,
        found: Option<Found>,
        copy: Option<Pin<Box<dyn Future<Output = Found> + Send>>>,
    }

    impl Drop for Coming {
        fn drop(&mut self) {
            if let Some(copy) = self.copy.take() {
                drop(block_on(copy));
            }
        }
    }

    /// The tensor again where it is not on a card.
    pub(super) fn begin<const D: usize>(tensor: Tensor<D>) -> Result<Coming, Tensor<D>> {
        let device = tensor.device();
        let dispatch = tensor.into_dispatch();
        let DispatchTensorKind::Cube(BackendTensor::Float(found)) = &dispatch.kind else {
            return Err(Tensor::from_dispatch(dispatch));
        };
        assert_eq!(found.dtype, DType::F32, "what is read is in f32");
        let found = burn_cubecl::kernel::into_contiguous_aligned(found.clone());
        let mut copy = Box::pin(async move {
            let (shape, strides) = (found.meta.shape().clone(), found.meta.strides().clone());
            let from = found.handle.clone().binding();
            let from = CopyDescriptor::new(from, shape, strides, size_of::<f32>());
            found.client.read_one_tensor_async(from).await
        });
        // The copy is put on the stream when it is first asked for.
        Ok(match copy.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => Coming { device, found: Some(found), copy: None },
            Poll::Pending => Coming { device, found: None, copy: Some(copy) },
        })
    }

    pub(super) fn wait(mut coming: Coming) -> Vec<f32> {
        let found = coming.found.take().or_else(|| coming.copy.take().map(block_on));
        let found = found.expect("what is read came or comes");
        let bytes = found.unwrap_or_else(|error| {
            let (poisoned, said) = (error.is_device_poisoned(), error.to_string());
            DeviceFailure::of(&coming.device, poisoned, &said).leave()
        });
        let word = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.chunks_exact(size_of::<f32>()).map(word).collect()
    }
}

#[cfg(all(test, any(feature = "wgpu", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::device::{self, BackendKind};
    use crate::ops::fixed::write_rows;
    use burn::tensor::DType;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// The best card; nothing, with the reason, where there is none.
    fn card() -> Option<Device> {
        let mut found = device::present().into_iter();
        let found = found.find(|d| matches!(d.kind, BackendKind::Cuda | BackendKind::Wgpu));
        if found.is_none() {
            println!("skipped: no graphics adapter on this machine");
        }
        found.map(|found| found.device)
    }

    fn filled(value: f32, device: &Device) -> Tensor<4> {
        Tensor::full([1, 1, 1, 4], value, (device, DType::F32))
    }

    /// Three times the counter plus one, in place.
    fn grow(counter: &mut Tensor<4>, top: &Tensor<1>) {
        let next = counter.clone() * 3.0 + 1.0;
        *counter = write_rows(counter.clone(), next, top.clone());
    }

    #[test]
    fn what_the_variable_says_is_read_or_refused() {
        let said = ["", "on", "1", "off", "OFF", "0", "false"].map(|value| named(value).unwrap());
        assert_eq!(said, [true, true, true, false, false, false, false]);
        let error = named("none").unwrap_err().to_string();
        assert!(error.contains(GRAPH_VARIABLE) && error.contains("`none`"), "{error}");
    }

    #[test]
    fn replays_go_on_from_what_lies_there_and_readings_are_of_their_time() {
        let Some(device) = card() else { return };
        let (counter, top) = (filled(0.0, &device), Tensor::zeros([1], (&device, DType::F32)));
        let (mut mine, at) = (counter.clone(), top.clone());
        let mut recording = Recording::of(&device, move || grow(&mut mine, &at)).expect("a graph");
        let counter = write_rows(counter, filled(0.5, &device), top.clone());
        let mut readings = Vec::new();
        for _ in 0..5 {
            recording.replay().expect("the same thread");
            readings.push(Reading::of(counter.clone()));
        }
        let mut expected = 0.5;
        for reading in readings {
            expected = expected * 3.0 + 1.0;
            assert_eq!(reading.wait(), [expected; 4]);
        }
        let elsewhere = thread::scope(|scope| {
            scope.spawn(|| recording.replay().is_none()).join().expect("the thread ends")
        });
        assert!(elsewhere, "another thread has another stream");
        assert_eq!(Reading::of(counter).wait(), [expected; 4]);
    }

    /// An upload cannot be recorded but by CUDA, for which it is a copy like others: there is no recording, and the device goes on.
    #[test]
    fn what_cannot_be_recorded_is_not() {
        let Some(device) = card() else { return };
        let upload = {
            let device = device.clone();
            move || Tensor::<1>::from_data([1.0f32, 2.0], &device) + 1.0
        };
        let recorded = Recording::of(&device, upload).is_some();
        let on_cuda =
            device::present().iter().any(|d| d.device == device && d.kind == BackendKind::Cuda);
        assert_eq!(recorded, on_cuda);
        assert_eq!(Reading::of(filled(2.0, &device) * 2.0).wait(), [4.0; 4]);
    }

    /// What the host reads cannot be recorded, and neither can what panics; the device goes on, and records other work.
    #[test]
    fn a_recording_that_is_left_is_closed() {
        let Some(device) = card() else { return };
        let read = {
            let device = device.clone();
            move || lost::read(filled(1.5, &device) * 2.0)
        };
        assert!(Recording::of(&device, read).is_none());
        let mut times = 0;
        let breaks = || {
            let _launched = filled(1.0, &device) + 1.0;
            times += 1;
            assert!(times <= WARM_UPS, "at the recording");
        };
        let left = catch_unwind(AssertUnwindSafe(|| Recording::of(&device, breaks).is_some()));
        assert!(left.is_err(), "a panic goes on");
        let (counter, top) = (filled(0.0, &device), Tensor::zeros([1], (&device, DType::F32)));
        let mut mine = counter.clone();
        let mut recording = Recording::of(&device, move || grow(&mut mine, &top)).expect("a graph");
        let before = Reading::of(counter.clone()).wait()[0];
        recording.replay().expect("the same thread");
        assert_eq!(Reading::of(counter).wait(), [before * 3.0 + 1.0; 4]);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn processors_record_nothing_and_read_at_once() {
        let device = Device::flex();
        assert!(Recording::of(&device, || ()).is_none());
        assert_eq!(Reading::of(filled(1.5, &device)).wait(), [1.5; 4]);
    }
}

#[cfg(all(test, feature = "flex"))]
mod lock {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Two at once are beside recordings, and the work of a recording that was asked for meanwhile begins when both have ended.
    #[test]
    fn a_recording_waits_for_those_beside_it() {
        let (all, over) = (Barrier::new(3), AtomicUsize::new(0));
        let beside = || {
            beside_recordings(|| {
                all.wait();
                thread::sleep(std::time::Duration::from_millis(50));
                over.fetch_add(1, Ordering::SeqCst);
            });
        };
        thread::scope(|scope| {
            scope.spawn(beside);
            scope.spawn(beside);
            all.wait();
            let work = || assert_eq!(over.load(Ordering::SeqCst), 2, "it did not wait");
            Recording::of(&Device::flex(), work);
        });
    }
}
