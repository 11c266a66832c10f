//! `qwen3-vl serve`: the HTTP server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use qwen3_vl::server::{Config, Limits, Load, Memory, ResponseStore, Tls, run as serve};
use qwen3_vl::weights::fetch::{SourcePolicy, SourceRules};

use super::args::{
    ContextArgs, DeviceArgs, ModelArgs, ThreadArgs, TogetherArgs, load_named, load_options,
};
use super::media::MediaSettings;
use super::{Outcome, print, size};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl serve ./model\n  \
    qwen3-vl serve Qwen/Qwen3-VL-2B-Instruct --host 0.0.0.0 --api-key-file key.txt \
--tls-cert chain.pem --tls-key key.pem\n  \
    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
-d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n\n\
    Ctrl-C or SIGTERM finishes the answers that are being written; a second one ends at once.")]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on; 0.0.0.0 is every one of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "QWEN3_VL_HOST")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000, env = "QWEN3_VL_PORT")]
    port: u16,
    /// Names that requests may call the model by [default: MODEL as given]
    #[arg(long, visible_alias = "alias", value_name = "NAME", num_args = 1..)]
    served_model_name: Vec<String>,
    #[command(flatten)]
    together: TogetherArgs,
    /// Answers that may wait; more requests are refused with 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_queue: usize,
    /// Most open connections; more are refused with 503, but for probes
    #[arg(long, value_name = "N", default_value_t = 900,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    settings: MediaSettings,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    times: TimeArgs,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// How much memory may be kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
struct MemoryArgs {
    /// Most memory of keys and values, such as 4GiB [default: half of what is free, on the CPU]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    kv_cache_memory: Option<u64>,
    /// Of it, most that is kept for prompts that begin alike; 0B for none [default: half]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_or_none)]
    prefix_cache_memory: Option<u64>,
    /// Most memory of features of pictures seen before; 0B for none [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_or_none)]
    vision_cache_memory: Option<u64>,
    /// Most memory of responses that later ones may go on from; 0B for none
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size::parse_or_none)]
    response_store_memory: u64,
    /// Seconds for which such a response is kept
    #[arg(long, value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    response_store_ttl: u64,
}

/// How long what may take. Answers take as long as they need.
#[derive(Debug, Args)]
#[command(next_help_heading = "Time limits")]
struct TimeArgs {
    /// Seconds in which the head of a request must arrive, from its first byte or the connection's beginning
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    header_timeout: u64,
    /// Seconds in which the body of a request must arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    body_timeout: u64,
    /// Seconds after an answer until its connection is closed, unless there is another request
    #[arg(long, visible_alias = "timeout-keep-alive", value_name = "SECONDS", default_value_t = 75,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    keep_alive_timeout: u64,
    /// Seconds for which a client may take nothing of what is written to it, before its answer is cancelled
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    write_timeout: u64,
    /// Seconds that answers may take after the server was told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    shutdown_timeout: u64,
}

/// Who may use the server, and what it may read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// Key that requests must bring (repeat for several)
    #[arg(long, value_name = "KEY", env = "QWEN3_VL_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File with keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Speak HTTPS with this certificate chain, a PEM file
    #[arg(long, alias = "ssl-certfile", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, alias = "ssl-keyfile", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Origins whose pages may use the server, such as https://example.org, or *
    #[arg(long, value_name = "ORIGIN", num_args = 1..)]
    allowed_origins: Vec<String>,
    /// Folder below which requests may name pictures and videos by file:// URL [default: none]
    #[arg(long, visible_alias = "media-path", value_name = "FOLDER")]
    allowed_local_media_path: Option<PathBuf>,
    /// Fetch media from addresses of this machine and private networks too, and by the proxy of the environment
    #[arg(long)]
    allow_private_media: bool,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size::parse)]
    max_body_size: u64,
}

/// Runs the verb.
pub fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let name = args.model.name()?.to_owned();
    let config = config(&args, &name)?;
    let mut options = load_options(&args.device, &args.context, &args.settings)?;
    options.media = options.media.with_policy(policy(&args.access)?);
    options.hub = Some(args.model.hub(args.quiet));
    options.mmproj = args.model.mmproj.clone();
    let (quiet, scheme) = (args.quiet, if config.tls.is_some() { "https" } else { "http" });
    let load: Load = Box::new(move || load_named(&name, options, quiet));
    let ready = |address: SocketAddr| {
        print::error_line(&format!("listening on {scheme}://{address}"));
    };
    serve(config, load, ready)?;
    Ok(Outcome::Done)
}

fn config(args: &ServeArgs, model: &str) -> anyhow::Result<Config> {
    let names = match args.served_model_name.is_empty() {
        true => vec![model.to_owned()],
        false => args.served_model_name.clone(),
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(Config {
        listen: SocketAddr::new(args.host, args.port),
        served_names: names,
        api_keys: keys(&args.access)?,
        allowed_origins: args.access.allowed_origins.clone(),
        tls: tls(&args.access)?,
        max_num_seqs: args.together.max_num_seqs as usize,
        max_num_batched_tokens: args.together.max_num_batched_tokens as usize,
        memory: Memory {
            kv_cache: args.memory.kv_cache_memory,
            prefix_cache: args.memory.prefix_cache_memory,
            vision_cache: args.memory.vision_cache_memory,
        },
        max_queue: args.max_queue,
        media_workers: workers,
        max_body_bytes: usize::try_from(args.access.max_body_size).unwrap_or(usize::MAX),
        limits: Limits {
            connections: args.max_connections as usize,
            header: Duration::from_secs(args.times.header_timeout),
            body: Duration::from_secs(args.times.body_timeout),
            idle: Duration::from_secs(args.times.keep_alive_timeout),
            write: Duration::from_secs(args.times.write_timeout),
        },
        responses: ResponseStore {
            bytes: args.memory.response_store_memory,
            life: Duration::from_secs(args.memory.response_store_ttl),
        },
        videos: args.settings.video_defaults(),
        shutdown: Duration::from_secs(args.times.shutdown_timeout),
    })
}

fn keys(access: &AccessArgs) -> anyhow::Result<Vec<String>> {
    let mut keys = access.api_key.clone();
    if let Some(path) = &access.api_key_file {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let before = keys.len();
        keys.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned));
        anyhow::ensure!(keys.len() > before, "{name} has no key");
    }
    anyhow::ensure!(keys.iter().all(|key| !key.is_empty()), "an API key is empty");
    Ok(keys)
}

fn tls(access: &AccessArgs) -> anyhow::Result<Option<Tls>> {
    match (&access.tls_cert, &access.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls::read(certificate, key)?)),
        _ => Ok(None),
    }
}

fn policy(access: &AccessArgs) -> anyhow::Result<SourcePolicy> {
    if let Some(folder) = &access.allowed_local_media_path {
        anyhow::ensure!(
            folder.is_dir(),
            "--allowed-local-media-path {} is no folder",
            folder.display()
        );
    }
    Ok(SourcePolicy::Untrusted(SourceRules {
        files_below: access.allowed_local_media_path.clone(),
        private_addresses: access.allow_private_media,
    }))
}
