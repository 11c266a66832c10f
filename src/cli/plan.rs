//! `qwen3-vl plan`: tokens and memory of a request, before anything runs.

mod memory;

use std::path::PathBuf;

use burn::tensor::DType;
use clap::Args;
use qwen3_vl::backends::{DtypeRequest, Placement, Precision, dtype};
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::cache::KvCache;
use qwen3_vl::model::processor::{PlannedChat, PlannedMedia};
use qwen3_vl::model::replay::recorded_bytes;
use qwen3_vl::weights::checkpoint::stored_dtype;
use qwen3_vl::weights::load::{check_expert_memory, checkpoint_sizes, part_sizes};
use qwen3_vl::weights::media::OpenedMedia;
use qwen3_vl::{Error, Film, LoadOptions, MediaReport, warnings};
use serde_json::{Value, json};

use super::args::{ContextArgs, DeviceArgs, ModelArgs, load_options};
use super::media::MediaArgs;
use super::size::{grouped, table};
use super::{Outcome, json, print};
use memory::{Activations, Memory, Needs};

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl plan ./model --image a.jpg --image b.png -p \"Compare them\"\n  \
    qwen3-vl plan ./model --image scan.png --max-pixels 1000000 --max-tokens 2000 --json\n  \
    qwen3-vl plan ./model --device-map cuda:0,cuda:1\n\n\
    The weights need not be there: config.json and the tokenizer files are enough. Exit code 1 when it does not fit.")]
pub struct PlanArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The question
    #[arg(short, long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    prompt: String,
    /// Conversation as a JSON file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    messages: Option<PathBuf>,
    /// Tokens of the answer to make room for
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    media: MediaArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &PlanArgs) -> anyhow::Result<Outcome> {
    let settings = &args.media.settings;
    let options = load_options(&args.device, &args.context, settings)?;
    let source = args.model.source(args.json)?;
    let config = options.context.apply(source.config()?)?;
    let processor = source
        .processor(&config)?
        .with_pixel_bounds(settings.min_pixels, settings.max_pixels)?
        .with_video_rules(settings.rules());
    let conversation = match &args.messages {
        Some(path) => args.media.conversation_file(path)?,
        None => args.media.question(None, args.prompt.as_str()),
    };
    let opened = OpenedMedia::open(&conversation, &settings.limits(), &mut ())?;
    if !source.sees() && !opened.infos().is_empty() {
        return Err(Error::NoVision { path: source.path().to_owned() }.into());
    }
    let chat = processor.plan(&conversation, &opened.infos())?;
    let MediaReport { sizes, films, .. } = MediaReport::of(&opened);
    let stored = source.weights()?;
    let dtype = stored_dtype(stored.as_ref(), &config);
    let (placement, precision) = place(&options, &config, dtype)?;
    check_expert_memory(&config, &placement, options.how(precision, None))?;
    let tokens = chat.tokens() + args.max_tokens as usize;
    let (compute, storage) = (precision.compute, options.cache_dtype(precision));
    let held = match (&options.quant, &stored) {
        (None, Some(checkpoint)) => checkpoint_sizes(checkpoint, options.how(precision, None))?,
        _ => part_sizes(&config, options.how(precision, options.rounding(&config).as_ref())),
    };
    let recorded = match options.expert_memory {
        // Such steps ask the host for experts.
        Some(_) => 0,
        None => {
            let lengths = [chat.tokens(), args.max_tokens as usize];
            recorded_bytes(&config.text, &placement, (compute, storage), lengths)
        }
    };
    let needs = Needs {
        sizes: held,
        cache: KvCache::bytes(&config.text, tokens, compute, storage),
        recorded,
        activations: Activations::of(&config, &chat, precision),
    };
    let memory = Memory::of(&placement, &needs);
    let fits = tokens <= config.text.max_position_embeddings && memory.fits();
    let device = placement.label();
    let plan = Plan { sizes, chat, films, memory, precision, tokens, config, fits, device };
    match args.json {
        true => print::line(&plan.json().to_string())?,
        false => print::out(&plan.text())?,
    }
    Ok(if plan.fits { Outcome::Done } else { Outcome::Failed })
}

