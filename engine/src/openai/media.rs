//! `mm_processor_kwargs` and `media_io_kwargs` of vLLM: settings of all pictures and videos of a request that do not
//! say it themselves.

use qwen3_vl_model::processor::message::{
    Conversation, MediaRef, VideoRef, default_videos, media_mut,
};
use serde::Deserialize;

use super::BodyError;

/// How pictures and videos are sized and sampled.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProcessorSettings {
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    size: Option<Size>,
    fps: Option<f64>,
    num_frames: Option<u64>,
    min_frames: Option<u64>,
    max_frames: Option<u64>,
    total_pixels: Option<u64>,
}

/// transformers 5 spells the two bounds on the area so.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Size {
    shortest_edge: Option<u64>,
    longest_edge: Option<u64>,
}

/// How videos are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct IoSettings {
    video: Option<VideoIo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VideoIo {
    fps: Option<f64>,
    num_frames: Option<u64>,
}

impl ProcessorSettings {
    pub(super) fn apply(&self, conversation: &mut Conversation) -> Result<(), BodyError> {
        let size = self.size.as_ref();
        let min = self.min_pixels.or(size.and_then(|size| size.shortest_edge));
        let max = self.max_pixels.or(size.and_then(|size| size.longest_edge));
        check_sampling("mm_processor_kwargs", self.fps, self.num_frames)?;
        let counts = [
            ("min_pixels", min),
            ("max_pixels", max),
            ("min_frames", self.min_frames),
            ("max_frames", self.max_frames),
            ("total_pixels", self.total_pixels),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(BodyError::value(&format!("mm_processor_kwargs.{name}"), 0, "at least 1"));
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let must = format!("at most max_pixels, which is {max}");
            return Err(BodyError::value("mm_processor_kwargs.min_pixels", min, &must));
        }
        for medium in media_mut(&mut conversation.messages) {
            if let MediaRef::Image(image) = medium {
                image.min_pixels = image.min_pixels.or(min);
                image.max_pixels = image.max_pixels.or(max);
            }
        }
        let videos = VideoRef {
            min_pixels: min,
            max_pixels: max,
            fps: self.fps,
            num_frames: self.num_frames,
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            total_pixels: self.total_pixels,
            ..VideoRef::default()
        };
        default_videos(&mut conversation.messages, &videos);
        Ok(())
    }
}

impl IoSettings {
    pub(super) fn apply(&self, conversation: &mut Conversation) -> Result<(), BodyError> {
        let Some(VideoIo { fps, num_frames }) = self.video else { return Ok(()) };
        check_sampling("media_io_kwargs.video", fps, num_frames)?;
        let videos = VideoRef { fps, num_frames, ..VideoRef::default() };
        default_videos(&mut conversation.messages, &videos);
        Ok(())
    }
}

fn check_sampling(at: &str, fps: Option<f64>, frames: Option<u64>) -> Result<(), BodyError> {
    match (fps, frames) {
        (Some(fps), Some(_)) => {
            Err(BodyError::value(&format!("{at}.fps"), fps, "left out beside num_frames"))
        }
        (Some(fps), _) if !(fps.is_finite() && fps > 0.0) => {
            Err(BodyError::value(&format!("{at}.fps"), fps, "above 0"))
        }
        (_, Some(0)) => Err(BodyError::value(&format!("{at}.num_frames"), 0, "at least 1")),
        _ => Ok(()),
    }
}
