//! Many small tasks that are handed out by counters.
//!
//! rayon halves work and gives the halves on, so that at the end one thread often has a run left that nobody can take a part of. Here
//! a thread has a part of the tasks to begin with, in order, since memory is read fastest so, and takes single ones of the others' when
//! it is done.

use std::slice::from_raw_parts_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The tasks that a thread begins with; the others go on with what it has not reached when theirs are done. On cache lines of its own.
#[repr(align(128))]
struct Range {
    next: AtomicUsize,
    end: usize,
}

/// Lets `run` fill parts of `out` of up to `each` values, with the index of the part. What is made for a thread by default is given to
/// all its calls.
pub fn fill_parts<R: Default, T: Send>(
    out: &mut [T],
    each: usize,
    run: impl Fn(&mut R, usize, &mut [T]) + Sync,
) {
    let (each, len) = (each.max(1), out.len());
    let count = len.div_ceil(each);
    let threads = rayon::current_num_threads().min(count);
    let range = |thread: usize| Range {
        next: (thread * count / threads).into(),
        end: (thread + 1) * count / threads,
    };
    let ranges: Vec<Range> = (0..threads).map(range).collect();
    let start = Start(out.as_mut_ptr());
    let work = || {
        let own = rayon::current_thread_index().unwrap_or(0);
        let mut room = R::default();
        for thread in 0..threads {
            let range = &ranges[(own + thread) % threads];
            loop {
                let task = range.next.fetch_add(1, Ordering::Relaxed);
                if task >= range.end {
                    break;
                }
                let (first, last) = (task * each, len.min((task + 1) * each));
                // SAFETY: the part lies inside of `out`, which is borrowed until all threads are done; a counter gives each number once
                // and ranges do not meet, so that nobody else has it.
                let part = unsafe { from_raw_parts_mut(start.at(first), last - first) };
                run(&mut room, task, part);
            }
        }
    };
    rayon::scope(|scope| {
        (1..threads).for_each(|_| scope.spawn(|_| work()));
        work();
    });
}

/// Where values begin, of which threads write different ones.
struct Start<T>(*mut T);

// SAFETY: threads get parts of the values that do not overlap, and may be given these.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    /// Value `index`.
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn every_part_is_filled_once_by_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (len, each) in [(0, 4), (1, 4), (7, 3), (8, 4), (5, 100), (3, 0), (1000, 7)] {
                let mut out = vec![1usize; len];
                pool.install(|| {
                    fill_parts(&mut out, each, |calls: &mut usize, task, part| {
                        *calls += 1;
                        assert!(part.len() <= each.max(1) && *calls <= len);
                        let first = task * each.max(1);
                        part.iter_mut().enumerate().for_each(|(i, value)| *value += first + i);
                    });
                });
                assert_eq!(out, (1..=len).collect::<Vec<_>>(), "{threads} {len} {each}");
            }
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_rest_is_filled_again() {
        let mut out = vec![0; 100];
        let failed = catch_unwind(AssertUnwindSafe(|| {
            fill_parts(&mut out, 3, |(): &mut (), task, _| assert_ne!(task, 17, "one that fails"));
        }));
        assert!(failed.is_err());
        fill_parts(&mut out, 3, |(): &mut (), _, part| part.fill(1));
        assert_eq!(out, [1; 100]);
    }
}
