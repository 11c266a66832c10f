//! What a client is told when its request is not answered.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use qwen3_vl_backends::{DeviceFailure, DeviceLost};
use qwen3_vl_engine::Error as EngineError;
use qwen3_vl_engine::openai::BodyError;
use qwen3_vl_model::generate::GenerateError;
use qwen3_vl_weights::MediaError;
use serde_json::{Value, json};

/// An error in OpenAI's form.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which another attempt makes sense.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// A request that is wrong.
    pub fn bad_request(message: impl Into<String>, param: Option<&str>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            message: message.into(),
            param: param.map(str::to_owned),
            code: None,
            retry_after: None,
        }
    }

    /// Another status than 400, with a short code.
    pub fn of(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, code: Some(code), ..Self::bad_request(message, None) }
    }

    /// The model is not there yet, or not any more.
    pub fn unavailable(message: &str) -> Self {
        let error = Self::of(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self { retry_after: Some(2), ..error }
    }

    /// The model cannot be computed any more.
    pub fn device_lost(lost: &DeviceLost) -> Self {
        let message = format!("{lost}; this server answers again when it is started again");
        let error = Self::of(StatusCode::SERVICE_UNAVAILABLE, "device_lost", message);
        Self { kind: "server_error", ..error }
    }

    /// The device did not compute this request, as for lack of memory, and goes on with others.
    pub fn device_refused(message: &str) -> Self {
        let error = Self::of(StatusCode::SERVICE_UNAVAILABLE, "device_refused", message);
        Self { kind: "server_error", ..error }
    }

    /// Too much is waiting already.
    pub fn busy(message: &str, retry_after: u64) -> Self {
        let error = Self::of(StatusCode::TOO_MANY_REQUESTS, "overloaded", message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// The same in a request that has other `names` for fields of chats: pairs of the chat's and its own.
    pub fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let head = self.param.as_deref().and_then(|param| param.split(['.', '[']).next());
        if let Some((from, to)) = names.iter().find(|(from, _)| Some(*from) == head) {
            self.message = self.message.replace(&format!("`{from}"), &format!("`{to}"));
            // Places within the chat are not those within the request.
            self.param = Some((*to).to_owned());
        }
        self
    }

    /// A fault of ours, whose cause goes to the log.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed within the server");
        let message = format!("the server failed: {cause}");
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The object that stands under `error`.
    pub fn body(&self) -> Value {
        json!({
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.body() }))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        Self::bad_request(error.to_string(), error.field())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error.device_failure() {
            Some(DeviceFailure::Lost(lost)) => return Self::device_lost(lost),
            Some(refused) => return Self::device_refused(&refused.to_string()),
            None => (),
        }
        let param = match &error {
            EngineError::Media(MediaError::Stopped { .. }) => {
                return Self::of(StatusCode::REQUEST_TIMEOUT, "stopped", error.to_string());
            }
            // Where the model lies is not for clients.
            EngineError::NoVision { .. } => {
                let message = "this model reads no pictures and videos: it was loaded without its vision tower";
                return Self::bad_request(message.to_owned(), Some("messages"));
            }
            EngineError::Media(_)
            | EngineError::Process(_)
            | EngineError::Message(_)
            | EngineError::Generate(
                GenerateError::ContextOverflow { .. } | GenerateError::Input(_),
            ) => Some("messages"),
            EngineError::Generate(GenerateError::Memory { .. }) | EngineError::NoTokens => {
                Some("max_tokens")
            }
            EngineError::Stop(_) => Some("stop"),
            EngineError::Grammar(_) => Some("response_format"),
            EngineError::TokenId { field, .. } => Some(*field),
            EngineError::PromptLogprobs { .. } => Some("prompt_logprobs"),
            EngineError::Sampling(_) | EngineError::Generate(GenerateError::Sample(_)) => None,
            _ => return Self::internal(&error),
        };
        Self::bad_request(error.to_string(), param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_dialects_name_their_own_fields() {
        let error = |param: &str| ApiError::bad_request(format!("`{param}` is wrong"), Some(param));
        let names = [("stop", "stop_sequences"), ("messages", "input")];
        for (param, own, message) in [
            ("stop", "stop_sequences", "`stop_sequences` is wrong"),
            ("messages[1].role", "input", "`input[1].role` is wrong"),
            ("stop_token_ids", "stop_token_ids", "`stop_token_ids` is wrong"),
        ] {
            let renamed = error(param).renamed(&names);
            assert_eq!((renamed.param.as_deref(), renamed.message.as_str()), (Some(own), message));
        }
        assert_eq!(ApiError::bad_request("no", None).renamed(&names).param, None);
    }
}
