//! The part of the Hugging Face hub that a download needs, with faults on demand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::{Request, Server, respond, respond_head};

pub const REPO: &str = "tests/tiny";
pub const COMMIT: &str = "1111111111111111111111111111111111111111";

pub type Headers = Vec<(&'static str, String)>;

/// What goes wrong when a file's data (not its metadata) is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The connection closes after this many bytes of one answer, once.
    CutOnce(usize),
    /// The same, every time.
    CutAlways(usize),
    /// `Range` is answered with the whole file and status 200.
    IgnoreRange,
    /// The answer is complete, well-formed and this many bytes short of what was announced.
    Short(usize),
    /// `Content-Range` claims this many bytes more than the listing.
    Claim(usize),
    /// The whole file, then more bytes without end.
    Endless,
    /// Silence.
    Hang,
    /// This status, for data and metadata.
    Status(&'static str),
    /// This status once, then all is well.
    StatusOnce(&'static str),
}

/// The repository as the stand-in serves it.
#[derive(Clone, Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Branches and tags.
    pub refs: BTreeMap<String, String>,
    pub faults: BTreeMap<String, Fault>,
    /// Only this token may read.
    pub token: Option<String>,
    /// The listing leaves out sizes and blob names, as plain mirrors do.
    pub bare_listing: bool,
    /// The listing is answered with this instead.
    pub listing: Option<(&'static str, Headers, String)>,
}

pub struct Hub {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let state = State {
            files: files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect(),
            refs: [("main".to_string(), COMMIT.to_string())].into(),
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let server = Server::start(move |request, stream| answer(&shared, request, stream));
        Self { server, state }
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn fault(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(file.into(), fault);
    }

    /// The requests for `file`'s data, by the first byte that they ask for (metadata requests end at byte 0).
    pub fn starts(&self, file: &str) -> Vec<usize> {
        let suffix = format!("/{file}");
        let requests = self.server.requests();
        let data =
            requests.iter().filter(|r| r.path.ends_with(&suffix) && r.path.starts_with("/tests"));
        data.filter_map(Request::range).filter(|r| r.1.is_none()).map(|r| r.0).collect()
    }
}

/// A blob name such as the hub gives: 64 hexadecimal digits for large files, 40 for others.
pub fn blob_name(file: &str, data: &[u8]) -> String {
    let sum = data.iter().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b)));
    let digits = if is_large(file) { 64 } else { 40 };
    format!("{sum:016x}").repeat(4)[..digits].to_string()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors")
}

fn answer(state: &Mutex<State>, request: &Request, stream: &mut TcpStream) {
    let now = state.lock().unwrap().clone();
    if let Some(token) = &now.token
        && !request.path.starts_with("/cdn/")
        && request.header("authorization") != Some(&format!("Bearer {token}"))
    {
        return respond(stream, "401 Unauthorized", &[("X-Error-Code", "GatedRepo".into())], b"");
    }
    let path = request.path.clone();
    if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        return listing(&now, rest.split('?').next().unwrap(), stream);
    }
    let rest = path.strip_prefix(&format!("/{REPO}/resolve/")).or(path.strip_prefix("/cdn/"));
    match rest.and_then(|r| r.split_once('/')) {
        Some((_, file)) if now.files.contains_key(file) => {
            serve(state, &now, request, file, stream)
        }
        _ if path.starts_with("/api/") => {
            respond(stream, "404 Not Found", &[("X-Error-Code", "RepoNotFound".into())], b"")
        }
        _ => respond(stream, "404 Not Found", &[("X-Error-Code", "EntryNotFound".into())], b""),
    }
}

fn listing(now: &State, revision: &str, stream: &mut TcpStream) {
    if let Some((status, headers, body)) = &now.listing {
        return respond(stream, status, headers, body.as_bytes());
    }
    let known = now.refs.get(&revision.replace("%2F", "/")).cloned();
    let Some(sha) = known.or((revision == COMMIT).then(|| COMMIT.to_string())) else {
        let code = [("X-Error-Code", "RevisionNotFound".to_string())];
        return respond(stream, "404 Not Found", &code, b"");
    };
    let files = now.files.iter().map(|(name, data)| sibling(now, name, data));
    let json = serde_json::json!({ "sha": sha, "siblings": files.collect::<Vec<_>>() });
    respond(stream, "200 OK", &[], json.to_string().as_bytes());
}

