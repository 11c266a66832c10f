//! How a server behaves.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use qwen3_vl_model::batch::BatchOptions;
use qwen3_vl_model::processor::message::VideoRef;

use crate::tls::Tls;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Names that requests may call the model by; the first is told by `/v1/models`.
    pub served_names: Vec<String>,
    /// Keys of which requests must bring one; without any, none is asked for.
    pub api_keys: Vec<String>,
    /// Origins whose pages may use the server (CORS); `*` is every one.
    pub allowed_origins: Vec<String>,
    /// Certificate and key of HTTPS; without it the server speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Most answers that are written at the same time.
    pub max_num_seqs: usize,
    /// Most tokens of one pass through the model.
    pub max_num_batched_tokens: usize,
    pub memory: Memory,
    /// Requests that may wait; more are refused with 429.
    pub max_queue: usize,
    /// Requests whose media are read at the same time.
    pub media_workers: usize,
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    pub limits: Limits,
    pub responses: ResponseStore,
    /// What videos take where requests say nothing.
    pub videos: VideoRef,
    /// How long answers being written may take when the server is told to stop.
    pub shutdown: Duration,
}

/// How many connections there may be, and how long one may keep the server waiting. Answers may take any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most open connections; 32 more answer probes or are told 503, and are closed.
    pub connections: usize,
    /// From the first byte of a request, or the beginning of a connection, to the end of the request's head. A TLS
    /// handshake may take as long again.
    pub header: Duration,
    /// From there to the end of the body.
    pub body: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
    /// While the client takes nothing of what is written to it.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let [header, body, idle, write] = [15, 300, 75, 60].map(Duration::from_secs);
        // Below the 1,024 files that a process usually may have open.
        Self { connections: 900, header, body, idle, write }
    }
}

/// How responses are kept that later requests may go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseStore {
    /// Most bytes of all; with 0 nothing is kept.
    pub bytes: u64,
    /// How long each is kept.
    pub life: Duration,
}

impl Default for ResponseStore {
    fn default() -> Self {
        Self { bytes: 256 << 20, life: Duration::from_secs(3600) }
    }
}

/// Most bytes of what is kept. What is not said follows from the memory that is free once the model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of all caches of keys and values; half of what is free.
    pub kv_cache: Option<u64>,
    /// Of those that are kept for prompts that begin alike; half of `kv_cache`. 0 keeps none.
    pub prefix_cache: Option<u64>,
    /// Of features of pictures that may be asked about again; 512 MiB, and no more than a quarter of `kv_cache`. 0 keeps
    /// none.
    pub vision_cache: Option<u64>,
}

impl Memory {
    /// What holds for a model on a device with `free` bytes of memory; `None` where that is not known.
    fn settle(self, free: Option<u64>) -> (Option<u64>, u64, u64) {
        let kv = self.kv_cache.or(free.map(|free| free / 2));
        let prefix = self.prefix_cache.unwrap_or(kv.map_or(UNKNOWN, |kv| kv / 2));
        let vision = self.vision_cache.unwrap_or(kv.map_or(VISION, |kv| VISION.min(kv / 4)));
        (kv, prefix, vision)
    }
}

const VISION: u64 = 512 << 20;
/// Kept caches where the device's memory is not known.
const UNKNOWN: u64 = 1 << 30;

impl Config {
    /// How requests are batched on a device with `free` bytes of memory.
    pub(crate) fn batch(&self, free: Option<u64>) -> BatchOptions {
        let (kv_bytes, prefix_bytes, feature_bytes) = self.memory.settle(free);
        BatchOptions {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            kv_bytes,
            prefix_bytes,
            feature_bytes,
            ..BatchOptions::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            served_names: vec!["qwen3-vl".to_owned()],
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            tls: None,
            max_num_seqs: BatchOptions::default().max_num_seqs,
            max_num_batched_tokens: BatchOptions::default().max_num_batched_tokens,
            memory: Memory::default(),
            max_queue: 256,
            media_workers: 2,
            max_body_bytes: 64 << 20,
            limits: Limits::default(),
            responses: ResponseStore::default(),
            videos: VideoRef::default(),
            shutdown: Duration::from_secs(30),
        }
    }
}
