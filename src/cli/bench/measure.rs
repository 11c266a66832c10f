//! `qwen3-vl bench`: what this machine does with a model, beside what it could do.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qwen3_vl::backends::BackendKind;
use qwen3_vl::backends::bandwidth::{device_bandwidth, read_bandwidth};
use qwen3_vl::backends::device::{Placement, load_average, peak_resident_bytes};
use qwen3_vl::backends::peak::{PeakProduct, peak_product};
use qwen3_vl::model::cache::KvDtype;

use super::super::args::{DeviceArgs, SpeculativeArgs, ThreadArgs};
use super::super::{Outcome, print, size};
use super::picture::Picture;
use super::report::Report;
use super::rounds::{Course, Round, Task};
use super::subject::Subject;
use super::text;

/// Passes of a probe of the machine; the best counts.
const PASSES: usize = 3;

/// Arguments of `bench` without a subcommand.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl bench\n  \
    qwen3-vl bench --shape 4b --quant int4 -p 2048 -n 128 -o json\n  \
    qwen3-vl bench 2b --only text -d 16384 -p 512\n  \
    qwen3-vl bench --shape ./Qwen3-VL-2B-Instruct --image photo.jpg --threads 4\n  \
    qwen3-vl bench --shape nano --only picture --image 1300x970 -r 20\n  \
    qwen3-vl bench --shape 30b-a3b --device cuda:0 --expert-memory 8GB --only text\n  \
    qwen3-vl bench --shape Qwen3-VL-4B-Q4_K_M.gguf --only text --speculative ngram\n  \
    qwen3-vl bench serve --url http://127.0.0.1:8000 --concurrency 8\n\n\
    Published shapes get random weights, made in memory: what a step costs follows from shapes and dtypes. Every round \
    preprocesses the picture, runs it with a question up to the first token, runs a text prompt, writes tokens behind it, and \
    writes them in several streams together; the median of the rounds counts. \
    With --expert-memory the random experts of one layer lie in the memory of the host, and every layer copies its own from there: \
    hits, misses, bytes and seconds of copies are counted, and the random router chooses. The shares are of what this machine reached in \
    the same run: reading memory, on all cores or by the card of the first layer, and the fastest product of two square matrices that the model's own \
    kernels make. Nothing else should run meanwhile; the load average at both ends is printed. GB are 10^9 bytes.")]
pub struct MeasureArgs {
    /// 2b, 4b, 8b or 30b-a3b with random weights; nano; or a checkpoint, as folder, GGUF file or hub id. A folder without
    /// weights gets random ones [default: 2b]
    #[arg(value_name = "SHAPE")]
    pub positional: Option<String>,
    /// The same as SHAPE
    #[arg(
        short = 'm',
        long,
        visible_alias = "model",
        value_name = "SHAPE",
        conflicts_with = "positional"
    )]
    pub shape: Option<String>,
    /// Vision tower of a GGUF file [default: the file beside it whose name begins with mmproj]
    #[arg(long, value_name = "FILE.gguf", env = "QWEN3_VL_MMPROJ")]
    pub mmproj: Option<PathBuf>,
    /// Tokens of the text prompt
    #[arg(short, long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub prompt_tokens: u32,
    /// Tokens that are held before the text prompt, which is read behind them (llama-bench's depth)
    #[arg(short, long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub depth: u32,
    /// Tokens written behind it
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub tokens: u32,
    /// The picture: the size of one that is drawn, or a file
    #[arg(long, value_name = "WxH|FILE", default_value = "1280x960", value_parser = Picture::parse)]
    pub image: Picture,
    /// Streams that are written together [default: 8, on cards 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub batch: Option<u16>,
    #[command(flatten)]
    pub speculative: SpeculativeArgs,
    /// Measure these alone [default: all]
    #[arg(long, value_enum, value_name = "STAGE", value_delimiter = ',')]
    pub only: Vec<Stage>,
    /// Rounds; the median counts
    #[arg(short, long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Store keys and values as auto (as computed; bf16 with --dtype bf16), f32, bf16, f16 or int8
    #[arg(long, value_name = "DTYPE", default_value = "auto",
          value_parser = str::parse::<KvDtype>)]
    pub kv_cache_dtype: KvDtype,
    #[command(flatten)]
    pub threads: ThreadArgs,
    /// Memory that is read to measure its speed; several times the caches
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::parse)]
    pub read: u64,
    /// Rows and columns of the matrices that are multiplied to measure that speed [default: 2048, on CUDA cards 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub square: Option<u32>,
    /// How the figures are printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Md)]
    pub output: Format,
}

impl MeasureArgs {
    /// What is measured.
    pub fn shape(&self) -> &str {
        self.positional.as_deref().or(self.shape.as_deref()).unwrap_or("2b")
    }
}

/// What a round measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Preprocessing of the picture
    Picture,
    /// Picture and question, up to the first token
    Question,
    /// The text prompt and the tokens behind it, with --speculative an answer besides
    Text,
    /// The same, then several streams together
    Streams,
}

/// Formats of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table in Markdown
    Md,
    /// One JSON object
    Json,
    /// A line per figure: its path in the JSON object, its value
    Csv,
}

/// What the machine reached without a model.
#[derive(Debug)]
pub struct Machine {
    /// Bytes of memory read per second: on all cores, or by the card of the first layer.
    pub read: f64,
    pub product: Option<PeakProduct>,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Measured {
    /// One at least.
    pub rounds: Vec<Round>,
    /// Seconds of the first text prompt, a short one, that a new model takes.
    pub first_text: f64,
    /// Largest resident size of the process at the end of the rounds, in bytes.
    pub peak: Option<u64>,
    pub machine: Machine,
    /// Load averages at start and end.
    pub load: [Option<f64>; 2],
}

/// Runs the verb.
pub fn run(args: &MeasureArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let before = last_minute();
    let picture = args.image.open()?;
    let subject = Subject::open(args, &picture)?;
    let task = Task::new(&subject, &picture);
    let mut course = Course::new(task.scope.stages(), args.repetitions);
    let first_text = task.first_text(&mut course)?;
    let rounds = (0..args.repetitions).map(|_| task.round(&mut course));
    let rounds = rounds.collect::<anyhow::Result<Vec<_>>>()?;
    // The probes need memory of their own.
    let peak = peak_resident_bytes();
    let machine = Machine::measure(args, &subject.placement, &mut course);
    course.finish();
    let measured = Measured { rounds, first_text, peak, machine, load: [before, last_minute()] };
    let report = Report { args, subject: &subject, task: &task, measured: &measured }.json();
    match args.output {
        Format::Md => print::out(&text::markdown(&report))?,
        Format::Json => print::line(&report.to_string())?,
        Format::Csv => print::out(&text::csv(&report))?,
    }
    Ok(Outcome::Done)
}

impl Machine {
    /// Products are those of the device of the first layer.
    fn measure(args: &MeasureArgs, placement: &Placement, course: &mut Course) -> Self {
        course.step("reading memory");
        let read = match placement.is_cpu() {
            true => read_bandwidth(args.read as usize, PASSES),
            false => device_bandwidth(placement.layer(0), args.read as usize, PASSES),
        };
        course.step("multiplying matrices");
        let device = placement.layer(0);
        // A fast card multiplies small ones in less time than it takes to ask for that.
        let usual = if device.kind == BackendKind::Cuda { 8192 } else { 2048 };
        let product = peak_product(device, args.square.unwrap_or(usual) as usize, PASSES);
        Self { read, product }
    }
}

/// How busy the machine was.
fn last_minute() -> Option<f64> {
    load_average().map(|[minute, ..]| minute)
}
