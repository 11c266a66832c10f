mod clip;
mod config;
mod properties;
mod sampling;
mod settings;
mod size;

use super::*;
use crate::processor::image::{Grid, ImageError, Normalization, RgbImage, patchify};
use crate::processor::message::{MediaSource, VideoRef};

fn published() -> VideoProcessor {
    VideoProcessor::new(VideoProcessorConfig::qwen3_vl())
}

fn utils() -> VideoProcessor {
    published().with_rules(SamplingRule::QwenVlUtils, BudgetRule::QwenVlUtils)
}

fn none() -> VideoRef {
    VideoRef::default()
}

fn plan(source: &SourceClip<'_>, wanted: &VideoRef) -> Result<PlannedVideo, String> {
    published().plan(source, wanted).map_err(|error| error.to_string())
}

/// The error of a clip of 300 frames at 30 frames per second.
fn refused(wanted: VideoRef) -> String {
    let error = plan(&SourceClip::counted(640, 480, 300, Some(30.0)), &wanted).unwrap_err();
    assert!(error.ends_with('.') && error.starts_with(|c: char| c.is_uppercase() || c == '`'));
    error
}
