//! Who may use the server.

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::ApiError;

/// The keys of which requests must bring one, as digests of equal length.
#[derive(Debug, Clone)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// The keys `keys`; none means that none is asked for.
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// Lets a request pass, and tells the key's digest. The time that takes does not depend on the key.
    ///
    /// # Errors
    /// 401 without a right key.
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<[u8; 32]>, ApiError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let Some(key) = given(headers) else {
            let message = "no API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
            return Err(ApiError::of(StatusCode::UNAUTHORIZED, "missing_api_key", message));
        };
        let digest: [u8; 32] = Sha256::digest(key).into();
        let same = self.0.iter().map(|known| known.ct_eq(&digest));
        match bool::from(same.fold(Choice::from(0), |any, one| any | one)) {
            true => Ok(Some(digest)),
            false => {
                let message = "the API key is not right";
                Err(ApiError::of(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
            }
        }
    }
}

fn given(headers: &HeaderMap) -> Option<&str> {
    if let Some(bearer) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = bearer.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_right_key_passes_by_either_header() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        for (name, value) in
            [("authorization", "Bearer two"), ("authorization", "bearer one"), ("x-api-key", "one")]
        {
            assert!(keys.check(&headers(name, value)).unwrap().is_some(), "{name}: {value}");
        }
        for (name, value) in
            [("authorization", "Bearer three"), ("authorization", "Basic one"), ("x-api-key", "")]
        {
            let error = keys.check(&headers(name, value)).unwrap_err();
            assert_eq!(error.status, StatusCode::UNAUTHORIZED, "{name}: {value}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert!(Keys::new(&[]).check(&HeaderMap::new()).unwrap().is_none());
    }
}
