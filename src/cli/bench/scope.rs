//! What will be measured, found out before the weights are made.

use clap::ValueEnum;
use clap::error::ErrorKind;
use qwen3_vl::backends::Placement;
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::generate::Lookup;
use qwen3_vl::model::processor::image::{ImageProcessor, PlannedImage, RgbImage};

use super::super::usage_error;
use super::measure::{MeasureArgs, Stage};
use super::picture::Opened;
use super::streams::SETTLING;

/// Tokens of the question before and behind the picture, its two marks not counted.
pub const QUESTION: [usize; 2] = [14, 12];
/// Tokens of the first prompt of all.
pub const FIRST: usize = 16;

/// Stages, and their sizes in tokens.
#[derive(Debug)]
pub struct Scope {
    pub planned: PlannedImage,
    /// Of the text, with the tokens that are held before.
    pub prompt: usize,
    /// How many of these are held before.
    pub depth: usize,
    pub tokens: usize,
    pub streams: usize,
    /// How tokens are guessed, where that is asked for.
    pub lookup: Option<Lookup>,
    only: Vec<Stage>,
    /// Whether the model has a vision tower; a GGUF file without its mmproj has none.
    pub sees: bool,
}

/// The model as far as it is known before its weights are.
pub struct Outline<'m> {
    pub config: &'m Qwen3VlConfig,
    pub images: &'m ImageProcessor,
    pub placement: &'m Placement,
    pub sees: bool,
}

impl Scope {
    /// # Errors
    /// When the picture cannot be preprocessed, and a usage error when a prompt is longer than the context or a picture is to be
    /// looked at without a vision tower.
    pub fn new(
        args: &MeasureArgs,
        picture: &Opened,
        Outline { config, images, placement, sees }: Outline<'_>,
    ) -> anyhow::Result<Self> {
        let RgbImage { width, height, .. } = picture.rgb;
        let scope = Self {
            planned: images.plan(width as usize, height as usize)?,
            prompt: (args.depth + args.prompt_tokens) as usize,
            depth: args.depth as usize,
            tokens: args.tokens as usize,
            streams: args.batch.map_or_else(|| usual_streams(placement), usize::from),
            lookup: args.speculative.lookup(),
            only: args.only.clone(),
            sees,
        };
        scope.check(args.shape())?;
        // Steps that are replayed have room besides, and processors replay none.
        let room = if placement.is_cpu() { 1 } else { SETTLING };
        let needed = scope.stages().into_iter().map(|stage| match stage {
            Stage::Picture => FIRST,
            Stage::Question => scope.question_tokens(),
            Stage::Text => scope.prompt + 1 + scope.tokens,
            Stage::Streams => scope.prompt + scope.tokens + room,
        });
        let longest = needed.max().unwrap_or(FIRST);
        let context = config.text.max_position_embeddings;
        match longest <= context {
            true => Ok(scope),
            false => {
                let message = format!(
                    "prompt and answer take {longest} tokens, but the context of the model has {context}"
                );
                Err(usage_error(ErrorKind::ValueValidation, message))
            }
        }
    }

    /// Refuses what was asked for and is not measured.
    fn check(&self, shape: &str) -> anyhow::Result<()> {
        let message = if !self.sees && self.only.contains(&Stage::Question) {
            format!(
                "{shape} has no vision tower for --only question; give its mmproj file by --mmproj"
            )
        } else if self.lookup.is_some() && !self.stages().contains(&Stage::Text) {
            "--speculative is measured with the stage text, which --only leaves out".to_owned()
        } else {
            return Ok(());
        };
        Err(usage_error(ErrorKind::ValueValidation, message))
    }

    /// Tokens of the question with its picture.
    pub fn question_tokens(&self) -> usize {
        self.planned.tokens + 2 + QUESTION.iter().sum::<usize>()
    }

    /// What a round measures, in this order.
    pub fn stages(&self) -> Vec<Stage> {
        let wanted = |stage: &Stage| match stage {
            Stage::Question => self.sees && self.wants(Stage::Question),
            // Streams go on where the text ends.
            Stage::Text => self.wants(Stage::Text) || self.wants(Stage::Streams),
            stage => self.wants(*stage),
        };
        Stage::value_variants().iter().copied().filter(wanted).collect()
    }

    fn wants(&self, stage: Stage) -> bool {
        self.only.is_empty() || self.only.contains(&stage)
    }
}

/// Streams where nobody says how many: cards have room for more at once.
fn usual_streams(placement: &Placement) -> usize {
    if placement.is_cpu() { 8 } else { 32 }
}
