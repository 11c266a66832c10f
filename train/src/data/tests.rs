//! Data sets that are written for each test.

mod boxes;
mod counts;
mod dialects;
mod lengths;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use qwen3_vl_model::config::Qwen3VlConfig;
use qwen3_vl_model::processor::Processor;
use qwen3_vl_model::processor::message::{MediaRef, MediaSource, media};
use qwen3_vl_weights::load_processor;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;

fn processor() -> Processor {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dense_tied");
    let config = fs::read_to_string(fixtures.join("config.json")).unwrap();
    load_processor(&fixtures, &Qwen3VlConfig::from_json(&config).unwrap()).unwrap()
}

/// A folder with pictures of 64 x 96 and 128 x 32 pixels (width x height), frames, and a data file.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("img")).unwrap();
        let save = |name: &str, width, height, value| {
            image::RgbImage::from_pixel(width, height, image::Rgb([value, 0, 255]))
                .save(dir.path().join("img").join(name))
                .unwrap();
        };
        save("a.png", 64, 96, 10);
        save("b.png", 128, 32, 200);
        (0..8).for_each(|k| save(&format!("f{k}.png"), 64, 64, k * 20));
        Self { dir }
    }

    fn write(&self, text: &str) -> SourceOptions {
        let path = self.dir.path().join("data.jsonl");
        fs::write(&path, text).unwrap();
        SourceOptions::new(path)
    }

    fn rows(&self, rows: &[Json]) -> SourceOptions {
        self.write(&rows.iter().map(|row| row.to_string() + "\n").collect::<String>())
    }

    /// The only sample of the only row.
    fn sample_with(
        &self,
        row: &Json,
        change: impl FnOnce(&mut SourceOptions),
    ) -> Result<Sample, SampleError> {
        let mut options = self.rows(std::slice::from_ref(row));
        change(&mut options);
        let mut samples = read(options).unwrap().samples(0)?;
        assert_eq!(samples.len(), 1);
        Ok(samples.remove(0))
    }

    fn sample(&self, row: &Json) -> Sample {
        self.sample_with(row, |_| {}).unwrap_or_else(|error| panic!("{error}"))
    }

    fn complaint(&self, row: &Json) -> String {
        self.sample_with(row, |_| {}).unwrap_err().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }
}

/// Text that the model reads, learned parts in `{}`; paddings are counted.
fn shown(sample: &Sample) -> String {
    let processor = processor();
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let pieces = preparer.rendered(sample).unwrap_or_else(|error| panic!("{error}"));
    let piece = |piece: &Piece| match piece.trained {
        true => format!("{{{}}}", piece.text),
        false => piece.text.clone(),
    };
    pieces.iter().map(piece).collect()
}

fn turn(role: &str, text: &str) -> String {
    format!("<|im_start|>{role}\n{text}<|im_end|>\n")
}

fn answer(text: &str) -> String {
    format!("<|im_start|>assistant\n{{{text}<|im_end|>\n}}")
}

fn image(tokens: usize) -> String {
    format!("<|vision_start|><|image_pad|>x{tokens}<|vision_end|>")
}

fn human(value: &str) -> Json {
    json!({"from": "human", "value": value})
}

fn gpt(value: &str) -> Json {
    json!({"from": "gpt", "value": value})
}

fn user(content: impl Into<Json>) -> Json {
    json!({"role": "user", "content": content.into()})
}

fn model(content: impl Into<Json>) -> Json {
    json!({"role": "assistant", "content": content.into()})
}
