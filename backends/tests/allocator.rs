//! Freed memory is used again, by other threads too. A process of its own, because the setting is one of the process.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::sync::{Barrier, Mutex};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn what_is_freed_is_not_cleared_again() {
    /// Pages that the system had to hand out so far.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }
    /// How many while 24 MiB are filled, which is far below what a heap of another thread than the first may hold.
    fn filled() -> u64 {
        let before = faults();
        let bytes = std::hint::black_box(vec![1u8; 24 << 20]);
        drop(bytes);
        faults() - before
    }
    qwen3_vl_backends::allocator::keep_freed_memory();
    let first = filled();
    let again = filled();
    assert!(again * 10 < first.max(64), "{again} pages, {first} at first");

    let heaps = qwen3_vl_backends::allocator::heaps() as u64;
    let (pages, all_done) = (Mutex::new(0), Barrier::new(4 * heaps as usize));
    std::thread::scope(|scope| {
        for _ in 0..4 * heaps {
            scope.spawn(|| {
                *pages.lock().unwrap() += filled();
                // A thread that ends would leave its heap to the next one.
                all_done.wait();
            });
        }
    });
    let all = pages.into_inner().unwrap();
    // This thread and the harness had a heap each before there was a bound.
    let most = (heaps + 2) * first.max(64);
    assert!(all < most, "{all} pages in {heaps} heaps, {first} at first");
}
