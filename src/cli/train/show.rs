//! `train show`: one row as the model reads it, and its boxes on its pictures.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_vl::draw::{self, DrawStyle};
use qwen3_vl::model::grounding::{Grounding, Shape};
use qwen3_vl::model::processor::image::RgbImage;
use qwen3_vl::model::processor::message::{MediaKind, media};
use qwen3_vl::train::data::{Limits, Piece, Preparer, Sample, SampleBox};
use qwen3_vl::weights::MediaLimits;
use qwen3_vl::weights::media::load_pictures;

use super::super::grounding::numbered;
use super::{Opened, Outcome, print};

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The TOML file of the run
    config: PathBuf,
    /// Row of the source, from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    row: u64,
    /// Which source of `data`, from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    source: u64,
    /// Draw the boxes and points of the row on its picture: png, jpg or webp (of several pictures the N-th goes to NAME-N)
    #[arg(long, value_name = "FILE")]
    draw: Option<PathBuf>,
}

/// How learned text is told from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    Green,
    /// Brackets that no template writes.
    Brackets,
}

impl Colours {
    /// Green where standard output is a terminal that wants colour.
    pub(super) fn of_output() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if colour { Self::Green } else { Self::Brackets }
    }

    pub(super) fn legend(self) -> &'static str {
        match self {
            Self::Green => "what is learned in green",
            Self::Brackets => "what is learned in \u{27e6}brackets\u{27e7}",
        }
    }

    fn start(self) -> &'static str {
        if self == Self::Green { "\x1b[32m" } else { "\u{27e6}" }
    }

    pub(super) fn end(self) -> &'static str {
        if self == Self::Green { "\x1b[0m" } else { "\u{27e7}" }
    }
}

/// The prompt with what is learned marked.
pub(super) fn rendered(pieces: &[Piece], colours: Colours) -> String {
    let piece = |piece: &Piece| match piece.trained {
        true => format!("{}{}{}", colours.start(), piece.text, colours.end()),
        false => piece.text.clone(),
    };
    pieces.iter().map(piece).collect()
}

pub(super) fn run(args: &ShowArgs) -> anyhow::Result<Outcome> {
    if let Some(path) = &args.draw {
        draw::check_output(path)?;
    }
    let Opened { config, processor, sets } = super::open(&args.config)?;
    let preparer = Preparer::new(&processor, Limits::from(&config.limits));
    let Some(set) = sets.get(args.source as usize - 1) else {
        anyhow::bail!(
            "--source {} is past the end; `data` has {} sources",
            args.source,
            sets.len()
        );
    };
    let row = args.row as usize - 1;
    if row >= set.len() {
        let (row, source, rows) = (args.row, args.source, set.len());
        anyhow::bail!("--row {row} is past the end; source {source} has {rows} rows");
    }
    let samples = set.samples(row)?;
    let mut text = String::new();
    for sample in &samples {
        text += &rendered(&preparer.rendered(sample)?, Colours::of_output());
        let measured = preparer.measure(sample)?;
        text += &format!("\n{} tokens, {} of them learned\n", measured.tokens, measured.targets);
        let notes = measured.notes.iter().map(ToString::to_string).chain(sample.notes.clone());
        notes.for_each(|note| text += &format!("{note}\n"));
    }
    print::out(&text)?;
    if let Some(path) = &args.draw {
        draw_boxes(&samples, path)?;
    }
    Ok(Outcome::Done)
}

/// Writes every picture of the row in its original size, with its boxes.
fn draw_boxes(samples: &[Sample], path: &Path) -> anyhow::Result<()> {
    let mut pictures: Vec<(RgbImage, Vec<Grounding>)> = Vec::new();
    for sample in samples {
        let all = media(&sample.conversation.messages).into_iter().enumerate();
        let places = all.filter(|(_, medium)| medium.kind() == MediaKind::Image).map(|(at, _)| at);
        let loaded = load_pictures(&sample.conversation, &MediaLimits::default())?;
        for (place, picture) in places.zip(loaded) {
            let boxes = sample.boxes.iter().filter(|found| found.media == place);
            pictures.push((picture, boxes.map(grounding).collect()));
        }
    }
    anyhow::ensure!(!pictures.is_empty(), "--draw: the row has no picture");
    let count = pictures.len();
    for (index, (mut picture, boxes)) in pictures.into_iter().enumerate() {
        let drawn = draw::draw(&mut picture, &boxes, &DrawStyle::default());
        drawn.warnings().iter().for_each(|line| print::error_line(&format!("warning: {line}")));
        let path = numbered(path, index, count);
        draw::save(&picture, &path)?;
        let (shapes, path) = (drawn.shapes, path.display());
        print::aside(&format!("{path}: {shapes} boxes and points\n"));
    }
    Ok(())
}

/// A box as the drawing code takes it; one without extent is a point.
fn grounding(found: &SampleBox) -> Grounding {
    let [x1, y1, x2, y2] = found.corners;
    let shape = match (x1, y1) == (x2, y2) {
        true => Shape::Point { x: x1, y: y1 },
        false => Shape::Box { x1, y1, x2, y2 },
    };
    Grounding {
        shape,
        label: found.label.clone(),
        sub_label: None,
        attributes: serde_json::Map::new(),
        image: None,
        bare: false,
        text_range: 0..0,
    }
}
