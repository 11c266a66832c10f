//! How many threads the kernels for the processor run on.

use std::num::NonZeroUsize;

/// Why the number of threads cannot be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    #[error("{count} threads cannot be started: {source}")]
    Start { count: NonZeroUsize, source: rayon::ThreadPoolBuildError },
}

/// Runs everything on `count` threads from now on. Without it there is one per core, or as many as `RAYON_NUM_THREADS` says.
///
/// # Errors
/// When work has begun already, or the system does not start so many.
pub fn use_threads(count: NonZeroUsize) -> Result<(), ThreadError> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(count.get());
    builder.build_global().map_err(|source| ThreadError::Start { count, source })
}

/// How many threads there are.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
