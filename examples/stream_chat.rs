//! Two turns about one picture; the second reuses the cache of the first.
//!
//! `cargo run --release --example stream_chat` asks the embedded checkpoint about `examples/nano/shapes.png`
//! (`-- MODEL PICTURE` names others), prints both answers as they are written and how many tokens the second turn reused.

use std::io::Write;

use qwen3_vl::{Chat, Error, LoadOptions, Message, Qwen3Vl, Request, Response, StreamEvent, nano};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| nano::NAME.to_owned());
    let picture = arguments.next().unwrap_or_else(|| "examples/nano/shapes.png".to_owned());
    let model = Qwen3Vl::load(&model, LoadOptions::default())?;

    let mut chat = model.chat();
    let mut messages = vec![Message::user("").image(picture).text("What is this?")];
    let first = ask(&mut chat, &messages)?;
    messages.push(Message::assistant(first.text));
    messages.push(Message::user("How many objects are there?"));
    let second = ask(&mut chat, &messages)?;

    println!(
        "{} of {} prompt tokens came from the first turn",
        second.usage.cached_tokens, second.usage.prompt_tokens
    );
    Ok(())
}

fn ask(chat: &mut Chat<'_>, messages: &[Message]) -> Result<Response, Error> {
    let mut stream = chat.stream(&Request::new(messages.to_vec()).max_tokens(48))?;
    for event in &mut stream {
        if let StreamEvent::Text(text) = event? {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
    }
    println!();
    Ok(stream.into_response())
}
