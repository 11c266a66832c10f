//! `qwen3-vl chat`: a conversation in the terminal.

use clap::Args;
use qwen3_vl::model::processor::message::{ImageRef, MediaRef, VideoRef};
use qwen3_vl::model::processor::video::with_defaults;
use qwen3_vl::weights::MediaLimits;
use qwen3_vl::weights::media::OpenedMedia;
use qwen3_vl::{
    Chat, Conversation, Error, LoadOptions, MediaSource, Message, Qwen3Vl, Request, Response,
};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::args::{
    AdapterArgs, ContextArgs, DeviceArgs, ModelArgs, SamplingArgs, SpeculativeArgs, ThreadArgs,
    load, load_options,
};
use super::interrupt::Streaming;
use super::media::MediaArgs;
use super::run::Writer;
use super::{Outcome, print, progress};

/// Marks that shells and file managers put around paths.
const QUOTES: [char; 2] = ['"', '\''];

const HELP: &str = "\
/image PATH   add a picture (path or URL) to the next message
/video PATH   add a video (path, folder or URL) to the next message
/media        list what waits for the next message
/system TEXT  set the system message and start afresh
/history      show the conversation so far
/undo         take back the last question and its answer
/clear        forget the conversation
/help         this list
/exit         leave (also Ctrl-D)
";

/// Arguments of `chat`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl chat ./model\n  \
    qwen3-vl chat Qwen/Qwen3-VL-2B-Instruct --system \"Answer briefly.\" --image photo.jpg\n\n\
    Inside, /help lists the commands. Ctrl-C ends an answer, Ctrl-D the conversation.")]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
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
    /// The media are for the first message
    #[command(flatten)]
    media: MediaArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// No progress, no timings
    #[arg(short, long)]
    quiet: bool,
}

impl ChatArgs {
    /// What the first message shows.
    fn shown(&self) -> Vec<MediaRef> {
        self.media.question(None, "").messages.remove(0).media().to_vec()
    }
}

/// Runs the verb.
pub fn run(args: ChatArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let base = Request {
        max_tokens: args.sampling.max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        sampling: args.sampling.overrides()?,
        stop: args.sampling.stop.clone(),
        ignore_eos: args.sampling.ignore_eos,
        lookup: args.speculative.lookup(),
        ..Request::default()
    };
    let options = load_options(&args.device, &args.context, &args.media.settings)?;
    let options = LoadOptions { adapter: args.adapter.lora.clone(), ..options };
    args.model.check_sight(&args.shown())?;
    let model = load(&args.model, options, args.quiet)?;
    let mut repl = Repl::new(&model, base, &args);
    let mut editor = DefaultEditor::new()?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(Outcome::Done),
            Err(error) => return Err(error.into()),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line);
        if repl.take(line)? {
            return Ok(Outcome::Done);
        }
    }
}

/// The conversation and what waits for the next message.
struct Repl<'m> {
    model: &'m Qwen3Vl,
    chat: Chat<'m>,
    base: Request,
    system: Option<String>,
    messages: Vec<Message>,
    waiting: Vec<MediaRef>,
    video_defaults: VideoRef,
    limits: MediaLimits,
    quiet: bool,
}

impl<'m> Repl<'m> {
    fn new(model: &'m Qwen3Vl, base: Request, args: &ChatArgs) -> Self {
        Self {
            chat: model.chat(),
            base,
            system: args.system.clone(),
            messages: Vec::new(),
            waiting: args.shown(),
            video_defaults: args.media.settings.video_defaults(),
            limits: args.media.settings.limits(),
            model,
            quiet: args.quiet,
        }
    }

    /// Handles one line; true ends the conversation.
    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "/exit" | "/quit" | "/bye" => return Ok(true),
            "/help" => print::out(HELP)?,
            "/image" | "/video" if rest.is_empty() => {
                print::line(&format!("which one? {command} PATH"))?;
            }
            "/image" => self.add(MediaRef::Image(ImageRef::new(rest.trim_matches(QUOTES)))),
            "/video" => {
                let video = VideoRef::new(rest.trim_matches(QUOTES));
                self.add(MediaRef::Video(with_defaults(&video, &self.video_defaults)));
            }
            "/media" | "/images" => self.show_waiting()?,
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                self.messages.clear();
            }
            "/history" => self.show_history()?,
            "/undo" => self.messages.truncate(self.messages.len().saturating_sub(2)),
            "/clear" => {
                self.messages.clear();
                self.waiting.clear();
            }
            _ if command.starts_with('/') && !command[1..].contains('/') => {
                print::line(&format!("unknown command {command}; /help lists them"))?;
            }
            _ => self.ask(line)?,
        }
        Ok(false)
    }

    /// Looks at the picture or video now, so that a wrong path is told before the question.
    fn add(&mut self, medium: MediaRef) {
        if !self.model.sees() {
            let error = Error::NoVision { path: self.model.folder().to_owned() };
            return print::error_line(&format!("error: {error}"));
        }
        let messages = vec![Message::user("").media_part(medium.clone())];
        let conversation = Conversation { messages, tools: Vec::new() };
        match OpenedMedia::open(&conversation, &self.limits, &mut ()) {
            Ok(_) => self.waiting.push(medium),
            Err(error) => print::error_line(&format!("error: {error}")),
        }
    }

    fn show_waiting(&self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return print::line("no pictures or videos are waiting");
        }
        let name = |medium: &MediaRef| {
            let source = medium.source().map(MediaSource::describe).unwrap_or_default();
            format!("{} {source}", medium.kind())
        };
        print::line(&self.waiting.iter().map(name).collect::<Vec<_>>().join("\n"))
    }

    fn show_history(&self) -> anyhow::Result<()> {
        for message in &self.messages {
            let media = message.media().len();
            let note =
                if media > 0 { format!(" ({media} pictures or videos)") } else { String::new() };
            print::line(&format!("{}{note}: {}", message.role().as_str(), message.all_text()))?;
        }
        Ok(())
    }

    /// Asks, shows the answer and keeps both. A question that failed is forgotten; its media wait for the next.
    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        let media = std::mem::take(&mut self.waiting);
        let question = media.iter().cloned().fold(Message::user(""), Message::media_part);
        let question = question.text(text);
        let system = self.system.as_ref().map(Message::system);
        let history = self.messages.iter().cloned();
        let messages: Vec<Message> =
            system.into_iter().chain(history).chain([question.clone()]).collect();
        let conversation = Conversation { messages, tools: Vec::new() };
        let request = Request { conversation, ..self.base.clone() };
        match self.answer(&request) {
            Ok(None) => self.waiting = media,
            Ok(Some(response)) => {
                let answer = Message::assistant(response.text);
                self.messages.extend([question, answer]);
            }
            Err(error) if print::is_closed_pipe(&error) => return Err(error),
            Err(error) => {
                self.waiting = media;
                print::error_line(&format!("error: {}", print::chain(&error)));
            }
        }
        Ok(())
    }

    /// `None` when Ctrl-C stopped it while its media were read.
    fn answer(&mut self, request: &Request) -> anyhow::Result<Option<Response>> {
        let Some(prepared) = progress::read_media(self.model, request, self.quiet)? else {
            return Ok(None);
        };
        let guard = Streaming::begin();
        let mut stream = self.chat.stream_prepared(prepared, request)?;
        let mut writer = Writer::new(false);
        writer.follow(&mut stream, &guard)?;
        let response = stream.into_response();
        writer.end(&response, self.quiet)?;
        Ok(Some(response))
    }
}