/// Places the model; on a single device that lacks the dtype, in the one that it has.
fn place(
    options: &LoadOptions,
    config: &Qwen3VlConfig,
    stored: DType,
) -> Result<(Placement, Precision), Error> {
    let devices = options.open_devices()?;
    let placed = options.place(&devices, config, stored);
    match options.device_map {
        Some(_) => Ok(placed?),
        None => {
            let auto = LoadOptions { dtype: DtypeRequest::Auto, ..options.clone() };
            Ok(placed.or_else(|_| auto.place(&devices, config, stored))?)
        }
    }
}

struct Plan {
    sizes: Vec<(u32, u32)>,
    chat: PlannedChat,
    films: Vec<Option<Film>>,
    memory: Memory,
    precision: Precision,
    tokens: usize,
    config: Qwen3VlConfig,
    fits: bool,
    device: String,
}

impl Plan {
    fn text(&self) -> String {
        let mut out = self.media_table();
        let context = self.config.text.max_position_embeddings;
        let prompt = self.chat.tokens();
        out += &format!(
            "prompt {} tokens, with the answer {} of {}\n",
            grouped(prompt as u64),
            grouped(self.tokens as u64),
            grouped(context as u64)
        );
        let dtype = dtype::name(self.precision.weights);
        out += &format!("memory on {} with {dtype} weights\n", self.device);
        out += &self.memory.text();
        out += &self.verdict();
        out
    }

    fn media_table(&self) -> String {
        if self.sizes.is_empty() {
            return String::new();
        }
        let head = ["MEDIUM", "SIZE", "RESIZED", "FRAMES", "SECONDS", "PATCHES", "TOKENS"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (index, (size, medium)) in self.sizes.iter().zip(&self.chat.media).enumerate() {
            let (resized, frames, seconds, tokens) = match medium {
                PlannedMedia::Image(image) => {
                    let resized = (image.resized_width, image.resized_height);
                    (resized, String::new(), String::new(), image.tokens)
                }
                PlannedMedia::Video(video) => {
                    let resized = (video.resized_width, video.resized_height);
                    let used = &video.selection.seconds;
                    let first = used.first().copied().unwrap_or_default();
                    let span = format!("{first:.1}-{:.1}", used.last().copied().unwrap_or(first));
                    (resized, video.selection.indices.len().to_string(), span, video.tokens())
                }
            };
            rows.push(vec![
                format!("{} {}", medium.kind(), index + 1),
                format!("{}x{}", size.0, size.1),
                format!("{}x{}", resized.0, resized.1),
                frames,
                seconds,
                grouped(medium.grid().patches() as u64),
                grouped(tokens as u64),
            ]);
        }
        let notes = warnings(&self.chat.media, &[]);
        let notes = notes.iter().map(|note| format!("warning: {note}\n"));
        table(&rows) + &notes.collect::<String>()
    }

    fn verdict(&self) -> String {
        let context = self.config.text.max_position_embeddings;
        if self.tokens > context {
            return format!("does not fit: {} tokens over the context\n", self.tokens - context);
        }
        self.memory.verdict()
    }

    fn json(&self) -> Value {
        let all = self.memory.all();
        json!({
            "images": self.images(),
            "videos": json::videos(&self.chat.media, &self.films),
            "warnings": warnings(&self.chat.media, &[]),
            "prompt_tokens": self.chat.tokens(),
            "max_tokens": self.tokens - self.chat.tokens(),
            "context": self.config.text.max_position_embeddings,
            "device": self.device,
            "dtype": dtype::name(self.precision.weights),
            "weight_bytes": all.weights,
            "kv_cache_bytes": all.cache,
            "recorded_step_bytes": all.recorded,
            "activation_bytes": all.activations,
            "total_bytes": all.total(),
            "available_bytes": self.memory.available(),
            "devices": self.memory.devices(),
            "fits": self.fits,
        })
    }

    fn images(&self) -> Vec<Value> {
        let kinds = self.sizes.iter().zip(&self.chat.media);
        let image = |(size, medium): (&(u32, u32), &PlannedMedia)| match medium {
            PlannedMedia::Video(_) => None,
            PlannedMedia::Image(image) => {
                let mut object = json::image(image);
                object["width"] = json!(size.0);
                object["height"] = json!(size.1);
                Some(object)
            }
        };
        kinds.filter_map(image).collect()
    }
}
