//! The keys of one content part: sizes, rates and counts with their ranges.

use serde_json::{Map, Value as Json};

use super::error::{MessageError, child, describe};

/// The keys of one part, read with their path.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) map: &'a Map<String, Json>,
    pub(super) at: &'a str,
}

impl Fields<'_> {
    pub(super) fn path(&self, key: &str) -> String {
        child(self.at, key)
    }

    pub(super) fn pixel_bounds(&self) -> Result<(Option<u64>, Option<u64>), MessageError> {
        let bounds = (self.count("min_pixels")?, self.count("max_pixels")?);
        match bounds {
            (Some(min), Some(max)) if min > max => {
                let must = format!("not exceed max_pixels, which is {max}");
                Err(MessageError::Value {
                    at: self.path("min_pixels"),
                    value: min.to_string(),
                    must,
                })
            }
            _ => Ok(bounds),
        }
    }

    pub(super) fn resized(&self) -> Result<Option<(u64, u64)>, MessageError> {
        match (self.count("resized_height")?, self.count("resized_width")?) {
            (Some(height), Some(width)) => Ok(Some((height, width))),
            (None, None) => Ok(None),
            (Some(_), None) => self.missing_side("resized_width"),
            (None, Some(_)) => self.missing_side("resized_height"),
        }
    }

    fn missing_side<T>(&self, key: &str) -> Result<T, MessageError> {
        Err(MessageError::Missing {
            at: self.path(key),
            wanted: "given together with its other side, in pixels",
        })
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, MessageError> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) if count > 0 => Ok(Some(count)),
                _ => Err(self.range(key, value, "be a whole number of at least 1")),
            },
        }
    }

    /// A number above 0.
    pub(super) fn rate(&self, key: &str) -> Result<Option<f64>, MessageError> {
        self.number(key, "be a number above 0", |x| x > 0.0)
    }

    /// A number of at least 0.
    pub(super) fn seconds(&self, key: &str) -> Result<Option<f64>, MessageError> {
        self.number(key, "be a number of seconds, at least 0", |x| x >= 0.0)
    }

    fn number(
        &self,
        key: &str,
        must: &str,
        ok: fn(f64) -> bool,
    ) -> Result<Option<f64>, MessageError> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if ok(number) => Ok(Some(number)),
                _ => Err(self.range(key, value, must)),
            },
        }
    }

    fn range(&self, key: &str, value: &Json, must: &str) -> MessageError {
        MessageError::Value { at: self.path(key), value: describe(value), must: must.into() }
    }
}
