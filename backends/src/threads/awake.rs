//! Threads that look for work without going to sleep.
//!
//! rayon puts a thread to sleep some microseconds after it found nothing to do, and a step of an answer is some hundred products of
//! as few, with a little between them that one thread does alone. To put a thread to sleep and to wake it again costs as much as
//! such a product, and in a virtual machine more.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long the others may take to begin; those that take longer do not.
const TO_BEGIN: Duration = Duration::from_micros(100);
/// After how long without work a thread may sleep.
const IDLE: Duration = Duration::from_millis(2);
/// Pauses between two looks for work, and looks after which other threads of the system get the core: there may be more than cores.
const PAUSES: usize = 16;
const LOOKS: usize = 32;

/// While there is this, the other threads of rayon stay awake, and do what is to be done.
pub struct Awake(Arc<State>);

#[derive(Default)]
struct State {
    over: AtomicBool,
    /// Twice how many threads have begun, and one more when no other may begin.
    begun: AtomicUsize,
}

impl Awake {
    /// To be called on one of the threads, before it has given work to others: a thread that began to wait for the end of all work
    /// in the middle of a part of it would hold that part up until it has been idle for long.
    pub fn new() -> Self {
        let state = Arc::new(State::default());
        let others = rayon::current_num_threads() - 1;
        for _ in 0..others {
            let state = state.clone();
            rayon::spawn(move || state.look_for_work());
        }
        let start = Instant::now();
        while state.begun.load(Ordering::Relaxed) < 2 * others && start.elapsed() < TO_BEGIN {
            std::thread::yield_now();
        }
        state.begun.fetch_or(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn look_for_work(&self) {
        let open = |begun: usize| begun.is_multiple_of(2).then_some(begun + 2);
        if self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, open).is_err() {
            return;
        }
        let (mut last, mut looks) = (Instant::now(), 0usize);
        while !self.over.load(Ordering::Relaxed) {
            if rayon::yield_now() == Some(Yield::Executed) {
                (last, looks) = (Instant::now(), 0);
                continue;
            }
            (0..PAUSES).for_each(|_| spin_loop());
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                if last.elapsed() > IDLE {
                    return;
                }
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rayon::prelude::*;

    use super::*;

    /// Sums whose parts are sums that others are waited for.
    fn nested(n: u64) -> u64 {
        let sum =
            |i: u64| (0..i as usize + 1).into_par_iter().with_max_len(3).map(|j| j as u64).sum();
        (0..n).into_par_iter().map::<_, u64>(sum).sum()
    }

    #[test]
    fn passes_at_the_same_time_come_to_their_ends() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let expected = (0..60u64).map(|i| i * (i + 1) / 2).sum::<u64>();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = pool.scope(|_| {
                            let _awake = Awake::new();
                            nested(60)
                        });
                        assert_eq!(sum, expected);
                    }
                });
            }
        });
    }

    #[test]
    fn who_comes_too_late_does_not_begin() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let state = pool.scope(|_| Awake::new().0.clone());
        let begun = state.begun.load(Ordering::Relaxed);
        assert_eq!(begun % 2, 1, "closed before there is work");
        state.look_for_work();
        assert_eq!(state.begun.load(Ordering::Relaxed), begun);
        let open = State { over: true.into(), begun: 4.into() };
        open.look_for_work();
        assert_eq!(open.begun.into_inner(), 6);
    }

    #[test]
    fn one_inside_another_and_a_panic_leave_nothing_behind() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for _ in 0..50 {
            let sum = pool.scope(|_| {
                let _awake = Awake::new();
                let inner = rayon::scope(|_| {
                    let _awake = Awake::new();
                    nested(20)
                });
                inner + nested(20)
            });
            assert_eq!(sum, 2 * (0..20u64).map(|i| i * (i + 1) / 2).sum::<u64>());
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.scope(|_| {
                    let _awake = Awake::new();
                    panic!("a pass that fails");
                })
            }));
            assert!(failed.is_err());
        }
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        one.scope(|_| {
            let _awake = Awake::new();
            assert_eq!(nested(3), 4);
        });
    }
}
