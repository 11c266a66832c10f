//! `qwen3-vl train`: look at the data, look at one row, train.

mod check;
#[cfg(feature = "tui")]
mod dashboard;
mod follow;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use qwen3_vl::backends::device::peak_resident_bytes;
use qwen3_vl::backends::{DtypeRequest, device};
use qwen3_vl::model::processor::Processor;
use qwen3_vl::nano;
use qwen3_vl::train::config::{TrainConfig, Training};
use qwen3_vl::train::data::{Dataset, Limits, Preparer, glance};
use qwen3_vl::train::export::{Trained, trained};
use qwen3_vl::train::loader::{Position, datasets};
use qwen3_vl::train::lora::adapter;
use qwen3_vl::train::memory::ROWS_MEASURED;
use qwen3_vl::train::run::{Finished, Trainer};
use qwen3_vl::train::start::check_start;
use qwen3_vl::train::synth::{
    Bounds, Channel, Mixture, Questions, SynthOptions, Typefaces, write_dataset, write_tokenizer,
};
use qwen3_vl::weights::adapter::write_adapter;
use qwen3_vl::weights::checkpoint::read_config;
use qwen3_vl::weights::export::{ExportOptions, export_model};
use qwen3_vl::weights::hub::HubOptions;
use qwen3_vl::weights::load_processor;

use super::args::ThreadArgs;
use super::{Outcome, print, size, usage_error};
use follow::Follower;

/// Fine-tune a checkpoint as a TOML file describes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl train check run.toml\n  \
    qwen3-vl train check run.toml --decode        (finds damaged pictures)\n  \
    qwen3-vl train show run.toml --row 17 --draw boxes.png\n  \
    qwen3-vl train run run.toml        (again to go on where it stopped)\n  \
    qwen3-vl train export run.toml --out trained\n  \
    qwen3-vl train export run.toml --out adapter --adapter\n  \
    qwen3-vl train synth drawn --rows 1000 --seed 7")]
pub struct TrainArgs {
    #[command(subcommand)]
    step: TrainVerb,
}

#[derive(Debug, Subcommand)]
enum TrainVerb {
    /// Parse every row, held-out ones too, find every file, count every token; train nothing
    Check(check::CheckArgs),
    /// Print one row as the model reads it, with what it learns in green; draw its boxes
    Show(show::ShowArgs),
    /// Train, from the newest checkpoint in the output folder where there is one
    Run(RunArgs),
    /// Write the trained model as a checkpoint folder that transformers loads, or as an adapter for peft
    Export(ExportArgs),
    /// Draw pictures and films with questions and answers, as training or test data
    Synth(SynthArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The TOML file of the run
    config: PathBuf,
    /// flex, ndarray, cpu, wgpu, vulkan, metal, webgpu or cuda:0 [default: the best present]
    #[arg(long, value_name = "DEVICE", env = "QWEN3_VL_DEVICE")]
    device: Option<String>,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Show Burn's dashboard instead of a bar; it needs a terminal
    #[cfg(feature = "tui")]
    #[arg(long, conflicts_with = "quiet")]
    tui: bool,
}

#[derive(Debug, Args)]
struct SynthArgs {
    /// Folder for data.jsonl and the pictures
    out: PathBuf,
    /// Number of rows
    #[arg(long, default_value_t = 1000)]
    rows: u64,
    /// Rows of different seeds have nothing in common
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One question per row: of one channel such as color or box, or `each` for all channels in turn
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Write two thirds of the strings in the typefaces of this font file, or of all below this folder; may be given more than
    /// once
    #[arg(long, value_name = "PATH")]
    typefaces: Vec<PathBuf>,
    /// Also learn a tokenizer of 1,024 tokens from the questions and answers of this seed: tokenizer.json
    #[arg(long)]
    tokenizer: bool,
}

impl SynthArgs {
    fn questions(&self) -> anyhow::Result<Questions> {
        match self.channel.as_deref() {
            None => Ok(Questions::Conversations),
            Some("each") => Ok(Questions::one_of(&Channel::ALL)),
            Some(name) => {
                let channel = Channel::from_name(name).map(|channel| Questions::one_of(&[channel]));
                channel.ok_or_else(|| {
                    let known = Channel::ALL.map(Channel::name).join(", ");
                    let message = format!("--channel is {name}; it must be each, {known}");
                    usage_error(clap::error::ErrorKind::InvalidValue, message)
                })
            }
        }
    }
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The TOML file of a run, its output folder, or one of its checkpoints
    run: PathBuf,
    /// New folder for the checkpoint
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Write the whole checkpoint, side paths merged into the weights (the default)
    #[arg(long = "merge")]
    _merge: bool,
    /// Of a run with LoRA, write a peft adapter in f32: its pairs, and modules that were trained whole
    #[arg(long, conflicts_with_all = ["_merge", "dtype", "max_shard_size"])]
    adapter: bool,
    /// f32, bf16 or f16 [default: what the checkpoint that training began with has]
    #[arg(long, value_name = "DTYPE", value_parser = str::parse::<DtypeRequest>)]
    dtype: Option<DtypeRequest>,
    /// Most bytes of one file of weights
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size::parse)]
    max_shard_size: u64,
}

