//! One repository of the hub, through hf-hub's `ureq` interface, and what that interface leaves to its caller.
//!
//! hf-hub 0.4.3 gives the URLs, the token header, redirects, `Range` resume and the layout on disk. Added here: one
//! listing per call that pins a commit (so that a moving branch cannot mix files of two), lengths checked against it
//! and against `Content-Range`, an answer of 200 to a `Range` request told from a resumed one, a limit to silence,
//! retries, and errors in sentences. hf-hub 1.0 was not taken: it needs 280 crates (tokio, reqwest, xet) against 100,
//! and does not resume over plain HTTP.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::error::{HubError, io_error};
use super::files::{Listed, Listing};
use super::meter::{Gauge, Meter};
use super::options::HubOptions;
use crate::fetch;

/// A listing larger than this is none.
const MAX_LISTING_BYTES: u64 = 64 << 20;
/// How often a waiting call looks at the gauge.
const TICK: Duration = Duration::from_millis(50);

/// The repository `repo` at `options.endpoint`, downloading into `staging`.
pub(super) struct Remote<'a> {
    repo: &'a str,
    options: &'a HubOptions,
    endpoint: String,
    staging: PathBuf,
    api: Api,
}

impl<'a> Remote<'a> {
    pub fn new(repo: &'a str, options: &'a HubOptions, staging: PathBuf) -> Result<Self, HubError> {
        let endpoint = fetch::without_credentials(&options.endpoint);
        check_endpoint(&options.endpoint, &endpoint)?;
        let api = ApiBuilder::from_cache(Cache::new(staging.clone()))
            .with_endpoint(options.endpoint.trim_end_matches('/').to_string())
            .with_token(options.token.clone())
            .with_user_agent("qwen3-vl", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| HubError::BadEndpoint {
                endpoint: endpoint.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self { repo, options, endpoint, staging, api })
    }

    /// Asks which commit `revision` is and which files it has, in one request.
    pub fn listing(&self, revision: &str) -> Result<Listing, HubError> {
        let repo = Repo::with_revision(self.repo.into(), RepoType::Model, revision.into());
        let request = self.api.repo(repo).info_request().query("blobs", "true");
        let request = request.timeout(self.options.stall_timeout);
        // In a thread of its own: ureq 2 panics where a redirect leads to a URL without a host.
        let answer = std::thread::spawn(move || request.call().map_err(Box::new)).join();
        let response = answer
            .map_err(|_| {
                self.bad_listing("it redirects to something that is no http or https URL")
            })?
            .map_err(|error| self.listing_error(revision, error))?;
        let mut json = Vec::new();
        let mut body = response.into_reader().take(MAX_LISTING_BYTES);
        body.read_to_end(&mut json).map_err(|e| self.unreachable(e.to_string()))?;
        Listing::parse(&json).map_err(|reason| self.bad_listing(reason))
    }

    /// Downloads one file of `commit` into the staging directory, resuming what an earlier run left there.
    ///
    /// Returns what hf-hub made of it there: a link or a file of exactly the announced length.
    pub fn download(&self, commit: &str, file: &str, listed: &Listed) -> Result<PathBuf, HubError> {
        let (mut retries, mut restarted) = (0, false);
        loop {
            let resuming = self.has_part();
            match self.attempt(commit, file, listed) {
                Err(error) if is_passing(&error) && retries < self.options.retries => {
                    retries += 1;
                    tracing::warn!("{error}; attempt {retries} of {}", self.options.retries);
                    std::thread::sleep(Duration::from_millis(500) * retries);
                }
                // What an earlier run left does not fit (or the server ignores `Range`): once more, from nothing.
                Err(error) if resuming && !restarted && is_misfit(&error) => {
                    restarted = true;
                    tracing::warn!("{error}; starting it anew");
                    self.clear()?;
                }
                Err(error) => {
                    if is_misfit(&error) {
                        self.clear()?;
                    }
                    return Err(error);
                }
                Ok(path) => return Ok(path),
            }
        }
    }

    fn attempt(&self, commit: &str, file: &str, listed: &Listed) -> Result<PathBuf, HubError> {
        let gauge = Gauge::new(listed.size);
        let (sender, receiver) = mpsc::channel();
        let repo = Repo::with_revision(self.repo.into(), RepoType::Model, commit.into());
        let (api, name) = (self.api.repo(repo), file.to_string());
        let meter = Meter::new(&gauge, self.options.progress);
        std::thread::spawn(move || {
            let _ = sender.send(api.download_with_progress(&name, meter));
        });
        let path = self.wait(file, &gauge, &receiver)?;
        let length = std::fs::metadata(&path).map_err(io_error("read", &path))?.len();
        match gauge.expected() {
            Some(expected) if expected != length => Err(self.wrong_length(file, expected, length)),
            _ => Ok(path),
        }
    }

    /// Waits for the transfer's end, its refusal or its standstill.
    fn wait(
        &self,
        file: &str,
        gauge: &Arc<Gauge>,
        receiver: &mpsc::Receiver<Result<PathBuf, ApiError>>,
    ) -> Result<PathBuf, HubError> {
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(result) => return result.map_err(|error| self.api_error(file, gauge, error)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(
                        self.transfer(file, "the answer of the server could not be handled")
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if gauge.is_refused() {
                return Err(self.wrong_length(
                    file,
                    gauge.expected().unwrap_or(0),
                    gauge.claimed(),
                ));
            }
            if gauge.idle() > self.options.stall_timeout {
                gauge.refuse();
                self.remove_staged("lock");
                return Err(HubError::Stalled {
                    repo: self.repo.into(),
                    file: file.into(),
                    seconds: self.options.stall_timeout.as_secs(),
                });
            }
        }
    }

    // --- the staging directory

    fn staged_blobs(&self) -> PathBuf {
        let folder = Repo::model(self.repo.into()).folder_name();
        self.staging.join(folder).join("blobs")
    }

    fn has_part(&self) -> bool {
        with_extension(&self.staged_blobs(), "part").next().is_some()
    }

    fn remove_staged(&self, extension: &str) {
        for path in with_extension(&self.staged_blobs(), extension) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn clear(&self) -> Result<(), HubError> {
        match std::fs::remove_dir_all(&self.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &self.staging)(error))
            }
            _ => Ok(()),
        }
    }

