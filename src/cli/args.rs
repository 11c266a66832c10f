//! Arguments that several verbs share.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use qwen3_vl::backends::quant::{QuantError, QuantScheme};
use qwen3_vl::backends::threads::{check_variable, use_threads};
use qwen3_vl::backends::{DeviceMap, kernel_cache};
use qwen3_vl::model::batch::BatchOptions;
use qwen3_vl::model::cache::KvDtype;
use qwen3_vl::model::generate::Lookup;
use qwen3_vl::model::processor::message::MediaRef;
use qwen3_vl::model::sample::GenerationDefaults;
use qwen3_vl::weights::hub::HubOptions;
use qwen3_vl::weights::{ModelSource, Rounding};
use qwen3_vl::{ContextOptions, Error, LoadOptions, Qwen3Vl, SamplingOverrides, nano};

use super::media::MediaSettings;
use super::progress::LoadBar;
use super::{print, usage_error};

/// Which checkpoint.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Checkpoint folder, GGUF file, hub id such as Qwen/Qwen3-VL-2B-Instruct, or nano for the embedded one [default: nano]
    #[arg(value_name = "MODEL")]
    pub positional: Option<String>,
    /// The same as MODEL
    #[arg(
        short,
        long,
        value_name = "MODEL",
        conflicts_with = "positional",
        env = "QWEN3_VL_MODEL"
    )]
    pub model: Option<String>,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,
    /// Vision tower of a GGUF file [default: the file beside it whose name begins with mmproj]
    #[arg(long, value_name = "FILE.gguf", env = "QWEN3_VL_MMPROJ")]
    pub mmproj: Option<PathBuf>,
}

impl ModelArgs {
    /// The name that was given, else that of the embedded checkpoint.
    ///
    /// # Errors
    /// A usage error when no name was given and this build has no checkpoint.
    pub fn name(&self) -> anyhow::Result<&str> {
        named_or_nano(self.positional.as_deref().or(self.model.as_deref()))
    }

    /// Refuses pictures and videos for a GGUF file without a vision tower, before it is loaded.
    ///
    /// # Errors
    /// When there are `media`, and the files that are there read none.
    pub fn check_sight<'m>(
        &self,
        media: impl IntoIterator<Item = &'m MediaRef>,
    ) -> anyhow::Result<()> {
        let path = Path::new(self.name()?);
        if media.into_iter().next().is_none() || !path.exists() {
            return Ok(());
        }
        let source = ModelSource::find(path, self.mmproj.as_deref())?;
        match source.sees() {
            true => Ok(()),
            false => Err(Error::NoVision { path: source.path().to_owned() }.into()),
        }
    }

    /// Finds the model, downloading what is not there.
    ///
    /// # Errors
    /// When there is none, or it is not clear which files are meant.
    pub fn source(&self, quiet: bool) -> anyhow::Result<ModelSource> {
        let path = nano::resolve(self.name()?, &self.hub(quiet))?;
        Ok(ModelSource::find(&path, self.mmproj.as_deref())?)
    }

    /// How hub ids are downloaded.
    pub fn hub(&self, quiet: bool) -> HubOptions {
        let environment = HubOptions::from_env();
        HubOptions { revision: self.revision.clone(), progress: !quiet, ..environment }
    }
}

/// The model that was named, else the embedded one.
///
/// # Errors
/// A usage error when no name was given and this build has no checkpoint.
pub fn named_or_nano(named: Option<&str>) -> anyhow::Result<&str> {
    named.or(nano::default_model()).ok_or_else(|| {
        let message = "no model: give a checkpoint folder or a hub id such as \
                       Qwen/Qwen3-VL-2B-Instruct, as first argument or by --model";
        usage_error(ErrorKind::MissingRequiredArgument, message)
    })
}

/// How many threads the processor computes on.
#[derive(Debug, Clone, Copy, Args)]
pub struct ThreadArgs {
    /// Threads of the CPU [default: one per core, or RAYON_NUM_THREADS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
}

impl ThreadArgs {
    /// Computes on so many threads from now on.
    ///
    /// # Errors
    /// When the system does not start them, or `RAYON_NUM_THREADS` is to say how many and is no such number.
    pub fn apply(self) -> anyhow::Result<()> {
        match self.threads.and_then(|count| NonZeroUsize::new(count.into())) {
            Some(count) => Ok(use_threads(count)?),
            None => Ok(check_variable()?),
        }
    }
}

/// What becomes of the linear weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// They stay as they are, as where nothing is said.
    None,
    To(QuantScheme),
}

impl FromStr for Quant {
    type Err = QuantError;

    fn from_str(name: &str) -> Result<Self, QuantError> {
        match name {
            "none" => Ok(Self::None),
            scheme => scheme.parse().map(Self::To),
        }
    }
}

/// What is added to the checkpoint.
#[derive(Debug, Args)]
pub struct AdapterArgs {
    /// Folder of a LoRA adapter, as peft or `train export --adapter` writes it
    #[arg(long, visible_alias = "adapter-path", value_name = "DIR")]
    pub lora: Option<PathBuf>,
}

