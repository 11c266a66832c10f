//! An OpenAI-compatible HTTP server in front of [`Qwen3Vl`].
//!
//! One thread owns the batch and runs the model; handlers read media and make prompts beside it, hand their requests
//! over a channel and get pieces of answers back. A client that goes away takes its request with it.

mod access;
mod app;
mod config;
mod connections;
mod engine;
mod error;
mod patience;
mod routes;
mod sse;
mod store;
mod tls;

use std::future::Future;
use std::net::SocketAddr;

use qwen3_vl_engine::{Error as EngineError, Qwen3Vl};
use tokio::net::TcpListener;

pub use config::{Config, Limits, Memory, ResponseStore};
pub use tls::{Tls, TlsError};

use app::App;
use connections::Door;

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Load(#[from] EngineError),
    #[error("`{origin}` is no origin; it must be like https://example.org")]
    Origin { origin: String },
    #[error("the engine stopped")]
    Engine,
}

/// Makes the model, on the thread that will run it; the server answers `/health` with 503 until then.
pub type Load = Box<dyn FnOnce() -> Result<Qwen3Vl, EngineError> + Send>;

/// Serves until Ctrl-C or SIGTERM, then finishes the answers that are being written.
///
/// `ready` is told the address once it is listened on.
///
/// # Errors
/// When the address is taken, the model cannot be loaded or the engine stops.
pub fn run(config: Config, load: Load, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let served = runtime.block_on(async {
        let address = config.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        ready(listener.local_addr().unwrap_or(address));
        serve(listener, config, load, stop_signal()).await
    });
    // Media that are still being read for nobody must not hold the program up.
    runtime.shutdown_background();
    served
}

/// Serves on `listener` until `stop` is ready, then finishes the answers that are being written, for as long as
/// [`Config::shutdown`] allows.
///
/// # Errors
/// When the model cannot be loaded or the engine stops.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    load: Load,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (patience, limits) = (config.shutdown, config.limits);
    let tls = config.tls.as_ref().map(Tls::acceptor);
    let (app, mut failed) = App::start(config, load);
    let (router, full) = (routes::router(app.clone())?, routes::full(app.clone())?);
    let door = Door { router, full, tls, limits };
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let serving = connections::serve(listener, door, stopped);
    let ordered = async {
        stop.await;
        tracing::info!("stopping: no new requests, finishing {} answers", app.open_requests());
        app.stop_accepting();
        // Without a receiver nothing is served any more.
        let _ = stopping.send(true);
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        () = serving => Ok(()),
        error = &mut failed => Err(error.map_or(ServeError::Engine, ServeError::from)),
        () = ordered => {
            tracing::warn!("{} answers were cut off by the end of the server", app.open_requests());
            Ok(())
        }
    }
}

async fn stop_signal() {
    let interrupt = async {
        // Without a handler Ctrl-C ends the program at once, which is what is wanted then.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! { () = interrupt => {}, () = terminate => {} }
}
