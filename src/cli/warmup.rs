//! `qwen3-vl warmup`: what requests run, before the first of them.

mod kept;

use std::io::IsTerminal;
use std::time::Instant;

use clap::Args;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qwen3_vl::backends::BackendKind;
use qwen3_vl::model::batch::BatchOptions;
use qwen3_vl::{LoadOptions, Message, Prepared, Qwen3Vl, Request};
use serde_json::{Value, json};

use super::args::{ContextArgs, DeviceArgs, ModelArgs, ThreadArgs, load};
use super::bench::{Picture, ids};
use super::size::{grouped, table};
use super::{Outcome, print};
use kept::{kept, sentence};

/// Tokens of the short prompt, and of each of several together.
const SHORT: usize = 16;

/// Arguments of `warmup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl warmup ./model --device cuda:0\n  \
    qwen3-vl warmup ./model --device-map cuda:0,cuda:1 -p 8192 --batch 32\n  \
    qwen3-vl warmup ./model --quant int8 --image 1920x1080 --json\n\n\
    A card's kernels are tuned and compiled when they are first launched, for each shape that is new. This answers a short \
    and a long prompt, up to --batch prompts together and, where the model sees, one about a picture, all of it twice, and \
    tells how long each took. CUDA keeps tuning and compiled kernels on disk, Vulkan the compiled kernels: in the folder \
    cubecl of the user's cache (XDG_CACHE_HOME), for all programs on CubeCL. What the other backends compile lasts as long as \
    the program. Give the options of the model that the server or the batch will get.")]
pub struct WarmupArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the long prompt, as far as the context goes
    #[arg(short, long, value_name = "N", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt_tokens: u32,
    /// Tokens written behind each prompt; the steps of shorter answers may be none that are recorded and replayed
    #[arg(short = 'n', long, value_name = "N", default_value_t = 24,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    tokens: u32,
    /// Most answers written together: 2, 4, 8 and so on up to this
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// The picture: the size of one that is drawn, or a file
    #[arg(long, value_name = "WxH|FILE", default_value = "1280x960", value_parser = Picture::parse)]
    image: Picture,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: &WarmupArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    args.model.name()?;
    let quiet = args.quiet || args.json;
    let options = LoadOptions {
        context: args.context.options(),
        kv_cache_dtype: args.context.kv_cache_dtype,
        ..args.device.options()?
    };
    let model = load(&args.model, options, quiet)?;
    let warmup = Warmup { model: &model, args };
    let mut course = Course::new(2 * warmup.stages().len(), quiet);
    let first = warmup.round("first time", &mut course)?;
    let again = warmup.round("again", &mut course)?;
    course.bar.finish_and_clear();
    let report = warmup.report(&first, &again);
    match args.json {
        true => print::line(&report.to_string())?,
        false => print::out(&text(&report))?,
    }
    Ok(Outcome::Done)
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Short,
    Long,
    Together,
    Picture,
}

/// A stage and its seconds.
type Taken = (Stage, f64);

struct Warmup<'a> {
    model: &'a Qwen3Vl,
    args: &'a WarmupArgs,
}

