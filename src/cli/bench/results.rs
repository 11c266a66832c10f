//! What figures need beside them: when, where, of which server, by which command; and the file that keeps all of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use qwen3_vl::backends::device;
use qwen3_vl::model::processor::template::utc;
use qwen3_vl::weights::partial;
use serde_json::{Value, json};

use super::super::size;
use super::load::Target;

/// Where results are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// One object, which replaces what was there.
    Json(PathBuf),
    /// A section behind those that are there.
    Markdown(PathBuf),
}

impl std::str::FromStr for File {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match path.extension().and_then(|end| end.to_str()) {
            Some("json") => Ok(Self::Json(path)),
            Some("md") => Ok(Self::Markdown(path)),
            _ => Err("it must end with .md or .json".to_owned()),
        }
    }
}

impl File {
    /// Writes a report, whose figures are `table` in words.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, report: &Value, table: &str) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("cannot write {}", path.display());
        match self {
            Self::Json(path) => {
                let text = serde_json::to_string_pretty(report)? + "\n";
                let mut file = partial::beside(path).with_context(|| failed(path))?;
                file.write_all(text.as_bytes()).with_context(|| failed(path))?;
                file.persist(path).map(drop).with_context(|| failed(path))
            }
            Self::Markdown(path) => {
                let mut file = std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| failed(path))?;
                let gap = if file.metadata().is_ok_and(|file| file.len() > 0) { "\n" } else { "" };
                let section = format!("{gap}{}", section(report, table));
                file.write_all(section.as_bytes()).with_context(|| failed(path))
            }
        }
    }
}

/// What is known before the first request.
pub struct Setting {
    date: String,
    server: Value,
    load: Option<[f64; 3]>,
    engine: Option<FirstTokens>,
}

impl Setting {
    /// Asks the server and this machine.
    pub fn of(target: &Target) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            date: utc(since.as_secs()),
            server: server(target),
            load: device::load_average(),
            engine: FirstTokens::read(target),
        }
    }

    /// Adds it to a report of requests that have ended.
    pub fn describe(self, target: &Target, report: &mut Value) {
        let memory = device::host_memory().map(|memory| memory.total);
        report["date"] = self.date.into();
        report["command"] = command(std::env::args()).into();
        report["server"] = self.server;
        report["machine"] = json!({
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "processor": device::cpu_name(),
            "memory_bytes": memory,
            "load_average_before": self.load,
            "load_average_after": device::load_average(),
        });
        let after = FirstTokens::read(target);
        let mean = self.engine.zip(after).and_then(|(before, after)| after.mean_ms(&before));
        report["engine_first_token_ms"] = json!({ "mean": mean });
    }
}

/// The server's own times to first tokens, from where a request joins the batch.
#[derive(Debug, Clone, Copy)]
struct FirstTokens {
    seconds: f64,
    count: f64,
}

impl FirstTokens {
    /// Nothing where the server is another one, or does not tell.
    fn read(target: &Target) -> Option<Self> {
        let text = target.get("/metrics")?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        let seconds = value("qwen3_vl_time_to_first_token_seconds_sum")?;
        Some(Self { seconds, count: value("qwen3_vl_time_to_first_token_seconds_count")? })
    }

    fn mean_ms(&self, before: &Self) -> Option<f64> {
        let count = self.count - before.count;
        (count > 0.0).then(|| (self.seconds - before.seconds) / count * 1000.0)
    }
}

/// The first model that the server has, and its version; null where it does not tell.
fn server(target: &Target) -> Value {
    let ask = |path: &str| -> Value {
        let text = target.get(path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let model = ask("/v1/models").pointer("/data/0/id").cloned();
    json!({ "model": model, "version": ask("/version")["version"] })
}

/// The command as it was given, but for the folder of the program and the key of the server.
fn command(mut arguments: impl Iterator<Item = String>) -> String {
    const KEY: &str = "--api-key";
    let program = arguments.next().map(PathBuf::from).unwrap_or_default();
    let program = program.file_stem().map(|name| name.to_string_lossy().into_owned());
    let (mut words, mut secret) = (Vec::from_iter(program), false);
    for word in arguments {
        let hidden = std::mem::replace(&mut secret, word == KEY);
        words.push(match word.strip_prefix(KEY) {
            _ if hidden => "...".to_owned(),
            Some(rest) if rest.starts_with('=') => format!("{KEY}=..."),
            _ if word.contains(char::is_whitespace) => format!("'{word}'"),
            _ => word,
        });
    }
    words.join(" ")
}

fn section(report: &Value, table: &str) -> String {
    let text = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or("unknown");
    let load = |path: &str| {
        let values = report.pointer(path).and_then(Value::as_array);
        let values = values.map(|all| all.iter().filter_map(Value::as_f64));
        let words = values.map(|all| all.map(|x| format!("{x:.2}")).collect::<Vec<_>>().join(" "));
        words.unwrap_or_else(|| "unknown".to_owned())
    };
    let memory = report.pointer("/machine/memory_bytes").and_then(Value::as_u64);
    format!(
        "## {date}: {model}, {clients} clients\n\n\
         - command: `{command}`\n\
         - server: {url}, version {version}\n\
         - machine of the clients: {processor}, {memory}, {system}\n\
         - load average before: {before}; after: {after}\n\n\
         ```\n{table}```\n",
        date = text("/date"),
        model = text("/server/model"),
        clients = report["concurrency"],
        command = text("/command"),
        url = text("/url"),
        version = text("/server/version"),
        processor = text("/machine/processor"),
        memory = memory.map_or("memory unknown".to_owned(), size::bytes),
        system = text("/machine/system"),
        before = load("/machine/load_average_before"),
        after = load("/machine/load_average_after"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_written_down() {
        let told = |words: &[&str]| command(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(told(&["/bin/a", "--api-key", "secret", "-n", "4"]), "a --api-key ... -n 4");
        assert_eq!(told(&["a", "--api-key=secret", "b c"]), "a --api-key=... 'b c'");
    }

    #[test]
    fn files_are_told_by_their_names() {
        assert_eq!("a/b.md".parse(), Ok(File::Markdown("a/b.md".into())));
        assert_eq!("b.json".parse(), Ok(File::Json("b.json".into())));
        assert!("b.csv".parse::<File>().is_err() && "md".parse::<File>().is_err());
    }
}
