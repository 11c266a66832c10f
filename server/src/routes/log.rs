//! One line per request, with an id and without its content.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::Shared;

/// The header that tells the id of a request, and may give one.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, which its answer and the log bear.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Gives every request an id, counts it and writes its line. A streamed answer is logged when it begins.
pub async fn log(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let id = given(&request).unwrap_or_else(new_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, begun) = (request.method().clone(), Instant::now());
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    let (status, path) = (response.status(), matched.unwrap_or_else(|| "other".to_owned()));
    app.metrics.request(&path, status.as_u16());
    let ms = begun.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(request_id = id, %method, path, status = status.as_u16(), ms, "request");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// An id that the client chose, if it is short and plain.
fn given(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!id.is_empty() && id.len() <= 64 && id.chars().all(plain)).then(|| id.to_owned())
}

/// An id that no other request of this process has.
fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{next:x}", crate::app::now())
}
