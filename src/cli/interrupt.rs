//! Ctrl-C: while an answer streams it ends the answer, at any other time the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use qwen3_vl::weights::export::remove_unfinished;

use super::INTERRUPTED;

static STREAMING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// While this lives, Ctrl-C is a request that [`Streaming::asked`] reports; a second one ends the program.
pub struct Streaming;

/// Makes Ctrl-C end the program with its own exit code, and without folders that are half written; else the system's default does.
pub fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let _ = ctrlc::set_handler(handle);
    });
}

impl Streaming {
    /// Begins an answer.
    pub fn begin() -> Self {
        install();
        ASKED.store(false, Ordering::SeqCst);
        STREAMING.store(true, Ordering::SeqCst);
        Self
    }

    /// Whether Ctrl-C was pressed.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::SeqCst)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        STREAMING.store(false, Ordering::SeqCst);
    }
}

fn handle() {
    let first = !ASKED.swap(true, Ordering::SeqCst);
    if !(first && STREAMING.load(Ordering::SeqCst)) {
        remove_unfinished();
        std::process::exit(INTERRUPTED.into());
    }
}
