//! Freed memory is used again. A process of its own, because the setting is one of the process.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn what_is_freed_is_not_cleared_again() {
    /// Pages that the system had to hand out so far.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }
    /// How many while 24 MiB are filled; far below what a heap of another thread than the first may hold.
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
}
