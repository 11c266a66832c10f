//! Describe one picture.
//!
//! `cargo run --release --example describe_image -- tests/fixtures/dense_tied tests/fixtures/images/photo.jpg`
//! prints the answer of the checkpoint (the fixture's weights are random, so its answer is gibberish).

use qwen3_vl::{Error, LoadOptions, Message, Qwen3Vl, Request};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "Qwen/Qwen3-VL-2B-Instruct".to_owned());
    let picture = arguments.next().unwrap_or_else(|| "photo.jpg".to_owned());

    let model = Qwen3Vl::load(&model, LoadOptions::default())?;
    let question = Message::user("").image(picture).text("Describe this picture.");
    let answer = model.generate(&Request::new(vec![question]).max_tokens(128))?;

    println!("{}", answer.text);
    eprintln!("{} tokens on {}", answer.usage.completion_tokens, model.device().name);
    Ok(())
}
