//! The memory of intermediate results.

use std::ffi::c_int;

/// Lets the C library keep memory that is freed for what is allocated next, up to the largest amount that was in use at a time.
/// By default it gives large pieces back to the system at once, which clears every page before it hands it out again: a
/// quarter of the time of a prompt, whose layers all need the same sizes. And what one thread frees is what another
/// allocates: by default there are eight heaps per core, each of which keeps the largest amount that some thread ever had
/// there, so that a server that is long up holds ever more; here there are [`heaps`].
///
/// To be called once, before there are other threads; it has an effect with glibc alone.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, heaps()),
        (libc::M_MMAP_THRESHOLD, 1 << 30),
        (libc::M_TRIM_THRESHOLD, c_int::MAX),
        (libc::M_TOP_PAD, 64 << 20),
    ] {
        // SAFETY: sets a number of the allocator, takes no pointer, and reports what it does not take by its result, on which
        // nothing depends.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// How many heaps all threads share, after [`keep_freed_memory`]: one, and on large machines one for four cores, so that
/// threads do not wait for each other.
pub fn heaps() -> c_int {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    c_int::try_from(cores / 4).unwrap_or(c_int::MAX).max(1)
}
