//! The progress bar of loading.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qwen3_vl::weights::Progress;
use qwen3_vl::weights::media::{MediaProgress, MediaStep};
use qwen3_vl::{Prepared, Qwen3Vl, Request, warnings};

use super::interrupt::Streaming;
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
        Self::of("loading", quiet)
    }

    /// As [`Self::new`], for another action on tensors.
    pub fn of(action: &str, quiet: bool) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let rest = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(&format!("{action} {rest}")) {
            bar.set_style(style);
        }
        Self { bar, total: 0, quiet }
    }

    /// Removes the bar.
    pub fn clear(self) {
        self.bar.finish_and_clear();
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

/// Reads the media of a request with a progress bar; `None` when Ctrl-C stopped it.
///
/// # Errors
/// As [`Qwen3Vl::prepare`].
pub fn read_media(
    model: &Qwen3Vl,
    request: &Request,
    quiet: bool,
) -> anyhow::Result<Option<Prepared>> {
    let mut bar = MediaBar::new(quiet);
    let prepared = model.prepare(request, &mut bar);
    bar.bar.finish_and_clear();
    match prepared {
        Err(_) if bar.guard.asked() => Ok(None),
        Err(error) => Err(error.into()),
        Ok(prepared) => {
            for warning in warnings(&prepared.chat.media, &prepared.report.warnings) {
                print::error_line(&format!("warning: {warning}"));
            }
            Ok(Some(prepared))
        }
    }
}

/// Shows how far downloading and decoding are; Ctrl-C stops them.
pub struct MediaBar {
    bar: ProgressBar,
    guard: Streaming,
}

/// Steps of the bar.
const STEPS: u64 = 1000;

impl MediaBar {
    fn new(quiet: bool) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {percent}% {eta}") {
            bar.set_style(style);
        }
        Self { bar, guard: Streaming::begin() }
    }
}

impl MediaProgress for MediaBar {
    fn step(&mut self, step: MediaStep<'_>) -> ControlFlow<()> {
        self.bar.set_message(format!("{} {}", step.action, step.name));
        self.bar.set_position((step.share.unwrap_or(0.0).clamp(0.0, 1.0) * STEPS as f64) as u64);
        match self.guard.asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
