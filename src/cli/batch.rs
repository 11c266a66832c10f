//! `qwen3-vl batch`: many requests from a file, answered together.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qwen3_vl::model::processor::message::default_videos;
use qwen3_vl::{LoadOptions, Qwen3Vl, Request, Requests, Response, openai};
use serde_json::{Value, json};

use super::args::{
    AdapterArgs, ContextArgs, DeviceArgs, ModelArgs, ThreadArgs, TogetherArgs, load, load_options,
};
use super::interrupt::Streaming;
use super::media::MediaSettings;
use super::{Outcome, print};

/// Longest line that is read, in bytes (pictures may be inside as data URIs).
const MAX_LINE: u64 = 1 << 28;
/// The only endpoint that rows may name.
const ENDPOINT: &str = "/v1/chat/completions";

/// Arguments of `batch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl batch requests.jsonl -o results.jsonl -m ./model\n  \
    qwen3-vl batch requests.jsonl -o results.jsonl -m ./model --max-num-seqs 8\n\n\
    A row is OpenAI's batch format: {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \
    \"body\": {\"messages\": [...], \"max_tokens\": 100}}. A row that cannot be answered becomes a row with `error`. Rows that \
    the output holds already are not answered again, so the same command goes on after an interruption. Exit code 1 when a \
    row failed.")]
pub struct BatchArgs {
    /// Requests, one JSON object per line
    #[arg(value_name = "REQUESTS")]
    input: PathBuf,
    /// Where the answers go, one JSON object per line, in the order in which they are ready
    #[arg(short, long, value_name = "RESULTS")]
    output: PathBuf,
    /// Checkpoint folder, hub id such as Qwen/Qwen3-VL-2B-Instruct, or nano for the embedded one [default: nano]
    #[arg(short, long, value_name = "MODEL", env = "QWEN3_VL_MODEL")]
    model: Option<String>,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Vision tower of a GGUF file [default: the file beside it whose name begins with mmproj]
    #[arg(long, value_name = "FILE.gguf")]
    mmproj: Option<PathBuf>,
    /// Answer all rows anew, replacing the output
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    together: TogetherArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    settings: MediaSettings,
    #[command(flatten)]
    context: ContextArgs,
    /// No progress, no summary
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: &BatchArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let rows = Rows::open(&args.input)?;
    let mut journal = Journal::open(&args.output, args.overwrite)?;
    if !args.quiet && !journal.done.is_empty() {
        let (held, name) = (journal.done.len(), args.output.display());
        print::error_line(&format!("{name} holds {held} answers already; going on behind them"));
    }
    let (positional, mmproj) = (args.model.clone(), args.mmproj.clone());
    let name = ModelArgs { positional, model: None, revision: args.revision.clone(), mmproj };
    let options = load_options(&args.device, &args.context, &args.settings)?;
    let options = LoadOptions { adapter: args.adapter.lora.clone(), ..options };
    let model = load(&name, options, args.quiet)?;
    let mut work = Work::new(&model, args, &mut journal);
    let stopped = work.run(rows)?;
    let (failed, summary) = (work.failed, work.summary());
    work.bar.finish_and_clear();
    if !args.quiet {
        print::error_line(&summary);
    }
    Ok(match (stopped, failed) {
        (true, _) => Outcome::Interrupted,
        (false, 0) => Outcome::Done,
        (false, _) => Outcome::Failed,
    })
}

/// The lines of the input, one at a time.
struct Rows {
    name: String,
    reader: BufReader<File>,
    line: usize,
    count: u64,
}

impl Rows {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let open = || File::open(path).with_context(|| format!("cannot read {name}"));
        let mut count = 0;
        let mut counter = BufReader::new(open()?);
        let mut line = Vec::new();
        while read_line(&mut counter, &mut line).with_context(|| name.clone())? {
            count += u64::from(!line.trim_ascii().is_empty());
        }
        anyhow::ensure!(count > 0, "{name} has no rows");
        Ok(Self { reader: BufReader::new(open()?), name, line: 0, count })
    }

    /// The next line that is not blank, and its number from 1.
    fn next(&mut self) -> anyhow::Result<Option<(usize, Vec<u8>)>> {
        let mut line = Vec::new();
        loop {
            let name = || self.name.clone();
            if !read_line(&mut self.reader, &mut line).with_context(name)? {
                return Ok(None);
            }
            self.line += 1;
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.line, line)));
            }
        }
    }
}

