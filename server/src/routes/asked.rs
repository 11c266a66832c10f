//! A request for answers, from its body to the engine.

use axum::RequestExt;
use axum::extract::{FromRequest, Request};
use qwen3_vl_engine::Ready;
use qwen3_vl_engine::openai::{ChatBody, Head};
use serde_json::Value;

use super::Shared;
use super::body::{Json, KeyDigest};
use super::log::RequestId;
use crate::app::now;
use crate::engine::{Answers, Client};
use crate::error::ApiError;
use crate::store::Owner;

/// What every request for answers brings.
pub struct Asked {
    pub app: Shared,
    /// The request's id.
    pub id: String,
    /// The digest of its key.
    pub owner: Owner,
    client: Client,
    pub body: Value,
}

impl FromRequest<Shared> for Asked {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &Shared) -> Result<Self, ApiError> {
        let client = request.extract_parts_with_state(app).await?;
        let extensions = request.extensions();
        let missing = || ApiError::internal(&"a request without an id");
        let RequestId(id) = extensions.get::<RequestId>().cloned().ok_or_else(missing)?;
        let owner = extensions.get::<KeyDigest>().and_then(|KeyDigest(owner)| *owner);
        let Json(body) = Json::from_request(request, app).await?;
        Ok(Self { app: Shared::clone(app), id, owner, client, body })
    }
}

impl Asked {
    /// What the objects of the answers begin with.
    ///
    /// # Errors
    /// 404 for a model that is not served.
    pub fn head(&self, id: String, model: Option<&str>) -> Result<Head, ApiError> {
        Ok(Head { id, model: self.app.name(model)?, created: now() })
    }

    /// Has a chat answered; tells the tokens of its prompt too.
    ///
    /// # Errors
    /// When a medium cannot be read, the prompt does not fit, or too many requests wait.
    pub async fn answers(&self, chat: &mut ChatBody) -> Result<(Answers, usize), ApiError> {
        let ready = self.app.prepare(&mut chat.request).await?;
        let prompt = ready.prepared().chat.inputs.ids.len();
        Ok((self.submit(vec![ready], chat.n)?, prompt))
    }

    /// Has each of the prompts answered `n` times.
    ///
    /// # Errors
    /// 429 when too many requests wait.
    pub fn submit(&self, prompts: Vec<Ready>, n: usize) -> Result<Answers, ApiError> {
        let all = prompts.into_iter().flat_map(|prompt| {
            let prompts = std::iter::repeat_n(prompt, n).enumerate();
            prompts.map(|(index, prompt)| prompt.numbered(index))
        });
        self.app.submit(self.client.clone(), all.collect())
    }
}
