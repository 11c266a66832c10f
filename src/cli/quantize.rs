//! `qwen3-vl quantize`: a checkpoint with rounded weights.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use qwen3_vl::backends::cpu::Level;
use qwen3_vl::backends::quant::QuantScheme;
use qwen3_vl::nano;
use qwen3_vl::weights::export::{QuantizeOptions, quantize_checkpoint};
use qwen3_vl::weights::hub::HubOptions;
use qwen3_vl::weights::{Checkpoint, LoadError, ModelSource, Rounding};

use super::args::{ThreadArgs, named_or_nano};
use super::progress::LoadBar;
use super::size::{bytes, parse};
use super::{Outcome, print};

/// Arguments of `quantize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl quantize ./model -o ./model-int4 --quant int4\n  \
    qwen3-vl quantize ./model -o ./model-int8 --quant int8-g128 --include 'visual.*' --include embed_tokens\n  \
    qwen3-vl quantize ./model -o ./mixed --quant int4 --exclude down_proj --exclude 'layers.0.*'\n\n\
    The linear layers and the experts of the language model are rounded; vision tower, mergers, embedding, head and router \
    stay as they are. The embedding and the head get eight bits whatever the scheme. A pattern is the name of a module as in the checkpoint, or its end; * stands for anything. The result \
    loads as any checkpoint does, without conversion, on CPUs and GPUs; transformers cannot read it. A GGUF file is not taken: \
    it is used as it is, by `run` and the others.")]
pub struct QuantizeArgs {
    /// Checkpoint folder, hub id such as Qwen/Qwen3-VL-2B-Instruct, or nano for the embedded one [default: nano]
    #[arg(value_name = "MODEL")]
    positional: Option<String>,
    /// The same as MODEL
    #[arg(
        short,
        long,
        value_name = "MODEL",
        conflicts_with = "positional",
        env = "QWEN3_VL_MODEL"
    )]
    model: Option<String>,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// New folder for the checkpoint
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// int8 or int4, with -g32, -g64 or -g128 weights per scale [default: 64 for int8, 32 for int4]
    #[arg(long, value_name = "SCHEME", value_parser = str::parse::<QuantScheme>)]
    quant: QuantScheme,
    /// Round these too (repeat for several): embed_tokens, lm_head, or linear layers of the vision tower or the mergers
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave these as they are (repeat for several); wins over --include
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Most bytes of one file of weights
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse)]
    max_shard_size: u64,
    #[command(flatten)]
    threads: ThreadArgs,
    /// No progress, no summary
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: &QuantizeArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let model = named_or_nano(args.positional.as_deref().or(args.model.as_deref()))?;
    let (revision, environment) = (args.revision.clone(), HubOptions::from_env());
    let hub = HubOptions { revision, progress: !args.quiet, ..environment };
    // What is wrong in the environment is told by whoever opens a device, which nothing does here.
    Level::from_env()?;
    let folder = nano::resolve(model, &hub)?;
    match ModelSource::find(&folder, None) {
        Ok(ModelSource::Folder(_)) => {}
        Ok(ModelSource::Gguf { .. }) | Err(LoadError::SeveralGguf { .. }) => bail!(
            "{} holds GGUF, which is used as it is, by `run` and the others; quantize takes a checkpoint folder with safetensors",
            folder.display()
        ),
        Err(error) => return Err(error.into()),
    }
    let (include, exclude) = (args.include.clone(), args.exclude.clone());
    let rounding = Rounding { scheme: args.quant, include, exclude };
    let options = QuantizeOptions { rounding, max_shard_bytes: args.max_shard_size };
    let before = Checkpoint::open(&folder)?.bytes();
    let mut bar = LoadBar::of("rounding", args.quiet);
    let report = quantize_checkpoint(&folder, &args.out, &options, &mut bar)?;
    bar.clear();
    if !args.quiet {
        print::aside(&format!(
            "{}: {} instead of {}, in {}\n",
            args.quant,
            bytes(report.bytes),
            bytes(before),
            report.folder.display()
        ));
    }
    Ok(Outcome::Done)
}
