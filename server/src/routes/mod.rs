//! The endpoints.

mod anthropic;
mod asked;
mod body;
mod chat;
mod completions;
mod log;
mod metrics;
mod models;
mod page;
pub mod pieces;
mod responses;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use metrics::Metrics;

use crate::ServeError;
use crate::app::App;
use crate::error::ApiError;

type Shared = Arc<App>;

/// All endpoints of `app`.
///
/// # Errors
/// When an allowed origin is none.
pub fn router(app: Shared) -> Result<Router, ServeError> {
    let guarded = Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/embeddings", post(tokens::embeddings))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/metrics", get(metrics::text))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard));
    let open = probes()
        .route("/", get(page::index))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/markdown.js", get(page::markdown))
        .route("/openapi.json", get(page::openapi));
    let all = open.merge(guarded).fallback(unknown).method_not_allowed_fallback(wrong_method);
    finish(all, app)
}

/// What is said on connections beyond the bound: probes are answered, so that whoever looks after the server takes it to
/// be busy and not broken.
///
/// # Errors
/// As [`router`].
pub fn full(app: Shared) -> Result<Router, ServeError> {
    let guarded = Router::new()
        .route("/metrics", get(metrics::text))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard));
    let all = probes().merge(guarded).fallback(refuse).method_not_allowed_fallback(refuse);
    finish(all, app)
}

/// What tells whether there is a server and whether it is ready.
fn probes() -> Router<Shared> {
    Router::new()
        .route("/health", get(models::health))
        .route("/v1/health", get(models::health))
        .route("/version", get(models::version))
}

/// `endpoints` with what holds for all of them.
fn finish(endpoints: Router<Shared>, app: Shared) -> Result<Router, ServeError> {
    let mut all = endpoints.layer(middleware::from_fn_with_state(Arc::clone(&app), log::log));
    if let Some(cors) = cors(&app.config.allowed_origins)? {
        all = all.layer(cors);
    }
    Ok(all.with_state(app))
}

/// Lets requests with a right key pass.
async fn guard(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    match app.keys.check(request.headers()) {
        Ok(key) => {
            request.extensions_mut().insert(body::KeyDigest(key));
            next.run(request).await
        }
        Err(error) => turn_away(request, error).await,
    }
}

async fn refuse(request: Request) -> Response {
    let error = ApiError::unavailable("too many connections are open; try again later");
    turn_away(request, error).await
}

async fn unknown(request: Request) -> Response {
    let message = format!("there is no endpoint {}", request.uri().path());
    turn_away(request, ApiError::of(StatusCode::NOT_FOUND, "not_found", message)).await
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    let error = ApiError::of(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    turn_away(request, error).await
}

/// Says `error` in the dialect of the endpoint that was asked for, once the body is there: nobody reads it.
async fn turn_away(request: Request, error: ApiError) -> Response {
    let anthropic = anthropic::speaks_at(request.uri().path());
    body::discard(request.into_body()).await;
    match anthropic {
        true => anthropic::MessagesError::from(error).into_response(),
        false => error.into_response(),
    }
}

/// Cross-origin rules; none without origins, so that browsers keep other sites out.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>, ServeError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let parse = |origin: &String| match HeaderValue::from_str(origin) {
        Ok(value) if origin.contains("://") => Ok(value),
        _ => Err(ServeError::Origin { origin: origin.clone() }),
    };
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?),
    };
    let headers =
        [header::CONTENT_TYPE, header::AUTHORIZATION, HeaderName::from_static("x-api-key")];
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers);
    Ok(Some(cors))
}
