//! How fast this machine reads memory, as a bound on what reading weights can reach.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::cpu::prefetch;

/// How far ahead memory is fetched, in bytes.
const AHEAD: usize = 4096;
/// Words per task.
const TASK: usize = 1 << 17;

/// Bytes per second at which all cores together read `bytes` of memory: the best of `passes` passes, after one that makes
/// the pages present. `bytes` should be several times the caches.
pub fn read_bandwidth(bytes: usize, passes: usize) -> f64 {
    let words = (bytes / 8).max(1);
    // Not zeros, for which the system may keep one page only.
    let data: Vec<u64> = (0..words as u64).into_par_iter().collect();
    let pass = || {
        let start = Instant::now();
        black_box(data.par_chunks(TASK).map(sum).reduce(|| 0, u64::wrapping_add));
        (words * 8) as f64 / start.elapsed().as_secs_f64()
    };
    pass();
    (0..passes.max(1)).map(|_| pass()).fold(0.0, f64::max)
}

/// Eight sums at a time, so that none waits for another.
fn sum(words: &[u64]) -> u64 {
    let (eights, rest) = words.as_chunks::<8>();
    let mut sums = [0u64; 8];
    for eight in eights {
        prefetch(eight, AHEAD);
        for (sum, word) in sums.iter_mut().zip(eight) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for count in [0, 1, 7, 8, 9, 1000] {
            let words: Vec<u64> = (0..count).map(|i| i * i + 3).collect();
            assert_eq!(sum(&words), words.iter().sum::<u64>());
        }
        assert!(read_bandwidth(1 << 20, 2) > 0.0);
    }
}
