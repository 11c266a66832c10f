//! `qwen3-vl eval`: answers of a model against those of a data file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qwen3_vl::train::data::{self, Dataset, SourceOptions};
use qwen3_vl::train::metrics::{Figures, Score, Tally};
use qwen3_vl::weights::partial;
use qwen3_vl::{Conversation, LoadOptions, Qwen3Vl, Request, Requests};
use serde_json::json;

use super::args::{
    AdapterArgs, ContextArgs, DeviceArgs, ModelArgs, ThreadArgs, TogetherArgs, load, load_options,
};
use super::interrupt::Streaming;
use super::media::MediaSettings;
use super::{Outcome, print, size};

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl eval ./model held_out.jsonl\n  \
    qwen3-vl eval ./model held_out.jsonl --out answers.jsonl --json\n\n\
    The rows are those of `train check`, in any of its dialects. Every answer of a conversation is asked for once, behind the \
    turns that stand before it in the file. Greedy unless the file generation_config.json is asked for by --sample. Exit code \
    1 when a row could not be answered.")]
pub struct EvalArgs {
    /// Checkpoint folder, GGUF file, or hub id
    #[arg(value_name = "MODEL")]
    model: String,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Vision tower of a GGUF file [default: the file beside it whose name begins with mmproj]
    #[arg(long, value_name = "FILE.gguf")]
    mmproj: Option<PathBuf>,
    /// Rows with the right answers: a JSON list or JSONL
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Folder that relative paths of media begin at [default: that of DATA]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Evaluate only the first N rows
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Also write every answer with its reference and figures, one JSON object per line
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Sample as the checkpoint's generation_config.json says
    #[arg(long)]
    sample: bool,
    /// Most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
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
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let source = SourceOptions { root: args.root.clone(), ..SourceOptions::new(&args.data) };
    let set = data::read(source)?;
    let (positional, mmproj) = (Some(args.model.clone()), args.mmproj.clone());
    let name = ModelArgs { positional, model: None, revision: args.revision.clone(), mmproj };
    let options = load_options(&args.device, &args.context, &args.settings)?;
    let options = LoadOptions { adapter: args.adapter.lora.clone(), ..options };
    let model = load(&name, options, args.quiet)?;
    let rows = args.rows.unwrap_or(usize::MAX).min(set.len());
    let mut work = Work::new(&model, args, rows)?;
    let whole = work.run(&set, rows)?;
    work.bar.finish_and_clear();
    let text = match args.json {
        true => serde_json::to_string_pretty(&work.report())? + "\n",
        false => work.table(),
    };
    if let Some(file) = work.out.take() {
        let path = args.out.clone().unwrap_or_default();
        file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print::out(&text)?;
    Ok(match (whole, work.all.figures().failed) {
        (false, _) => Outcome::Interrupted,
        (true, 0) => Outcome::Done,
        (true, _) => Outcome::Failed,
    })
}

/// A question that waits for its answer.
struct Asked {
    line: usize,
    channel: String,
    reference: String,
}

struct Work<'m> {
    model: &'m Qwen3Vl,
    requests: Requests<'m, Asked>,
    args: &'m EvalArgs,
    bar: ProgressBar,
    guard: Streaming,
    channels: BTreeMap<String, Tally>,
    all: Tally,
    out: Option<tempfile::NamedTempFile>,
}

impl<'m> Work<'m> {
    fn new(model: &'m Qwen3Vl, args: &'m EvalArgs, rows: usize) -> anyhow::Result<Self> {
        let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(rows as u64) };
        bar.set_style(ProgressStyle::with_template("answering {bar:30} {pos}/{len} rows {eta}")?);
        let out = args.out.as_ref().map(|path| {
            partial::beside(path).with_context(|| format!("cannot write {}", path.display()))
        });
        Ok(Self {
            model,
            requests: model.batch(args.together.options()),
            args,
            bar,
            guard: Streaming::begin(),
            channels: BTreeMap::new(),
            all: Tally::default(),
            out: out.transpose()?,
        })
    }

    /// Answers all rows; false when Ctrl-C ended it before.
    fn run(&mut self, set: &Dataset, rows: usize) -> anyhow::Result<bool> {
        let mut next = 0;
        while next < rows || !self.requests.is_empty() {
            while next < rows && self.requests.has_room() {
                for sample in set.samples(next)? {
                    for (conversation, reference) in sample.questions() {
                        let (line, channel) = (sample.place.line, sample.channel.to_string());
                        self.ask(Asked { line, channel, reference }, conversation)?;
                    }
                }
                next += 1;
                self.bar.inc(1);
                if self.guard.asked() {
                    return Ok(false);
                }
            }
            for (asked, result) in self.requests.step() {
                match result {
                    Ok(response) => self.count(&asked, Ok(&response.text))?,
                    Err(error) => self.count(&asked, Err(&error.to_string()))?,
                }
            }
            if self.guard.asked() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn ask(&mut self, asked: Asked, conversation: Conversation) -> anyhow::Result<()> {
        let mut request = Request { conversation, ..Request::default() }
            .max_tokens(self.args.max_tokens as usize);
        if !self.args.sample {
            request = request.greedy();
        }
        match self.model.prepare(&request, &mut ()) {
            Ok(prepared) => Ok(self.requests.submit(asked, prepared, &request)?),
            Err(error) => self.count(&asked, Err(&error.to_string())),
        }
    }

    fn count(&mut self, asked: &Asked, answer: Result<&str, &str>) -> anyhow::Result<()> {
        let Asked { line, channel, reference } = asked;
        self.channels.entry(channel.clone()).or_default().add(answer.ok(), reference);
        self.all.add(answer.ok(), reference);
        if let Err(error) = answer {
            let name = self.args.data.display();
            self.bar.suspend(|| print::error_line(&format!("{name}, line {line}: {error}")));
        }
        if let Some(out) = &mut self.out {
            let score = answer.ok().map(|answer| Score::new(answer, reference));
            let row = json!({
                "line": line, "channel": channel, "reference": reference, "answer": answer.ok(),
                "error": answer.err(), "score": score,
            });
            writeln!(out, "{row}")?;
        }
        Ok(())
    }

    fn report(&self) -> serde_json::Value {
        let channels: BTreeMap<&String, Figures> =
            self.channels.iter().map(|(name, tally)| (name, tally.figures())).collect();
        json!({ "all": self.all.figures(), "channels": channels })
    }

    fn table(&self) -> String {
        let share = |value: f64| format!("{:.1} %", 100.0 * value);
        let maybe = |value: Option<f64>| value.map_or("-".to_owned(), share);
        let row = |name: &str, figures: Figures| {
            vec![
                name.to_owned(),
                figures.answers.to_string(),
                share(figures.exact_match),
                share(figures.token_f1),
                figures.box_iou.map_or("-".to_owned(), |iou| format!("{iou:.3}")),
                maybe(figures.box_iou_at_half),
                figures.temporal_iou.map_or("-".to_owned(), |iou| format!("{iou:.3}")),
                maybe(figures.interval_near),
            ]
        };
        let head = [
            "channel",
            "answers",
            "exact",
            "token F1",
            "box IoU",
            "IoU >= 0.5",
            "time IoU",
            "within 0.5 s",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.channels.iter().map(|(name, tally)| row(name, tally.figures())));
        rows.push(row("all", self.all.figures()));
        size::table(&rows)
    }
}
