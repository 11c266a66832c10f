//! `qwen3-vl run`: one answer.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::error::ErrorKind;
use qwen3_vl::model::processor::message::fill_images;
use qwen3_vl::{AnswerStream, Conversation, MediaSource, Message, Request, Response, StreamEvent};

use super::args::{DeviceArgs, ModelArgs, PixelArgs, SamplingArgs, load};
use super::interrupt::{self, Streaming};
use super::{Outcome, json, print, usage_error};

/// Largest messages file that is read, in bytes (pictures may be inside as data URIs).
const MAX_MESSAGES_BYTES: u64 = 1 << 30;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl run ./model --image photo.jpg -p \"What is in this picture?\"\n  \
    qwen3-vl run ./model --image a.png --image b.png -p \"What changed?\" --greedy --json\n  \
    qwen3-vl run ./model --messages conversation.json --temperature 0.7 --seed 1\n  \
    echo \"Say hello\" | qwen3-vl run ./model\n\n\
    A messages file holds a list of messages, or an object with `messages` and `tools`, with OpenAI or Qwen content \
    parts. An image part without source, {\"type\": \"image\"}, takes the next --image.")]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The question; without it and without --messages it is read from standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Picture: path, http(s) or file URL, or data URI (repeat for several)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "messages", allow_hyphen_values = true)]
    system: Option<String>,
    /// Conversation as a JSON file; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    messages: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// With --json: log probabilities of each token and its N best alternatives
    #[arg(long, value_name = "N", requires = "json",
          value_parser = clap::value_parser!(u8).range(0..=20))]
    logprobs: Option<u8>,
    /// No progress, no timings
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: RunArgs) -> anyhow::Result<Outcome> {
    args.model.name()?;
    interrupt::install();
    let request = request(&args)?;
    let quiet = args.quiet || args.json;
    let model = load(&args.model, &args.device, &args.pixels, quiet)?;
    // Until the first token Ctrl-C simply ends the program: nothing has been written yet.
    let mut stream = model.stream(&request)?;
    let guard = Streaming::begin();
    let mut writer = Writer::new(args.json);
    writer.follow(&mut stream, &guard)?;
    let interrupted = guard.asked();
    let response = stream.into_response();
    writer.end(&response, args.quiet)?;
    if args.json {
        print::line(&serde_json::to_string(&json::response(&model, &response))?)?;
    }
    Ok(if interrupted { Outcome::Interrupted } else { Outcome::Done })
}

fn request(args: &RunArgs) -> anyhow::Result<Request> {
    Ok(Request {
        conversation: conversation(args)?,
        max_tokens: args.sampling.max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        sampling: args.sampling.overrides()?,
        stop: args.sampling.stop.clone(),
        logprobs: args.logprobs.map(usize::from),
        ignore_eos: args.sampling.ignore_eos,
    })
}

fn conversation(args: &RunArgs) -> anyhow::Result<Conversation> {
    let images: Vec<MediaSource> = args.image.iter().cloned().map(MediaSource::from).collect();
    if let Some(path) = &args.messages {
        return conversation_file(path, images);
    }
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => prompt_from_stdin()?,
    };
    let question = images.into_iter().fold(Message::user(""), Message::image).text(prompt);
    let system = args.system.as_ref().map(Message::system);
    Ok(Conversation { messages: system.into_iter().chain([question]).collect(), tools: Vec::new() })
}

/// Reads a conversation, giving its image parts without source the pictures named beside it.
pub(super) fn conversation_file(
    path: &std::path::Path,
    images: Vec<MediaSource>,
) -> anyhow::Result<Conversation> {
    let text = read_messages(path)?;
    let name = || path.display().to_string();
    let mut conversation = Conversation::from_json(&text).with_context(name)?;
    fill_images(&mut conversation.messages, images).with_context(name)?;
    Ok(conversation)
}

fn prompt_from_stdin() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        let message = "no prompt: give -p TEXT, --messages FILE, or text on standard input";
        return Err(usage_error(ErrorKind::MissingRequiredArgument, message));
    }
    let text = read_limited(std::io::stdin(), "standard input")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_messages(path: &std::path::Path) -> anyhow::Result<String> {
    let name = path.display().to_string();
    if name == "-" {
        return read_limited(std::io::stdin(), "standard input");
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    read_limited(file, &name)
}

fn read_limited(reader: impl Read, name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = reader.take(MAX_MESSAGES_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_MESSAGES_BYTES,
        "{name} is larger than {MAX_MESSAGES_BYTES} bytes, the limit for messages"
    );
    Ok(text)
}

/// Streams the answer to standard output and the reasoning to standard error.
pub(super) struct Writer {
    json: bool,
    reasoning: bool,
    ends_line: bool,
}

impl Writer {
    /// A writer; with `json` nothing is streamed.
    pub(super) fn new(json: bool) -> Self {
        Self { json, reasoning: false, ends_line: true }
    }

    /// Shows the answer as it is written, to its end or to Ctrl-C.
    pub(super) fn follow(
        &mut self,
        stream: &mut AnswerStream<'_>,
        guard: &Streaming,
    ) -> anyhow::Result<()> {
        for event in stream {
            self.show(&event?)?;
            if guard.asked() {
                break;
            }
        }
        Ok(())
    }

    /// Shows a piece of the answer.
    fn show(&mut self, event: &StreamEvent) -> anyhow::Result<()> {
        match event {
            _ if self.json => Ok(()),
            StreamEvent::Token(_) => Ok(()),
            StreamEvent::Reasoning(text) => {
                if !self.reasoning {
                    self.reasoning = true;
                    print::aside("<think>\n");
                }
                print::aside(text);
                Ok(())
            }
            StreamEvent::Text(text) => {
                self.close_reasoning();
                self.ends_line = text.ends_with('\n');
                print::out(text)
            }
        }
    }

    /// Ends the last line and tells the speed.
    pub(super) fn end(&mut self, response: &Response, quiet: bool) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        self.close_reasoning();
        if !self.ends_line {
            print::out("\n")?;
        }
        if !quiet && std::io::stderr().is_terminal() {
            print::aside(&summary(response));
        }
        Ok(())
    }

    fn close_reasoning(&mut self) {
        if std::mem::take(&mut self.reasoning) {
            print::aside("\n</think>\n");
        }
    }
}

fn summary(response: &Response) -> String {
    let usage = &response.usage;
    let timings = &response.timings;
    format!(
        "[{} prompt tokens ({} of pictures, {} cached): vision {:.2} s, prefill {:.2} s; \
         {} tokens at {:.1} tok/s; {}]\n",
        usage.prompt_tokens,
        usage.image_tokens,
        usage.cached_tokens,
        timings.vision.as_secs_f64(),
        timings.prefill.as_secs_f64(),
        usage.completion_tokens,
        json::decode_rate(response).unwrap_or(0.0),
        response.finish_reason.as_str(),
    )
}
