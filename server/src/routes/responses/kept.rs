//! Responses that were kept: told again, forgotten, gone on from.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use serde_json::{Value, json};

use super::super::Shared;
use super::super::body::KeyDigest;
use super::request::Links;
use crate::app::App;
use crate::error::ApiError;
use crate::store::{Owner, Store, Turn};

/// `GET /v1/responses/{id}`.
pub async fn get(
    State(app): State<Shared>,
    Extension(KeyDigest(owner)): Extension<KeyDigest>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<HttpResponse, ApiError> {
    // OpenAI can stream a response again and tell more of it.
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        let name = query.split(['=', '&']).next().unwrap_or_default();
        let message = format!("`{name}` is not supported in the address");
        return Err(ApiError::bad_request(message, Some(name)));
    }
    let object = app.responses.object(owner, &id).ok_or_else(|| missing(&id))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], object).into_response())
}

/// `DELETE /v1/responses/{id}`.
pub async fn delete(
    State(app): State<Shared>,
    Extension(KeyDigest(owner)): Extension<KeyDigest>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    match app.responses.remove(owner, &id) {
        true => Ok(axum::Json(json!({ "id": id, "object": "response", "deleted": true }))),
        false => Err(missing(&id)),
    }
}

fn missing(id: &str) -> ApiError {
    let message = format!("there is no response `{id}`: it was not kept, or not for so long");
    ApiError::of(StatusCode::NOT_FOUND, "not_found", message)
}

/// Where a response is kept. Without a word in the request it is, if the server keeps any.
///
/// # Errors
/// 400 where it is asked for and the server keeps none.
pub(super) fn wanted(app: &App, links: &Links) -> Result<Option<Arc<Store>>, ApiError> {
    let on = app.responses.is_on();
    if links.store == Some(true) && !on {
        let message = "`store` is true, but this server keeps no responses";
        return Err(ApiError::bad_request(message, Some("store")));
    }
    Ok((on && links.store != Some(false)).then(|| Arc::clone(&app.responses)))
}

/// What was said before.
///
/// # Errors
/// 400 where it is not kept.
pub(super) fn past(app: &App, owner: Owner, links: &Links) -> Result<Vec<Arc<Turn>>, ApiError> {
    let Some(id) = &links.previous else { return Ok(Vec::new()) };
    app.responses.turns(owner, id).ok_or_else(|| ApiError {
        status: StatusCode::BAD_REQUEST,
        code: Some("previous_response_not_found"),
        param: Some("previous_response_id".to_owned()),
        ..missing(id)
    })
}

/// An id that nobody can guess, as it is all that is needed to read a response where no keys are asked for.
///
/// # Errors
/// 500 without randomness.
pub(super) fn new_id() -> Result<String, ApiError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ApiError::internal(&error))?;
    Ok(format!("resp_{:032x}", u128::from_le_bytes(bytes)))
}