/// Runs the verb.
///
/// # Errors
/// When the configuration, the model or the data cannot be used, or a file cannot be written.
pub fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    match &args.step {
        TrainVerb::Check(args) => check::run(args),
        TrainVerb::Show(args) => show::run(args),
        TrainVerb::Run(args) => train(args),
        TrainVerb::Export(args) => export(args),
        TrainVerb::Synth(args) => synth(args),
    }
}

/// A configuration with what its data is read by.
struct Opened {
    config: TrainConfig,
    processor: Processor,
    sets: Vec<Dataset>,
}

fn open(path: &Path) -> anyhow::Result<Opened> {
    let mut config = TrainConfig::open(path)?;
    config.model = model_folder(&config.model)?;
    let processor = load_processor(&config.model, &read_config(&config.model)?)?;
    let sets = datasets(&config.data)?;
    Ok(Opened { config, processor, sets })
}

/// The checkpoint folder of `model`, which may be the name of one.
fn model_folder(model: &Path) -> anyhow::Result<PathBuf> {
    const TAKEN: &str = "training takes a checkpoint folder with safetensors, a hub id such as Qwen/Qwen3-VL-2B-Instruct, or nano";
    if model.is_dir() {
        return Ok(model.to_owned());
    }
    let gguf = model.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    anyhow::ensure!(!gguf, "`model` is {}, a GGUF file; {TAKEN}", model.display());
    anyhow::ensure!(
        model.is_relative(),
        "`model` is {}, which is no folder; {TAKEN}",
        model.display()
    );
    let found = nano::resolve(&model.to_string_lossy(), &HubOptions::from_env());
    let found = found.with_context(|| {
        format!("`model` is {}, and no folder beside the file has that name", model.display())
    })?;
    Ok(std::path::absolute(found)?)
}

fn train(args: &RunArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let Opened { config, processor, sets } = open(&args.config)?;
    check_start(&config)?;
    let device = device::select(args.device.as_deref())?;
    let preparer = Preparer::new(&processor, Limits::from(&config.limits));
    let glance = glance(&sets, &preparer, ROWS_MEASURED);
    // Before the weights are loaded, so that what is free is what the run has.
    let memory = check::estimate(&config, &glance.sizes)?;
    let needed = check::table(&memory, device.info().memory);
    let trainer = Trainer::new(config, &device)?;
    if !args.quiet {
        print::aside(&(head(&trainer, &device.name) + &needed));
    }
    let warnings = glance.warnings.iter().map(|warning| format!("warning: {warning}"));
    warnings.for_each(|line| print::error_line(&line));
    let finished = follow(trainer, args)?;
    let peak = peak_resident_bytes().filter(|_| device.kind.is_cpu() && !args.quiet);
    if let Some(peak) = peak {
        print::aside(&format!("peak memory {}\n", size::bytes(peak)));
    }
    if let Some(folder) = &finished.checkpoint {
        print::aside(&format!(
            "step {} of {}{}, checkpoint {}\n",
            finished.step,
            finished.steps,
            too_long(&finished.position),
            folder.display()
        ));
    }
    Ok(if finished.step < finished.steps { Outcome::Interrupted } else { Outcome::Done })
}

