//! Devices, dtypes and kernels of qwen3-vl.
//!
//! Everything here is written against Burn alone. [`device`] chooses a compute device at run time among the
//! backends that cargo features compiled in, [`dtype`] decides in which precision a model is held and computed,
//! [`ops`] holds the speed-critical operations (a reference body that is generic over Burn's `Backend` trait,
//! overridden where a backend can do better), [`cpu`] says which instructions those for the processor use,
//! [`kernel_cache`] where kernels of cards are kept from run to run, [`quant`] rounds weights to a few bits,
//! [`graph`] records what a card does again and again, [`bandwidth`] measures how fast memory is read and [`peak`]
//! how fast matrices are multiplied, [`memmap`] maps weight files into memory, [`threads`] says how many there are, and
//! [`allocator`] keeps the memory of intermediate results.

#![recursion_limit = "256"]
// Burn marks its ndarray backend as deprecated; it is this project's CPU reference.
#![allow(deprecated)]

pub mod allocator;
pub mod bandwidth;
pub mod cpu;
pub mod device;
pub mod dtype;
pub mod graph;
pub mod kernel_cache;
pub mod memmap;
pub mod ops;
pub mod peak;
pub mod pixels;
pub mod quant;
mod simd;
pub mod threads;

pub use device::{
    BackendKind, DeviceError, DeviceFailure, DeviceInfo, DeviceLost, DeviceMap, MapError, OpenMap,
    PartSizes, Placement, SelectedDevice, Stage,
};
pub use dtype::{DtypeRequest, Precision};