/// Where and in which precision.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// flex, ndarray, cpu, wgpu, vulkan, metal, webgpu, cuda:0, or remote:HOST:PORT for what `serve-device` lends there [env: QWEN3_VL_DEVICE] [default: the best present]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Spread the model over several devices: auto (all of the best kind), devices that divide the layers by memory
    /// (cuda:0,cuda:1), or parts with their devices (vision=flex,embed=cuda:0,0-13=cuda:0,14-=cuda:1,head=cuda:1)
    #[arg(long, value_name = "MAP", conflicts_with = "device",
          value_parser = str::parse::<DeviceMap>)]
    pub device_map: Option<DeviceMap>,
    /// auto (the checkpoint's own where the device has it), f32, bf16 or f16. The CPU computes in f32 with weights of any dtype;
    /// bf16 by name rounds the operands of large products too, as torch does, where the processor is fast at that (AMX, AVX-512
    /// BF16 of AMD)
    #[arg(long, value_name = "DTYPE", default_value = "auto", env = "QWEN3_VL_DTYPE")]
    pub dtype: String,
    /// Round the linear weights and the experts of the language model as they are read: int8 or int4, with -g32, -g64 or
    /// -g128 weights per scale [default: 64 for int8, 32 for int4], or none. Vision tower, mergers, embedding and head stay as
    /// they are
    #[arg(long, value_name = "SCHEME", value_parser = str::parse::<Quant>)]
    pub quant: Option<Quant>,
    /// Round these too (repeat for several): embed_tokens, lm_head (to eight bits, whatever the scheme), or linear layers of
    /// the vision tower or the mergers
    #[arg(long, value_name = "PATTERN", requires = "quant")]
    pub quant_include: Vec<String>,
    /// Leave these as they are (repeat for several); wins over --quant-include
    #[arg(long, value_name = "PATTERN", requires = "quant")]
    pub quant_exclude: Vec<String>,
    /// Leave the experts of a mixture in the memory of the host, with this much of them on the device: those that tokens went
    /// to last [default: all are on the device]
    #[arg(long, value_name = "SIZE", value_parser = super::size::parse)]
    pub expert_memory: Option<u64>,
}

/// How long a prompt may be, and how it is kept.
#[derive(Debug, Args)]
pub struct ContextArgs {
    /// Most tokens of prompt and answer [default: the checkpoint's max_position_embeddings]
    #[arg(
        short = 'c',
        long,
        visible_alias = "ctx-size",
        value_name = "TOKENS",
        env = "QWEN3_VL_MAX_MODEL_LEN"
    )]
    pub max_model_len: Option<usize>,
    /// Stretch positions, as in config.json: '{"rope_type":"yarn","factor":3.0}'
    #[arg(long, value_name = "JSON")]
    pub rope_scaling: Option<String>,
    /// Store keys and values as auto (as computed; bf16 with --dtype bf16), f32, bf16, f16 or int8
    #[arg(long, value_name = "DTYPE", default_value = "auto",
          value_parser = str::parse::<KvDtype>)]
    pub kv_cache_dtype: KvDtype,
}

impl ContextArgs {
    /// The same for the library.
    pub fn options(&self) -> ContextOptions {
        ContextOptions {
            max_model_len: self.max_model_len,
            rope_scaling: self.rope_scaling.clone(),
        }
    }
}

/// How much is computed together.
#[derive(Debug, Clone, Copy, Args)]
pub struct TogetherArgs {
    /// Most answers that are written at the same time
    #[arg(long, visible_aliases = ["parallel", "batch-size"], value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_num_seqs: u32,
    /// Most tokens of one pass through the model
    #[arg(long, value_name = "TOKENS", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_num_batched_tokens: u32,
}

impl TogetherArgs {
    /// The same for the library, without a bound on memory.
    pub fn options(self) -> BatchOptions {
        BatchOptions {
            max_num_seqs: self.max_num_seqs as usize,
            max_num_batched_tokens: self.max_num_batched_tokens as usize,
            ..BatchOptions::default()
        }
    }
}

/// How tokens are chosen. Without any of these, as the checkpoint's generation_config.json says.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Most tokens of the answer [default: the checkpoint's, else 512]
    #[arg(short = 'n', long, visible_alias = "max-new-tokens", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tokens: Option<u64>,
    /// Divides the logits; 0 decodes greedily
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Keep the K best tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the best tokens up to this probability in all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Drop tokens below this share of the best one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Divide the logits of tokens in prompt and answer
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// Subtract from the logits of tokens in the answer
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// Subtract from the logits of tokens in the answer, once per occurrence
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// Seed of the sampler; the same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Always take the most probable token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    pub greedy: bool,
    /// End the answer before this text (repeat for several)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true,
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    pub ignore_eos: bool,
}