fn sibling(now: &State, name: &str, data: &[u8]) -> serde_json::Value {
    let (blob, size) = (blob_name(name, data), data.len());
    match (now.bare_listing, is_large(name)) {
        (true, _) => serde_json::json!({ "rfilename": name }),
        (_, true) => {
            let lfs = serde_json::json!({ "sha256": blob, "size": size, "pointerSize": 134 });
            serde_json::json!({ "rfilename": name, "size": size, "blobId": "2".repeat(40), "lfs": lfs })
        }
        _ => serde_json::json!({ "rfilename": name, "size": size, "blobId": blob }),
    }
}

/// Large files live elsewhere, as on the hub: the address in the repository redirects.
fn serve(state: &Mutex<State>, now: &State, request: &Request, file: &str, stream: &mut TcpStream) {
    let data = &now.files[file];
    let etag = format!("\"{}\"", blob_name(file, data));
    let commit = now.refs.get("main").cloned().unwrap_or_default();
    if is_large(file) && !request.path.starts_with("/cdn/") {
        let headers = [
            ("Location", format!("http://{}/cdn/x/{file}", request.header("host").unwrap())),
            ("X-Linked-ETag", etag),
            ("X-Repo-Commit", commit),
        ];
        return respond(stream, "302 Found", &headers, b"");
    }
    let headers = vec![("ETag", etag), ("X-Repo-Commit", commit)];
    let metadata = request.range().is_some_and(|(_, last)| last.is_some());
    let fault = now.faults.get(file).copied();
    match fault {
        Some(Fault::Status(status)) => return respond(stream, status, &headers, b""),
        Some(Fault::StatusOnce(status)) if !metadata => {
            state.lock().unwrap().faults.remove(file);
            return respond(stream, status, &headers, b"");
        }
        Some(Fault::CutOnce(_)) if !metadata => {
            state.lock().unwrap().faults.remove(file);
        }
        _ => {}
    }
    let data_fault = fault.filter(|f| !metadata || matches!(f, Fault::Claim(_)));
    send(stream, request, data, headers, data_fault);
}

fn send(
    stream: &mut TcpStream,
    request: &Request,
    data: &[u8],
    mut headers: Headers,
    fault: Option<Fault>,
) {
    let (from, last) = request.range().unwrap_or((0, None));
    let from = if fault == Some(Fault::IgnoreRange) { 0 } else { from };
    if from >= data.len() {
        return respond(stream, "416 Range Not Satisfiable", &headers, b"");
    }
    let part = &data[from..last.map_or(data.len(), |l| (l + 1).min(data.len()))];
    let extra = if let Some(Fault::Claim(n)) = fault { n } else { 0 };
    let last = from + part.len() - 1;
    headers.push(("Content-Range", format!("bytes {from}-{last}/{}", data.len() + extra)));
    let status = if fault == Some(Fault::IgnoreRange) { "200 OK" } else { "206 Partial Content" };
    match fault {
        Some(Fault::CutOnce(n) | Fault::CutAlways(n)) => {
            headers.push(("Content-Length", part.len().to_string()));
            respond_head(stream, status, &headers);
            let _ = stream.write_all(&part[..n.min(part.len())]);
        }
        Some(Fault::Short(n)) => respond(stream, status, &headers, &part[..part.len() - n]),
        Some(Fault::Endless) => {
            headers.push(("Transfer-Encoding", "chunked".into()));
            respond_head(stream, status, &headers);
            let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
            while stream.write_all(&chunk).is_ok() {}
        }
        Some(Fault::Hang) => drop(stream.read(&mut [0])),
        _ => respond(stream, status, &headers, part),
    }
}
