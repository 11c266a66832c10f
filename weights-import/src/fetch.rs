//! Bytes of one picture or video, from wherever the user points: a path, a `file://` URL, an http(s) URL or a data URI.
//!
//! Everything here is bounded: in bytes (counted while reading, whatever `Content-Length` says), in time and in
//! redirects. Nothing is decoded; the caller gets the bytes as they are.

mod data_uri;
mod policy;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

pub use data_uri::data_uri;
pub use policy::{SourcePolicy, SourceRules};

/// What this program calls itself to the servers it talks to.
pub const USER_AGENT: &str = concat!("qwen3-vl/", env!("CARGO_PKG_VERSION"));

/// Bounds of one fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchLimits {
    /// Most bytes that are accepted (100 MiB).
    pub max_bytes: u64,
    /// Most time until the connection stands (10 s).
    pub connect_timeout: Duration,
    /// Most time from the first packet to the last byte (60 s). Name resolution is the system's and not counted.
    pub total_timeout: Duration,
    /// Most redirects that are followed (5).
    pub max_redirects: u32,
    /// Which files and addresses may be named (all).
    pub policy: SourcePolicy,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            max_bytes: 100 << 20,
            connect_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(60),
            max_redirects: 5,
            policy: SourcePolicy::Trusted,
        }
    }
}

/// Why the bytes of a source could not be had. URLs are shown without user and password, data URIs by their beginning.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The text is no URL.
    #[error("`{url}` is not a valid URL: {reason}")]
    BadUrl { url: String, reason: String },
    /// Neither http, https, file nor data.
    #[error(
        "cannot read `{url}`: the scheme `{scheme}` is not supported; use http, https, file, data or a path"
    )]
    UnsupportedScheme { url: String, scheme: String },
    /// The server answered with something other than success.
    #[error("cannot fetch `{url}`: the server answered {status} {text}")]
    Status { url: String, status: u16, text: String },
    /// More bytes than [`FetchLimits::max_bytes`].
    #[error("`{from}` is too large: it has {} bytes and the limit is {limit} bytes", at_least(.size, .limit))]
    TooLarge {
        from: String,
        /// Size where it was announced, else nothing: reading stopped at the limit.
        size: Option<u64>,
        limit: u64,
    },
    /// [`FetchLimits::connect_timeout`] or [`FetchLimits::total_timeout`] passed.
    #[error("cannot fetch `{url}`: no complete answer within {seconds} s")]
    Timeout { url: String, seconds: f64 },
    /// The host's name has no address.
    #[error("cannot fetch `{url}`: the host name `{host}` could not be resolved ({reason})")]
    Dns { url: String, host: String, reason: String },
    /// Nobody listens there.
    #[error("cannot fetch `{url}`: the connection failed ({reason})")]
    Connect { url: String, reason: String },
    /// An address that [`SourcePolicy`] does not allow.
    #[error("`{url}` may not be fetched: {reason}")]
    Forbidden { url: String, reason: String },
    /// More redirects than [`FetchLimits::max_redirects`].
    #[error("cannot fetch `{url}`: more than {max} redirects")]
    TooManyRedirects { url: String, max: u32 },
    /// The connection broke within the answer.
    #[error("cannot fetch `{url}`: the answer broke off after {received} bytes ({reason})")]
    Interrupted { url: String, received: usize, reason: String },
    /// Any other failure of the transfer (TLS, malformed answer, proxy).
    #[error("cannot fetch `{url}`: {reason}")]
    Transport { url: String, reason: String },
    /// A malformed `data:` URI.
    #[error("the data URI `{start}` is malformed: {reason}")]
    DataUri { start: String, reason: String },
    /// There is no such file.
    #[error("there is no file `{}`", path.display())]
    NoFile { path: PathBuf },
    /// The receiver of the bytes asked to stop.
    #[error("the download of `{url}` was stopped")]
    Stopped { url: String },
    /// A bare path where sources are not trusted.
    #[error("`{}` is a path, but only data URIs, http(s) URLs and allowed file URLs may be named here", path.display())]
    ForbiddenPath { path: PathBuf },
    /// A file URL where none is allowed, or one that leads out of the allowed folder, or to nothing.
    #[error("`file://{}` is not a readable file below the folder that --allowed-local-media-path allows", path.display())]
    ForbiddenFile { path: PathBuf },
    /// The path is a directory.
    #[error("`{}` is a directory, a file is needed", path.display())]
    Directory { path: PathBuf },
    /// The file is there and cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

