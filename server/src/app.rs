//! What all handlers share.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use qwen3_vl_backends::DeviceLost;
use qwen3_vl_engine::{Error as EngineError, Qwen3Vl, Ready, Request};
use qwen3_vl_model::batch::BatchOptions;
use qwen3_vl_model::processor::message::{MediaRef, MediaSource, default_videos, media};
use qwen3_vl_weights::fetch;
use qwen3_vl_weights::media::{MediaProgress, MediaStep};
use tokio::sync::{Semaphore, oneshot};

use crate::access::Keys;
use crate::config::Config;
use crate::engine::{self, Answers, Client, Engine};
use crate::error::ApiError;
use crate::store::Store;
use crate::{Load, routes::Metrics};

/// Everything that handlers share.
pub struct App {
    pub config: Config,
    pub keys: Keys,
    pub metrics: Metrics,
    pub responses: Arc<Store>,
    loaded: OnceLock<Loaded>,
    lost: Loss,
    engine: Engine,
    /// Of those that read media and make prompts.
    workers: Arc<Semaphore>,
    /// Of those that wait for other servers first, so that they keep nobody else waiting.
    fetchers: Arc<Semaphore>,
    accepting: AtomicBool,
    /// Seconds since 1970 at which the server started.
    pub started: u64,
}

/// The device without which the model cannot be computed any more, once there is one.
#[derive(Debug, Default)]
pub struct Loss(OnceLock<DeviceLost>);

impl Loss {
    /// Remembers the device whose loss `error` tells.
    pub fn note(&self, error: &EngineError) {
        if let Some(lost) = error.lost_device()
            && self.0.set(lost.clone()).is_ok()
        {
            tracing::error!(%lost, "no request is answered any more");
        }
    }
}

/// The model, and what the engine may hold with it.
struct Loaded {
    model: Arc<Qwen3Vl>,
    limits: BatchOptions,
}

impl App {
    /// Starts the engine thread, which loads the model. The receiver tells when that fails, or the thread ends.
    pub fn start(config: Config, load: Load) -> (Arc<Self>, oneshot::Receiver<EngineError>) {
        let (engine, inbox) = Engine::new(config.max_queue);
        let app = Arc::new(Self {
            keys: Keys::new(&config.api_keys),
            metrics: Metrics::new(),
            responses: Store::new(config.responses),
            loaded: OnceLock::new(),
            lost: Loss::default(),
            engine,
            workers: Arc::new(Semaphore::new(config.media_workers.max(1))),
            fetchers: Arc::new(Semaphore::new(FETCHERS)),
            accepting: AtomicBool::new(true),
            started: now(),
            config,
        });
        let (failed, receiver) = oneshot::channel();
        let shared = Arc::clone(&app);
        let body = move || match load() {
            Ok(model) => {
                let limits = engine::limits(&model, &shared.config);
                let model = Arc::new(model);
                // Only this thread sets the model.
                let _ = shared.loaded.set(Loaded { model: Arc::clone(&model), limits });
                engine::run(&model, limits, inbox, (&shared.metrics, &shared.lost));
            }
            Err(error) => drop(failed.send(error)),
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(body);
        if let Err(error) = thread {
            tracing::error!(%error, "the engine thread cannot be started");
        }
        (app, receiver)
    }

    /// The model.
    ///
    /// # Errors
    /// 503 until it is loaded, once the server is told to stop, and when a device is lost.
    pub fn model(&self) -> Result<&Arc<Qwen3Vl>, ApiError> {
        Ok(&self.loaded()?.model)
    }

    fn loaded(&self) -> Result<&Loaded, ApiError> {
        if !self.accepting.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is stopping"));
        }
        if let Some(lost) = self.lost.0.get() {
            return Err(ApiError::device_lost(lost));
        }
        self.loaded.get().ok_or_else(|| ApiError::unavailable("the model is being loaded"))
    }

