//! How many threads the kernels for the processor run on.

mod awake;
#[cfg(feature = "flex")]
pub(crate) mod ranges;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use awake::Awake;

use burn::tensor::{Device, StreamId};

/// The environment variable that rayon takes the number of threads from.
pub const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

/// Why the number of threads cannot be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    #[error("{count} threads cannot be started: {source}")]
    Start { count: NonZeroUsize, source: rayon::ThreadPoolBuildError },
    #[error("{THREADS_VARIABLE} is `{value}`; it must be a number of threads, 1 or more")]
    Variable { value: String },
}

/// Refuses what rayon would pass over in [`THREADS_VARIABLE`] without a word, and take all cores.
///
/// # Errors
/// When it is set, and neither empty nor a number of threads.
pub fn check_variable() -> Result<(), ThreadError> {
    let Some(value) = std::env::var_os(THREADS_VARIABLE) else { return Ok(()) };
    check_value(&value.to_string_lossy())
}

fn check_value(value: &str) -> Result<(), ThreadError> {
    match value.is_empty() || value.parse::<NonZeroUsize>().is_ok() {
        true => Ok(()),
        false => Err(ThreadError::Variable { value: value.to_owned() }),
    }
}

/// Runs everything on `count` threads from now on. Without it there is one per core, or as many as `RAYON_NUM_THREADS` says.
///
/// # Errors
/// When work has begun already, or the system does not start so many.
pub fn use_threads(count: NonZeroUsize) -> Result<(), ThreadError> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(count.get());
    builder.build_global().map_err(|source| ThreadError::Start { count, source })
}

/// Runs `work` on one of these threads where `device` is the processor, and on the calling thread otherwise. Each of the many
/// short products of a step would put a thread that is not one of them to sleep, and wake it again; the others stay [`Awake`].
pub fn on_workers<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    if !is_processor(device) {
        return work();
    }
    rayon::scope(|_| {
        let _awake = Awake::new();
        work()
    })
}

/// Runs `work`, which may use cards, on the queue `index` of each of them, whatever thread this is. A thread has a queue of its own
/// else, with memory that is kept for it when the thread has ended: threads that come and go would leave ever more of it behind.
pub fn on_queue<T>(index: usize, work: impl FnOnce() -> T) -> T {
    static QUEUES: Mutex<Vec<StreamId>> = Mutex::new(Vec::new());
    let queue = {
        let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
        while queues.len() <= index {
            queues.push(StreamId::allocate());
        }
        queues[index]
    };
    queue.executes(work)
}

/// Whether `device` is the processor, whose tensors lie in the memory of the host.
pub fn is_processor(device: &Device) -> bool {
    let device = device.clone().inner();
    [
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ]
    .contains(&device)
}

/// How many threads there are.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_come_and_go_share_their_queues() {
        let queue =
            |index| std::thread::spawn(move || on_queue(index, StreamId::current)).join().unwrap();
        assert_eq!(queue(1), queue(1));
        assert_ne!(queue(0), queue(1));
        assert_ne!(StreamId::current(), queue(0));
    }

    #[test]
    fn a_number_of_threads_is_one_at_least() {
        for value in ["", "1", "64"] {
            assert!(check_value(value).is_ok(), "{value}");
        }
        for value in ["0", "-1", "two", " 2", "1.5"] {
            let error = check_value(value).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{value}`")) && error.contains("1 or more"),
                "{error}"
            );
        }
    }
}
