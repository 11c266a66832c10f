//! Which device runs the model: parsed from `--device`, from `QWEN3_VL_DEVICE`, or the best one compiled in.

#[cfg(feature = "cuda")]
mod cuda;
mod kind;
pub mod lost;
mod map;
mod memory;
#[cfg(feature = "remote")]
mod remote;

pub use kind::BackendKind;
pub use lost::{DeviceFailure, DeviceLost};
pub use map::{DeviceMap, MapError, OpenMap, PartSizes, Placement, Stage, layer_range};
pub use memory::{MemoryInfo, cpu_name, host_memory, load_average, peak_resident_bytes};
#[cfg(feature = "remote")]
pub use remote::{LendError, TOKEN_VARIABLE, lend};

use burn::tensor::{DType, Device};

use crate::cpu::{CpuError, Level};
use crate::graph::{self, GraphError};

/// The environment variable that names the device when no `--device` is given.
pub const DEVICE_VARIABLE: &str = "QWEN3_VL_DEVICE";

/// Why no device could be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error("unknown device `{name}`; this build knows {known}")]
    Unknown { name: String, known: String },
    #[error(
        "device `{name}` needs the cargo feature `{feature}`, which this build lacks; it has {compiled}"
    )]
    NotCompiled { name: String, feature: &'static str, compiled: String },
    #[error("device `{name}` is compiled in, but {reason}; devices present: {present}")]
    NotPresent { name: String, reason: String, present: String },
    #[error(
        "`{name}` names no device of another machine; write remote:HOST:PORT, and remote:HOST:PORT/1 for the second device that it lends"
    )]
    RemoteName { name: String },
    #[error("device `{name}` cannot be used: {reason}")]
    Unusable { name: String, reason: String },
    #[error("device `{name}` cannot be used: {reason}")]
    Remote { name: String, reason: String },
    #[error("no backend is compiled in; build with `--features flex` (or ndarray, wgpu, cuda)")]
    NoBackend,
    #[error("device `{device}` has no {dtype}; it can hold {supported}")]
    UnsupportedDtype { device: String, dtype: &'static str, supported: String },
    #[error("unknown dtype `{name}`; use auto, f32, bf16 or f16")]
    UnknownDtype { name: String },
    #[error(
        "a model has one dtype on all its devices, and with {dtype} weights {cpu} computes in f32 but {card} in {dtype}; use f32, or devices of one sort"
    )]
    MixedCompute { dtype: &'static str, cpu: String, card: String },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// A device that exists, with the name the user knows it by.
#[derive(Debug, Clone)]
pub struct SelectedDevice {
    pub kind: BackendKind,
    /// `flex`, `wgpu`, `cuda:0`, ...
    pub name: String,
    pub device: Device,
}

/// One line of `qwen3-vl devices`.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    pub kind: BackendKind,
    pub name: String,
    /// What the hardware calls itself.
    pub hardware: String,
    pub dtypes: Vec<&'static str>,
    /// Memory of the device, where it is known.
    pub memory: Option<MemoryInfo>,
    /// Largest single buffer in bytes, where the backend has such a limit.
    pub max_buffer: Option<u64>,
}

/// Chooses the device: `requested`, else the environment variable's value, else the best one present.
pub fn select(requested: Option<&str>) -> Result<SelectedDevice, DeviceError> {
    let from_environment = std::env::var(DEVICE_VARIABLE).ok().filter(|v| !v.trim().is_empty());
    match requested.map(str::to_owned).or(from_environment) {
        Some(name) => open(&name),
        None => best(),
    }
}

/// Opens the device called `name`, e.g. `flex`, `cpu`, `wgpu`, `cuda:0`, `remote:HOST:PORT`.
pub fn open(name: &str) -> Result<SelectedDevice, DeviceError> {
    let (kind, place) = parse(name)?;
    if !kind.is_compiled() {
        return Err(DeviceError::NotCompiled {
            name: name.to_owned(),
            feature: kind.name(),
            compiled: join(compiled().map(BackendKind::name)),
        });
    }
    match place {
        Place::Here(index) => open_here(name, kind, index),
        #[cfg(feature = "remote")]
        Place::There(address) => remote::open(name, address),
        #[cfg(not(feature = "remote"))]
        Place::There(address) => Err(DeviceError::RemoteName { name: format!("remote:{address}") }),
    }
}

/// Opens a device of this machine.
fn open_here(name: &str, kind: BackendKind, index: usize) -> Result<SelectedDevice, DeviceError> {
    let mut devices = kind.enumerate();
    let count = devices.len();
    if index >= count {
        let reason = match count {
            0 => kind.absence(),
            n => format!("there are only {n} such devices (numbered from 0)"),
        };
        return Err(DeviceError::NotPresent {
            name: name.to_owned(),
            reason,
            present: join(present().iter().map(|d| d.name.as_str())),
        });
    }
    checked(SelectedDevice { kind, name: kind.label(index), device: devices.swap_remove(index) })
}

/// A processor must have the instructions that the environment asks for, and a card what its kernels are linked with.
fn checked(selected: SelectedDevice) -> Result<SelectedDevice, DeviceError> {
    if selected.kind == BackendKind::Flex {
        Level::from_env()?;
    }
    graph::wanted()?;
    #[cfg(feature = "cuda")]
    if let (BackendKind::Cuda, Err(reason)) = (selected.kind, cuda::library::settle()) {
        return Err(DeviceError::Unusable { name: selected.name, reason: reason.to_owned() });
    }
    Ok(selected)
}

