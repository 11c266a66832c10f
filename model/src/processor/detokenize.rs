//! Token ids to text, one at a time, without ever splitting a character.

use std::str;

use crate::processor::tokenizer::Tokenizer;

/// Incremental decoder: the texts of all pushes and of [`StreamDecoder::finish`] together are exactly
/// [`Tokenizer::decode`] of all ids. Every id is looked at once.
///
/// A token of a byte-level vocabulary is a run of bytes; characters outside ASCII may span several tokens.
/// Bytes that can still become a character are held back (3 at most), bytes that cannot become U+FFFD.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    pending: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the start of an answer; `skip_special` as in [`Tokenizer::decode`].
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new() }
    }

    /// The text that `id` completes, or `None` if it completes none.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        let token = self.tokenizer.id_to_token(id)?;
        append_bytes(&mut self.pending, &token);
        let text = take_text(&mut self.pending);
        (!text.is_empty()).then_some(text)
    }

    /// What is left at the end of an answer: U+FFFD if the last character is incomplete, else `None`.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

/// The bytes that token `id` stands for; empty for an id that the tokenizer does not know.
pub fn token_bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(token) = tokenizer.id_to_token(id) {
        append_bytes(&mut bytes, &token);
    }
    bytes
}

/// Bytes of a token: its characters stand for bytes (GPT-2's table); a token with any other character is literal.
fn append_bytes(out: &mut Vec<u8>, token: &str) {
    let start = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Removes and returns everything that is decided: whole characters, and U+FFFD for each broken sequence
/// (the same sequences as [`String::from_utf8_lossy`]).
fn take_text(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = pending.as_slice();
    loop {
        match str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, broken) = rest.split_at(error.valid_up_to());
                text.push_str(str::from_utf8(valid).unwrap_or_default());
                rest = broken;
                let Some(length) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[length..];
            }
        }
    }
    let left = rest.len();
    pending.drain(..pending.len() - left);
    text
}

#[cfg(test)]
mod tests;
