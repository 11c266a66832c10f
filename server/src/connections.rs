//! Connections: accepted or refused, decrypted where there is a certificate, and served until the server stops.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::config::Limits;
use crate::patience::{Answer, Clock, Heard, Late};

/// Pause when no connection can be accepted, mostly because the process has too many files open.
const NO_ACCEPT: Duration = Duration::from_secs(1);

/// Connections beyond the bound, on which probes are answered and all else is refused. A further one takes the place of
/// the oldest, so that those that say nothing keep no probe out.
const RESERVE: usize = 32;

/// The header that tells the id of a request.
const REQUEST_ID: &str = "x-request-id";

/// What every connection is served with.
pub struct Door {
    pub router: Router,
    /// What serves one request of each connection beyond the bound.
    pub full: Router,
    pub tls: Option<TlsAcceptor>,
    pub limits: Limits,
}

/// Serves connections until `stopping` is true, then waits for the answers of those that are open.
pub async fn serve(listener: TcpListener, door: Door, mut stopping: watch::Receiver<bool>) {
    let mut places = Places::new(door.limits.connections);
    let door = Arc::new(door);
    let (open, mut closed) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let Place { permit, displaced } = places.take().await;
                let visit = Visit { address, full: displaced.is_some() };
                let (door, open, stopping) = (Arc::clone(&door), open.clone(), stopping.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = door.connection(stream, visit, stopping) => {}
                        () = gone(displaced) => tracing::debug!(%address, "a connection gave way"),
                    }
                    drop((open, permit));
                });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(NO_ACCEPT).await;
            }
        }
    }
    drop((listener, open));
    // Nothing is ever sent: this ends when the last connection has dropped its sender.
    closed.recv().await;
}

/// How many connections there may be.
struct Places {
    free: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    /// Tells the connections of the reserve to give way, by being dropped; the oldest stands first.
    kept: VecDeque<oneshot::Sender<Infallible>>,
    /// Whether the log was told that there is no place, since there was one.
    told: bool,
}

/// A place for a connection.
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    /// Ends when it must give way; there is one in the reserve alone.
    displaced: Option<oneshot::Receiver<Infallible>>,
}

impl Places {
    fn new(connections: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            reserve: Arc::new(Semaphore::new(RESERVE)),
            kept: VecDeque::new(),
            told: false,
        }
    }

    /// A place, in the reserve where there is no other.
    async fn take(&mut self) -> Place {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            self.told = false;
            return Place { permit: Some(place), displaced: None };
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!("all connections that there may be are open; more are refused");
        }
        self.kept.retain(|connection| !connection.is_closed());
        if self.kept.len() >= RESERVE {
            self.kept.pop_front();
        }
        let (keep, displaced) = oneshot::channel();
        self.kept.push_back(keep);
        // Nobody closes the semaphore; whoever must give way does so at once.
        let permit = Arc::clone(&self.reserve).acquire_owned().await.ok();
        Place { permit, displaced: Some(displaced) }
    }
}

/// Ready when a connection must give way.
async fn gone(displaced: Option<oneshot::Receiver<Infallible>>) {
    match displaced {
        Some(displaced) => drop(displaced.await),
        None => std::future::pending().await,
    }
}

/// Whether a connection failed before it was accepted, which says nothing of the server.
fn is_of_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection's other end, and whether it stands in the reserve.
#[derive(Debug, Clone, Copy)]
struct Visit {
    address: SocketAddr,
    full: bool,
}

impl Door {
    async fn connection(&self, stream: TcpStream, visit: Visit, stopping: watch::Receiver<bool>) {
        // Tokens are small packets that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let address = visit.address;
        let Some(tls) = &self.tls else { return self.speak(stream, visit, stopping).await };
        match tokio::time::timeout(self.limits.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, visit, stopping).await,
            Ok(Err(error)) => tracing::debug!(%address, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(%address, "no TLS handshake in time"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
        Visit { address, full }: Visit,
        mut stopping: watch::Receiver<bool>,
    ) {
        let clock = Clock::new(self.limits);
        let router = if full { &self.full } else { &self.router };
        let router = TowerToHyperService::new(router.clone());
        let service = Service { router, address, clock: clock.clone() };
        let io = TokioIo::new(Heard { stream, clock: clock.clone() });
        let http = http1::Builder::new().keep_alive(!full).serve_connection(io, service);
        let mut connection = pin!(http);
        let mut late = pin!(clock.late());
        let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
        let mut stopped = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                late = late.as_mut() => return late.log(address, &clock),
                _ = stop.as_mut(), if !stopped => {
                    connection.as_mut().graceful_shutdown();
                    stopped = true;
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection broke");
        }
    }
}

impl Late {
    fn log(self, address: SocketAddr, clock: &Clock) {
        match self {
            Self::Silent => tracing::debug!(%address, "a connection timed out"),
            Self::Unread => {
                let request_id = clock.request();
                tracing::warn!(%address, request_id, "a client does not read; its answer is cancelled");
            }
        }
    }
}

/// The endpoints, as one connection sees them.
struct Service {
    router: TowerToHyperService<Router>,
    address: SocketAddr,
    clock: Clock,
}

type Answered = Result<Response<Answer>, Infallible>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.clock.busy();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.address));
        let (router, clock) = (self.router.clone(), self.clock.clone());
        Box::pin(async move {
            let answer = hyper::service::Service::call(&router, request).await?;
            clock.answers(answer.headers().get(REQUEST_ID));
            Ok(answer.map(|body| Answer { body, clock }))
        })
    }
}