    // --- errors

    fn listing_error(&self, revision: &str, error: Box<ureq::Error>) -> HubError {
        let response = match *error {
            ureq::Error::Status(_, response) => response,
            ureq::Error::Transport(error) => return self.unreachable(fetch::root_cause(&error)),
        };
        // The hub says in a header which of the two is unknown; a plain mirror does not.
        let code = response.header("x-error-code").unwrap_or_default();
        let wrong_revision =
            code == "RevisionNotFound" || (code.is_empty() && revision != super::MAIN);
        match response.status() {
            404 if wrong_revision => HubError::RevisionNotFound {
                repo: self.repo.into(),
                revision: revision.into(),
                endpoint: self.endpoint.clone(),
            },
            404 => {
                HubError::RepoNotFound { repo: self.repo.into(), endpoint: self.endpoint.clone() }
            }
            status => self.status("the list of files", status),
        }
    }

    fn status(&self, what: &str, status: u16) -> HubError {
        match status {
            401 | 403 => HubError::Unauthorized {
                repo: self.repo.into(),
                endpoint: self.endpoint.clone(),
                status,
                token_sent: self.options.token.is_some(),
            },
            _ => HubError::Status {
                what: what.into(),
                repo: self.repo.into(),
                endpoint: self.endpoint.clone(),
                status,
            },
        }
    }