/// All devices of all compiled backends.
pub fn present() -> Vec<SelectedDevice> {
    let of_kind = |kind: BackendKind| {
        let devices = kind.enumerate().into_iter().enumerate();
        devices.map(move |(i, device)| SelectedDevice { kind, name: kind.label(i), device })
    };
    compiled().flat_map(of_kind).collect()
}

/// The backends that cargo features compiled into this program, best first.
pub fn compiled() -> impl Iterator<Item = BackendKind> {
    BackendKind::BEST_FIRST.into_iter().filter(|kind| kind.is_compiled())
}

/// Software rasterisers are never chosen on their own: any CPU backend is faster.
fn best() -> Result<SelectedDevice, DeviceError> {
    let candidates = present();
    let hardware = candidates.iter().find(|d| d.kind.is_cpu() || is_card(&d.device));
    checked(hardware.or(candidates.first()).cloned().ok_or(DeviceError::NoBackend)?)
}

/// What stands behind the name of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'n> {
    /// The number of one of the devices of this machine.
    Here(usize),
    /// The address of a device of another one.
    There(&'n str),
}

fn parse(name: &str) -> Result<(BackendKind, Place<'_>), DeviceError> {
    let unknown = || DeviceError::Unknown {
        name: name.to_owned(),
        known: join(BackendKind::BEST_FIRST.map(BackendKind::name)),
    };
    let (kind, rest) = match name.trim().split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (name.trim(), None),
    };
    let kind = BackendKind::from_name(kind).ok_or_else(unknown)?;
    let place = match kind {
        BackendKind::Remote => Place::There(rest.unwrap_or_default()),
        _ => Place::Here(rest.unwrap_or("0").parse().map_err(|_| unknown())?),
    };
    Ok((kind, place))
}

impl SelectedDevice {
    /// What `qwen3-vl devices` prints about this device.
    pub fn info(&self) -> DeviceInfo {
        DeviceInfo {
            kind: self.kind,
            name: self.name.clone(),
            hardware: hardware_name(self),
            dtypes: self.dtypes().into_iter().map(crate::dtype::name).collect(),
            memory: self.memory(),
            max_buffer: self.max_buffer(),
        }
    }

    /// Memory of the device, or of the host where it is the processor; nothing where that is not known.
    pub fn memory(&self) -> Option<MemoryInfo> {
        match self.kind {
            kind if kind.is_cpu() => host_memory(),
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => {
                memory::give_back(&self.device);
                self.memory_as_it_is()
            }
            _ => None,
        }
    }

    /// Memory of a card where that is known; what was freed and is kept for later counts as taken.
    fn memory_as_it_is(&self) -> Option<MemoryInfo> {
        match self.kind {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => cuda::memory(self.name.rsplit(':').next()?.parse().ok()?),
            _ => None,
        }
    }

    /// Largest single buffer in bytes, where the backend has such a limit.
    pub fn max_buffer(&self) -> Option<u64> {
        memory::max_buffer(&self.device)
    }

    /// The float dtypes that weights can have on this device.
    pub fn dtypes(&self) -> Vec<DType> {
        let all = [DType::F32, DType::BF16, DType::F16];
        all.into_iter().filter(|dtype| self.holds(*dtype)).collect()
    }

    /// Whether weights of `dtype` can be held on this device.
    pub fn holds(&self, dtype: DType) -> bool {
        match self.kind {
            BackendKind::NdArray => dtype == DType::F32,
            #[cfg(feature = "remote")]
            BackendKind::Remote => remote::holds(&self.device, dtype),
            _ => self.device.supports_dtype(dtype),
        }
    }
}

fn hardware_name(device: &SelectedDevice) -> String {
    if device.kind.is_cpu() {
        return cpu_name();
    }
    if device.kind == BackendKind::Remote {
        return "on another machine".to_owned();
    }
    identity(&device.device).map_or_else(|| "unknown adapter".to_owned(), |(name, _)| name)
}

fn is_card(device: &Device) -> bool {
    identity(device).is_some_and(|(_, card)| card)
}

/// Name of the adapter and whether a physical card stands behind it.
fn identity(device: &Device) -> Option<(String, bool)> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return device.identity().map(|id| (id.name, id.physical.is_some()));
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    {
        let _ = device;
        None
    }
}

fn join<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<S> = items.into_iter().collect();
    let names: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_with_and_without_index() {
        assert_eq!(parse("cuda:1").unwrap(), (BackendKind::Cuda, Place::Here(1)));
        assert_eq!(parse(" flex ").unwrap(), (BackendKind::Flex, Place::Here(0)));
        let there = |address| (BackendKind::Remote, Place::There(address));
        assert_eq!(parse("remote:box:3000/1").unwrap(), there("box:3000/1"));
        assert_eq!(parse("remote").unwrap(), there(""));
        for bad in ["tpu", "cuda:x", "cuda:-1", ""] {
            assert!(matches!(parse(bad), Err(DeviceError::Unknown { .. })), "{bad}");
        }
    }

    #[test]
    fn a_missing_feature_is_named() {
        let Some(absent) = BackendKind::BEST_FIRST.into_iter().find(|k| !k.is_compiled()) else {
            println!("skipped: every backend is compiled in");
            return;
        };
        let message = open(absent.name()).unwrap_err().to_string();
        assert!(message.contains(absent.name()) && message.contains("feature"), "{message}");
    }

    #[test]
    fn an_index_past_the_last_device_is_refused() {
        let device = best().expect("tests are built with a backend");
        let name = format!("{}:99", device.kind.name());
        assert!(matches!(open(&name), Err(DeviceError::NotPresent { .. })));
    }
}
