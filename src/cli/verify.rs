//! `qwen3-vl verify`: is this checkpoint computed as transformers computes it?

use std::path::PathBuf;

use clap::Args;
use qwen3_vl::verify::{Divergence, Stage, StageKind, Tolerance, Verification, verify};
use serde_json::json;

use super::args::{DeviceArgs, ModelArgs, ThreadArgs, load};
use super::size::table;
use super::{Outcome, print};

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    qwen3-vl verify tests/fixtures/moe --reference tests/fixtures/moe/ref_mixed.safetensors\n\n\
    tests/generate/references.py shows how a reference file is made. Exit code 1 when a stage is out of bounds.")]
pub struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// File with the tensors that transformers computes for this checkpoint
    #[arg(long, value_name = "FILE.safetensors")]
    reference: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Bound on the maximal relative error of every stage, instead of the device's own
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let model = load(&args.model, args.device.options()?, args.json)?;
    let placement = model.placement();
    let own = match model.scheme() {
        Some(scheme) => Tolerance::of_scheme(scheme),
        None => {
            let card = placement.devices().into_iter().find(|device| !device.kind.is_cpu());
            let kind = card.unwrap_or(model.device()).kind;
            Tolerance::for_device(kind, model.model().precision())
        }
    };
    let tolerance = args.tolerance.map_or(own, Tolerance::Relative);
    let outcome = verify(model.model(), &args.reference, tolerance)?;
    match args.json {
        true => print::line(&as_json(&outcome).to_string())?,
        false => print::out(&as_text(&outcome, &placement.label()))?,
    }
    Ok(if outcome.passed() { Outcome::Done } else { Outcome::Failed })
}

fn as_text(outcome: &Verification, device: &str) -> String {
    let head = ["STAGE", "MAX ERROR", "COSINE", "BOUND", ""].map(str::to_owned).to_vec();
    let rows = std::iter::once(head).chain(outcome.stages.iter().map(row));
    let failed = outcome.stages.iter().filter(|stage| !stage.passed).count();
    let verdict = match failed {
        0 if outcome.stages.is_empty() => "nothing was compared: FAIL\n".to_owned(),
        0 => format!("all {} stages pass on {device}\n", outcome.stages.len()),
        n => format!("{n} of {} stages FAIL on {device}\n", outcome.stages.len()),
    };
    table(&rows.collect::<Vec<_>>()) + &outcome.logits.map_or(String::new(), divergence) + &verdict
}

fn divergence(logits: Divergence) -> String {
    let Divergence { rows, mean_kl, max_kl, top1 } = logits;
    let share = 100.0 * top1;
    format!(
        "logits of {rows} rows: KL divergence {mean_kl:.1e} on average, {max_kl:.1e} at most; \
         the most probable token is the same in {share:.1} %\n"
    )
}

fn row(stage: &Stage) -> Vec<String> {
    let verdict = if stage.passed { "pass" } else { "FAIL" }.to_owned();
    match stage.kind {
        StageKind::Integers => {
            let error = format!("{} differ", stage.error);
            vec![stage.key.clone(), error, "-".into(), "exact".into(), verdict]
        }
        StageKind::Floats => vec![
            stage.key.clone(),
            format!("{:.1e}", stage.error),
            format!("{:.7}", stage.cosine),
            bound(stage.bound),
            verdict,
        ],
    }
}

/// In lower precision the bound is a cosine, which lies near 1.
fn bound(value: f64) -> String {
    if value > 0.5 { format!("cosine {value}") } else { format!("{value:.0e}") }
}

fn as_json(outcome: &Verification) -> serde_json::Value {
    let stage = |stage: &Stage| {
        json!({
            "stage": stage.key,
            "max_error": stage.error,
            "cosine": stage.cosine,
            "bound": stage.bound,
            "passed": stage.passed,
        })
    };
    let stages: Vec<_> = outcome.stages.iter().map(stage).collect();
    let logits = outcome.logits.map(|logits| {
        let Divergence { rows, mean_kl, max_kl, top1 } = logits;
        json!({ "rows": rows, "mean_kl": mean_kl, "max_kl": max_kl, "top1": top1 })
    });
    json!({ "passed": outcome.passed(), "stages": stages, "logits": logits })
}