impl Warmup<'_> {
    fn stages(&self) -> Vec<Stage> {
        let all = [Stage::Short, Stage::Long, Stage::Together, Stage::Picture];
        let wanted = |stage: &Stage| match stage {
            Stage::Together => self.args.batch > 1,
            Stage::Picture => self.model.sees(),
            Stage::Short | Stage::Long => true,
        };
        all.into_iter().filter(wanted).collect()
    }

    fn round(&self, which: &str, course: &mut Course) -> anyhow::Result<Vec<Taken>> {
        let each = self.stages().into_iter().map(|stage| {
            course.step(&format!("{}, {which}", self.name(stage)));
            let start = Instant::now();
            self.run(stage)?;
            Ok((stage, start.elapsed().as_secs_f64()))
        });
        each.collect()
    }

    fn run(&self, stage: Stage) -> anyhow::Result<()> {
        match stage {
            Stage::Short => self.write(self.text(SHORT)?),
            Stage::Long => self.write(self.text(self.long())?),
            Stage::Together => self.counts().into_iter().try_for_each(|count| self.together(count)),
            Stage::Picture => self.write(self.picture()?),
        }
    }

    fn name(&self, stage: Stage) -> String {
        match stage {
            Stage::Short => format!("prompt of {SHORT} tokens"),
            Stage::Long => format!("prompt of {} tokens", grouped(self.long() as u64)),
            Stage::Together => format!("up to {} answers together", self.args.batch),
            Stage::Picture => "picture and question".to_owned(),
        }
    }

    /// Tokens of the long prompt.
    fn long(&self) -> usize {
        let context = self.model.model().config().text.max_position_embeddings;
        let room = context.saturating_sub(self.args.tokens as usize);
        (self.args.prompt_tokens as usize).min(room).max(1)
    }

    /// How many answers are written together, one number after the other.
    fn counts(&self) -> Vec<usize> {
        let most = usize::from(self.args.batch);
        let doubled = std::iter::successors(Some(2), |count| Some(2 * count));
        doubled.take_while(|count| *count < most).chain([most]).collect()
    }

    fn text(&self, tokens: usize) -> anyhow::Result<Prepared> {
        let ids = ids(self.model.model().config()).take(tokens).collect();
        Ok(self.model.prepare_ids(ids, String::new())?)
    }

    fn picture(&self) -> anyhow::Result<Prepared> {
        let file = match &self.args.image {
            Picture::File(path) => std::fs::read(path)?,
            drawn @ Picture::Drawn(..) => {
                let (rgb, mut file) = (drawn.open()?.rgb, Vec::new());
                let colour = ExtendedColorType::Rgb8;
                PngEncoder::new(&mut file).write_image(&rgb.data, rgb.width, rgb.height, colour)?;
                file
            }
        };
        let question = Message::user("").image(file).text("What is in this picture?");
        Ok(self.model.prepare(&Request::new(vec![question]), &mut ())?)
    }

    /// Chosen as the checkpoint says, as most requests are.
    fn request(&self) -> Request {
        Request { ignore_eos: true, ..Request::default() }.max_tokens(self.args.tokens as usize)
    }

    fn write(&self, prepared: Prepared) -> anyhow::Result<()> {
        self.model.stream_prepared(prepared, &self.request())?.finish()?;
        Ok(())
    }

    fn together(&self, count: usize) -> anyhow::Result<()> {
        let options = BatchOptions { max_num_seqs: count, ..BatchOptions::default() };
        let mut requests = self.model.batch(options);
        for number in 0..count {
            requests.submit(number, self.text(SHORT)?, &self.request())?;
        }
        while !requests.is_empty() {
            for (_, response) in requests.step() {
                response?;
            }
        }
        Ok(())
    }

    fn report(&self, first: &[Taken], again: &[Taken]) -> Value {
        let stages = first.iter().zip(again).map(|((stage, first), (_, again))| {
            json!({ "stage": self.name(*stage), "first_s": first, "again_s": again })
        });
        let mut kinds: Vec<BackendKind> = Vec::new();
        for device in self.model.placement().devices() {
            if !kinds.contains(&device.kind) {
                kinds.push(device.kind);
            }
        }
        json!({
            "device": self.model.placement().label(),
            "load_s": self.model.load_time().as_secs_f64(),
            "stages": stages.collect::<Vec<_>>(),
            "kernels": kinds.into_iter().map(kept).collect::<Vec<_>>(),
        })
    }
}

/// A table of the stages, and a line for each backend.
fn text(report: &Value) -> String {
    let seconds = |value: &Value| format!("{:.2} s", value.as_f64().unwrap_or(0.0));
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let mut rows = vec![["STAGE", "FIRST", "AGAIN"].map(str::to_owned).to_vec()];
    rows.extend(all("stages").iter().map(|stage| {
        vec![word(&stage["stage"]), seconds(&stage["first_s"]), seconds(&stage["again_s"])]
    }));
    let lines = all("kernels").iter().map(|kernels| sentence(kernels) + "\n").collect::<String>();
    table(&rows) + &lines
}

/// What is being run: a bar on a terminal, a line per stage otherwise.
struct Course {
    bar: ProgressBar,
    started: bool,
    lines: bool,
}

impl Course {
    fn new(steps: usize, quiet: bool) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let style = "warming up {bar:30} {pos}/{len} {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, started: false, lines: !quiet && !std::io::stderr().is_terminal() }
    }

    fn step(&mut self, name: &str) {
        self.bar.inc(u64::from(std::mem::replace(&mut self.started, true)));
        self.bar.set_message(name.to_owned());
        if self.lines {
            print::error_line(&format!("warming up: {name}"));
        }
    }
}