/// Reads one line; false at the end. A line beyond the limit is read on without being kept, and comes out cut.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let part = reader.fill_buf()?;
        if part.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = part.iter().position(|byte| *byte == b'\n');
        let used = end.unwrap_or(part.len());
        if line.len() as u64 + used as u64 <= MAX_LINE {
            line.extend_from_slice(&part[..used]);
        }
        let consumed = end.map_or(used, |end| end + 1);
        reader.consume(consumed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// The output, and which rows it holds.
struct Journal {
    file: File,
    name: String,
    done: HashSet<Key>,
}

/// What tells a row from others: its id, or its line where it has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Id(String),
    Line(u64),
}

impl Journal {
    /// Opens the output behind its last whole line; what a killed run left of a line is cut off.
    fn open(path: &Path, overwrite: bool) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(overwrite);
        let mut file = options.open(path).with_context(|| format!("cannot write {name}"))?;
        let (mut done, mut whole, mut line) = (HashSet::new(), 0, Vec::new());
        let mut reader = BufReader::new(&file);
        let mut number = 0;
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).with_context(|| name.clone())?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            number += 1;
            whole += read as u64;
            let key = serde_json::from_slice(&line).ok().and_then(|row: Value| key_of(&row));
            let hint = "it is no result of this command; choose another file or use --overwrite";
            done.insert(key.with_context(|| format!("{name}, line {number}: {hint}"))?);
        }
        file.set_len(whole).with_context(|| name.clone())?;
        file.seek(SeekFrom::End(0)).with_context(|| name.clone())?;
        Ok(Self { file, name, done })
    }

    fn write(&mut self, row: &Value) -> anyhow::Result<()> {
        let line = format!("{row}\n");
        self.file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", self.name))
    }
}

fn key_of(row: &Value) -> Option<Key> {
    match (row.get("custom_id"), row.get("line")) {
        (Some(Value::String(id)), _) => Some(Key::Id(id.clone())),
        (Some(Value::Null), Some(line)) => line.as_u64().map(Key::Line),
        _ => None,
    }
}

/// A row that waits for its answer.
#[derive(Debug, Clone)]
struct Row {
    id: String,
    line: usize,
    model: String,
}

/// Everything between the two files.
struct Work<'m> {
    model: &'m Qwen3Vl,
    requests: Requests<'m, Row>,
    settings: &'m MediaSettings,
    journal: &'m mut Journal,
    bar: ProgressBar,
    guard: Streaming,
    started: Instant,
    /// Line of every id of this run.
    seen: HashMap<String, usize>,
    answered: usize,
    failed: usize,
    tokens: usize,
}

