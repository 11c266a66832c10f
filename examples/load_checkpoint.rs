//! Look into a checkpoint, then load it on a chosen device and precision.
//!
//! `cargo run --release --example load_checkpoint -- tests/fixtures/moe flex f32`
//! prints its sizes, its parameters by part and the device that holds it.

use std::path::Path;

use qwen3_vl::weights::load::parameter_counts;
use qwen3_vl::weights::{Checkpoint, Progress};
use qwen3_vl::{LoadOptions, Qwen3Vl};

struct Dots;

impl Progress for Dots {
    fn tensor(&mut self, _name: &str, done: u64, total: u64) {
        if done == total {
            println!("read {total} bytes");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a checkpoint folder")?;
    let device = arguments.next();
    let dtype = arguments.next().unwrap_or_else(|| "auto".to_owned());

    let checkpoint = Checkpoint::open(Path::new(&folder))?;
    println!("{} with {} tensors", checkpoint.config().model_type(), checkpoint.tensors().len());
    for (part, count) in parameter_counts(checkpoint.config()) {
        println!("  {:<14} {count}", part.name());
    }

    let options = LoadOptions { device, dtype: dtype.parse()?, ..LoadOptions::default() };
    let model = Qwen3Vl::load_with(&folder, options, &mut Dots)?;
    println!("on {} in {:?}", model.device().name, model.model().precision());
    Ok(())
}
