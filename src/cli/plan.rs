//! `qwen3-vl plan`: tokens and memory of a request, before anything runs.

use std::path::PathBuf;

use clap::Args;
use qwen3_vl::backends::device::{host_memory, select};
use qwen3_vl::backends::{DtypeRequest, Precision, dtype};
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::cache::{KvCache, KvDtype};
use qwen3_vl::model::processor::PreparedChat;
use qwen3_vl::model::session::PREFILL_CHUNK;
use qwen3_vl::weights::checkpoint::{read_config, stored_dtype};
use qwen3_vl::weights::hub::resolve_model;
use qwen3_vl::weights::load::parameter_counts;
use qwen3_vl::weights::media::picture_sizes;
use qwen3_vl::weights::{MediaLimits, load_processor};
use qwen3_vl::{Conversation, MediaSource, Message};
use serde_json::{Value, json};

use super::args::{self, DeviceArgs, ModelArgs, PixelArgs};
use super::run::conversation_file;
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
    /// Picture: path, http(s) or file URL, or data URI (repeat for several)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
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
    pixels: PixelArgs,
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
    let folder = resolve_model(args.model.name()?, &args.model.hub(args.json))?;
    let config = read_config(&folder)?;
    let processor = load_processor(&folder, &config)?
        .with_pixel_bounds(args.pixels.min_pixels, args.pixels.max_pixels)?;
    let conversation = conversation(args)?;
    let sizes = picture_sizes(&conversation, &MediaLimits::default())?;
    let chat = processor.plan(&conversation, &sizes)?;
    let device = select(args.device.device.as_deref())?;
    let stored = stored_dtype(&folder, &config)?;
    let precision = Precision::resolve(&device, args::dtype(&args.device)?, stored)
        .or_else(|_| Precision::resolve(&device, DtypeRequest::Auto, stored))?;
    let answer = args.max_tokens as usize;
    let memory = Memory::estimate(&config, &chat, answer, precision, device.kind.is_cpu());
    let tokens = chat.inputs.ids.len() + answer;
    let fits = tokens <= config.text.max_position_embeddings && memory.fits();
    let plan = Plan { sizes, chat, memory, precision, tokens, config, fits, device: device.name };
    match args.json {
        true => print::line(&plan.json().to_string())?,
        false => print::out(&plan.text())?,
    }
    Ok(if plan.fits { Outcome::Done } else { Outcome::Failed })
}

fn conversation(args: &PlanArgs) -> anyhow::Result<Conversation> {
    let images: Vec<MediaSource> = args.image.iter().cloned().map(MediaSource::from).collect();
    match &args.messages {
        Some(path) => conversation_file(path, images),
        None => {
            let question =
                images.into_iter().fold(Message::user(""), Message::image).text(&args.prompt);
            Ok(Conversation { messages: vec![question], tools: Vec::new() })
        }
    }
}

impl Memory {
    fn estimate(
        config: &Qwen3VlConfig,
        chat: &PreparedChat,
        answer: usize,
        precision: Precision,
        on_host: bool,
    ) -> Self {
        let parameters: u64 = parameter_counts(config).values().sum();
        let tokens = chat.inputs.ids.len() + answer;
        Self {
            weights: parameters.saturating_mul(precision.weights.size() as u64),
            cache: KvCache::bytes(&config.text, tokens, precision.compute, KvDtype::Auto),
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
fn activations(config: &Qwen3VlConfig, chat: &PreparedChat) -> u64 {
    let patches: usize = chat.images.iter().map(|image| image.grid.patches()).sum();
    let vision = &config.vision;
    let levels = vision.deepstack_indexes.len() + 1;
    let features = patches / vision.merge_area() * vision.out_hidden_size * levels;
    let widest = (3 * vision.hidden_size + 2 * vision.intermediate_size).max(vision.patch_len());
    let vision = patches * (widest + 3 * vision.hidden_size);
    let text = &config.text;
    let rows = chat.inputs.ids.len().min(PREFILL_CHUNK);
    let attention = (text.heads + 2 * text.kv_heads) * text.head_dim;
    let text = rows * (4 * text.hidden_size + (3 * text.intermediate_size).max(2 * attention));
    (features + vision.max(text)) as u64
}

struct Plan {
    sizes: Vec<(u32, u32)>,
    chat: PreparedChat,
    memory: Memory,
    precision: Precision,
    tokens: usize,
    config: Qwen3VlConfig,
    fits: bool,
    device: String,
}

impl Plan {
    fn text(&self) -> String {
        let mut rows =
            vec![["PICTURE", "SIZE", "RESIZED", "PATCHES", "TOKENS"].map(str::to_owned).to_vec()];
        for (index, (size, image)) in self.sizes.iter().zip(&self.chat.images).enumerate() {
            rows.push(vec![
                (index + 1).to_string(),
                format!("{}x{}", size.0, size.1),
                format!("{}x{}", image.resized_width, image.resized_height),
                grouped(image.grid.patches() as u64),
                grouped(image.tokens as u64),
            ]);
        }
        let mut out = if self.sizes.is_empty() { String::new() } else { table(&rows) };
        let context = self.config.text.max_position_embeddings;
        let prompt = self.chat.inputs.ids.len();
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
        let image = |(size, image): (&(u32, u32), _)| {
            let mut object = json::image(image);
            object["width"] = json!(size.0);
            object["height"] = json!(size.1);
            object
        };
        let images: Vec<Value> = self.sizes.iter().zip(&self.chat.images).map(image).collect();
        json!({
            "images": images,
            "prompt_tokens": self.chat.inputs.ids.len(),
            "max_tokens": self.tokens - self.chat.inputs.ids.len(),
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
}
