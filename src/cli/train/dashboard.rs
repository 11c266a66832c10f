//! Burn's dashboard in the terminal (cargo feature `tui`): curves of losses and rates, and a key that stops the run.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn_train::Interrupter;
use burn_train::logger::TrainingProgressLogger;
use burn_train::metric::{
    MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};
use qwen3_vl::train::run::{Observer, StepReport, Trainer};

use super::super::interrupt::Streaming;

/// Follows a run on Burn's terminal renderer.
pub(super) struct Dashboard {
    renderer: TuiMetricsRendererWrapper,
    /// Set by the renderer when its user asks to stop.
    interrupter: Interrupter,
    ctrl_c: Streaming,
    known: BTreeSet<String>,
}

impl Dashboard {
    pub(super) fn new(trainer: &Trainer) -> Self {
        let (interrupter, state) = (Interrupter::new(), trainer.state());
        let resumed = trainer.resumed().then_some(state.step as usize);
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), resumed);
        // Without a number of epochs the bar counts steps.
        renderer.start(0, 0, None, None);
        renderer.start_split("train", state.steps as usize);
        Self { renderer, interrupter, ctrl_c: Streaming::begin(), known: BTreeSet::new() }
    }

    /// A point of the curve `name`, of the trained rows or of those that are held out.
    fn point(&mut self, name: &str, value: f64, trained: bool) {
        let metric_id = MetricId::new(Arc::new(name.to_owned()));
        if self.known.insert(name.to_owned()) {
            let attributes = NumericAttributes { unit: None, higher_is_better: false };
            self.renderer.register_metric(MetricDefinition {
                metric_id: metric_id.clone(),
                name: Arc::new(name.to_owned()),
                description: None,
                attributes: attributes.into(),
            });
        }
        let shown = SerializedEntry::new(format!("{value:.4e}"), value.to_string());
        let entry = MetricEntry::new(metric_id, shown);
        let state = MetricState::Numeric(entry, Some(NumericEntry::Value(value)));
        match trained {
            true => self.renderer.update_train(state),
            false => self.renderer.update_valid(state),
        }
    }
}

impl Observer for Dashboard {
    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.point("Loss", report.loss, true);
        self.point("Tokens/s", report.tokens as f64 / report.seconds.max(1e-9), true);
        for (group, rate) in &report.rates {
            self.point(&format!("Rate of {group}"), *rate, true);
        }
        let channels = [(&report.channels, true), (&report.eval_channels, false)];
        for (losses, trained) in channels.into_iter().filter(|(losses, _)| losses.len() > 1) {
            for (name, channel) in losses {
                self.point(&format!("Loss of {name}"), channel.loss, trained);
            }
        }
        if let Some(loss) = report.eval_loss {
            self.point("Loss", loss, false);
        }
        for (name, figures) in report.answers.iter().flatten() {
            self.point(&format!("Exact, {name}"), figures.exact_match, false);
        }
        self.renderer.update_split(report.step as usize);
        match self.interrupter.should_stop() || self.ctrl_c.asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn saved(&mut self, _folder: &Path) {}
}
