//! What handlers take out of a request.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::Value;
use tokio_stream::StreamExt;

use super::Shared;
use crate::engine::Client;
use crate::error::ApiError;

/// The digest of the key that a request brought.
#[derive(Debug, Clone, Copy)]
pub struct KeyDigest(pub Option<[u8; 32]>);

/// For how long the rest of a body that is too large is taken.
const LINGER: Duration = Duration::from_secs(2);

/// A JSON body.
pub struct Json(pub Value);

impl FromRequest<Shared> for Json {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        if let Err(error) = readable(request.headers()) {
            discard(request.into_body()).await;
            return Err(error);
        }
        let patience = app.config.limits.body;
        let read = read(request.into_body(), app.config.max_body_bytes);
        let bytes = tokio::time::timeout(patience, read).await.map_err(|_| {
            let message = format!("the body was not there after {} s", patience.as_secs_f64());
            ApiError::of(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        })??;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|error| {
            ApiError::bad_request(format!("the body is no valid JSON: {error}"), None)
        })
    }
}

/// Whether a body is plain JSON.
fn readable(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let refuse = |message| {
        Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
    };
    let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    // Pages of other sites can send text without being asked, but not this type.
    if !kind.eq_ignore_ascii_case("application/json") {
        return refuse(format!("the content type is `{kind}`, but it must be application/json"));
    }
    let coding = text(header::CONTENT_ENCODING).trim();
    if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
        return refuse(format!(
            "the content encoding is `{coding}`, but bodies must be sent plain"
        ));
    }
    Ok(())
}

/// Takes what is sent of a body that is not wanted, for a moment: a client that is cut off while it sends would not read
/// why.
pub async fn discard(body: Body) {
    linger(body.into_data_stream()).await;
}

async fn linger(mut parts: BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = parts.next().await {} };
    // Whether the end was reached does not matter.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// A body of at most `limit` bytes.
async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (mut parts, mut bytes) = (body.into_data_stream(), Vec::new());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::bad_request(error.to_string(), None))?;
        if bytes.len() + part.len() > limit {
            linger(parts).await;
            let message = format!("the body is larger than {limit} bytes");
            return Err(ApiError::of(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

impl FromRequestParts<Shared> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ApiError> {
        if let Some(KeyDigest(Some(digest))) = parts.extensions.get() {
            return Ok(Self::Key(*digest));
        }
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let missing = || ApiError::internal(&"a connection without an address");
        address.map(|ConnectInfo(at)| Self::Address(at.ip())).ok_or_else(missing)
    }
}
