//! Results that are filled on all cores: what the system hands out has to be touched first, which one core alone does slowly.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// `len` values, of which `fill` gets parts of up to `each`, with the index of the first; they are zeros before.
pub fn filled(len: usize, each: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let [out] = filled_together(len, each, |first, [out]| fill(first, out));
    out
}

/// As [`filled`], the same parts of several vectors together.
pub fn filled_together<const N: usize>(
    len: usize,
    each: usize,
    fill: impl Fn(usize, [&mut [f32]; N]) + Sync,
) -> [Vec<f32>; N] {
    let mut all: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut chunks =
        all.each_mut().map(|one| one.spare_capacity_mut()[..len].chunks_mut(each.max(1)));
    let tasks: Vec<[&mut [MaybeUninit<f32>]; N]> = (0..len.div_ceil(each.max(1)))
        .map(|_| chunks.each_mut().map(|chunks| chunks.next().expect("as many parts")))
        .collect();
    tasks.into_par_iter().enumerate().for_each(|(index, parts)| {
        fill(index * each.max(1), parts.map(zeroed));
    });
    for one in &mut all {
        // SAFETY: every part of the first `len` values has been set to zeros.
        unsafe { one.set_len(len) };
    }
    all
}

fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: all of them have just been set; the layout is the same, and the borrow as long.
    unsafe { &mut *(std::ptr::from_mut(part) as *mut [f32]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_filled_once_and_zero_before() {
        for (len, each) in [(0, 4), (1, 4), (7, 3), (8, 4), (5, 100), (3, 0)] {
            let [a, b] = filled_together(len, each, |first, [a, b]| {
                assert!(a.iter().chain(&*b).all(|value| *value == 0.0));
                for (i, (a, b)) in a.iter_mut().zip(b).enumerate() {
                    *a += (first + i) as f32;
                    *b -= (first + i) as f32;
                }
            });
            let expected: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(a, expected, "{len} {each}");
            assert_eq!(b, expected.iter().map(|value| -value).collect::<Vec<_>>());
        }
    }
}
