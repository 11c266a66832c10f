//! What handlers take out of a request.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde_json::Value;

use super::Shared;
use crate::engine::Client;
use crate::error::ApiError;

/// The digest of the key that a request brought.
#[derive(Debug, Clone, Copy)]
pub struct KeyDigest(pub Option<[u8; 32]>);

/// A JSON body.
pub struct Json(pub Value);

impl FromRequest<Shared> for Json {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        // Pages of other sites can send text without being asked, but not this type.
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = format!("the content type is `{kind}`, but it must be application/json");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ApiError::of(status, "unsupported_media_type", message));
        }
        let patience = app.config.limits.body;
        let read = tokio::time::timeout(patience, Bytes::from_request(request, app)).await;
        let read = read.map_err(|_| {
            let message = format!("the body was not there after {} s", patience.as_secs_f64());
            ApiError::of(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        })?;
        let bytes = read.map_err(|rejection| {
            let (status, limit) = (rejection.status(), app.config.max_body_bytes);
            match status {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    let message = format!("the body is larger than {limit} bytes");
                    ApiError::of(status, "body_too_large", message)
                }
                _ => ApiError::bad_request(rejection.body_text(), None),
            }
        })?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|error| {
            ApiError::bad_request(format!("the body is no valid JSON: {error}"), None)
        })
    }
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
