//! How far a run is: a bar on a terminal, now and then a line elsewhere; and Ctrl-C.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use qwen3_vl::train::evaluate::ALL;
use qwen3_vl::train::metrics::Figures;
use qwen3_vl::train::run::{Observer, StepReport, Trainer};

use super::super::interrupt::Streaming;
use super::print;

/// Steps over which losses and speeds are averaged.
const RECENT: usize = 20;

/// Shows a bar, and stops the run on Ctrl-C.
pub(super) struct Follower {
    bar: ProgressBar,
    ctrl_c: Streaming,
    /// Losses, tokens and seconds of the last steps.
    recent: VecDeque<(f64, f64, f64)>,
    quiet: bool,
}

impl Follower {
    pub(super) fn new(trainer: &Trainer, quiet: bool) -> Self {
        let bar =
            if quiet { ProgressBar::hidden() } else { ProgressBar::new(trainer.state().steps) };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} eta {eta} {msg}") {
            bar.set_style(style);
        }
        bar.set_position(trainer.state().step);
        bar.reset_eta();
        Self { bar, ctrl_c: Streaming::begin(), recent: VecDeque::new(), quiet }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn message(&mut self, report: &StepReport) -> String {
        self.recent.push_back((report.loss, report.tokens as f64, report.seconds));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let add = |a: (f64, f64, f64), b: &(f64, f64, f64)| (a.0 + b.0, a.1 + b.1, a.2 + b.2);
        let (loss, tokens, seconds) = self.recent.iter().fold((0.0, 0.0, 0.0), add);
        let (loss, speed) = (loss / self.recent.len() as f64, tokens / seconds.max(1e-9));
        format!("loss {loss:.4} {} {speed:.0} tok/s", rates(report))
    }
}

/// The base rate, and those of groups that have another one.
fn rates(report: &StepReport) -> String {
    let other = report.rates.iter().filter(|(_, rate)| **rate != report.lr);
    let other = other.map(|(group, rate)| format!(", {group} {rate:.2e}"));
    format!("lr {:.2e}{}", report.lr, other.collect::<String>())
}

/// What an evaluation found.
fn evaluation(report: &StepReport) -> Option<String> {
    let loss = report.eval_loss.map(|loss| format!("eval {loss:.4}"));
    let mut text =
        [loss, report.answers.as_ref().map(answers)].into_iter().flatten().collect::<Vec<_>>();
    if report.eval_channels.len() > 1 {
        text.extend(report.eval_channels.iter().map(|(name, c)| format!("{name} {:.4}", c.loss)));
    }
    (!text.is_empty()).then(|| text.join(", "))
}

fn answers(figures: &BTreeMap<String, Figures>) -> String {
    let Some(all) = figures.get(ALL) else { return String::new() };
    let mut text =
        format!("exact {:.1} %, token F1 {:.1} %", 100.0 * all.exact_match, 100.0 * all.token_f1);
    for (name, value) in [("box IoU", all.box_iou), ("time IoU", all.temporal_iou)] {
        text += &value.map_or(String::new(), |value| format!(", {name} {value:.3}"));
    }
    text
}

impl Observer for Follower {
    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        let message = self.message(report);
        self.bar.set_position(report.step);
        self.bar.set_message(message.clone());
        let line = |text: &str| format!("step {}/{} {text}", report.step, report.steps);
        let plain = !self.quiet && !std::io::stderr().is_terminal();
        if plain && (report.step.is_multiple_of(RECENT as u64) || report.step == report.steps) {
            print::error_line(&line(&message));
        }
        if let Some(found) = evaluation(report).filter(|_| !self.quiet) {
            self.bar.suspend(|| print::error_line(&line(&found)));
        }
        match self.ctrl_c.asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn saved(&mut self, _folder: &Path) {}
}
