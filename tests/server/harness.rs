//! A server of this build on a free port, and a small client.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common;

/// Long enough for a loaded machine, short enough to fail.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Server {
    pub child: Child,
    pub url: String,
    agent: ureq::Agent,
    log: Arc<Mutex<Vec<String>>>,
}

pub fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qwen3-vl"));
    for name in ["QWEN3_VL_MODEL", "QWEN3_VL_DTYPE", "RUST_LOG", "QWEN3_VL_API_KEY"] {
        command.env_remove(name);
    }
    command.env("QWEN3_VL_DEVICE", &common::cpu_devices()[0]).env("HF_HUB_OFFLINE", "1");
    command
}

impl Server {
    /// Serves `model` ([`place_of`]) with further arguments, and waits until it is ready.
    pub fn start(model: &str, arguments: &[&str]) -> Self {
        Self::start_for(agent(), model, arguments)
    }

    /// As [`Self::start`], asked by a client with settings of its own.
    pub fn start_for(agent: ureq::AgentBuilder, model: &str, arguments: &[&str]) -> Self {
        Self::launch(program(), agent, model, arguments)
    }

    /// As [`Self::start`], with variables in the environment of the server.
    #[cfg(feature = "cuda")]
    pub fn start_where(variables: &[(&str, &str)], model: &str, arguments: &[&str]) -> Self {
        let mut program = program();
        program.envs(variables.iter().copied());
        Self::launch(program, agent(), model, arguments)
    }

    fn launch(
        mut program: Command,
        agent: ureq::AgentBuilder,
        model: &str,
        arguments: &[&str],
    ) -> Self {
        let mut child = program
            .args([
                "serve",
                place_of(model).to_str().unwrap(),
                "--port",
                "0",
                "--alias",
                "fixture",
                "--quiet",
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let url = lines.find_map(|line| {
            let url = line.strip_prefix("listening on ").map(str::to_owned);
            said.push(line);
            url
        });
        let url = url.unwrap_or_else(|| panic!("the server did not start: {}", said.join("\n")));
        // The log must be read, or the server would wait for its reader; what panics is told.
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines {
                if is_complaint(&line) {
                    println!("server: {line}");
                }
                heard.lock().unwrap().push(line);
            }
        });
        let server = Self { child, url, agent: agent.build(), log };
        server.wait_for("health", || server.get("/health").0 == 200);
        server
    }

    /// What the server has logged of panics and faults of its own.
    pub fn complaints(&self) -> Vec<String> {
        self.logged(is_complaint)
    }

    /// The lines of its log that are `wanted`.
    pub fn logged(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| wanted(line)).cloned().collect()
    }

    /// Memory of the server's process, where the system tells it.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    pub fn wait_for(&self, what: &str, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !ready() {
            assert!(begun.elapsed() < PATIENCE, "no {what} after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        told(self.agent.get(&format!("{}{path}", self.url)).call())
    }

    pub fn delete(&self, path: &str) -> (u16, String) {
        told(self.agent.delete(&format!("{}{path}", self.url)).call())
    }

    pub fn request(&self, path: &str) -> ureq::Request {
        self.agent.post(&format!("{}{path}", self.url))
    }

    /// Status and JSON of a POST.
    pub fn try_post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.request(path).set("content-type", "application/json");
        let (status, text) = told(request.send_string(&body.to_string()));
        let json = serde_json::from_str(&text);
        (status, json.unwrap_or_else(|error| panic!("{path}: {status} {text}: {error}")))
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, json) = self.try_post(path, body);
        assert_eq!(status, 200, "{path}: {json}");
        json
    }

    pub fn chat(&self, body: &Value) -> Value {
        self.post("/v1/chat/completions", body)
    }

    /// The `data` lines of a streamed answer, `[DONE]` included.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let reply = self.open_stream(path, body);
        let lines = BufReader::new(reply).lines().map(Result::unwrap);
        lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect()
    }

    pub fn open_stream(&self, path: &str, body: &Value) -> Box<dyn Read + Send + Sync> {
        let request = self.request(path).set("content-type", "application/json");
        let reply = request.send_string(&body.to_string()).unwrap();
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        reply.into_reader()
    }

    /// A counter or gauge of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Tells the server to stop, as a service manager does, and waits for its exit code.
    #[cfg(unix)]
    pub fn terminate(&mut self) {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }
}

fn is_complaint(line: &str) -> bool {
    line.contains("panicked") || line.contains("ERROR")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that is patient and asks no proxy.
pub fn agent() -> ureq::AgentBuilder {
    ureq::AgentBuilder::new().timeout(PATIENCE).try_proxy_from_env(false)
}

/// What to name to the program for a fixture, for a folder elsewhere or for `nano`.
pub fn place_of(model: &str) -> PathBuf {
    if model == "nano" { model.into() } else { common::fixtures().join(model) }
}

fn told(result: Result<ureq::Response, ureq::Error>) -> (u16, String) {
    match result {
        Ok(reply) | Err(ureq::Error::Status(_, reply)) => {
            let mut bytes = Vec::new();
            let status = reply.status();
            reply.into_reader().read_to_end(&mut bytes).unwrap();
            (status, String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) => panic!("{error}"),
    }
}

/// A number of the environment, for tests that can be made longer.
pub fn number(name: &str, usual: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => usual,
    }
}

/// A picture of the fixtures as a data URI.
pub fn picture(name: &str) -> String {
    data_uri(name, if name.ends_with("jpg") { "image/jpeg" } else { "image/png" })
}

/// A file of the fixtures as a data URI.
pub fn data_uri(name: &str, kind: &str) -> String {
    data_uri_of(&std::fs::read(common::fixtures().join(name)).unwrap(), kind)
}

pub fn data_uri_of(bytes: &[u8], kind: &str) -> String {
    use base64::Engine as _;
    format!("data:{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// A greedy chat request with a text, and pictures of the fixtures before it.
pub fn ask(text: &str, pictures: &[&str], tokens: usize) -> Value {
    ask_of(text, pictures.iter().map(|name| picture(name)), tokens)
}

/// A greedy chat request with a text, and the pictures of these addresses before it.
pub fn ask_of(text: &str, pictures: impl Iterator<Item = String>, tokens: usize) -> Value {
    let image = |url| json!({ "type": "image_url", "image_url": { "url": url } });
    let mut parts: Vec<Value> = pictures.map(image).collect();
    parts.push(json!({ "type": "text", "text": text }));
    json!({
        "model": "fixture",
        "messages": [{ "role": "user", "content": parts }],
        "max_tokens": tokens,
        "temperature": 0,
    })
}

/// What `qwen3-vl run` answers to the same, alone.
pub fn alone(model: &str, text: &str, pictures: &[&str], tokens: usize) -> Value {
    let folder = common::fixtures().join(model);
    let mut command = program();
    command.args(["run", folder.to_str().unwrap(), "--json", "--greedy", "-p", text]);
    command.args(["-n", &tokens.to_string()]);
    for name in pictures {
        command.arg("--image").arg(common::fixtures().join(name));
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
