//! `train check`: the report on the data, what the run will need, and a row as it is learned.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qwen3_vl::backends::Precision;
use qwen3_vl::backends::device::{MemoryInfo, host_memory, open};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::init::Init;
use qwen3_vl::train::config::TrainConfig;
use qwen3_vl::train::data::check::Long;
use qwen3_vl::train::data::{
    CheckOptions, CheckReport, Dataset, Limits, Preparer, SampleSizes, check,
};
use qwen3_vl::train::loader::datasets;
use qwen3_vl::train::lora::Plan;
use qwen3_vl::train::memory::MemoryEstimate;
use qwen3_vl::train::start::check_start;
use qwen3_vl::weights::checkpoint::read_config;
use serde_json::json;

use super::show::{Colours, rendered};
use super::{Opened, Outcome, print, size};

/// Most characters of the row that is shown.
const PREVIEW: usize = 3000;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The TOML file of the run
    config: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Decode every picture and the frames of every video too, so that files damaged behind their headers are found
    #[arg(long)]
    decode: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Outcome> {
    let Opened { config, processor, sets } = super::open(&args.config)?;
    let note = check_start(&config)?;
    let held_out = datasets(&config.eval.data).context("`eval.data`")?;
    let preparer = Preparer::new(&processor, Limits::from(&config.limits));
    let options = CheckOptions { decode: args.decode, ..CheckOptions::default() };
    let report = checked(&sets, &preparer, options)?;
    let held_out = match held_out.is_empty() {
        true => None,
        false => Some(checked(&held_out, &preparer, options)?),
    };
    let memory = estimate(&config, &report.sizes)?;
    let colours = if args.json { Colours::Brackets } else { Colours::of_output() };
    let preview = preview(&sets, &preparer, colours);
    let text = match args.json {
        true => as_json(&report, held_out.as_ref(), &memory, preview.as_deref())?,
        false => {
            let held_out =
                held_out.as_ref().map(|report| format!("eval.data: {}", describe(report)));
            let note = note.map(|note| format!("note: {note}\n"));
            describe(&report)
                + &held_out.unwrap_or_default()
                + &note.unwrap_or_default()
                + &table(&memory, host_memory())
                + &preview.unwrap_or_default()
        }
    };
    print::out(&text)?;
    let reports = [Some(("data", &report)), held_out.as_ref().map(|report| ("eval.data", report))];
    let usable =
        reports.into_iter().flatten().map(|(name, report)| is_usable(name, report, &config));
    // All of them, so that each says what is wrong.
    let usable: Vec<bool> = usable.collect();
    Ok(if usable.contains(&false) { Outcome::Failed } else { Outcome::Done })
}

/// A check behind a bar.
fn checked(
    sets: &[Dataset],
    preparer: &Preparer<'_>,
    options: CheckOptions,
) -> anyhow::Result<CheckReport> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("checking {bar:30} {pos}/{len} rows {eta}")?);
    let report = check(sets, preparer, options, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(report)
}

/// Whether every row is good and a sample is left; where none is, that is said.
fn is_usable(name: &str, report: &CheckReport, config: &TrainConfig) -> bool {
    if report.is_good() && report.samples == 0 {
        let (dropped, limit) = (report.dropped, config.limits.sequence);
        print::error_line(&format!(
            "error: no sample of `{name}` is left: all {dropped} have more than the {limit} tokens of limits.sequence"
        ));
    }
    report.is_good() && report.samples > 0
}

/// What a run needs whose samples have these sizes; the weights stay where they are.
pub(super) fn estimate(
    config: &TrainConfig,
    sizes: &SampleSizes,
) -> anyhow::Result<MemoryEstimate> {
    let device = open("cpu").or_else(|_| qwen3_vl::backends::device::select(None))?.device;
    let init = Init::new(&device, Precision::F32);
    let shape = read_config(&config.model)?;
    let mut unloaded = Qwen3VlModel::new(&shape, &init);
    if let Some(plan) = Plan::new(config, &shape)? {
        unloaded = plan.attach(unloaded);
    }
    Ok(MemoryEstimate::new(&unloaded, config, sizes))
}

