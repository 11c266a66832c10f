//! Why a model could not be resolved to a directory.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Every way in which [`resolve_model`](super::resolve_model) fails.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a directory nor something that looks like a hub id.
    #[error("`{model}` is neither a directory nor a hub id such as Qwen/Qwen3-VL-2B-Instruct")]
    NotAModel { model: String },
    /// A file where its directory is wanted.
    #[error("`{}` is a file; give the directory that holds config.json, tokenizer.json and the weights", path.display())]
    NotADirectory { path: PathBuf },
    /// A revision was asked of a local directory.
    #[error("revision `{revision}` was asked for, but `{}` is a local directory, which has no revisions", path.display())]
    RevisionOfDirectory { path: PathBuf, revision: String },
    /// The revision cannot be one of the hub's.
    #[error(
        "`{revision}` is not a revision: give a branch, a tag or a commit made of letters, digits and . _ - / +"
    )]
    BadRevision { revision: String },
    /// `owner/name@this` and the option say different things.
    #[error(
        "two revisions were given: `{in_id}` in the model's id and `{option}` as an option; give one"
    )]
    TwoRevisions { in_id: String, option: String },
    /// The endpoint is no http(s) URL.
    #[error("HF_ENDPOINT `{endpoint}` is not an http or https URL: {reason}")]
    BadEndpoint { endpoint: String, reason: String },
    /// No cache directory could be derived from the environment.
    #[error("no directory to keep downloads in: set HF_HOME, HF_HUB_CACHE or HOME")]
    NoCacheDir,

    /// 401 or 403.
    #[error(
        "access to `{repo}` was refused ({status} from {endpoint}): the model is gated, private or does not exist; \
         check the name, accept its terms at {endpoint}/{repo} if it has any, and set HF_TOKEN to a token that may \
         read it{}", if *token_sent { " (the token that was sent is not accepted)" } else { "" }
    )]
    Unauthorized { repo: String, endpoint: String, status: u16, token_sent: bool },
    /// 404 for the repository.
    #[error("there is no model `{repo}` at {endpoint}, nor a directory of that name here")]
    RepoNotFound { repo: String, endpoint: String },
    /// 404 for the revision.
    #[error("`{repo}` has no revision `{revision}` at {endpoint}")]
    RevisionNotFound { repo: String, revision: String, endpoint: String },
    /// A listed file that the server does not give.
    #[error("`{repo}` lists `{file}`, but the server answers 404 for it")]
    FileNotFound { repo: String, file: String },
    /// Any other status.
    #[error("the server answered {status} for `{what}` of `{repo}` at {endpoint}")]
    Status { what: String, repo: String, endpoint: String, status: u16 },
    /// No answer to a request.
    #[error("cannot reach {endpoint} for `{repo}`: {reason}")]
    Unreachable { repo: String, endpoint: String, reason: String },
    /// The answer is not what the hub's interface gives.
    #[error("the answer of {endpoint} about `{repo}` is unusable: {reason}")]
    BadListing { repo: String, endpoint: String, reason: String },

    /// A file without which there is no model.
    #[error("`{repo}` (revision {revision}) has no `{file}`, without which it cannot be loaded")]
    MissingFile { repo: String, revision: String, file: String },
    /// model.safetensors.index.json cannot be used.
    #[error("`{}` is not a usable index of shards: {reason}", path.display())]
    BadIndex { path: PathBuf, reason: String },
    /// The connection broke within a file.
    #[error(
        "the download of `{file}` of `{repo}` broke off at {received} of {} bytes ({reason}); run again and it resumes there",
        expected.map_or_else(|| "an unknown number of".to_string(), |n| n.to_string())
    )]
    Interrupted { repo: String, file: String, received: u64, expected: Option<u64>, reason: String },
    /// Nothing came for too long.
    #[error(
        "the download of `{file}` of `{repo}` stands still: nothing came for {seconds} s; run again and it resumes there"
    )]
    Stalled { repo: String, file: String, seconds: u64 },
    /// The file is not as long as was announced. What came has been deleted.
    #[error(
        "`{file}` of `{repo}` should have {expected} bytes, but the server sent {received}; it was not kept"
    )]
    WrongLength { repo: String, file: String, expected: u64, received: u64 },
    /// The transfer failed in another way.
    #[error("cannot download `{file}` of `{repo}`: {reason}")]
    Transfer { repo: String, file: String, reason: String },

    /// Offline, and something is not in the cache.
    #[error(
        "`{repo}` (revision {revision}) is not complete in `{}`: {missing}; HF_HUB_OFFLINE is set, so nothing is downloaded",
        cache.display()
    )]
    Offline { repo: String, revision: String, cache: PathBuf, missing: String },
    /// The file system said no.
    #[error("cannot {action} `{}`: {}", path.display(), disk_reason(.source))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

fn disk_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "the disk is full ({error}); make room or point HF_HOME to a larger disk; what was downloaded is kept"
            )
        }
        _ => error.to_string(),
    }
}

/// For `map_err`: which action on which path failed.
pub(super) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> HubError {
    let path = path.into();
    move |source| HubError::Io { action, path, source }
}