fn at_least(size: &Option<u64>, limit: &u64) -> String {
    size.map_or_else(|| format!("more than {limit}"), |s| s.to_string())
}

/// Reads `source`, which is a path, a `file://` URL, an http(s) URL or a data URI, within `limits`.
///
/// # Errors
/// [`FetchError`], naming the source.
pub fn read_source(source: &str, limits: &FetchLimits) -> Result<Vec<u8>, FetchError> {
    match scheme(source).as_deref() {
        Some("data") => data_uri::bounded(source, limits),
        Some("http" | "https") => fetch(source, limits),
        Some("file") => read_file(&limits.policy.file(file_url_path(source)?)?, limits),
        Some(other) => Err(unsupported(source, other)),
        None => read_file(&limits.policy.path(Path::new(source))?, limits),
    }
}

/// The lower-case scheme of `source`: what stands before `://`, and `data` before a mere colon.
pub(crate) fn scheme(source: &str) -> Option<String> {
    let (head, rest) = source.split_once(':')?;
    let head = head.to_ascii_lowercase();
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let is_scheme =
        head.starts_with(|c: char| c.is_ascii_alphabetic()) && head.chars().all(letters);
    (is_scheme && (rest.starts_with("//") || head == "data")).then_some(head)
}

/// Whether `source` is on another server.
pub fn is_remote(source: &str) -> bool {
    matches!(scheme(source).as_deref(), Some("http" | "https"))
}

pub(crate) fn unsupported(url: &str, scheme: &str) -> FetchError {
    FetchError::UnsupportedScheme { url: shown(url), scheme: scheme.to_string() }
}

/// `url` as errors show it: without credentials, cut at 200 characters.
pub(crate) fn shown(url: &str) -> String {
    let plain = without_credentials(url);
    match plain.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
    }
}

pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_string();
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_string(),
    }
}

// --- files

pub(crate) fn file_url_path(url: &str) -> Result<PathBuf, FetchError> {
    let bad = |reason: &str| FetchError::BadUrl { url: shown(url), reason: reason.to_string() };
    let rest = &url["file://".len()..];
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(bad("a file URL needs an absolute path, as in file:///home/me/photo.jpg"));
    }
    let text = percent_decode_str(path).decode_utf8().map_err(|_| bad("its path is not UTF-8"))?;
    // file:///C:/photo.jpg names C:/photo.jpg on Windows.
    let drive = cfg!(windows) && text.as_bytes().get(2) == Some(&b':');
    Ok(PathBuf::from(&text[usize::from(drive)..]))
}

fn read_file(path: &Path, limits: &FetchLimits) -> Result<Vec<u8>, FetchError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FetchError::NoFile { path: path.into() },
        _ => FetchError::File { path: path.into(), source },
    };
    let from = || path.display().to_string();
    let about = std::fs::metadata(path).map_err(failed)?;
    if about.is_dir() {
        return Err(FetchError::Directory { path: path.into() });
    }
    check_size(Some(about.len()), limits, from)?;
    let mut bytes = Vec::with_capacity(about.len() as usize);
    let mut file = File::open(path).map_err(failed)?.take(limits.max_bytes.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(failed)?;
    check_read(&bytes, limits, from)?;
    Ok(bytes)
}

fn check_size(
    size: Option<u64>,
    limits: &FetchLimits,
    from: impl Fn() -> String,
) -> Result<(), FetchError> {
    match size {
        Some(bytes) if bytes > limits.max_bytes => {
            Err(FetchError::TooLarge { from: from(), size, limit: limits.max_bytes })
        }
        _ => Ok(()),
    }
}

/// For a source whose size was not announced: reading went to one byte beyond the limit.
fn check_read(
    bytes: &[u8],
    limits: &FetchLimits,
    from: impl Fn() -> String,
) -> Result<(), FetchError> {
    if bytes.len() as u64 <= limits.max_bytes {
        return Ok(());
    }
    Err(FetchError::TooLarge { from: from(), size: None, limit: limits.max_bytes })
}

// --- http

