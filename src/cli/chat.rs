//! `qwen3-vl chat`: a conversation in the terminal.

use clap::Args;
use qwen3_vl::weights::MediaLimits;
use qwen3_vl::weights::media::picture_sizes;
use qwen3_vl::{Chat, Conversation, Message, Qwen3Vl, Request, Response};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::args::{DeviceArgs, ModelArgs, PixelArgs, SamplingArgs, load};
use super::interrupt::Streaming;
use super::run::Writer;
use super::{Outcome, print};

const HELP: &str = "\
/image PATH   add a picture (path or URL) to the next message
/images       list the pictures waiting for the next message
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
    /// Picture for the first message (repeat for several)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    /// No progress, no timings
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: ChatArgs) -> anyhow::Result<Outcome> {
    let base = Request {
        max_tokens: args.sampling.max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        sampling: args.sampling.overrides()?,
        stop: args.sampling.stop.clone(),
        ignore_eos: args.sampling.ignore_eos,
        ..Request::default()
    };
    let model = load(&args.model, &args.device, &args.pixels, args.quiet)?;
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
    chat: Chat<'m>,
    base: Request,
    system: Option<String>,
    messages: Vec<Message>,
    images: Vec<String>,
    quiet: bool,
}

impl<'m> Repl<'m> {
    fn new(model: &'m Qwen3Vl, base: Request, args: &ChatArgs) -> Self {
        Self {
            chat: model.chat(),
            base,
            system: args.system.clone(),
            messages: Vec::new(),
            images: args.image.clone(),
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
            "/image" if rest.is_empty() => print::line("which picture? /image PATH")?,
            "/image" => self.add_image(rest.trim_matches(['"', '\''])),
            "/images" if self.images.is_empty() => print::line("no pictures are waiting")?,
            "/images" => print::line(&self.images.join("\n"))?,
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                self.messages.clear();
            }
            "/history" => self.show_history()?,
            "/undo" => self.messages.truncate(self.messages.len().saturating_sub(2)),
            "/clear" => {
                self.messages.clear();
                self.images.clear();
            }
            _ if command.starts_with('/') && !command[1..].contains('/') => {
                print::line(&format!("unknown command {command}; /help lists them"))?;
            }
            _ => self.ask(line)?,
        }
        Ok(false)
    }

    /// Looks at the picture now, so that a wrong path is told before the question.
    fn add_image(&mut self, source: &str) {
        let messages = vec![Message::user("").image(source)];
        let conversation = Conversation { messages, tools: Vec::new() };
        match picture_sizes(&conversation, &MediaLimits::default()) {
            Ok(_) => self.images.push(source.to_owned()),
            Err(error) => print::error_line(&format!("error: {error}")),
        }
    }

    fn show_history(&self) -> anyhow::Result<()> {
        for message in &self.messages {
            let pictures = message.media().len();
            let note = if pictures > 0 { format!(" ({pictures} pictures)") } else { String::new() };
            print::line(&format!("{}{note}: {}", message.role().as_str(), message.all_text()))?;
        }
        Ok(())
    }

    /// Asks, shows the answer and keeps both. A question that failed is forgotten; its pictures wait for the next.
    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        let pictures = std::mem::take(&mut self.images);
        let question = pictures.iter().cloned().fold(Message::user(""), Message::image).text(text);
        let system = self.system.as_ref().map(Message::system);
        let history = self.messages.iter().cloned();
        let messages: Vec<Message> =
            system.into_iter().chain(history).chain([question.clone()]).collect();
        let conversation = Conversation { messages, tools: Vec::new() };
        let request = Request { conversation, ..self.base.clone() };
        match self.answer(&request) {
            Ok(response) => {
                let answer = Message::assistant(response.text);
                self.messages.extend([question, answer]);
            }
            Err(error) if print::is_closed_pipe(&error) => return Err(error),
            Err(error) => {
                self.images = pictures;
                print::error_line(&format!("error: {}", print::chain(&error)));
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> anyhow::Result<Response> {
        let guard = Streaming::begin();
        let mut stream = self.chat.stream(request)?;
        let mut writer = Writer::new(false);
        writer.follow(&mut stream, &guard)?;
        let response = stream.into_response();
        writer.end(&response, self.quiet)?;
        Ok(response)
    }
}
