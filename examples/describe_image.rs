//! Describe one picture.
//!
//! `cargo run --release --example describe_image` asks the embedded checkpoint about `examples/nano/shapes.png`;
//! `-- Qwen/Qwen3-VL-2B-Instruct photo.jpg` names another checkpoint and picture.

use qwen3_vl::{Error, LoadOptions, Message, Qwen3Vl, Request, nano};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| nano::NAME.to_owned());
    let picture = arguments.next().unwrap_or_else(|| "examples/nano/shapes.png".to_owned());

    let model = Qwen3Vl::load(&model, LoadOptions::default())?;
    let question = Message::user("").image(picture).text("Describe this picture.");
    let answer = model.generate(&Request::new(vec![question]).max_tokens(128))?;

    println!("{}", answer.text);
    eprintln!("{} tokens on {}", answer.usage.completion_tokens, model.device().name);
    Ok(())
}