/// Downloads an http(s) URL within `limits`. Only a complete `2xx` answer is returned.
///
/// `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` are honoured except for this machine and for hosts in `NO_PROXY`.
///
/// # Errors
/// [`FetchError`], naming the URL.
pub fn fetch(url: &str, limits: &FetchLimits) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    fetch_parts(url, limits, &mut |part, _| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}

/// Takes the bytes of an answer as they come, with the size of the whole where the server announced it.
pub(crate) type Receive<'a> = dyn FnMut(&[u8], Option<u64>) -> Result<(), FetchError> + 'a;

/// As [`fetch`], but hands the bytes over as they come. What was handed over is not complete unless this succeeds.
pub(crate) fn fetch_parts(
    url: &str,
    limits: &FetchLimits,
    receive: &mut Receive<'_>,
) -> Result<(), FetchError> {
    let response = Transfer::new(url, limits).response()?;
    let announced = response.header("content-length").and_then(|n| n.parse().ok());
    check_size(announced, limits, || shown(url))?;
    let mut body = response.into_reader();
    let (mut part, mut received) = (vec![0; 1 << 16], 0);
    loop {
        let count = match body.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(body_error(url, received, &error, limits)),
        };
        received += count;
        if received as u64 > limits.max_bytes {
            let (from, limit) = (shown(url), limits.max_bytes);
            return Err(FetchError::TooLarge { from, size: None, limit });
        }
        receive(&part[..count], announced)?;
    }
}

/// One URL on its way through redirects.
struct Transfer<'a> {
    url: &'a str,
    limits: &'a FetchLimits,
    start: Instant,
}

impl<'a> Transfer<'a> {
    fn new(url: &'a str, limits: &'a FetchLimits) -> Self {
        Self { url, limits, start: Instant::now() }
    }

    /// The first answer that is no redirect. Redirects are followed here, because ureq 2 panics where one leads to a
    /// URL without a host, and so that every hop is checked.
    fn response(&self) -> Result<ureq::Response, FetchError> {
        let mut at = parse_http(self.url)?;
        for _ in 0..=self.limits.max_redirects {
            let response = self.call(&at)?;
            match redirect(&response) {
                Some(location) => at = self.next(&at, &location)?,
                None if (200..300).contains(&response.status()) => return Ok(response),
                None => return Err(self.refused(&response)),
            }
        }
        Err(FetchError::TooManyRedirects { url: shown(self.url), max: self.limits.max_redirects })
    }

    fn call(&self, at: &Url) -> Result<ureq::Response, FetchError> {
        let remaining = self.limits.total_timeout.saturating_sub(self.start.elapsed());
        let host = at.host_str().unwrap_or_default();
        let no_proxy = ["NO_PROXY", "no_proxy"].iter().find_map(|k| std::env::var(k).ok());
        let policy = self.limits.policy.clone();
        let by_proxy =
            policy.any_address() && proxied(host, no_proxy.as_deref().unwrap_or_default());
        let agent = ureq::AgentBuilder::new()
            .resolver(move |name: &str| policy.resolve(name))
            .user_agent(USER_AGENT)
            .timeout_connect(self.limits.connect_timeout.min(remaining))
            .timeout(remaining)
            .redirects(0)
            .try_proxy_from_env(by_proxy)
            .build();
        match agent.request_url("GET", at).call() {
            Ok(response) => Ok(response),
            Err(ureq::Error::Status(_, response)) => Err(self.refused(&response)),
            Err(ureq::Error::Transport(error)) => {
                Err(transport_error(self.url, at, &error, self.limits))
            }
        }
    }

    fn next(&self, at: &Url, location: &str) -> Result<Url, FetchError> {
        let to = at.join(location).ok().filter(|to| matches!(to.scheme(), "http" | "https"));
        to.ok_or_else(|| FetchError::Transport {
            url: shown(self.url),
            reason: format!("it redirects to `{}`, which is no http or https URL", shown(location)),
        })
    }

    fn refused(&self, response: &ureq::Response) -> FetchError {
        FetchError::Status {
            url: shown(self.url),
            status: response.status(),
            text: response.status_text().to_string(),
        }
    }
}

fn redirect(response: &ureq::Response) -> Option<String> {
    let moved = matches!(response.status(), 301 | 302 | 303 | 307 | 308);
    moved.then(|| response.header("location").map(str::to_string))?
}

