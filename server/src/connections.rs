//! Connections: accepted, decrypted where there is a certificate, and served until the server stops.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// Pause when no connection can be accepted, mostly because the process has too many files open.
const NO_ACCEPT: Duration = Duration::from_secs(1);
/// Longest time that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// What every connection is served with.
pub struct Door {
    pub router: Router,
    pub tls: Option<TlsAcceptor>,
}

/// Serves connections until `stopping` is true, then waits for the answers of those that are open.
pub async fn serve(listener: TcpListener, door: Door, mut stopping: watch::Receiver<bool>) {
    let door = Arc::new(door);
    let (open, mut closed) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (door, open, stopping) = (Arc::clone(&door), open.clone(), stopping.clone());
                tokio::spawn(async move {
                    door.connection(stream, address, stopping).await;
                    drop(open);
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

/// Whether a connection failed before it was accepted, which says nothing of the server.
fn is_of_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Door {
    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) {
        // Tokens are small packets that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.speak(stream, address, stopping).await };
        match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, address, stopping).await,
            Ok(Err(error)) => tracing::debug!(%address, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(%address, "no TLS handshake in time"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
        address: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        let service = Service { router: TowerToHyperService::new(self.router.clone()), address };
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = stopping.wait_for(|stopping| *stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection broke");
        }
    }
}

/// The endpoints, as one connection sees them.
struct Service {
    router: TowerToHyperService<Router>,
    address: SocketAddr,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, std::convert::Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.address));
        let router = self.router.clone();
        Box::pin(async move { hyper::service::Service::call(&router, request).await })
    }
}
