//! The nano checkpoint's tokenizer: byte-level BPE of 1,024 tokens with Qwen3-VL's special tokens.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{SplitDelimiterBehavior, TokenizerBuilder};

use super::{Mixture, phrases, turns};

/// Tokens in all.
pub const VOCABULARY: usize = 1024;

/// The special tokens, from the lowest id on, and whether `skip_special_tokens` leaves them out.
pub const SPECIAL: [(&str, bool); 18] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|object_ref_start|>", true),
    ("<|object_ref_end|>", true),
    ("<|box_start|>", true),
    ("<|box_end|>", true),
    ("<|quad_start|>", true),
    ("<|quad_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<|vision_pad|>", true),
    ("<|image_pad|>", true),
    ("<|video_pad|>", true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<think>", false),
    ("</think>", false),
];

/// How Qwen2 cuts text before merging (transformers `Qwen2Tokenizer`): words with what stands before them, single digits, the rest.
pub const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Rows whose questions and answers are learnt from.
const ROWS: u64 = 20_000;

/// How often each of the words below counts.
const REPEATS: usize = 24;

/// Words that people type to a model, beside those of our own questions.
const WORDS: &str = include_str!("words.txt");

/// Why the tokenizer cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainTokenizerError {
    /// The crate failed.
    #[error("The tokenizer cannot be trained: {source}.")]
    Train {
        /// What the `tokenizers` crate says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The text does not give enough merges.
    #[error("The training text gives {found} tokens, but {wanted} are needed.")]
    TooFew {
        /// Tokens learnt.
        found: usize,
        /// Tokens needed.
        wanted: usize,
    },
}

/// Text of `tokenizer.json` in Hugging Face's layout, learnt from 20,000 rows of `seed`; equal for equal seeds.
///
/// A change of phrasings changes it, and a trained checkpoint needs the one it was trained with.
///
/// Words with two capitals in a row are left out of the training text, so that letters of printed strings stay single tokens.
///
/// # Errors
/// [`TrainTokenizerError`].
pub fn train(seed: u64) -> Result<String, TrainTokenizerError> {
    learn(seed, ROWS)
}

/// As [`train`], from this many rows.
fn learn(seed: u64, rows: u64) -> Result<String, TrainTokenizerError> {
    let base = VOCABULARY - SPECIAL.len();
    let mut model = learnt(&corpus(seed, rows), base)
        .map_err(|source| TrainTokenizerError::Train { source })?;
    let found = model["vocab"].as_object().map_or(0, serde_json::Map::len);
    if found != base {
        return Err(TrainTokenizerError::TooFew { found, wanted: base });
    }
    model["type"] = "BPE".into();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(place, (content, special))| added_token(base + place, content, *special))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": model,
    });
    Ok(format!("{tokenizer:#}\n"))
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

/// The model part of `tokenizer.json`.
fn learnt(
    corpus: &[String],
    size: usize,
) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let pattern = SplitPattern::Regex(PATTERN.into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let pieces: Vec<PreTokenizerWrapper> = vec![split.into(), bytes.into()];
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(Sequence::new(pieces)))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes))
        .build()?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, corpus.iter())?;
    Ok(serde_json::to_value(tokenizer.get_model())?)
}

/// The texts to learn from, in a fixed order.
fn corpus(seed: u64, rows: u64) -> Vec<String> {
    let mixture = Mixture::default();
    let asked = (0..rows).flat_map(|index| turns(seed, index, &mixture));
    let spoken = asked.flat_map(|turn| [turn.question, turn.answer]);
    let patterns = phrases::ALL.iter().flat_map(|list| list.iter().map(|text| plain(text)));
    let words = std::iter::repeat_n(plain(WORDS), REPEATS);
    let roles = std::iter::repeat_n("user\nassistant\nsystem\n".to_owned(), 200);
    spoken.chain(patterns).chain(words).chain(roles).map(|text| without_strings(&text)).collect()
}

/// A pattern of a question as mere words.
fn plain(text: &str) -> String {
    text.replace(['[', ']', '|', '{', '}'], " ")
}

/// The text without words that have two capitals in a row, or a capital beside a digit, and with "1" for quoted strings.
fn without_strings(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        kept.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let quoted = kept.ends_with('"') && rest[end..].starts_with('"');
        kept.push_str(if is_string(&rest[..end], quoted) { "1" } else { &rest[..end] });
        rest = &rest[end..];
    }
    kept + rest
}

fn is_string(word: &str, quoted: bool) -> bool {
    let coded = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    let has_capital = word.bytes().any(|byte| byte.is_ascii_uppercase());
    let pair = word.as_bytes().windows(2).any(|pair| pair.iter().all(coded));
    has_capital && (pair || (quoted && word.as_bytes().iter().all(coded)))
}

#[cfg(test)]
mod tests;
