//! Logs of a run: one JSON object per step, and the loss as a curve.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use qwen3_vl_weights::partial;

use crate::run::StepReport;

/// Why a log cannot be written or drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: the curve cannot be drawn: {reason}")]
    Draw { path: PathBuf, reason: String },
}

/// `log.jsonl` and `loss.svg` of an output folder.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    curve: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log; lines of steps after `step` come from a run that was resumed before them, and go.
    ///
    /// # Errors
    /// When the folder cannot be made or the file not be written.
    pub fn open(output: &Path, step: u64) -> Result<Self, ReportError> {
        let path = output.join("log.jsonl");
        let io = |source| ReportError::Io { path: path.clone(), source };
        std::fs::create_dir_all(output).map_err(io)?;
        let kept: Vec<StepReport> = read(&path).into_iter().filter(|r| r.step <= step).collect();
        let mut text = String::new();
        for report in &kept {
            text.push_str(&line(report));
        }
        let mut temporary = partial::beside(&path).map_err(io)?;
        temporary.write_all(text.as_bytes()).map_err(io)?;
        temporary.persist(&path).map_err(|error| io(error.error))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        Ok(Self { curve: output.join("loss.svg"), path, file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, report: &StepReport) -> Result<(), ReportError> {
        let written = self.file.write_all(line(report).as_bytes());
        written.map_err(|source| ReportError::Io { path: self.path.clone(), source })
    }

    /// Draws the losses so far: every step, their running mean, and the evaluations.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn draw(&self) -> Result<(), ReportError> {
        let reports = read(&self.path);
        if reports.len() < 2 {
            return Ok(());
        }
        curve(&reports, &self.curve).map_err(|error| ReportError::Draw {
            path: self.curve.clone(),
            reason: error.to_string(),
        })
    }
}

fn line(report: &StepReport) -> String {
    let mut line = serde_json::to_string(report).unwrap_or_default();
    line.push('\n');
    line
}

/// The complete lines of a log; a line cut by a crash is passed over.
pub fn read(path: &Path) -> Vec<StepReport> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn curve(reports: &[StepReport], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let losses: Vec<(f64, f64)> = reports.iter().map(|r| (r.step as f64, r.loss)).collect();
    let evaluated = reports.iter().filter_map(|r| Some((r.step as f64, r.eval_loss?)));
    let top = losses.iter().map(|(_, loss)| *loss).fold(0.0, f64::max);
    let last = losses.last().map_or(1.0, |(step, _)| *step);
    let root = SVGBackend::new(path, (900, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..last, 0.0..top * 1.05)?;
    chart.configure_mesh().x_desc("step").y_desc("loss").draw()?;
    // A curve of a hundred thousand steps needs no hundred thousand points.
    let stride = losses.len().div_ceil(2000);
    let thin = |points: &[(f64, f64)]| points.iter().step_by(stride).copied().collect::<Vec<_>>();
    chart.draw_series(LineSeries::new(thin(&losses), BLUE.mix(0.25)))?;
    chart.draw_series(LineSeries::new(thin(&running_mean(&losses)), &BLUE))?;
    chart.draw_series(LineSeries::new(evaluated, &RED))?;
    root.present()?;
    Ok(())
}

/// Exponential mean over about fifty steps.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut mean = points.first().map_or(0.0, |(_, loss)| *loss);
    let next = |(step, loss): &(f64, f64)| {
        mean += (loss - mean) * 0.02;
        (*step, mean)
    };
    points.iter().map(next).collect()
}
