//! What there is, and whether it is ready.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use crate::app::App;
use crate::error::ApiError;

/// `GET /health`: 200 once the model is loaded, 503 before, while the server stops, and when a device is lost.
pub async fn health(State(app): State<Shared>) -> Response {
    match app.model() {
        Ok(_) => Json(json!({ "status": "ok" })).into_response(),
        Err(error) => error.into_response(),
    }
}

/// `GET /version`.
pub async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /v1/models`.
pub async fn list(State(app): State<Shared>) -> Result<Json<Value>, ApiError> {
    let names = app.config.served_names.iter();
    let data = names.map(|name| object(&app, name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/{name}`.
pub async fn one(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(object(&app, &app.name(Some(&name))?)?))
}

fn object(app: &App, name: &str) -> Result<Value, ApiError> {
    let limit = app.model()?.model().config().text.max_position_embeddings;
    Ok(json!({
        "id": name,
        "object": "model",
        "created": app.started,
        "owned_by": "qwen3-vl",
        "max_model_len": limit,
    }))
}
