//! The backends by name, and what each finds on this machine.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::tensor::DeviceType;

/// A backend that a cargo feature of the same name compiles in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendKind {
    Cuda,
    Metal,
    Vulkan,
    WebGpu,
    Wgpu,
    Flex,
    NdArray,
    /// A device that another machine lends.
    Remote,
}

impl BackendKind {
    /// In the order in which a device is chosen when none is asked for.
    pub const BEST_FIRST: [Self; 8] = [
        Self::Cuda,
        Self::Metal,
        Self::Vulkan,
        Self::WebGpu,
        Self::Wgpu,
        Self::Flex,
        Self::NdArray,
        Self::Remote,
    ];

    /// The name for `--device`, equal to the cargo feature's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::WebGpu => "webgpu",
            Self::Wgpu => "wgpu",
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Remote => "remote",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name == "cpu" {
            return Some(if Self::Flex.is_compiled() { Self::Flex } else { Self::NdArray });
        }
        Self::BEST_FIRST.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the cargo feature of this backend is on.
    pub const fn is_compiled(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::WebGpu => cfg!(feature = "webgpu"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Flex => cfg!(feature = "flex"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Remote => cfg!(feature = "remote"),
        }
    }

    /// Whether the backend runs on the processor.
    pub const fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::NdArray)
    }

    /// `flex`, `wgpu`, `wgpu:1`, `cuda:0`, ...
    pub(super) fn label(self, index: usize) -> String {
        match (self, index) {
            (Self::Cuda, i) => format!("cuda:{i}"),
            (kind, 0) => kind.name().to_owned(),
            (kind, i) => format!("{}:{i}", kind.name()),
        }
    }

    /// What to say when none of its devices is there.
    pub(super) fn absence(self) -> String {
        #[cfg(feature = "cuda")]
        if let (Self::Cuda, Some(reason)) = (self, super::cuda::absence()) {
            return reason;
        }
        let reason = match self {
            Self::Cuda => "no NVIDIA driver with a GPU was found",
            Self::Metal => "no Metal device was found (Metal exists on macOS and iOS only)",
            Self::Vulkan | Self::WebGpu | Self::Wgpu => {
                "no graphics adapter was found (on Linux install a Vulkan driver, e.g. mesa-vulkan-drivers)"
            }
            Self::Flex | Self::NdArray => "it could not be opened",
            Self::Remote => "it is on another machine, whose address it needs",
        };
        reason.to_owned()
    }

    /// The devices of this backend on this machine, so none that are remote; empty when the backend is not compiled in.
    pub(super) fn enumerate(self) -> Vec<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => vec![Device::flex()],
            #[cfg(feature = "ndarray")]
            Self::NdArray => vec![Device::ndarray()],
            #[cfg(feature = "cuda")]
            Self::Cuda if super::cuda::absence().is_some() => Vec::new(),
            #[cfg(feature = "cuda")]
            Self::Cuda => {
                // Whoever opens one of them is told of an error.
                let _ = super::cuda::library::settle();
                probe(DeviceType::Cuda)
            }
            #[cfg(feature = "metal")]
            Self::Metal => probe(DeviceType::Metal),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => probe(DeviceType::Vulkan),
            #[cfg(feature = "webgpu")]
            Self::WebGpu => probe(DeviceType::WebGpu),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => probe(DeviceType::Wgpu),
            #[allow(unreachable_patterns)]
            _ => Vec::new(),
        }
    }
}

/// Lists devices; a driver library that is missing makes the runtimes panic, which here means "none".
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn probe(device_type: DeviceType) -> Vec<Device> {
    // The hook is the process's: of two that exchange it at a time, one would put the silence of the other back for good.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    crate::kernel_cache::settle();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // What a device type of Burn's remote protocol holds is not said to be safe to unwind past; none is asked for here.
    let enumerate = std::panic::AssertUnwindSafe(|| Device::enumerate(device_type).into_vec());
    let found = std::panic::catch_unwind(enumerate);
    std::panic::set_hook(hook);
    found.unwrap_or_default()
}
