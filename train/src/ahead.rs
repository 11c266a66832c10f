//! Reading the rows of the next step while the model learns from those of this one.

use std::thread::JoinHandle;

use crate::loader::{Loader, LoaderError, StepRows};

/// A loader on a thread of its own, one step ahead.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// There is always one, but for the moment between two.
    reading: Option<JoinHandle<(Loader, Result<StepRows, LoaderError>)>>,
}

impl Ahead {
    /// Begins with the next step of `loader`.
    pub fn new(loader: Loader) -> Self {
        Self { reading: Some(begin(loader)) }
    }

    /// As [`Loader::next_step`].
    pub fn next_step(&mut self) -> Result<StepRows, LoaderError> {
        let reading = self.reading.take().expect("a thread is reading");
        let (loader, rows) =
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.reading = Some(begin(loader));
        rows
    }
}

fn begin(mut loader: Loader) -> JoinHandle<(Loader, Result<StepRows, LoaderError>)> {
    std::thread::spawn(move || {
        let rows = loader.next_step();
        (loader, rows)
    })
}
