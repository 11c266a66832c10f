//! The checkpoint's tokenizer: byte-level BPE through the `tokenizers` crate (spec section 8.2).
//!
//! No bos is ever added, text is never cut or padded, whatever `tokenizer.json` says about it.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::tokenizer::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer,
};

/// A tokenizer that cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// `tokenizer.json` cannot be read.
    #[error("tokenizer.json cannot be read: {source}.")]
    Read {
        /// What the `tokenizers` crate says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `tokenizer_config.json` cannot be read.
    #[error("tokenizer_config.json cannot be read: {source}.")]
    Config {
        /// Where the reader stopped.
        source: serde_json::Error,
    },
    /// The tokenizer is not a byte-level one.
    #[error("tokenizer.json: the decoder is {found}, but Qwen3-VL uses a ByteLevel decoder.")]
    Decoder {
        /// The decoder that the file names.
        found: &'static str,
    },
    /// `tokenizer_config.json` gives an added token another id than `tokenizer.json`.
    #[error(
        "tokenizer_config.json: the added token `{token}` has id {wanted}, but tokenizer.json gives it the id {found}."
    )]
    AddedToken {
        /// The token's text.
        token: String,
        /// The id in `tokenizer_config.json`.
        wanted: u32,
        /// The id that the tokenizer gives it.
        found: u32,
    },
    /// A text could not be encoded.
    #[error("A text of {bytes} bytes cannot be encoded: {source}.")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the `tokenizers` crate says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ids could not be decoded.
    #[error("{ids} token ids cannot be decoded: {source}.")]
    Decode {
        /// How many ids.
        ids: usize,
        /// What the `tokenizers` crate says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The parts of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: serde_json::Map<String, Json>,
    #[serde(default)]
    eos_token: Option<Json>,
    #[serde(default)]
    pad_token: Option<Json>,
}

/// Text to token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, if the checkpoint has one, `tokenizer_config.json`, whose added tokens must agree.
    ///
    /// # Errors
    /// [`TokenizerError`] if a file is malformed, the decoder is not ByteLevel, or the two files disagree.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        config_json: Option<&[u8]>,
    ) -> Result<Self, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json)
            .map_err(|source| TokenizerError::Read { source })?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|source| TokenizerError::Read { source })?;
        check_decoder(inner.get_decoder())?;
        let config: TokenizerConfig = match config_json {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|source| TokenizerError::Config { source })?
            }
            None => TokenizerConfig::default(),
        };
        add_tokens(&mut inner, &config)?;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let id = |token: &Option<Json>| {
            token_text(token.as_ref()?).and_then(|text| inner.token_to_id(text))
        };
        let (eos, pad) = (id(&config.eos_token), id(&config.pad_token));
        Ok(Self { inner, special, eos, pad })
    }

    /// Token ids of a text; text that spells an added token becomes that token, as in transformers.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|source| encode_error(text, source))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text in which nothing is an added token: `<|image_pad|>` becomes the characters it is
    /// written with (transformers `_encode_without_added_tokens`).
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.try_encode_plain(text).map_err(|source| encode_error(text, source))
    }

    fn try_encode_plain(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized)?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    /// Text of token ids; broken UTF-8 becomes U+FFFD, ids without a token (padding rows of the embedding)
    /// become nothing. `skip_special` leaves out tokens such as `<|im_end|>`, but not `<think>`.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|source| TokenizerError::Decode { ids: ids.len(), source })
    }

    /// The token as the vocabulary spells it (`Ġhello`), `None` for an id without a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token spelt as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included. The embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether `decode` with `skip_special` leaves this id out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// `eos_token` of `tokenizer_config.json`. `generation_config.json` may name more ids that end an answer.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos
    }

    /// `pad_token` of `tokenizer_config.json`.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad
    }
}

fn encode_error(text: &str, source: Box<dyn std::error::Error + Send + Sync>) -> TokenizerError {
    TokenizerError::Encode { bytes: text.len(), source }
}

/// [`crate::processor::detokenize`] streams bytes, which is right for this decoder only.
fn check_decoder(decoder: Option<&DecoderWrapper>) -> Result<(), TokenizerError> {
    let found = match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => return Ok(()),
        None => "absent",
        Some(DecoderWrapper::BPE(_)) => "BPEDecoder",
        Some(DecoderWrapper::WordPiece(_)) => "WordPiece",
        Some(DecoderWrapper::Metaspace(_)) => "Metaspace",
        Some(DecoderWrapper::CTC(_)) => "CTC",
        Some(DecoderWrapper::Sequence(_)) => "a Sequence",
        Some(_) => "another one",
    };
    Err(TokenizerError::Decoder { found })
}

/// Adds the tokens that only `tokenizer_config.json` knows, in order of their ids, as transformers does.
fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Result<(), TokenizerError> {
    let entries = config.added_tokens_decoder.iter();
    let mut wanted: Vec<(u32, &Json)> =
        entries.filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
    wanted.sort_by_key(|(id, _)| *id);
    for (id, json) in wanted {
        let Some(text) = token_text(json) else { continue };
        let known = inner.get_added_tokens_decoder().contains_key(&id);
        if !known || inner.token_to_id(text) != Some(id) {
            inner
                .add_tokens([added_token(text, json)])
                .map_err(|source| TokenizerError::Read { source })?;
        }
        match inner.token_to_id(text) {
            Some(found) if found != id => {
                return Err(TokenizerError::AddedToken {
                    token: text.to_owned(),
                    wanted: id,
                    found,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A token is written as its text or as an object with `content`.
fn token_text(json: &Json) -> Option<&str> {
    json.as_str().or_else(|| json.get("content")?.as_str())
}

fn added_token(text: &str, json: &Json) -> AddedToken {
    let flag = |name| json.get(name).and_then(Json::as_bool).unwrap_or(false);
    AddedToken::from(text, flag("special"))
        .single_word(flag("single_word"))
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"))
        .normalized(flag("normalized"))
}

#[cfg(test)]
pub(crate) mod tests;
