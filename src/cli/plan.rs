//! `qwen3-vl plan`: tokens and memory of a request, before anything runs.

use std::path::PathBuf;

use clap::Args;
use qwen3_vl::backends::device::{host_memory, select};
use qwen3_vl::backends::{DtypeRequest, Precision, dtype};
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::cache::{KvCache, KvDtype};
use qwen3_vl::model::model::VISION_CHUNK;
use qwen3_vl::model::processor::{PlannedChat, PlannedMedia};
use qwen3_vl::model::session::PREFILL_CHUNK;
use qwen3_vl::weights::LoadError;
use qwen3_vl::weights::checkpoint::stored_dtype;
use qwen3_vl::weights::load::{checkpoint_bytes, weight_bytes};
use qwen3_vl::weights::media::OpenedMedia;
use qwen3_vl::{Error, Film, MediaReport, warnings};
use serde_json::{Value, json};

use super::args::{self, ContextArgs, DeviceArgs, ModelArgs};
use super::media::MediaArgs;
use super::size::{bytes, grouped, table};
use super::{Outcome, json, print};

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl plan ./model --image a.jpg --image b.png -p \"Compare them\"\n  \
    qwen3-vl plan ./model --image scan.png --max-pixels 1000000 --max-tokens 2000 --json\n\n\
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

/// Estimated bytes, part by part.
struct Memory {
    weights: u64,
    cache: u64,
    activations: u64,
    available: Option<u64>,
}

/// Runs the verb.
pub fn run(args: &PlanArgs) -> anyhow::Result<Outcome> {
    let source = args.model.source(args.json)?;
    args.media.settings.check()?;
    let settings = &args.media.settings;
    let config = args.context.options().apply(source.config()?)?;
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
    let device = select(args.device.device.as_deref())?;
    let stored = stored_dtype(&source, &config)?;
    let precision = Precision::resolve(&device, args::dtype(&args.device)?, stored)
        .or_else(|_| Precision::resolve(&device, DtypeRequest::Auto, stored))?;
    let answer = args.max_tokens as usize;
    let cache = args.context.kv_cache_dtype;
    let weights = match (args.device.quant, source.open()) {
        (None, Ok(checkpoint)) => checkpoint_bytes(&checkpoint, precision)?,
        (None, Err(error)) if !matches!(error, LoadError::NoWeights { .. }) => {
            return Err(error.into());
        }
        (scheme, _) => weight_bytes(&config, precision, scheme),
    };
    let held = (weights, precision, cache);
    let memory = Memory::estimate(&config, &chat, answer, held, device.kind.is_cpu());
    let tokens = chat.tokens() + answer;
    let fits = tokens <= config.text.max_position_embeddings && memory.fits();
    let plan =
        Plan { sizes, chat, films, memory, precision, tokens, config, fits, device: device.name };
    match args.json {
        true => print::line(&plan.json().to_string())?,
        false => print::out(&plan.text())?,
    }
    Ok(if plan.fits { Outcome::Done } else { Outcome::Failed })
}

impl Memory {
    fn estimate(
        config: &Qwen3VlConfig,
        chat: &PlannedChat,
        answer: usize,
        (weights, precision, cache): (u64, Precision, KvDtype),
        on_host: bool,
    ) -> Self {
        let tokens = chat.tokens() + answer;
        Self {
            weights,
            cache: KvCache::bytes(&config.text, tokens, precision.compute, cache),
            activations: activations(config, chat) * precision.compute.size() as u64,
            available: host_memory().filter(|_| on_host).map(|memory| memory.available),
        }
    }

    fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.activations)
    }

    fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

/// Values alive at the widest point of the larger of the two towers.
fn activations(config: &Qwen3VlConfig, chat: &PlannedChat) -> u64 {
    let frames = chat.media.iter().map(|medium| {
        let grid = medium.grid();
        (grid.t, grid.h * grid.w)
    });
    let (mut patches, mut largest) = (0, 0);
    for (count, frame) in frames {
        patches += count * frame;
        largest = largest.max(frame);
    }
    // The tower runs a bounded number of patches at a time, and the language model a bounded number of tokens.
    let at_once = patches.min(largest.max(VISION_CHUNK));
    let vision = &config.vision;
    let levels = vision.deepstack_indexes.len() + 1;
    let rows = chat.tokens().min(PREFILL_CHUNK);
    let features = (rows + at_once / vision.merge_area()) * vision.out_hidden_size * levels;
    let widest = (3 * vision.hidden_size + 2 * vision.intermediate_size).max(vision.patch_len());
    let vision = at_once * (widest + 3 * vision.hidden_size);
    let text = &config.text;
    let attention = (text.heads + 2 * text.kv_heads) * text.head_dim;
    let text = rows * (4 * text.hidden_size + (3 * text.intermediate_size).max(2 * attention));
    (features * usize::from(patches > 0) + vision.max(text)) as u64
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
        let memory = &self.memory;
        let lines = [
            ("weights", memory.weights),
            ("cache", memory.cache),
            ("activations, about", memory.activations),
            ("in all", memory.total()),
        ];
        let dtype = dtype::name(self.precision.weights);
        out += &format!("memory on {} with {dtype} weights\n", self.device);
        out += &table(&lines.map(|(name, n)| vec![format!("  {name}"), bytes(n)]));
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
        match self.memory.available {
            Some(available) if self.fits => format!("fits: {} are free\n", bytes(available)),
            Some(available) => format!("does not fit: only {} are free\n", bytes(available)),
            None => "fits the context; the memory of this device is not known\n".to_owned(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "images": self.images(),
            "videos": json::videos(&self.chat.media, &self.films),
            "warnings": warnings(&self.chat.media, &[]),
            "prompt_tokens": self.chat.tokens(),
            "max_tokens": self.tokens - self.chat.tokens(),
            "context": self.config.text.max_position_embeddings,
            "device": self.device,
            "dtype": dtype::name(self.precision.weights),
            "weight_bytes": self.memory.weights,
            "kv_cache_bytes": self.memory.cache,
            "activation_bytes": self.memory.activations,
            "total_bytes": self.memory.total(),
            "available_bytes": self.memory.available,
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