fn parse_http(url: &str) -> Result<Url, FetchError> {
    match scheme(url).as_deref() {
        Some("http" | "https") => {}
        other => return Err(unsupported(url, other.unwrap_or_default())),
    }
    Url::parse(url)
        .map_err(|error| FetchError::BadUrl { url: shown(url), reason: error.to_string() })
}

/// Whether requests to `host` go through the proxy that the environment names.
fn proxied(host: &str, no_proxy: &str) -> bool {
    let local = matches!(host, "localhost" | "::1" | "[::1]") || host.starts_with("127.");
    let excluded = no_proxy.split(',').map(|e| e.trim().trim_start_matches('.')).any(|e| {
        let suffix = host.strip_suffix(e);
        e == "*" || (!e.is_empty() && suffix.is_some_and(|s| s.is_empty() || s.ends_with('.')))
    });
    !local && !excluded
}

fn transport_error(
    url: &str,
    at: &Url,
    error: &ureq::Transport,
    limits: &FetchLimits,
) -> FetchError {
    use ureq::ErrorKind as Kind;
    let reason = root_cause(error);
    let url_shown = shown(url);
    match error.kind() {
        _ if timed_out(error) && error.kind() == Kind::ConnectionFailed => {
            timeout(url, limits.connect_timeout)
        }
        _ if timed_out(error) => timeout(url, limits.total_timeout),
        _ if reason.contains(policy::PRIVATE) => FetchError::Forbidden { url: url_shown, reason },
        Kind::Dns => FetchError::Dns {
            host: at.host_str().unwrap_or_default().to_string(),
            url: url_shown,
            reason,
        },
        Kind::ConnectionFailed => FetchError::Connect { url: url_shown, reason },
        _ => FetchError::Transport { url: url_shown, reason },
    }
}

fn body_error(url: &str, received: usize, error: &io::Error, limits: &FetchLimits) -> FetchError {
    match is_timeout(error) {
        true => timeout(url, limits.total_timeout),
        false => FetchError::Interrupted { url: shown(url), received, reason: error.to_string() },
    }
}

fn timeout(url: &str, after: Duration) -> FetchError {
    FetchError::Timeout { url: shown(url), seconds: after.as_secs_f64() }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn timed_out(error: &ureq::Transport) -> bool {
    sources(error).any(|e| e.downcast_ref::<io::Error>().is_some_and(is_timeout))
}

/// The innermost cause of a failed request: the system's own words, without the URL that our sentence has already.
pub(crate) fn root_cause(error: &ureq::Transport) -> String {
    let inner = sources(error).last().map(ToString::to_string);
    inner.unwrap_or_else(|| error.message().unwrap_or("the request failed").to_string())
}

fn sources<'a>(
    error: &'a ureq::Transport,
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |e| e.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_is_what_precedes_two_slashes() {
        assert_eq!(scheme("HTTPS://a/b").as_deref(), Some("https"));
        assert_eq!(scheme("data:,x").as_deref(), Some("data"));
        assert_eq!(scheme("C:\\a.png"), None);
        assert_eq!(scheme("a:b.png"), None);
        assert_eq!(scheme("pictures/a.png"), None);
        assert_eq!(scheme("ftp://h/x").as_deref(), Some("ftp"));
    }

    #[test]
    fn proxies_are_passed_by_for_local_and_listed_hosts() {
        assert!(proxied("example.org", ""));
        assert!(!proxied("localhost", ""));
        assert!(!proxied("127.0.0.1", ""));
        assert!(!proxied("a.example.org", "other.net, .example.org"));
        assert!(!proxied("example.org", "example.org"));
        assert!(proxied("badexample.org", "example.org"));
        assert!(!proxied("anything", "*"));
    }

    #[test]
    fn urls_are_shown_without_secrets_and_short() {
        assert_eq!(shown("https://me:pw@host/a@b"), "https://host/a@b");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        assert_eq!(shown(&format!("https://h/{}", "x".repeat(500))).len(), 203);
    }

    #[test]
    fn file_urls_are_percent_decoded_and_absolute() {
        assert_eq!(file_url_path("file:///a%20b.png").unwrap(), Path::new("/a b.png"));
        assert_eq!(file_url_path("FILE://localhost/a").unwrap(), Path::new("/a"));
        assert!(matches!(file_url_path("file://host/a"), Err(FetchError::BadUrl { .. })));
    }
}