impl<'m> Work<'m> {
    fn new(model: &'m Qwen3Vl, args: &'m BatchArgs, journal: &'m mut Journal) -> Self {
        let target = match args.quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "answering {bar:30} {pos}/{len} rows {msg} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            model,
            requests: model.batch(args.together.options()),
            settings: &args.settings,
            journal,
            bar,
            guard: Streaming::begin(),
            started: Instant::now(),
            seen: HashMap::new(),
            answered: 0,
            failed: 0,
            tokens: 0,
        }
    }

    /// Answers all rows; true when Ctrl-C ended it before.
    fn run(&mut self, mut rows: Rows) -> anyhow::Result<bool> {
        self.bar.set_length(rows.count);
        let mut more = true;
        while more || !self.requests.is_empty() {
            while more && self.requests.has_room() {
                match rows.next()? {
                    Some((line, text)) => self.add(line, &text)?,
                    None => more = false,
                }
                if self.guard.asked() {
                    return Ok(true);
                }
            }
            for (row, result) in self.requests.step() {
                match result {
                    Ok(response) => self.answer(&row, &response)?,
                    // Its row is left for the next run.
                    Err(error) if error.lost_device().is_some() => return Err(error.into()),
                    Err(error) => self.refuse(Some(row.id), row.line, &error.to_string())?,
                }
            }
            if self.guard.asked() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes one line of the input; a bad one is answered with an error.
    fn add(&mut self, line: usize, text: &[u8]) -> anyhow::Result<()> {
        let (id, parsed) = match parse(text) {
            Ok((id, body)) => (Some(id), body),
            Err((id, error)) => (id, Err(error)),
        };
        let key = id.clone().map_or(Key::Line(line as u64), Key::Id);
        if self.journal.done.contains(&key) {
            self.bar.inc(1);
            return Ok(());
        }
        if let Some(first) = id.as_ref().and_then(|id| self.seen.insert(id.clone(), line)) {
            return self.refuse(None, line, &format!("`custom_id` repeats that of line {first}"));
        }
        let submitted = parsed.and_then(|(model, request)| {
            let row = Row { id: id.clone().unwrap_or_default(), line, model };
            self.submit(row, request).map_err(|error| error.to_string())
        });
        match submitted {
            Ok(()) => Ok(()),
            Err(_) if self.guard.asked() => Ok(()),
            Err(error) => self.refuse(id, line, &error),
        }
    }

    fn submit(&mut self, row: Row, mut request: Request) -> Result<(), qwen3_vl::Error> {
        default_videos(&mut request.conversation.messages, &self.settings.video_defaults());
        let mut follow = Stop(&self.guard);
        let prepared = self.model.prepare(&request, &mut follow)?;
        self.requests.submit(row, prepared, &request)
    }

    fn answer(&mut self, row: &Row, response: &Response) -> anyhow::Result<()> {
        self.answered += 1;
        self.tokens += response.token_ids.len();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tokens = response.logprobs.as_deref();
        let tokenizer = self.model.processor().tokenizer();
        let logprobs = tokens.map(|tokens| openai::logprob_entries(tokenizer, tokens));
        let head = openai::Head {
            id: format!("chatcmpl-{}", row.line),
            model: row.model.clone(),
            created: since.as_secs(),
        };
        let message = openai::message(&response.text, response.reasoning.as_deref(), &[]);
        let choice = openai::choice(0, message, response.finish_reason.as_str(), logprobs);
        let mut body = openai::completion(&head, vec![choice], openai::usage(&[response]));
        if let Some(scores) = &response.prompt_logprobs {
            body["prompt_logprobs"] = openai::prompt_logprobs(tokenizer, scores);
        }
        let request_id = format!("row-{}", row.line);
        let reply = json!({ "status_code": 200, "request_id": request_id, "body": body });
        self.write(row.line, Some(&row.id), reply, Value::Null)
    }

    fn refuse(&mut self, id: Option<String>, line: usize, message: &str) -> anyhow::Result<()> {
        self.failed += 1;
        let error = json!({ "code": "invalid_request", "message": message });
        self.write(line, id.as_deref(), Value::Null, error)
    }

    fn write(
        &mut self,
        line: usize,
        id: Option<&str>,
        response: Value,
        error: Value,
    ) -> anyhow::Result<()> {
        let row = json!({
            "id": format!("batch_req_{line}"),
            "custom_id": id,
            "line": line,
            "response": response,
            "error": error,
        });
        self.journal.write(&row)?;
        self.bar.inc(1);
        self.bar.set_message(format!("{:.1} tok/s", self.rate()));
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    fn summary(&self) -> String {
        format!(
            "{} rows answered, {} failed, {} tokens in {:.1} s, {:.1} tok/s",
            self.answered,
            self.failed,
            self.tokens,
            self.started.elapsed().as_secs_f64(),
            self.rate()
        )
    }
}

/// Stops reading media when Ctrl-C was pressed.
struct Stop<'a>(&'a Streaming);

impl qwen3_vl::weights::media::MediaProgress for Stop<'_> {
    fn step(&mut self, _: qwen3_vl::weights::media::MediaStep<'_>) -> std::ops::ControlFlow<()> {
        match self.0.asked() {
            true => std::ops::ControlFlow::Break(()),
            false => std::ops::ControlFlow::Continue(()),
        }
    }
}

type Parsed = Result<(String, Request), String>;

/// The id of a row, and its model name and request. An error comes with the id, where that can be told.
fn parse(text: &[u8]) -> Result<(String, Parsed), (Option<String>, String)> {
    let row: Value =
        serde_json::from_slice(text).map_err(|error| (None, format!("no JSON: {error}")))?;
    let Value::Object(mut row) = row else {
        return Err((None, "a row must be an object".to_owned()));
    };
    let id = match row.remove("custom_id") {
        Some(Value::String(id)) => id,
        other => {
            let found = other.map_or("missing".to_owned(), |value| value.to_string());
            return Err((None, format!("`custom_id` is {found}, but it must be a string")));
        }
    };
    let body = body_of(row).and_then(|body| {
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        let request = openai::parse_request(body).map_err(|error| format!("body: {error}"))?;
        Ok((model, request))
    });
    Ok((id, body))
}

fn body_of(mut row: serde_json::Map<String, Value>) -> Result<Value, String> {
    for (field, expected) in [("method", "POST"), ("url", ENDPOINT)] {
        match row.remove(field) {
            None => {}
            Some(Value::String(found)) if found == expected => {}
            Some(found) => return Err(format!("`{field}` is {found}, but it must be {expected}")),
        }
    }
    let body = row.remove("body").ok_or("`body` is missing")?;
    match row.keys().next() {
        None => Ok(body),
        Some(field) => Err(format!("`{field}` is no field of a row")),
    }
}
