//! The progress bar of loading.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qwen3_vl::weights::Progress;

use super::print;
use super::size::bytes;

/// Shows how far loading is: a bar on a terminal, one line at the end otherwise.
pub struct LoadBar {
    bar: ProgressBar,
    total: u64,
    quiet: bool,
}

impl LoadBar {
    /// A bar that appears with the first tensor; `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, total: 0, quiet }
    }

    /// Removes the bar and says what was loaded where.
    pub fn finish(self, device: &str, seconds: f64) {
        self.bar.finish_and_clear();
        if !self.quiet {
            let line = format!("loaded {} on {device} in {seconds:.1} s\n", bytes(self.total));
            print::aside(&line);
        }
    }
}

impl Progress for LoadBar {
    fn tensor(&mut self, name: &str, done: u64, total: u64) {
        self.total = total;
        self.bar.set_length(total);
        self.bar.set_position(done);
        if std::io::stderr().is_terminal() {
            self.bar.set_message(name.to_owned());
        }
    }
}
