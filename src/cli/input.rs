//! Text from files and standard input, within a limit.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Context;
use clap::error::ErrorKind;

use super::usage_error;

/// Largest messages file that is read, in bytes (pictures may be inside as data URIs).
const MAX_BYTES: u64 = 1 << 30;

/// The text of a file; `-` is standard input.
///
/// # Errors
/// When it cannot be read, is no UTF-8 or too large.
pub fn file(path: &Path) -> anyhow::Result<String> {
    let name = path.display().to_string();
    if name == "-" {
        return limited(std::io::stdin(), "standard input");
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    limited(file, &name)
}

/// The prompt that is piped in.
///
/// # Errors
/// A usage error when nothing is piped in.
pub fn prompt() -> anyhow::Result<String> {
    let text = match std::io::stdin().is_terminal() {
        true => String::new(),
        false => limited(std::io::stdin(), "standard input")?,
    };
    if text.is_empty() {
        let message = "no prompt: give -p TEXT, --messages FILE, or text on standard input";
        return Err(usage_error(ErrorKind::MissingRequiredArgument, message));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn limited(reader: impl Read, name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = reader.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_BYTES,
        "{name} is larger than {MAX_BYTES} bytes, the limit for messages"
    );
    Ok(text)
}
