//! What CubeCL keeps of kernels from run to run: how they were tuned, and the compiled ones.
//!
//! By itself CubeCL writes into the `target` folder of whatever cargo workspace the program is run in, and compiles every
//! kernel again in each run. Here its file lies in the user's cache folder, and has the kernels too.

use std::path::PathBuf;

use crate::BackendKind;

/// What is kept of a backend's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Which variants of kernels were the fastest.
    pub tuning: bool,
    /// The compiled kernels themselves.
    pub compiled: bool,
}

impl Kept {
    /// Whether anything is kept at all.
    pub const fn any(self) -> bool {
        self.tuning || self.compiled
    }
}

impl BackendKind {
    /// What is kept of its kernels. WGSL is compiled by the driver, which may keep what it made; the kernels of processors are
    /// in the program.
    pub const fn kept(self) -> Kept {
        Kept {
            tuning: !self.is_cpu() && !matches!(self, Self::Remote) && cfg!(feature = "cuda"),
            compiled: matches!(self, Self::Cuda | Self::Vulkan),
        }
    }
}

/// The file; nothing where no backend of this build is one of CubeCL's.
pub fn path() -> Option<PathBuf> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        settle();
        Some(burn_cubecl::cubecl::environment::path())
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    None
}

/// Tells CubeCL where its file is, unless `cubecl.toml`, or the program that uses this crate, has said so. It must be told
/// before it opens a device.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn settle() {
    use burn_cubecl::cubecl::config::cache::CacheConfig;
    use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        if matches!(config.environment.path, CacheConfig::Target) {
            config.environment.path = CacheConfig::Global;
        }
        #[cfg(feature = "kernel-cache")]
        {
            config.compilation.cache = true;
        }
        CubeClRuntimeConfig::try_set(config);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_nothing_to_keep_and_the_file_is_not_in_the_working_directory() {
        assert!(!BackendKind::Flex.kept().any() && !BackendKind::NdArray.kept().any());
        assert!(BackendKind::Cuda.kept().compiled && !BackendKind::Wgpu.kept().compiled);
        let compiled = cfg!(any(feature = "wgpu", feature = "cuda"));
        assert_eq!(path().is_some(), compiled);
        let here = std::env::current_dir().unwrap();
        assert!(path().is_none_or(|path| path.is_absolute() && !path.starts_with(here)));
    }
}
