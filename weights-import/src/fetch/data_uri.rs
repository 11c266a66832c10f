//! `data:` URIs (RFC 2397).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

use super::{FetchError, FetchLimits, check_size};

/// Decodes `data:image/png;base64,...` or the percent-encoded form `data:,...`; white space within base64 is skipped,
/// the URL-safe alphabet and missing padding are accepted.
///
/// # Errors
/// [`FetchError::DataUri`] with at most the first 40 characters of the URI.
pub fn data_uri(uri: &str) -> Result<Vec<u8>, FetchError> {
    let uri = uri.trim();
    let (is_base64, payload) = split(uri)?;
    let decoded = percent_decode_str(payload);
    if !is_base64 {
        return Ok(decoded.collect());
    }
    let text: Vec<u8> =
        decoded.filter(|b| !b.is_ascii_whitespace()).map(standard_alphabet).collect();
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, config)
        .decode(text)
        .map_err(|error| malformed(uri, format!("its base64 is invalid: {error}")))
}

fn standard_alphabet(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

fn split(uri: &str) -> Result<(bool, &str), FetchError> {
    let rest = match uri.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => &uri[5..],
        _ => return Err(malformed(uri, "it does not begin with `data:`")),
    };
    let (header, payload) = rest
        .split_once(',')
        .ok_or_else(|| malformed(uri, "it has no comma between its type and its data"))?;
    let last = header.rsplit(';').next().unwrap_or_default().trim();
    Ok((last.eq_ignore_ascii_case("base64"), payload))
}

fn malformed(uri: &str, reason: impl Into<String>) -> FetchError {
    FetchError::DataUri { start: start(uri), reason: reason.into() }
}

fn start(uri: &str) -> String {
    match uri.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &uri[..end]),
        None => uri.to_string(),
    }
}

/// As [`data_uri`], for no more bytes than `limits` allow.
pub(super) fn bounded(uri: &str, limits: &FetchLimits) -> Result<Vec<u8>, FetchError> {
    let from = || start(uri);
    // Even percent-encoded base64 ("%41" per character) needs at most 4 characters a byte.
    if (uri.len() as u64).saturating_sub(256) / 4 > limits.max_bytes {
        return Err(FetchError::TooLarge { from: from(), size: None, limit: limits.max_bytes });
    }
    let bytes = data_uri(uri)?;
    check_size(Some(bytes.len() as u64), limits, from)?;
    Ok(bytes)
}