/// Whether tokens are guessed ahead.
#[derive(Debug, Clone, Copy, Args)]
pub struct SpeculativeArgs {
    /// Guess tokens and check several in one step, which is faster where the answer repeats what stood before and does not
    /// change it. ngram takes what followed the last two to four tokens where they stood before
    #[arg(long, value_enum, value_name = "METHOD")]
    pub speculative: Option<Speculative>,
    /// Most tokens that are guessed at a time
    #[arg(long, visible_alias = "draft-max", value_name = "N", default_value_t = 8, requires = "speculative",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub speculative_tokens: u8,
}

/// How tokens are guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Speculative {
    /// From prompt and answer
    Ngram,
}

impl SpeculativeArgs {
    /// The same for the library.
    pub fn lookup(self) -> Option<Lookup> {
        let tokens = usize::from(self.speculative_tokens);
        self.speculative.map(|Speculative::Ngram| Lookup { tokens, ..Lookup::default() })
    }
}

impl SamplingArgs {
    /// What was set.
    ///
    /// # Errors
    /// A usage error naming the option, its value and its range.
    pub fn overrides(&self) -> anyhow::Result<SamplingOverrides> {
        let overrides = SamplingOverrides {
            do_sample: self.greedy.then_some(false),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            logit_bias: Vec::new(),
        };
        match GenerationDefaults::default().resolve(&overrides) {
            Ok(_) => Ok(overrides),
            Err(error) => Err(usage_error(ErrorKind::ValueValidation, error)),
        }
    }
}

impl DeviceArgs {
    /// Where and in which precision a model is loaded, and all else as it is without options.
    ///
    /// # Errors
    /// A usage error for an unknown dtype.
    pub fn options(&self) -> anyhow::Result<LoadOptions> {
        let dtype = self.dtype.parse();
        Ok(LoadOptions {
            device: self.device.clone(),
            device_map: self.device_map.clone(),
            dtype: dtype.map_err(|error| usage_error(ErrorKind::InvalidValue, error))?,
            quant: match self.quant {
                Some(Quant::To(scheme)) => Some(self.rounding(scheme)),
                Some(Quant::None) | None => None,
            },
            expert_memory: self.expert_memory,
            ..LoadOptions::default()
        })
    }

    fn rounding(&self, scheme: QuantScheme) -> Rounding {
        let (include, exclude) = (self.quant_include.clone(), self.quant_exclude.clone());
        Rounding { scheme, include, exclude }
    }
}

/// Where a model is loaded, how long its prompts may be, and what they may show.
///
/// # Errors
/// A usage error for an unknown dtype or bounds that contradict each other.
pub fn load_options(
    device: &DeviceArgs,
    context: &ContextArgs,
    media: &MediaSettings,
) -> anyhow::Result<LoadOptions> {
    media.check()?;
    Ok(LoadOptions {
        min_pixels: media.min_pixels,
        max_pixels: media.max_pixels,
        video: media.rules(),
        media: media.limits(),
        context: context.options(),
        kv_cache_dtype: context.kv_cache_dtype,
        ..device.options()?
    })
}

/// Loads a model with a progress bar, and says what was odd about it.
///
/// # Errors
/// As [`Qwen3Vl::load`].
pub fn load(model: &ModelArgs, options: LoadOptions, quiet: bool) -> anyhow::Result<Qwen3Vl> {
    let (hub, mmproj) = (Some(model.hub(quiet)), model.mmproj.clone());
    Ok(load_named(model.name()?, LoadOptions { hub, mmproj, ..options }, quiet)?)
}

/// As [`load`], with all options given.
///
/// # Errors
/// As [`Qwen3Vl::load`].
pub fn load_named(name: &str, options: LoadOptions, quiet: bool) -> Result<Qwen3Vl, Error> {
    let mut bar = LoadBar::new(quiet);
    // Opening a device makes the file.
    let unknown = kernel_cache::path().filter(|path| !path.exists());
    let loaded = Qwen3Vl::load_with(name, options, &mut bar)?;
    bar.finish(&loaded.placement().label(), loaded.load_time().as_secs_f64());
    if let Some(path) = unknown.filter(|_| !quiet) {
        tell_first_run(&loaded, &path);
    }
    warn(&loaded);
    Ok(loaded)
}

/// Says why the first answers on a card take longer than later ones will.
fn tell_first_run(model: &Qwen3Vl, path: &Path) {
    let devices = model.placement().devices();
    let kept = devices.iter().filter(|device| device.kind.kept().any());
    let names: Vec<&str> = kept.map(|device| device.name.as_str()).collect();
    if !names.is_empty() {
        print::error_line(&format!(
            "kernels of {} are compiled as they are first used, which `qwen3-vl warmup` does ahead; later runs find them in {}",
            names.join(" and "),
            path.display()
        ));
    }
}

/// Says what was odd about a checkpoint.
fn warn(model: &Qwen3Vl) {
    let unexpected = &model.report().unexpected;
    if !unexpected.is_empty() {
        let first = &unexpected[0];
        let count = unexpected.len();
        print::error_line(&format!(
            "warning: {count} tensors of the checkpoint are not used, the first is {first}"
        ));
    }
    for field in &model.defaults().unsupported {
        print::error_line(&format!(
            "warning: generation_config.json sets {field}, which is not supported and has no effect"
        ));
    }
}