    fn bad_listing(&self, reason: impl Into<String>) -> HubError {
        HubError::BadListing {
            repo: self.repo.into(),
            endpoint: self.endpoint.clone(),
            reason: reason.into(),
        }
    }

    fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable { repo: self.repo.into(), endpoint: self.endpoint.clone(), reason }
    }

    fn wrong_length(&self, file: &str, expected: u64, received: u64) -> HubError {
        HubError::WrongLength { repo: self.repo.into(), file: file.into(), expected, received }
    }

    fn transfer(&self, file: &str, reason: impl Into<String>) -> HubError {
        HubError::Transfer { repo: self.repo.into(), file: file.into(), reason: reason.into() }
    }

    fn api_error(&self, file: &str, gauge: &Gauge, error: ApiError) -> HubError {
        match error {
            ApiError::RequestError(error) => match *error {
                ureq::Error::Status(404, _) => {
                    HubError::FileNotFound { repo: self.repo.into(), file: file.into() }
                }
                ureq::Error::Status(status, _) => self.status(file, status),
                ureq::Error::Transport(error) => {
                    self.interrupted(file, gauge, fetch::root_cause(&error))
                }
            },
            ApiError::IoError(error) if is_disk(&error) => {
                io_error("write", self.staged_blobs())(error)
            }
            ApiError::IoError(error) => self.interrupted(file, gauge, error.to_string()),
            ApiError::InvalidResume => {
                self.wrong_length(file, gauge.expected().unwrap_or(0), gauge.claimed())
            }
            ApiError::LockAcquisition(_) => {
                self.transfer(file, "another process is downloading the same file")
            }
            other => self.transfer(file, other.to_string()),
        }
    }

    fn interrupted(&self, file: &str, gauge: &Gauge, reason: String) -> HubError {
        HubError::Interrupted {
            repo: self.repo.into(),
            file: file.into(),
            received: gauge.received(),
            expected: gauge.expected(),
            reason,
        }
    }
}

fn check_endpoint(endpoint: &str, shown: &str) -> Result<(), HubError> {
    let bad = |reason: String| HubError::BadEndpoint { endpoint: shown.into(), reason };
    let url = ureq::get(endpoint).request_url().map_err(|e| bad(e.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(()),
        other => Err(bad(format!("its scheme is `{other}`"))),
    }
}

fn with_extension(dir: &Path, extension: &str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(move |p| p.extension().is_some_and(|e| e == extension))
}

/// Failures that another attempt may not meet.
fn is_passing(error: &HubError) -> bool {
    match error {
        HubError::Interrupted { .. } | HubError::Stalled { .. } => true,
        HubError::Status { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

/// Failures after which the bytes on disk are worth nothing.
fn is_misfit(error: &HubError) -> bool {
    matches!(error, HubError::WrongLength { .. } | HubError::Status { status: 416, .. })
}

/// Errors of the file system, as opposed to those of a connection: hf-hub reports both as I/O errors.
fn is_disk(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        StorageFull
            | QuotaExceeded
            | FileTooLarge
            | ReadOnlyFilesystem
            | PermissionDenied
            | NotFound
            | AlreadyExists
            | NotADirectory
            | IsADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_errors_are_told_from_broken_connections() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(is_disk(&full));
        let text = io_error("write", "cache/blobs")(full).to_string();
        assert!(text.contains("cache/blobs") && text.contains("the disk is full"), "{text}");
        assert!(!is_disk(&io::Error::from(io::ErrorKind::UnexpectedEof)));
        assert!(!is_disk(&io::Error::from(io::ErrorKind::ConnectionReset)));
    }

    #[test]
    fn endpoints_are_http_urls() {
        check_endpoint("https://huggingface.co", "").unwrap();
        check_endpoint("http://127.0.0.1:8080", "").unwrap();
        for bad in ["huggingface.co", "ftp://h", "", "http://"] {
            assert!(check_endpoint(bad, bad).is_err(), "{bad}");
        }
    }
}
