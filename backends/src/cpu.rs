//! Which instructions the kernels for the processor use: the widest that it has, or what [`CPU_VARIABLE`] says.

#[cfg(all(test, target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
pub(crate) mod emulated;

use std::sync::OnceLock;

/// The environment variable that forces a [`Level`] by its name.
pub const CPU_VARIABLE: &str = "QWEN3_VL_CPU";

/// Why the instructions that were asked for cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    #[error("{CPU_VARIABLE} is `{name}`; it must be portable, neon, avx2, avx512 or amx")]
    Unknown { name: String },
    #[error(
        "{CPU_VARIABLE} is `{name}`, but this processor has no {missing}; it can run {present}"
    )]
    Lacking { name: &'static str, missing: String, present: String },
}

/// A set of instructions. On x86 each includes those before; NEON stands beside them, and no processor has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has.
    Portable,
    /// NEON, which every processor of aarch64 has. Kernels that want `dotprod` ask for it besides.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ. Kernels that want VNNI or BF16 ask for these besides.
    Avx512,
    /// AMX tiles of bf16 and bytes, as far as the system permits them, with AVX-512 BF16.
    Amx,
}

impl Level {
    /// From the narrowest to the widest of an architecture.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx];

    /// The name for [`CPU_VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// The levels that this processor has.
    pub fn present() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| level.is_present())
    }

    /// Whether this processor has the level.
    pub fn is_present(self) -> bool {
        static PRESENT: OnceLock<Vec<Level>> = OnceLock::new();
        let present = || Self::ALL.into_iter().filter(|level| level.missing().is_empty()).collect();
        PRESENT.get_or_init(present).contains(&self)
    }

    /// Whether tests do in software what AMX would do.
    #[cfg(test)]
    pub fn is_emulated() -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
        return emulated::is_on();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
        false
    }

    /// The level that kernels use, chosen once. A wrong [`CPU_VARIABLE`] is reported when a device is opened, and has no
    /// effect here.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Level> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::from_env().unwrap_or_else(|_| Self::best()))
    }

    /// What the environment asks for, else the widest present.
    ///
    /// # Errors
    /// When the name is unknown or the processor lacks the instructions.
    pub fn from_env() -> Result<Self, CpuError> {
        let asked = std::env::var(CPU_VARIABLE).ok().filter(|name| !name.trim().is_empty());
        asked.map_or_else(|| Ok(Self::best()), |name| Self::named(&name))
    }

    fn best() -> Self {
        Self::present().last().unwrap_or(Self::Portable)
    }

    fn named(name: &str) -> Result<Self, CpuError> {
        let known = Self::ALL.into_iter().find(|l| l.name().eq_ignore_ascii_case(name.trim()));
        let level = known.ok_or_else(|| CpuError::Unknown { name: name.to_owned() })?;
        match level.missing() {
            missing if missing.is_empty() => Ok(level),
            missing => Err(CpuError::Lacking {
                name: level.name(),
                missing: missing.join(", "),
                present: Self::present().map(Self::name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Whether this level has the instructions of the other.
    fn includes(self, other: Self) -> bool {
        other == self || other < self && other != Self::Neon
    }

    /// The features of this level and those that it includes that the processor lacks.
    fn missing(self) -> Vec<&'static str> {
        let wanted = features().into_iter().filter(|(level, ..)| self.includes(*level));
        wanted.filter(|(_, _, present)| !present).map(|(_, name, _)| name).collect()
    }
}

/// Features with their levels, and whether the processor has them.
fn features() -> [(Level, &'static str, bool); 10] {
    macro_rules! feature {
        ($level:ident, $name:tt) => {{
            #[cfg(target_arch = "x86_64")]
            let present = std::arch::is_x86_feature_detected!($name);
            #[cfg(not(target_arch = "x86_64"))]
            let present = false;
            (Level::$level, $name, present)
        }};
    }
    [
        (Level::Neon, "neon", cfg!(target_arch = "aarch64")),
        feature!(Avx2, "avx2"),
        feature!(Avx2, "fma"),
        feature!(Avx2, "f16c"),
        feature!(Avx512, "avx512f"),
        feature!(Avx512, "avx512bw"),
        feature!(Avx512, "avx512vl"),
        feature!(Avx512, "avx512dq"),
        feature!(Amx, "avx512bf16"),
        (Level::Amx, "amx-bf16 and amx-int8 that the system permits", tiles_are_permitted()),
    ]
}

/// Whether the processor has AMX with bf16 and bytes, as all that have it do, and the system lets this process use its registers,
/// which it is asked for once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles_are_permitted() -> bool {
    #[cfg(all(test, target_env = "gnu"))]
    if emulated::is_on() {
        return true;
    }
    /// `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of Linux.
    const REQUEST: [libc::c_long; 2] = [0x1023, 18];
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    let leaves = std::arch::x86_64::__cpuid(0).eax;
    let extended = std::arch::x86_64::__cpuid_count(7, 0).edx;
    // Products of bf16, tiles at all, products of bytes.
    let wanted = 1 << 22 | 1 << 24 | 1 << 25;
    let present = leaves >= 7 && extended & wanted == wanted;
    // SAFETY: the call asks for a permission and touches no memory.
    let ask = || unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST[0], REQUEST[1]) } == 0;
    present && *PERMITTED.get_or_init(ask)
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn tiles_are_permitted() -> bool {
    false
}

/// Instructions that multiply tiles of bf16 and sum in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// AMX's, on whole tiles.
    Amx,
    /// `VDPBF16PS` of AVX-512, on rows of a tile.
    Pairs,
}

impl Tiles {
    #[cfg(test)]
    pub const ALL: [Self; 2] = [Self::Amx, Self::Pairs];

    /// Those of the level that was chosen that are faster than f32: AMD's cores begin a sum of pairs as often as FMA, Intel's a
    /// quarter as often (they have AMX for it).
    pub fn chosen() -> Option<Self> {
        match Level::chosen() {
            Level::Amx => Some(Self::Amx),
            Level::Avx512 if Self::Pairs.is_present() && !is_intel() => Some(Self::Pairs),
            _ => None,
        }
    }

    /// Those that this processor has.
    #[cfg(test)]
    pub fn present() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|tiles| tiles.is_present())
    }

    /// Whether this processor has them and the AVX-512 that packs tiles.
    pub fn is_present(self) -> bool {
        match self {
            Self::Amx => Level::Amx.is_present(),
            Self::Pairs => Level::Avx512.is_present() && has_bf16_pairs(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16_pairs() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16_pairs() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    static INTEL: OnceLock<bool> = OnceLock::new();
    *INTEL.get_or_init(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

/// Fetches what lies `ahead` bytes behind `weights`. Processors by themselves stop fetching ahead at the end of a page, so that
/// a pass over weights would reach about half of the memory's rate.
#[inline(always)]
pub(crate) fn prefetch<T>(weights: &T, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = std::ptr::from_ref(weights).cast::<i8>().wrapping_add(ahead);
        // SAFETY: every processor of the target has the instruction, which reads no value and fails at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) }
    }
    let _ = (weights, ahead);
}

/// As [`prefetch`], into the second cache: where the nearest one is full of what is needed before, and where memory is the bound,
/// since a core waits for more lines of the second one at a time.
#[inline(always)]
pub(crate) fn prefetch_second<T>(weights: &T, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let place = std::ptr::from_ref(weights).cast::<i8>().wrapping_add(ahead);
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place) }
    }
    let _ = (weights, ahead);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_that_are_present_can_be_forced_and_others_are_named() {
        assert_eq!(Level::named(" Portable "), Ok(Level::Portable));
        for level in Level::ALL {
            match Level::present().any(|present| present == level) {
                true => assert_eq!(Level::named(level.name()), Ok(level)),
                false => {
                    let error = Level::named(level.name()).unwrap_err().to_string();
                    assert!(error.contains("has no") && error.contains("portable"), "{error}");
                }
            }
        }
        let error = Level::named("sse9").unwrap_err().to_string();
        assert!(error.contains("`sse9`") && error.contains("avx512"), "{error}");
        assert_eq!(Level::present().last(), Some(Level::best()));
    }

    /// `scripts/test-asan` asks by it which levels it can test.
    #[test]
    fn the_level_of_the_environment_is_there() {
        assert!(Level::from_env().is_ok(), "{:?}", Level::from_env());
    }

    #[test]
    fn levels_of_another_architecture_are_not_asked_for() {
        assert!(!Level::Amx.includes(Level::Neon) && Level::Amx.includes(Level::Avx2));
        assert_eq!(Level::Neon.is_present(), cfg!(target_arch = "aarch64"));
        let lacking = Level::Avx2.missing().into_iter().chain(Level::Amx.missing());
        assert!(lacking.into_iter().all(|feature| feature != "neon"));
    }
}
