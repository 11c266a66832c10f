//! Ask about several pictures, with text between them.
//!
//! `cargo run --release --example multi_image -- nano examples/nano/shapes.png examples/nano/text.png` prints how many
//! patches each picture took and the answer.

use qwen3_vl::{Error, LoadOptions, Message, Qwen3Vl, Request, nano};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| nano::NAME.to_owned());
    let model = Qwen3Vl::load(&model, LoadOptions::default())?;

    let mut question = Message::user("");
    for (number, picture) in arguments.enumerate() {
        question = question.text(format!("Picture {}:\n", number + 1)).image(picture);
    }
    let question = question.text("What changed from one to the next?");
    let answer = model.generate(&Request::new(vec![question]).max_tokens(64).greedy())?;

    for (size, medium) in answer.sizes.iter().zip(&answer.media) {
        println!("{}x{} pixels: {} patches", size.0, size.1, medium.grid().patches());
    }
    println!("{}", answer.text);
    Ok(())
}