/// The estimate, and whether there is so much.
pub(super) fn table(memory: &MemoryEstimate, machine: Option<MemoryInfo>) -> String {
    let size = size::bytes;
    let (used, other, setting) = match memory.recompute {
        true => (memory.activations_recomputed, memory.peak_plain, "none"),
        false => (memory.activations, memory.peak_recomputed, "block"),
    };
    let mut text = format!(
        "memory: weights {}, moments {}, gradients {}, activations {} for {} tokens and {} patches;\n\
         at most {} at a time, {} with memory.recompute = \"{setting}\"\n",
        size(memory.weights),
        size(memory.moments),
        size(memory.gradients),
        size(used),
        memory.load.tokens,
        memory.load.patches,
        size(memory.peak()),
        size(other),
    );
    if let Some(machine) = machine.filter(|machine| memory.peak() > machine.available) {
        text += &format!(
            "warning: that is more than the {} of memory that are free here (of {}); lower batch.tokens, train fewer groups{}\n",
            size(machine.available),
            size(machine.total),
            if memory.recompute { "" } else { ", or set memory.recompute = \"block\"" },
        );
    }
    text
}

fn as_json(
    report: &CheckReport,
    held_out: Option<&CheckReport>,
    memory: &MemoryEstimate,
    preview: Option<&str>,
) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(report)?;
    object["eval"] = serde_json::to_value(held_out)?;
    object["memory"] = serde_json::to_value(memory)?;
    object["memory"]["peak"] = json!(memory.peak());
    object["memory"]["available"] = json!(host_memory().map(|machine| machine.available));
    object["preview"] = json!(preview);
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}

/// The first row that can be rendered, with what is learned marked.
fn preview(sets: &[Dataset], preparer: &Preparer<'_>, colours: Colours) -> Option<String> {
    let rows = sets.iter().flat_map(|set| (0..set.len().min(64)).map(move |row| (set, row)));
    let (place, pieces) = rows.into_iter().find_map(|(set, row)| {
        let sample = set.samples(row).ok()?.into_iter().next()?;
        let pieces = preparer.rendered(&sample).ok()?;
        Some((sample.place, pieces))
    })?;
    let mut text = rendered(&pieces, colours);
    if let Some((cut, _)) = text.char_indices().nth(PREVIEW) {
        text.truncate(cut);
        text += &format!("{} ...", colours.end());
    }
    Some(format!("{place}, {}:\n{}\n", colours.legend(), text.trim_end()))
}

fn describe(report: &CheckReport) -> String {
    let CheckReport { rows, good, samples, dropped, shrunk, trimmed, .. } = report;
    let mut text = format!(
        "{rows} rows, {good} good; {samples} samples are trained on, {dropped} dropped, {shrunk} shrunk, {trimmed} trimmed\n"
    );
    if report.not_drawn > 0 {
        text += &format!("{} more rows will be drawn and were not looked at\n", report.not_drawn);
    }
    for (name, spread) in [("tokens", &report.tokens), ("targets", &report.targets)] {
        text += &format!(
            "{name}: {} in all, {} to {} per sample, mean {:.1}\n",
            spread.sum,
            spread.least,
            spread.most,
            spread.mean()
        );
    }
    let buckets = report.tokens.buckets.iter().map(|(most, count)| format!("{count} up to {most}"));
    text += &format!("samples by tokens: {}\n", buckets.collect::<Vec<_>>().join(", "));
    for (name, channel) in &report.channels {
        text += &format!(
            "channel {name}: {} samples, {} tokens ({} of them vision), {} targets\n",
            channel.samples, channel.tokens, channel.vision_tokens, channel.targets
        );
    }
    text + &findings(report)
}

/// Everything that a line of the data is named for.
fn findings(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.place, problem.message))
        .collect();
    let all: usize = report.problem_counts.values().sum();
    if all > report.problems.len() {
        let counts = report.problem_counts.iter().map(|(kind, count)| format!("{kind} {count}"));
        let (more, counts) = (all - report.problems.len(), counts.collect::<Vec<_>>().join(", "));
        lines.push(format!("and {more} more rows with problems; in all: {counts}"));
    }
    lines.extend(report.long.iter().map(long));
    let long = report.dropped + report.shrunk + report.trimmed;
    if long > report.long.len() {
        lines.push(format!("and {} more that are too long", long - report.long.len()));
    }
    let duplicate = |d: &qwen3_vl::train::data::check::Duplicate| {
        format!("{}: the same as {}", d.place, d.first)
    };
    lines.extend(report.duplicates.iter().map(duplicate));
    lines.extend(report.notes.iter().map(|note| format!("{}: {}", note.place, note.message)));
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn long(long: &Long) -> String {
    let notes: Vec<String> = long.notes.iter().map(ToString::to_string).collect();
    match long.dropped {
        true => format!("{}: {} tokens is too long; it is dropped.", long.place, long.tokens),
        false => format!("{}: {}", long.place, notes.join(" ")),
    }
}
