//! The command line: arguments in, one verb run, an exit code out (0 ok, 1 failed, 2 usage, 130 interrupted).

mod args;
mod batch;
mod bench;
mod chat;
mod devices;
mod eval;
mod grounding;
mod input;
mod inspect;
mod interrupt;
mod json;
mod media;
mod plan;
mod print;
mod progress;
mod quantize;
mod run;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "remote")]
mod serve_device;
mod show;
mod size;
mod train;
mod verify;
mod warmup;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use qwen3_vl::backends::device::lost::caught;

/// Exit code of a run that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Qwen3-VL on any device: ask about pictures and videos, chat, check checkpoints.
#[derive(Debug, Parser)]
#[command(
    name = "qwen3-vl",
    version,
    about = "Qwen3-VL on any device: ask about pictures and videos, chat, check checkpoints",
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        qwen3-vl run Qwen/Qwen3-VL-2B-Instruct --image photo.jpg -p \"What is this?\"\n  \
        qwen3-vl chat ./Qwen3-VL-2B-Instruct\n  \
        qwen3-vl serve ./Qwen3-VL-2B-Instruct\n  \
        qwen3-vl devices\n\n\
        Environment: QWEN3_VL_MODEL, QWEN3_VL_DEVICE, QWEN3_VL_DTYPE, QWEN3_VL_KERNELS=off (reference \
        code only), QWEN3_VL_CPU=portable|neon|avx2|avx512|amx (instructions of flex), QWEN3_VL_REMOTE_TOKEN, HF_TOKEN, HF_HOME, HF_ENDPOINT, \
        HF_HUB_OFFLINE, RUST_LOG, NO_COLOR"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answer one prompt about text, pictures and videos, streaming to the terminal
    Run(run::RunArgs),
    /// Talk with the model; pictures and videos join by /image PATH and /video PATH
    Chat(chat::ChatArgs),
    /// Answer the requests of a JSONL file together (OpenAI batch format)
    Batch(batch::BatchArgs),
    /// Measure this machine with a model (random weights of a published shape will do), or a running server
    Bench(bench::BenchArgs),
    /// List the devices of this build: what is present, dtypes, memory, limits
    Devices(devices::DevicesArgs),
    /// Compare a model's answers with those of a data file
    Eval(eval::EvalArgs),
    /// Describe a checkpoint: architecture, parameters, memory, token ids, what is odd
    Inspect(inspect::InspectArgs),
    /// Tell tokens, sizes and memory of a request before running it
    Plan(plan::PlanArgs),
    /// Write a checkpoint with its linear weights rounded to 8 or 4 bits
    Quantize(quantize::QuantizeArgs),
    /// Serve an OpenAI-compatible HTTP interface
    #[cfg(feature = "server")]
    Serve(serve::ServeArgs),
    /// Lend devices of this machine to this program on other ones
    #[cfg(feature = "remote")]
    ServeDevice(serve_device::ServeDeviceArgs),
    /// Check training data, look at a row of it, fine-tune
    Train(train::TrainArgs),
    /// Compare a checkpoint, stage by stage, with a reference file made by transformers
    Verify(verify::VerifyArgs),
    /// Run what requests run, so that kernels are tuned and compiled before the first one
    Warmup(warmup::WarmupArgs),
}

/// How a verb ended without an error.
enum Outcome {
    Done,
    /// It ran, and what it checked did not hold.
    Failed,
    Interrupted,
}

/// Parses the command line and runs its verb.
pub fn main() -> ExitCode {
    qwen3_vl::backends::allocator::keep_freed_memory();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        // A graphics library that is not there is no error: wgpu merely tries the next one. A lost connection, and a
        // card that has no room, is told as what it is to whoever computes there.
        .unwrap_or_else(|_| {
            tracing_subscriber::EnvFilter::new(
                "warn,qwen3_vl_server=info,wgpu_hal=off,wgpu_core=off,burn_remote=error,cubecl_server=error,cubecl_runtime=error",
            )
        });
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour);
    log.with_writer(std::io::stderr).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // What reads a device without handing errors on is left when that device is lost.
    match caught(|| run_verb(cli.verb)).unwrap_or_else(|lost| Err(lost.into())) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => report(&error),
    }
}

fn run_verb(verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        // Servers let what they have begun come to its end.
        #[cfg(feature = "server")]
        Verb::Serve(_) => {}
        #[cfg(feature = "remote")]
        Verb::ServeDevice(_) => {}
        _ => interrupt::install(),
    }
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Batch(args) => batch::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Chat(args) => chat::run(args),
        Verb::Devices(args) => devices::run(&args),
        Verb::Eval(args) => eval::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Quantize(args) => quantize::run(&args),
        #[cfg(feature = "server")]
        Verb::Serve(args) => serve::run(args),
        #[cfg(feature = "remote")]
        Verb::ServeDevice(args) => serve_device::run(&args),
        Verb::Train(args) => train::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Warmup(args) => warmup::run(&args),
    }
}

/// A mistake on the command line that only a verb can see.
fn usage_error(kind: clap::error::ErrorKind, message: impl std::fmt::Display) -> anyhow::Error {
    use clap::CommandFactory;
    Cli::command().error(kind, message).into()
}

fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe under `--help` is nobody's mistake.
    let _ = error.print();
    ExitCode::from(error.exit_code() as u8)
}

/// Prints `error: ...` and, where one is known, `hint: ...`.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        return usage(error);
    }
    if print::is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    print::error_line(&format!("error: {}", print::chain(error)));
    if let Some(hint) = print::hint(error) {
        print::error_line(&format!("hint: {hint}"));
    }
    ExitCode::FAILURE
}
