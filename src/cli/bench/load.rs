//! Clients that stream answers of a server and look at the clock.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What one request told.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// From sending to the first piece of text; none where the answer has no text.
    pub first: Option<Duration>,
    /// From each piece to the next.
    pub between: Vec<Duration>,
    pub whole: Duration,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    pub url: String,
    pub key: Option<String>,
    pub timeout: Duration,
}

impl Target {
    /// What is at `path`; nothing where that cannot be read.
    pub fn get(&self, path: &str) -> Option<String> {
        let request = self.agent().get(&format!("{}{path}", self.url));
        self.with_key(request).call().ok()?.into_string().ok()
    }

    fn agent(&self) -> ureq::Agent {
        ureq::AgentBuilder::new().timeout(self.timeout).build()
    }

    fn with_key(&self, request: ureq::Request) -> ureq::Request {
        match &self.key {
            Some(key) => request.set("authorization", &format!("Bearer {key}")),
            None => request,
        }
    }
}

/// Sends `bodies` from `concurrency` clients; one result per body, in order.
pub fn run(
    target: &Target,
    bodies: &[Value],
    concurrency: usize,
    done: &(dyn Fn() + Sync),
) -> Vec<Result<Measured, String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(body) = bodies.get(index) else { return mine };
            mine.push((index, ask(target, body)));
            done();
        }
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..concurrency).map(|_| scope.spawn(work)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

fn ask(target: &Target, body: &Value) -> Result<Measured, String> {
    let request = target.agent().post(&format!("{}/v1/chat/completions", target.url));
    let request = target.with_key(request).set("content-type", "application/json");
    let begun = Instant::now();
    let reply = request.send_string(&body.to_string()).map_err(|error| match error {
        ureq::Error::Status(status, reply) => {
            format!("{status}: {}", reply.into_string().unwrap_or_default())
        }
        error => error.to_string(),
    })?;
    let mut measured = Measured::default();
    let mut last = None;
    for line in BufReader::new(reply.into_reader()).lines() {
        let line = line.map_err(|error| format!("the answer broke off: {error}"))?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            measured.whole = begun.elapsed();
            return Ok(measured);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        measured.read(&chunk, begun, &mut last)?;
    }
    Err("the answer ended without [DONE]".to_owned())
}

impl Measured {
    fn read(
        &mut self,
        chunk: &Value,
        begun: Instant,
        last: &mut Option<Instant>,
    ) -> Result<(), String> {
        if let Some(error) = chunk.get("error") {
            return Err(error.to_string());
        }
        let count = |path: &str| chunk.pointer(path).and_then(Value::as_u64);
        if let Some(tokens) = count("/usage/completion_tokens") {
            self.completion_tokens = tokens;
            self.prompt_tokens = count("/usage/prompt_tokens").unwrap_or(0);
            self.cached_tokens = count("/usage/prompt_tokens_details/cached_tokens").unwrap_or(0);
        }
        let delta =
            |key: &str| chunk.pointer(&format!("/choices/0/delta/{key}")).and_then(Value::as_str);
        let wrote = ["content", "reasoning_content"]
            .iter()
            .any(|key| delta(key).is_some_and(|t| !t.is_empty()));
        if wrote {
            let now = Instant::now();
            match last.replace(now) {
                None => self.first = Some(now - begun),
                Some(before) => self.between.push(now - before),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_without_text_has_no_first_piece() {
        let (mut measured, mut last) = (Measured::default(), None);
        let mut read = |measured: &mut Measured, chunk| {
            measured.read(&chunk, Instant::now(), &mut last).unwrap();
        };
        read(&mut measured, json!({ "choices": [{ "delta": { "content": "" } }] }));
        read(&mut measured, json!({ "choices": [], "usage": { "completion_tokens": 3 } }));
        assert_eq!((measured.first, measured.completion_tokens), (None, 3));
        for _ in 0..2 {
            read(&mut measured, json!({ "choices": [{ "delta": { "content": "x" } }] }));
        }
        assert!(measured.first.is_some() && measured.between.len() == 1);
    }
}
