//! Kernels for few activation rows: one body, compiled for the instructions that multiply.

/// How far ahead of the products codes are fetched into the second cache, of whose lines a core waits for more at a time, and from
/// there into the nearest one, in bytes.
const AHEAD: usize = 4096;
const NEAR: usize = 512;
/// Weight rows that are multiplied together with activation rows beside each other.
const TOGETHER: usize = 4;

/// The module `$name` with the kernels for `$features`, whose products are those of the module of the same name above.
macro_rules! kernels {
    ($name:ident, $features:tt) => {
        pub mod $name {
            use std::arch::x86_64::*;

            use super::super::super::inputs::Input;
            use super::super::super::parts::of_scheme;
            use super::super::super::{BLOCK, Row, Rows, Scales, TILE, Widen};
            use super::super::avx2::register;
            use super::super::spans::*;
            use super::super::{Line, $name as by};
            use super::{AHEAD, NEAR, TOGETHER};
            use crate::cpu::{prefetch, prefetch_second};
            use crate::quant::QuantScheme;

            /// The sums of all weight rows for some activation rows, from `first` of `m` on.
            #[target_feature(enable = $features)]
            pub fn lines(
                out: &mut [f32],
                place: (usize, usize),
                rows: Rows<'_>,
                lines: &[Line<'_>],
                scheme: QuantScheme,
            ) {
                of_scheme!(scheme, lines_of(out, place, rows, lines));
            }

            /// As [`lines`], for rows beside each other.
            #[target_feature(enable = $features)]
            pub fn beside(
                out: &mut [f32],
                place: (usize, usize),
                rows: Rows<'_>,
                some: &Beside,
                scheme: QuantScheme,
            ) {
                of_scheme!(scheme, beside_of(out, place, rows, some));
            }

            #[target_feature(enable = $features)]
            fn lines_of<const BITS: usize, const GROUP: usize>(
                out: &mut [f32],
                place: (usize, usize),
                rows: Rows<'_>,
                lines: &[Line<'_>],
            ) {
                match rows.stored {
                    Scales::F32(stored) => {
                        scaled::<BITS, GROUP, _>(out, place, rows, stored, lines)
                    }
                    Scales::Bf16(stored) => {
                        scaled::<BITS, GROUP, _>(out, place, rows, stored, lines)
                    }
                    Scales::F16(stored) => {
                        scaled::<BITS, GROUP, _>(out, place, rows, stored, lines)
                    }
                }
            }

            /// As [`lines`], with the scales of all rows as they are stored.
            #[target_feature(enable = $features)]
            fn scaled<const BITS: usize, const GROUP: usize, S: Widen>(
                out: &mut [f32],
                (m, first): (usize, usize),
                rows: Rows<'_>,
                stored: &[S],
                lines: &[Line<'_>],
            ) {
                let room = &mut [0; UNITS * BLOCK];
                for (j, out) in out.chunks_exact_mut(m).enumerate() {
                    let row = (rows.codes(j), rows.scales(j, stored));
                    match lines {
                        [line] => out[first] = alone::<BITS, GROUP, S>(row, line, room),
                        _ => some::<BITS, GROUP, S>(&mut out[first..], row, lines, room),
                    }
                }
            }

            /// The sum of a weight row for one activation row.
            #[target_feature(enable = $features)]
            fn alone<const BITS: usize, const GROUP: usize, S: Widen>(
                (all, stored): (&[u8], &[S]),
                line: &Line<'_>,
                room: &mut [u8; UNITS * BLOCK],
            ) -> f32 {
                let mut sums = _mm256_setzero_ps();
                for span in 0..line.scales.len() {
                    let codes = codes_of_span::<BITS, GROUP>(all, span, room);
                    let scales = scales::<BITS, GROUP, S>(stored, span);
                    sums = add_span::<BITS, GROUP>(sums, codes, scales, line, span);
                }
                total(sums)
            }

            /// The sums of a weight row for some activation rows.
            #[target_feature(enable = $features)]
            fn some<const BITS: usize, const GROUP: usize, S: Widen>(
                out: &mut [f32],
                (all, stored): (&[u8], &[S]),
                lines: &[Line<'_>],
                room: &mut [u8; UNITS * BLOCK],
            ) {
                let mut sums = [_mm256_setzero_ps(); TILE];
                for span in 0..lines[0].scales.len() {
                    let codes = codes_of_span::<BITS, GROUP>(all, span, room);
                    let scales = scales::<BITS, GROUP, S>(stored, span);
                    for (sums, line) in sums.iter_mut().zip(lines) {
                        *sums = add_span::<BITS, GROUP>(*sums, codes, scales, line, span);
                    }
                }
                for i in 0..lines.len() {
                    out[i] = total(sums[i]);
                }
            }

            /// Adds what a span gives.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_span<const BITS: usize, const GROUP: usize>(
                sums: __m256,
                codes: &[u8],
                scales: __m256,
                line: &Line<'_>,
                span: usize,
            ) -> __m256 {
                let blocks = const { blocks_of_span(BITS, GROUP) };
                let inputs = &line.blocks[span * blocks..][..blocks];
                let first = products::<BITS, GROUP>(codes, inputs);
                let products = match const { lane(BITS, GROUP, 1) } {
                    1 => {
                        let half = blocks / 2;
                        let codes = &codes[half * BLOCK * BITS / 8..];
                        let other = products::<BITS, GROUP>(codes, &inputs[half..]);
                        let low = _mm256_permute2x128_si256::<0x20>(first, other);
                        let high = _mm256_permute2x128_si256::<0x31>(first, other);
                        _mm256_add_epi32(low, high)
                    }
                    _ => first,
                };
                let products = match const { by::has_offset(BITS) } {
                    true => _mm256_add_epi32(products, register(&line.offsets[span])),
                    false => products,
                };
                let scales = _mm256_mul_ps(scales, load(&line.scales[span]));
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales, sums)
            }

            /// The products of as many blocks as fill four registers, which are summed half by half.
            #[inline]
            #[target_feature(enable = $features)]
            fn products<const BITS: usize, const GROUP: usize>(
                codes: &[u8],
                inputs: &[Input],
            ) -> __m256i {
                let mut parts = [_mm256_setzero_si256(); UNITS / 2];
                let each = const { parts_of_block(BITS, GROUP) };
                for block in 0..parts.len() / each {
                    let codes = &codes[block * BLOCK * BITS / 8..][..BLOCK * BITS / 8];
                    // A line of the cache holds two blocks of four bits.
                    if BITS == 8 || block % 2 == 0 {
                        prefetch_second(&codes[0], AHEAD);
                        prefetch(&codes[0], NEAR);
                    }
                    if BITS == 4 {
                        parts[block] = by::four(codes, &inputs[block]);
                        continue;
                    }
                    let [low, high] = by::eight(codes, &inputs[block]);
                    match each {
                        1 => parts[block] = _mm256_add_epi32(low, high),
                        _ => (parts[2 * block], parts[2 * block + 1]) = (low, high),
                    }
                }
                of_four(parts)
            }

            /// The sums of four registers, half by half.
            #[inline]
            #[target_feature(enable = $features)]
            fn of_four([a, b, c, d]: [__m256i; 4]) -> __m256i {
                let low =
                    _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let high =
                    _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high))
            }

            /// The scales of a span's units, in the order in which these are summed.
            #[inline]
            #[target_feature(enable = $features)]
            fn scales<const BITS: usize, const GROUP: usize, S: Widen>(
                stored: &[S],
                span: usize,
            ) -> __m256 {
                let first = span * const { scales_of_span(BITS, GROUP) };
                match stored[first.min(stored.len())..].first_chunk() {
                    Some(some) => {
                        let order = register(const { &order(BITS, GROUP) });
                        // SAFETY: this function has the features.
                        _mm256_permutevar8x32_ps(unsafe { S::widen_256(some) }, order)
                    }
                    None => last_scales::<BITS, GROUP, S>(stored, span),
                }
            }

            /// As [`scales`], where fewer are left from the first of them on than fill a register: the last ones of the row.
            #[inline]
            #[target_feature(enable = $features)]
            fn last_scales<const BITS: usize, const GROUP: usize, S: Widen>(
                stored: &[S],
                span: usize,
            ) -> __m256 {
                let Some(some) = stored.last_chunk() else {
                    return one_by_one::<BITS, GROUP, S>(stored, span);
                };
                let first = span * const { scales_of_span(BITS, GROUP) };
                let behind = _mm256_set1_epi32((first + UNITS - stored.len()) as i32);
                let order = _mm256_add_epi32(register(const { &order(BITS, GROUP) }), behind);
                let order = _mm256_min_epi32(order, _mm256_set1_epi32(UNITS as i32 - 1));
                // SAFETY: this function has the features.
                _mm256_permutevar8x32_ps(unsafe { S::widen_256(some) }, order)
            }

            /// As [`scales`], of a row that has fewer than fill a register.
            #[target_feature(enable = $features)]
            fn one_by_one<const BITS: usize, const GROUP: usize, S: Widen>(
                stored: &[S],
                span: usize,
            ) -> __m256 {
                let mut scales = Eight::default();
                for unit in 0..UNITS {
                    let place = place_of_unit::<BITS, GROUP>(span * UNITS + unit, stored.len());
                    scales.0[lane(BITS, GROUP, unit)] = stored[place].widen();
                }
                load(&scales)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load(eight: &Eight<f32>) -> __m256 {
                // SAFETY: the reference is to eight numbers, aligned as a register is.
                unsafe { _mm256_load_ps(eight.0.as_ptr()) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn total(sum: __m256) -> f32 {
                let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }

            #[target_feature(enable = $features)]
            fn beside_of<const BITS: usize, const GROUP: usize>(
                out: &mut [f32],
                (m, first): (usize, usize),
                rows: Rows<'_>,
                some: &Beside,
            ) {
                let (count, end) = (out.len() / m, m.min(first + TILE));
                let spread = &mut [Spread([0; SPAN_WORDS]); TOGETHER];
                for (index, out) in out.chunks_mut(TOGETHER * m).enumerate() {
                    let j = index * TOGETHER;
                    let mut sums = [Eight::default(); TOGETHER];
                    if j + TOGETHER <= count {
                        let four = [rows.row(j), rows.row(j + 1), rows.row(j + 2), rows.row(j + 3)];
                        sums = together::<BITS, GROUP, TOGETHER>(four, some, spread);
                    } else {
                        for p in 0..count - j {
                            [sums[p]] = together::<BITS, GROUP, 1>([rows.row(j + p)], some, spread);
                        }
                    }
                    for (out, sums) in out.chunks_exact_mut(m).zip(&sums) {
                        out[first..end].copy_from_slice(&sums.0[..end - first]);
                    }
                }
            }

            /// The sums of `P` weight rows for all activation rows.
            #[target_feature(enable = $features)]
            fn together<const BITS: usize, const GROUP: usize, const P: usize>(
                rows: [Row<'_>; P],
                some: &Beside,
                spread: &mut [Spread; TOGETHER],
            ) -> [Eight<f32>; P] {
                let mut sums = [[_mm256_setzero_ps(); UNITS]; P];
                for span in 0..some.scales.len() / UNITS {
                    add::<BITS, GROUP, P>(&mut sums, rows, some, span, spread);
                }
                let mut all = [Eight::default(); P];
                for p in 0..P {
                    all[p] = totals(&sums[p]);
                }
                all
            }

            /// Adds what a span of `P` weight rows gives for all activation rows.
            #[inline]
            #[target_feature(enable = $features)]
            fn add<const BITS: usize, const GROUP: usize, const P: usize>(
                sums: &mut [[__m256; UNITS]; P],
                rows: [Row<'_>; P],
                some: &Beside,
                span: usize,
                spread: &mut [Spread; TOGETHER],
            ) {
                let numbers = const { BLOCK / units_of_block(BITS, GROUP) };
                let length = numbers / const { by::words(BITS).numbers() };
                let mut room = [0; UNITS * BLOCK];
                for p in 0..P {
                    let codes = codes_of_span::<BITS, GROUP>(rows[p].codes, span, &mut room);
                    by::spread::<BITS>(codes, &mut spread[p].0);
                }
                // The weight rows that come next are fetched from the first to the last, since memory is read fastest in one
                // stream, and a few lines at a time, since a core waits for few at once.
                let bytes = const { P * blocks_of_span(BITS, GROUP) * BLOCK * BITS / 8 };
                let next = P * rows[0].codes.len() + span * bytes;
                for unit in 0..UNITS {
                    let at = span * UNITS + unit;
                    for line in unit * bytes / UNITS / BLOCK..(unit + 1) * bytes / UNITS / BLOCK {
                        prefetch_second(&rows[0].codes[0], next + line * BLOCK);
                    }
                    let x = &some.codes[at * numbers / 4..][..numbers / 4];
                    let mut weights = [&spread[0].0[..0]; P];
                    for p in 0..P {
                        weights[p] = &spread[p].0[unit * length..][..length];
                    }
                    let products = by::unit::<BITS, P>(weights, x, &some.offsets[at]);
                    let (inputs, lane) = (load(&some.scales[at]), lane(BITS, GROUP, unit));
                    for p in 0..P {
                        let scale = scale_of_unit::<BITS, GROUP>(&rows[p], at);
                        let scale = _mm256_mul_ps(_mm256_set1_ps(scale), inputs);
                        let products = _mm256_cvtepi32_ps(products[p]);
                        sums[p][lane] = _mm256_fmadd_ps(products, scale, sums[p][lane]);
                    }
                }
            }

            /// As [`total`] adds the lanes of one register, for each activation row.
            #[inline]
            #[target_feature(enable = $features)]
            fn totals(sums: &[__m256; UNITS]) -> Eight<f32> {
                let mut four = [_mm256_setzero_ps(); UNITS / 2];
                for i in 0..UNITS / 2 {
                    four[i] = _mm256_add_ps(sums[i], sums[i + UNITS / 2]);
                }
                let two = [_mm256_add_ps(four[0], four[2]), _mm256_add_ps(four[1], four[3])];
                let mut totals = Eight::default();
                // SAFETY: the reference is to eight numbers, aligned as a register is.
                unsafe { _mm256_store_ps(totals.0.as_mut_ptr(), _mm256_add_ps(two[0], two[1])) };
                totals
            }

            /// The words of a span's weights.
            #[derive(Clone, Copy)]
            #[repr(align(64))]
            struct Spread([i32; SPAN_WORDS]);
        }
    };
}

kernels!(avx2, "avx2,fma,f16c");
kernels!(vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");