/// How many samples were too long, where any was.
fn too_long(position: &Position) -> String {
    let Position { dropped, shrunk, trimmed, .. } = position;
    match dropped + shrunk + trimmed {
        0 => String::new(),
        _ => format!(
            ", samples that were too long: {dropped} dropped, {shrunk} shrunk, {trimmed} trimmed"
        ),
    }
}

/// Trains behind a bar, or behind the dashboard where it is asked for.
fn follow(mut trainer: Trainer, args: &RunArgs) -> anyhow::Result<Finished> {
    #[cfg(feature = "tui")]
    if args.tui {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        anyhow::ensure!(terminal, "--tui needs a terminal, and standard output is none");
        let mut dashboard = dashboard::Dashboard::new(&trainer);
        return Ok(trainer.run(&mut dashboard)?);
    }
    let mut follower = Follower::new(&trainer, args.quiet);
    let finished = trainer.run(&mut follower)?;
    follower.finish();
    Ok(finished)
}

fn export(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let device = device::select(Some("cpu"))?;
    let trained = trained(&args.run, &device)?;
    if args.adapter {
        return export_adapter(&trained, args);
    }
    let Trained { model, config, step } = trained;
    let dtype = match args.dtype {
        Some(DtypeRequest::Exact(dtype)) => Some(dtype),
        Some(DtypeRequest::Auto) | None => None,
    };
    let options = ExportOptions { dtype, max_shard_bytes: args.max_shard_size };
    let report = export_model(&model, &config.model, &args.out, &options, &mut ())?;
    let (count, bytes) = (report.tensors, size::bytes(report.bytes));
    let folder = report.folder.display();
    print::aside(&format!("step {step}: {count} tensors, {bytes}, in {folder}\n"));
    Ok(Outcome::Done)
}

fn export_adapter(trained: &Trained, args: &ExportArgs) -> anyhow::Result<Outcome> {
    let Trained { model, config, step } = trained;
    if config.lora().is_none() {
        let message = "--adapter is for runs with LoRA, and this one trained weights in place; leave it out for the checkpoint";
        return Err(usage_error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    let adapter = adapter(model, config)?;
    write_adapter(&args.out, &adapter, &config.model.to_string_lossy())?;
    let (pairs, whole, folder) = (adapter.pairs.len(), adapter.saved.len(), args.out.display());
    print::aside(&format!(
        "step {step}: {pairs} pairs and {whole} whole parameters, in {folder}\n"
    ));
    Ok(Outcome::Done)
}

fn synth(args: &SynthArgs) -> anyhow::Result<Outcome> {
    let bounds = Bounds { typefaces: Typefaces::of(&args.typefaces)?, ..Bounds::default() };
    let options = SynthOptions {
        rows: args.rows,
        seed: args.seed,
        mixture: Mixture { bounds, ..Mixture::default() },
        questions: args.questions()?,
    };
    let bar = ProgressBar::new(args.rows);
    bar.set_style(ProgressStyle::with_template("drawing {bar:30} {pos}/{len} rows {eta}")?);
    write_dataset(&args.out, &options, &mut |done, _| bar.set_position(done))?;
    bar.finish_and_clear();
    if args.tokenizer {
        write_tokenizer(&args.out, args.seed)?;
    }
    print::aside(&format!("{} rows in {}\n", args.rows, args.out.join("data.jsonl").display()));
    Ok(Outcome::Done)
}

fn head(trainer: &Trainer, device: &str) -> String {
    let mut text = String::new();
    for count in trainer.counts().iter().filter(|count| count.all > 0) {
        let state = match count.training {
            Training::Full => "trained".to_owned(),
            Training::Frozen => "frozen".to_owned(),
            Training::Lora => format!("frozen; {} of LoRA, trained", count.lora),
        };
        text += &format!("{:<7} {:>12} parameters, {state}\n", count.group.name(), count.all);
    }
    if let Some(table) = trainer.config().lora() {
        let (rank, scale) = (table.rank, table.scale());
        text += &format!("LoRA of rank {rank}, scaled by {scale}\n");
    }
    let state = trainer.state();
    if trainer.resumed() {
        text += &format!("going on from step {}\n", state.step);
    }
    trainer.notes().iter().for_each(|note| text += &format!("note: {note}\n"));
    text + &format!("training to step {} on {device}\n", state.steps)
}
