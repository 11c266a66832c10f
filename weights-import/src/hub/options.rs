//! Where to download from, where to keep it, and with which token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub when `HF_ENDPOINT` says nothing else.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How [`resolve_model`](super::resolve_model) works. [`HubOptions::from_env`] reads the variables that the Python
/// tools read; [`Default`] is the same in an empty environment.
#[derive(Clone)]
pub struct HubOptions {
    /// Branch, tag or commit; nothing means `main`. Never read from the environment.
    pub revision: Option<String>,
    /// `HF_ENDPOINT`, without a slash at the end.
    pub endpoint: String,
    /// `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, or the file `HF_TOKEN_PATH` (`$HF_HOME/token`).
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `$HF_HOME/hub`. Nothing where no home directory is known.
    pub cache_dir: Option<PathBuf>,
    /// `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`): use the cache only.
    pub offline: bool,
    /// One bar per file on stderr (one line per file where stderr is no terminal).
    /// On, unless `HF_HUB_DISABLE_PROGRESS_BARS` is set.
    pub progress: bool,
    /// How often one call resumes a file whose connection broke, before it gives up (3).
    pub retries: u32,
    /// Longest time without a single byte before a request counts as dead (60 s).
    pub stall_timeout: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self::from_vars(|_| None)
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("progress", &self.progress)
            .field("retries", &self.retries)
            .field("stall_timeout", &self.stall_timeout)
            .finish()
    }
}

impl HubOptions {
    /// Options from this process's environment.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Options from any source of variables; empty values count as unset. Reads the token file, if there is one.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Self {
        let vars = Vars(&get);
        let home = vars.hf_home();
        let endpoint = vars.first(&["HF_ENDPOINT"]).unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let cache = vars.path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        Self {
            revision: None,
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: vars.token(home.as_deref()),
            cache_dir: cache.or_else(|| Some(home?.join("hub"))),
            offline: vars.is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            progress: !vars.is_true(&["HF_HUB_DISABLE_PROGRESS_BARS"]),
            retries: 3,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// The folder of caches: `$XDG_CACHE_HOME`, else `~/.cache`; nothing where no home directory is known.
pub fn cache_home() -> Option<PathBuf> {
    Vars(&|name| std::env::var(name).ok()).cache()
}

struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    /// The first of `names` that has a value.
    fn first(&self, names: &[&str]) -> Option<String> {
        let values = names.iter().filter_map(|name| (self.0)(name));
        values.map(|v| v.trim().to_string()).find(|v| !v.is_empty())
    }

    fn is_true(&self, names: &[&str]) -> bool {
        let value = self.first(names).unwrap_or_default().to_ascii_uppercase();
        matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    }

    /// A path in which a leading `~` stands for the home directory.
    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let text = self.first(names)?;
        match text.strip_prefix("~/") {
            Some(rest) => Some(self.user_home()?.join(rest)),
            None => Some(PathBuf::from(text)),
        }
    }

    fn user_home(&self) -> Option<PathBuf> {
        self.first(&["HOME", "USERPROFILE"]).map(PathBuf::from)
    }

    fn cache(&self) -> Option<PathBuf> {
        self.path(&["XDG_CACHE_HOME"]).or_else(|| Some(self.user_home()?.join(".cache")))
    }

    fn hf_home(&self) -> Option<PathBuf> {
        self.path(&["HF_HOME"]).or_else(|| Some(self.cache()?.join("huggingface")))
    }

    fn token(&self, home: Option<&Path>) -> Option<String> {
        let from_file = || {
            let path = self.path(&["HF_TOKEN_PATH"]).or_else(|| Some(home?.join("token")))?;
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim().to_string()).filter(|t| !t.is_empty())
        };
        self.first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(from_file)
    }
}
