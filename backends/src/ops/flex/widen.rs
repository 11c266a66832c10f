//! Weights that become f32 without loss.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use burn::tensor::{bf16, f16};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::cpu::Level;

/// A weight element that can be widened to f32 without loss.
pub trait Widen: Copy + Sync + 'static {
    fn widen(self) -> f32;

    /// Eight of them.
    ///
    /// # Safety
    /// The processor must have AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn widen_256(values: &[Self; 8]) -> __m256;

    /// Whether [`Self::widen_512`] puts values at even places before those at odd ones.
    #[cfg(target_arch = "x86_64")]
    const BY_PARITY: bool = false;

    /// Thirty-two of them.
    ///
    /// # Safety
    /// The processor must have AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn widen_512(values: &[Self; 32]) -> [__m512; 2];

    /// Eight of them.
    ///
    /// # Safety
    /// The processor must have NEON.
    #[cfg(target_arch = "aarch64")]
    unsafe fn widen_neon(values: &[Self; 8]) -> [float32x4_t; 2];

    /// The same slice, where no widening is needed.
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        let _ = values;
        None
    }

    /// The same slice, where it is of bf16.
    #[cfg(target_arch = "x86_64")]
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        let _ = values;
        None
    }
}

/// Widens every value of `from`, of which there are as many as `to` has room for.
///
/// # Panics
/// When their numbers differ.
pub fn widen_all<W: Widen>(from: &[W], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "a place for each value");
    if let Some(values) = W::as_f32(from) {
        return to.copy_from_slice(values);
    }
    #[cfg(target_arch = "x86_64")]
    if Level::chosen() >= Level::Avx2 {
        // SAFETY: a level is chosen only where the processor has its features and those before it.
        return unsafe { widen_avx2(from, to) };
    }
    #[cfg(target_arch = "aarch64")]
    if Level::chosen() == Level::Neon {
        // SAFETY: every processor of the target has NEON.
        return unsafe { widen_by_neon(from, to) };
    }
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_avx2<W: Widen>(from: &[W], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: this function has the features, the place has eight values, and unaligned access is allowed.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), W::widen_256(from)) };
    }
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = from.widen());
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn widen_by_neon<W: Widen>(from: &[W], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: this function has the features, and the place has twice four values.
        unsafe {
            let [low, high] = W::widen_neon(from);
            vst1q_f32(to.as_mut_ptr(), low);
            vst1q_f32(to[4..].as_mut_ptr(), high);
        }
    }
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = from.widen());
}

impl Widen for f32 {
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widen_256(values: &[Self; 8]) -> __m256 {
        // SAFETY: the reference is to eight values, and unaligned access is allowed.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen_512(values: &[Self; 32]) -> [__m512; 2] {
        // SAFETY: the reference is to twice sixteen values, and unaligned access is allowed.
        unsafe { [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr())] }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen_neon(values: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: the reference is to twice four values, and unaligned access is allowed.
        unsafe { [vld1q_f32(values.as_ptr()), vld1q_f32(values[4..].as_ptr())] }
    }
}

impl Widen for bf16 {
    #[cfg(target_arch = "x86_64")]
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        Some(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widen_256(values: &[Self; 8]) -> __m256 {
        // SAFETY: as above.
        let halves = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }

    #[cfg(target_arch = "x86_64")]
    const BY_PARITY: bool = true;

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen_512(values: &[Self; 32]) -> [__m512; 2] {
        // SAFETY: as above.
        let pairs = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm512_slli_epi32::<16>(pairs), odd].map(|half| _mm512_castsi512_ps(half))
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen_neon(values: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: the reference is to eight values of sixteen bits, and unaligned access is allowed.
        let (halves, zeros) = (unsafe { vld1q_u16(values.as_ptr().cast()) }, vdupq_n_u16(0));
        let (low, high) = (vzip1q_u16(zeros, halves), vzip2q_u16(zeros, halves));
        [vreinterpretq_f32_u16(low), vreinterpretq_f32_u16(high)]
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn widen_256(values: &[Self; 8]) -> __m256 {
        // SAFETY: as above.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen_512(values: &[Self; 32]) -> [__m512; 2] {
        let (low, high) = values.split_at(16);
        // SAFETY: as above.
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_loadu_si256(low.as_ptr().cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(high.as_ptr().cast())),
            ]
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen_neon(values: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: as for bf16.
        let halves = vreinterpretq_f16_u16(unsafe { vld1q_u16(values.as_ptr().cast()) });
        [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
    }
}

impl Widen for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widen_256(values: &[Self; 8]) -> __m256 {
        // SAFETY: the reference is to eight bytes, and unaligned access is allowed.
        let bytes = unsafe { _mm_loadl_epi64(values.as_ptr().cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen_512(values: &[Self; 32]) -> [__m512; 2] {
        // SAFETY: the reference is to twice sixteen bytes, and unaligned access is allowed.
        let (low, high) = unsafe {
            let (low, high) = values.split_at(16);
            (_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast()))
        };
        let [low, high] = [_mm512_cvtepi8_epi32(low), _mm512_cvtepi8_epi32(high)];
        [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)]
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen_neon(values: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: the reference is to eight bytes.
        let words = vmovl_s8(unsafe { vld1_s8(values.as_ptr()) });
        let wide = [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)];
        [vcvtq_f32_s32(wide[0]), vcvtq_f32_s32(wide[1])]
    }
}