    /// What the engine may hold.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn limits(&self) -> Result<BatchOptions, ApiError> {
        Ok(self.loaded()?.limits)
    }

    /// Refuses what comes from now on.
    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::Relaxed);
    }

    /// Requests that are not answered.
    pub fn open_requests(&self) -> usize {
        self.engine.open()
    }

    /// The name that answers bear.
    ///
    /// # Errors
    /// 404 for a name that is not served.
    pub fn name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let names = &self.config.served_names;
        match asked {
            None => Ok(names.first().cloned().unwrap_or_default()),
            Some(name) if names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => {
                let message =
                    format!("there is no model `{name}` here; served is {}", names.join(", "));
                let status = axum::http::StatusCode::NOT_FOUND;
                let error = ApiError::of(status, "model_not_found", message);
                Err(ApiError { param: Some("model".to_owned()), ..error })
            }
        }
    }

    /// Reads the media of a chat, makes its prompt and looks at its settings, beside the engine. When the future is
    /// dropped, reading stops.
    ///
    /// # Errors
    /// When a medium cannot be read, the prompt does not fit or a setting is wrong.
    pub async fn prepare(&self, request: &mut Request) -> Result<Ready, ApiError> {
        let limits = self.limits()?;
        default_videos(&mut request.conversation.messages, &self.config.videos);
        let request = request.clone();
        self.work_among(self.readers(&request), move |model, gone| {
            let prepared = model.prepare(&request, &mut Following::new(gone))?;
            let ready = model.check(prepared, &request, &limits)?;
            ready.prepared().chat.inputs.warm_keys();
            Ok(ready)
        })
        .await
    }

    /// The ids of a chat, beside the engine.
    ///
    /// # Errors
    /// When a medium cannot be opened.
    pub async fn count(&self, mut request: Request) -> Result<Vec<u32>, ApiError> {
        default_videos(&mut request.conversation.messages, &self.config.videos);
        let readers = self.readers(&request);
        let count = move |model: &Qwen3Vl, gone| model.count(&request, &mut Following::new(gone));
        self.work_among(readers, count).await
    }

    /// Among whom the media of a request are read.
    fn readers(&self, request: &Request) -> &Arc<Semaphore> {
        match media(&request.conversation.messages).into_iter().any(is_remote) {
            true => &self.fetchers,
            false => &self.workers,
        }
    }

    /// Runs `work` on a thread for blocking work, as one of a bounded number.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Qwen3Vl, Gone) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.work_among(&self.workers, work).await
    }

    async fn work_among<T: Send + 'static>(
        &self,
        workers: &Arc<Semaphore>,
        work: impl FnOnce(&Qwen3Vl, Gone) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let model = Arc::clone(self.model()?);
        let permit = Arc::clone(workers).acquire_owned().await;
        let guard = DropFlag::default();
        let gone = Gone(Arc::clone(&guard.0));
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&model, gone)
        });
        let done = task.await.map_err(|error| ApiError::internal(&error))?;
        drop(guard);
        Ok(done.inspect_err(|error| self.lost.note(error))?)
    }

    /// Hands requests to the engine, one answer each.
    ///
    /// # Errors
    /// 429 when too many wait.
    pub fn submit(&self, client: Client, requests: Vec<Ready>) -> Result<Answers, ApiError> {
        self.model()?;
        self.engine.submit(client, requests)
    }
}

/// Requests whose media are fetched from other servers at the same time.
const FETCHERS: usize = 16;

/// Whether a medium comes from another server.
fn is_remote(medium: &MediaRef) -> bool {
    match medium.source() {
        Some(MediaSource::Location(location)) => fetch::is_remote(location),
        Some(MediaSource::Frames(frames)) => frames.iter().any(|frame| fetch::is_remote(frame)),
        Some(MediaSource::Bytes(_)) | None => false,
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Tells blocking work that nobody waits for it any more.
#[derive(Default)]
struct DropFlag(Arc<AtomicBool>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether anybody waits for blocking work.
pub struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Whether nobody does.
    pub fn is_true(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Longest time that reading the media of one request may take.
const READING: Duration = Duration::from_secs(300);

/// Stops reading when the client has gone or it takes too long.
struct Following {
    gone: Gone,
    until: Instant,
}

impl Following {
    fn new(gone: Gone) -> Self {
        Self { gone, until: Instant::now() + READING }
    }
}

impl MediaProgress for Following {
    fn step(&mut self, _: MediaStep<'_>) -> ControlFlow<()> {
        match self.gone.is_true() || Instant::now() > self.until {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
