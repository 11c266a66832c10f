//! `POST /tokenize`, `/detokenize` and `/v1/embeddings`.

use axum::Json as Reply;
use axum::extract::State;
use qwen3_vl_engine::openai::{
    EmbeddingBody, Prompts, TokenizeBody, parse_detokenize, parse_embedding, parse_tokenize,
};
use serde_json::{Value, json};

use super::Shared;
use super::body::Json;
use crate::error::ApiError;

/// `POST /tokenize`: the ids of a text, or of a chat with its media, which are opened but not decoded.
pub async fn tokenize(
    State(app): State<Shared>,
    Json(body): Json,
) -> Result<Reply<Value>, ApiError> {
    let (model, body) = parse_tokenize(body)?;
    app.name(model.as_deref())?;
    let ids = match body {
        TokenizeBody::Text(text) => app.work(move |model, _| model.tokenize(&text)).await?,
        TokenizeBody::Chat(request) => app.count(*request).await?,
    };
    let limit = app.model()?.model().config().text.max_position_embeddings;
    Ok(Reply(json!({ "count": ids.len(), "max_model_len": limit, "tokens": ids })))
}

/// `POST /detokenize`: the text of ids.
pub async fn detokenize(
    State(app): State<Shared>,
    Json(body): Json,
) -> Result<Reply<Value>, ApiError> {
    let (model, ids) = parse_detokenize(body)?;
    app.name(model.as_deref())?;
    let known = app.model()?.model().config().text.vocab_size;
    if let Some(id) = ids.iter().find(|id| **id as usize >= known) {
        let message = format!("`tokens` has {id}, but ids must be below {known}");
        return Err(ApiError::bad_request(message, Some("tokens")));
    }
    let text = app.work(move |model, _| model.detokenize(&ids)).await?;
    Ok(Reply(json!({ "prompt": text })))
}

/// `POST /v1/embeddings`: the last hidden state at the last token of each input, of length 1.
pub async fn embeddings(
    State(app): State<Shared>,
    Json(body): Json,
) -> Result<Reply<Value>, ApiError> {
    let EmbeddingBody { model, inputs, dimensions, base64 } = parse_embedding(body)?;
    let name = app.name(model.as_deref())?;
    let (vectors, tokens) = app
        .work(move |model, gone| {
            let (mut vectors, mut tokens) = (Vec::new(), 0);
            for input in inputs.iter().take_while(|_| !gone.is_true()) {
                let prepared = match input {
                    Prompts::Text(text) => model.prepare_text(text)?,
                    Prompts::Ids(ids) => model.prepare_ids(ids.clone(), String::new())?,
                };
                tokens += prepared.chat.inputs.ids.len();
                vectors.push(model.embed(&prepared)?);
            }
            Ok((vectors, tokens))
        })
        .await
        .map_err(|error| error.renamed(&[("messages", "input")]))?;
    let width = vectors.first().map_or(0, Vec::len);
    if let Some(wanted) = dimensions.filter(|wanted| *wanted > width) {
        let message = format!("`dimensions` is {wanted}, but the model has {width}");
        return Err(ApiError::bad_request(message, Some("dimensions")));
    }
    let cut = vectors.into_iter().map(|vector| shorten(vector, dimensions.unwrap_or(width)));
    let data: Vec<Value> = cut
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if base64 { encode(&vector) } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Reply(json!({ "object": "list", "data": data, "model": name, "usage": usage })))
}

/// The first `dimensions` values, scaled to length 1.
fn shorten(mut vector: Vec<f32>, dimensions: usize) -> Vec<f32> {
    vector.truncate(dimensions);
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
    vector
}

/// Little-endian floats in base64, as OpenAI's client asks for them.
fn encode(vector: &[f32]) -> Value {
    use base64::Engine as _;
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one() {
        assert_eq!(shorten(vec![3.0, 4.0, 12.0], 2), [0.6, 0.8]);
        assert_eq!(shorten(vec![0.0], 1), [0.0]);
        assert_eq!(encode(&[1.0]), json!("AACAPw=="));
    }
}
