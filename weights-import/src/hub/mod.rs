//! From what the user calls a model, a directory or a hub id, to a directory with its files.
//!
//! ```no_run
//! use qwen3_vl_weights::hub::{HubOptions, resolve_model};
//!
//! let dir = resolve_model("Qwen/Qwen3-VL-2B-Instruct", &HubOptions::from_env())?;
//! # Ok::<(), qwen3_vl_weights::hub::HubError>(())
//! ```
//!
//! The files are listed with one request to the hub's interface rather than probed one by one: it answers at once
//! which commit a branch is at, which of the optional files exist (a probe of each would cost a request and a 404),
//! how long each is (so that a short or long answer is noticed) and which blob it is (so that a commit that touches
//! only the README downloads nothing). Only what loading needs is downloaded.

mod cache;
mod error;
mod files;
mod id;
mod meter;
mod options;
mod remote;

use std::path::{Path, PathBuf};

pub use error::HubError;
pub use options::{DEFAULT_ENDPOINT, HubOptions, cache_home};

use cache::RepoCache;
use files::Listing;
use id::{HubId, check_revision, is_commit};
use remote::Remote;

use crate::source::is_gguf;

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// Returns the directory of `model`: the directory itself if it is one, the path of a GGUF file, else the directory of the
/// hub id `owner/name` or `owner/name@revision` in the cache, downloading what is not there.
///
/// A complete cache costs one request (has the branch moved?), or none if the revision is a full commit or
/// `options.offline` is set; if the hub cannot be reached, a complete cache is used and a warning logged.
///
/// # Errors
/// [`HubError`], naming the repository, file and cause. An interrupted download resumes with the next call.
pub fn resolve_model(model: &str, options: &HubOptions) -> Result<PathBuf, HubError> {
    let path = Path::new(model);
    if path.is_dir() || is_gguf(path) {
        return local_directory(path, options);
    }
    if path.is_file() {
        return Err(HubError::NotADirectory { path: path.into() });
    }
    let id = HubId::parse(model).ok_or_else(|| HubError::NotAModel { model: model.into() })?;
    Job::new(&id, options)?.run()
}

fn local_directory(path: &Path, options: &HubOptions) -> Result<PathBuf, HubError> {
    match &options.revision {
        None => Ok(path.into()),
        Some(revision) => {
            Err(HubError::RevisionOfDirectory { path: path.into(), revision: revision.clone() })
        }
    }
}

/// One repository at one revision, to be had in the cache.
struct Job<'a> {
    repo: &'a str,
    revision: &'a str,
    options: &'a HubOptions,
    cache_dir: &'a Path,
    cache: RepoCache,
}

impl<'a> Job<'a> {
    fn new(id: &'a HubId, options: &'a HubOptions) -> Result<Self, HubError> {
        let revision = match (&id.revision, &options.revision) {
            (Some(a), Some(b)) if a != b => {
                return Err(HubError::TwoRevisions { in_id: a.clone(), option: b.clone() });
            }
            (Some(r), _) | (None, Some(r)) => r,
            (None, None) => MAIN,
        };
        check_revision(revision)?;
        let cache_dir = options.cache_dir.as_deref().ok_or(HubError::NoCacheDir)?;
        Ok(Self {
            repo: &id.repo,
            revision,
            options,
            cache_dir,
            cache: RepoCache::new(cache_dir, &id.repo),
        })
    }

    fn run(&self) -> Result<PathBuf, HubError> {
        let cached = self.cache.complete(self.revision);
        match cached {
            Ok(dir) if is_commit(self.revision) || self.options.offline => return Ok(dir),
            Err(missing) if self.options.offline => return Err(self.offline(missing)),
            _ => {}
        }
        let remote = Remote::new(self.repo, self.options, self.cache.staging())?;
        match (remote.listing(self.revision), cached) {
            (Err(error), Ok(dir)) if is_outage(&error) => {
                tracing::warn!("{error}; using what was downloaded earlier in {}", dir.display());
                Ok(dir)
            }
            (listing, _) => self.obtain(&remote, &listing?),
        }
    }

    fn obtain(&self, remote: &Remote<'_>, listing: &Listing) -> Result<PathBuf, HubError> {
        if let Some(file) = listing.missing() {
            return Err(self.missing_file(file));
        }
        let known = self.cache.commit_of(self.revision).as_ref() == Some(&listing.commit);
        // A cache that is complete is not written to: it may be another user's.
        if !known || !self.has_all(listing) {
            let _lock = self.cache.lock(self.options.progress)?;
            self.download_all(remote, listing)?;
            self.cache.remove_staging();
            self.cache.write_ref(self.revision, &listing.commit)?;
        }
        Ok(self.cache.snapshot(&listing.commit))
    }

    /// Whether the cache holds everything that `listing` offers of the model.
    fn has_all(&self, listing: &Listing) -> bool {
        let has = |name: &str| {
            let listed = listing.files.get(name);
            listed.is_some_and(|l| self.cache.has(&listing.commit, name, l))
        };
        let index = self.cache.snapshot(&listing.commit).join(files::INDEX);
        let weights = || match listing.is_sharded() {
            true => {
                has(files::INDEX) && files::shards(&index).is_ok_and(|s| s.iter().all(|n| has(n)))
            }
            false => has(files::SINGLE),
        };
        listing.small_files().into_iter().all(has) && weights()
    }

    fn download_all(&self, remote: &Remote<'_>, listing: &Listing) -> Result<(), HubError> {
        for name in listing.small_files() {
            self.download(remote, listing, name)?;
        }
        if !listing.is_sharded() {
            return self.download(remote, listing, files::SINGLE);
        }
        self.download(remote, listing, files::INDEX)?;
        let shards = files::shards(&self.cache.snapshot(&listing.commit).join(files::INDEX))?;
        if let Some(absent) = shards.iter().find(|name| !listing.files.contains_key(*name)) {
            return Err(self.missing_file(absent));
        }
        shards.iter().try_for_each(|name| self.download(remote, listing, name))
    }

    fn download(&self, remote: &Remote<'_>, listing: &Listing, name: &str) -> Result<(), HubError> {
        let (commit, listed) =
            (&listing.commit, listing.files.get(name).cloned().unwrap_or_default());
        if listed.size == Some(0) {
            return Err(HubError::BadListing {
                repo: self.repo.into(),
                endpoint: self.options.endpoint.clone(),
                reason: format!("it lists `{name}` as an empty file"),
            });
        }
        if self.cache.has(commit, name, &listed) || self.cache.adopt(commit, name, &listed)? {
            return Ok(());
        }
        let staged = remote.download(commit, name, &listed)?;
        self.cache.promote(&staged, commit, name)
    }

    fn missing_file(&self, file: &str) -> HubError {
        HubError::MissingFile {
            repo: self.repo.into(),
            revision: self.revision.into(),
            file: file.into(),
        }
    }

    fn offline(&self, missing: String) -> HubError {
        HubError::Offline {
            repo: self.repo.into(),
            revision: self.revision.into(),
            cache: self.cache_dir.into(),
            missing,
        }
    }
}

/// Failures of the network or the server, as opposed to its answers.
fn is_outage(error: &HubError) -> bool {
    match error {
        HubError::Unreachable { .. } => true,
        HubError::Status { status, .. } => *status >= 500,
        _ => false,
    }
}
