//! `qwen3-vl run`: one answer.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use qwen3_vl::model::generate::Timings;
use qwen3_vl::{AnswerStream, Conversation, LoadOptions, Message, Request, Response, StreamEvent};

use super::args::{
    AdapterArgs, ContextArgs, DeviceArgs, ModelArgs, SamplingArgs, SpeculativeArgs, ThreadArgs,
    load, load_options,
};
use super::grounding::GroundingArgs;
use super::interrupt::Streaming;
use super::media::MediaArgs;
use super::{Outcome, input, json, print, progress};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl run ./model --image photo.jpg -p \"What is in this picture?\"\n  \
    qwen3-vl run ./model --image a.png --image b.png -p \"What changed?\" --greedy --json\n  \
    qwen3-vl run ./model --image desk.jpg -p \"Find the cups, as JSON with bbox_2d and label.\" --draw cups.png\n  \
    qwen3-vl run ./model --video clip.mp4 --fps 1 -p \"What happens, and when?\"\n  \
    qwen3-vl run ./model --video film.mp4 --num-frames 64 --video-start 60 --video-end 120 -p \"Describe this minute.\"\n  \
    qwen3-vl run ./model --messages conversation.json --temperature 0.7 --seed 1\n  \
    qwen3-vl run ./model --image page.png -p \"Read this page.\" --greedy --speculative ngram\n  \
    echo \"Say hello\" | qwen3-vl run ./model\n\n\
    A messages file holds a list of messages, or an object with `messages` and `tools`, with OpenAI or Qwen content \
    parts. A part without source, {\"type\": \"image\"} or {\"type\": \"video\"}, takes the next --image or --video.")]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The question; without it and without --messages it is read from standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "messages", allow_hyphen_values = true)]
    system: Option<String>,
    /// Conversation as a JSON file; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    messages: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculative: SpeculativeArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    media: MediaArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    grounding: GroundingArgs,
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
    args.threads.apply()?;
    args.model.name()?;
    let request = request(&args)?;
    args.model.check_sight(request.conversation.messages.iter().flat_map(Message::media))?;
    args.grounding.check(&request)?;
    let quiet = args.quiet || args.json;
    let options = load_options(&args.device, &args.context, &args.media.settings)?;
    let options = LoadOptions { adapter: args.adapter.lora.clone(), ..options };
    let model = load(&args.model, options, quiet)?;
    let Some(prepared) = progress::read_media(&model, &request, quiet)? else {
        return Ok(Outcome::Interrupted);
    };
    // From here to the first token Ctrl-C simply ends the program: nothing has been written yet.
    let mut stream = model.stream_prepared(prepared, &request)?;
    let guard = Streaming::begin();
    let mut writer = Writer::new(args.json);
    writer.follow(&mut stream, &guard)?;
    let interrupted = guard.asked();
    let response = stream.into_response();
    writer.end(&response, args.quiet)?;
    if args.json {
        print::line(&serde_json::to_string(&json::response(&model, &response))?)?;
    }
    args.grounding.finish(&request, &response, &args.media.settings)?;
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
        lookup: args.speculative.lookup(),
        ..Request::default()
    })
}

fn conversation(args: &RunArgs) -> anyhow::Result<Conversation> {
    if let Some(path) = &args.messages {
        return args.media.conversation_file(path);
    }
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => input::prompt()?,
    };
    Ok(args.media.question(args.system.as_deref(), prompt))
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
            StreamEvent::Prompt(_) | StreamEvent::Token(_) => Ok(()),
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

/// How far guesses were right.
fn drafted(timings: &Timings) -> String {
    match (timings.accepted_tokens, timings.drafted_tokens) {
        (_, 0) => String::new(),
        (accepted, drafted) => format!(", {accepted} of {drafted} guessed ones right"),
    }
}

fn summary(response: &Response) -> String {
    let usage = &response.usage;
    let timings = &response.timings;
    format!(
        "[{} prompt tokens ({} of pictures and videos, {} cached): vision {:.2} s, prefill {:.2} s; \
         {} tokens at {:.1} tok/s{}; {}]\n",
        usage.prompt_tokens,
        usage.image_tokens + usage.video_tokens,
        usage.cached_tokens,
        timings.vision.as_secs_f64(),
        timings.prefill.as_secs_f64(),
        usage.completion_tokens,
        json::decode_rate(response).unwrap_or(0.0),
        drafted(timings),
        response.finish_reason.as_str(),
    )
}
