//! The size that the frames of a clip are resized to.

use super::wanted::Wanted;
use super::{VideoNotice, VideoProcessError, VideoProcessorConfig};
use crate::processor::image::ImageError;

/// The longest side over the shortest may be this, not more.
const MAX_ASPECT_RATIO: f64 = 200.0;
/// Room that the bounds of a frame keep between each other.
const HEADROOM: f64 = 1.05;

/// Token counts of qwen-vl-utils 0.0.14.
mod utils {
    /// Fewest of an image; holds for `resized_height` and `resized_width`.
    pub const IMAGE_MIN_TOKENS: usize = 4;
    /// Most of an image.
    pub const IMAGE_MAX_TOKENS: usize = 16_384;
    /// Fewest of a frame.
    pub const FRAME_MIN_TOKENS: usize = 128;
    /// Most of a frame.
    pub const FRAME_MAX_TOKENS: usize = 768;
    /// Most of a whole clip, as a part of the context of 128000 tokens.
    pub const CLIP_TOKENS: (usize, f64) = (128_000, 0.9);
    /// Frames that share a token.
    pub const FRAMES_PER_TOKEN: f64 = 2.0;
}

/// Whose rule shares out the pixels of a clip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BudgetRule {
    /// `smart_resize` of transformers' `Qwen3VLVideoProcessor` over height, width and frames.
    ///
    /// `total_pixels` of a video replaces the largest area of the clip (`size.longest_edge`); `min_pixels` and `max_pixels` bound
    /// one frame, as everywhere in qwen-vl-utils, and go before the bounds of the clip.
    #[default]
    Transformers,
    /// The budget of a frame in qwen-vl-utils 0.0.14 (`fetch_video`), with its own defaults.
    QwenVlUtils,
}

/// Frames before resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipSize {
    /// Number of frames used.
    pub frames: usize,
    /// Rows of a frame, in pixels.
    pub height: usize,
    /// Columns of a frame, in pixels.
    pub width: usize,
}

impl ClipSize {
    fn area(self) -> u128 {
        self.frames as u128 * self.height as u128 * self.width as u128
    }

    fn narrow(self) -> VideoProcessError {
        VideoProcessError::AspectRatio { width: self.width, height: self.height }
    }
}

/// Height and width of every frame after resizing: multiples of `factor` with about the same aspect ratio, so that the area of
/// all frames together lies between the two `bounds` (transformers `smart_resize` of `video_processing_qwen3_vl`).
///
/// Halves round to even. The number of frames counts rounded to a multiple of `temporal`, halves to even (5 as 4, 7 as 8).
/// Frames with a side below `factor` are first scaled up until that side reaches it.
///
/// # Errors
/// [`VideoProcessError::TooFewFrames`] below `temporal` frames, [`VideoProcessError::AspectRatio`] where one side is more than 200
/// times the other (or zero).
pub fn smart_resize_clip(
    clip: ClipSize,
    temporal: usize,
    factor: usize,
    bounds: (usize, usize),
) -> Result<(usize, usize), VideoProcessError> {
    if clip.frames < temporal {
        return Err(VideoProcessError::TooFewFrames { frames: clip.frames, least: temporal });
    }
    let clip = enlarged(clip, factor)?;
    let (h, w) = (clip.height as f64, clip.width as f64);
    if h.max(w) / h.min(w) > MAX_ASPECT_RATIO {
        return Err(clip.narrow());
    }
    let nearest =
        |value: usize, unit: usize| (value as f64 / unit as f64).round_ties_even() as usize * unit;
    let (height, width) = (nearest(clip.height, factor), nearest(clip.width, factor));
    let rounded = ClipSize { frames: nearest(clip.frames, temporal), height, width };
    let f = factor as f64;
    let (min, max) = bounds;
    let sides = if rounded.area() > max as u128 {
        let beta = (clip.area() as f64 / max as f64).sqrt();
        [h, w].map(|side| ((side / beta / f).floor() as usize * factor).max(factor))
    } else if rounded.area() < min as u128 {
        let beta = (min as f64 / clip.area() as f64).sqrt();
        [h, w].map(|side| (side * beta / f).ceil() as usize * factor)
    } else {
        [height, width]
    };
    Ok((sides[0], sides[1]))
}

/// Both sides scaled by the same ratio until none is below `factor`, and truncated.
fn enlarged(clip: ClipSize, factor: usize) -> Result<ClipSize, VideoProcessError> {
    if clip.height == 0 || clip.width == 0 {
        return Err(clip.narrow());
    }
    if clip.height >= factor && clip.width >= factor {
        return Ok(clip);
    }
    let (h, w, f) = (clip.height as f64, clip.width as f64, factor as f64);
    let scale = (f / h).max(f / w);
    Ok(ClipSize { height: (h * scale) as usize, width: (w * scale) as usize, ..clip })
}

/// Height and width of the frames of `clip` after resizing, and what is to be said of them.
pub(super) fn target_size(
    clip: ClipSize,
    config: &VideoProcessorConfig,
    wanted: &Wanted,
    rule: BudgetRule,
) -> Result<((usize, usize), Option<VideoNotice>), VideoProcessError> {
    if config.do_resize {
        return match rule {
            BudgetRule::Transformers => Ok((clip_budget(clip, config, wanted)?, None)),
            BudgetRule::QwenVlUtils => frame_budget(clip, config.layout.factor(), wanted),
        };
    }
    wanted.refuse_sizes("`do_resize` of the checkpoint is false")?;
    let factor = config.layout.factor();
    let divides = |side: usize| side > 0 && side.is_multiple_of(factor);
    let ClipSize { height, width, .. } = clip;
    match divides(height) && divides(width) {
        true => Ok(((height, width), None)),
        false => Err(ImageError::NotDivisible { width, height, factor })?,
    }
}

/// The size of transformers, then inside the bounds of a frame that the video brings.
fn clip_budget(
    clip: ClipSize,
    config: &VideoProcessorConfig,
    wanted: &Wanted,
) -> Result<(usize, usize), VideoProcessError> {
    let factor = config.layout.factor();
    let (height, width) = wanted.resized.unwrap_or((clip.height, clip.width));
    let clip = ClipSize { height, width, ..clip };
    let longest = wanted.total_pixels.unwrap_or(config.max_pixels);
    let shortest = config.min_pixels.min(longest);
    let max = match config.cap_pixels_per_frame {
        true => capped(clip.frames, shortest, longest, config),
        false => longest,
    };
    let sides = smart_resize_clip(clip, config.layout.temporal, factor, (shortest, max))?;
    let area = sides.0 * sides.1;
    Ok(match (wanted.min_pixels, wanted.max_pixels) {
        (Some(low), _) if area < low => scaled(clip, factor, low, f64::ceil),
        (_, Some(high)) if area > high => scaled(clip, factor, high, f64::floor),
        _ => sides,
    })
}

/// Height and width of a frame with an area of about `area` pixels; `round` chooses the side of it.
fn scaled(clip: ClipSize, factor: usize, area: usize, round: fn(f64) -> f64) -> (usize, usize) {
    let (h, w, f) = (clip.height as f64, clip.width as f64, factor as f64);
    let scale = (area as f64 / (h * w)).sqrt();
    let side = |side: f64| round(side * scale / f).max(1.0) as usize * factor;
    (side(h), side(w))
}

/// The largest area of a clip under `cap_pixels_per_frame`.
fn capped(frames: usize, shortest: usize, longest: usize, config: &VideoProcessorConfig) -> usize {
    let factor = config.layout.factor();
    let frame_cap = config.max_video_tokens.saturating_mul(factor * factor);
    let share = frame_cap.min(longest / frames.max(1));
    share.max((shortest as f64 * HEADROOM) as usize).saturating_mul(frames)
}

/// The size of qwen-vl-utils: the same bounds for every frame.
fn frame_budget(
    clip: ClipSize,
    factor: usize,
    wanted: &Wanted,
) -> Result<((usize, usize), Option<VideoNotice>), VideoProcessError> {
    let token = factor * factor;
    if let Some((height, width)) = wanted.resized {
        let clip = ClipSize { height, width, ..clip };
        let bounds = (utils::IMAGE_MIN_TOKENS * token, (utils::IMAGE_MAX_TOKENS * token) as f64);
        return Ok((smart_resize_frame(clip, factor, bounds)?, None));
    }
    let min = wanted.min_pixels.unwrap_or(utils::FRAME_MIN_TOKENS * token);
    let (context, part) = utils::CLIP_TOKENS;
    let total = wanted.total_pixels.map_or((context * token) as f64 * part, |pixels| pixels as f64);
    let share = total / clip.frames as f64 * utils::FRAMES_PER_TOKEN;
    let frame_max = (utils::FRAME_MAX_TOKENS * token) as f64;
    let allowed = frame_max.min(share).max((min as f64 * HEADROOM).trunc());
    let asked = wanted.max_pixels.map(|pixels| pixels as u64);
    let max = asked.map_or(allowed, |pixels| allowed.min(pixels as f64));
    if max < min as f64 {
        let must = format!("at least `min_pixels`, which is {min}");
        return Err(VideoProcessError::setting("max_pixels", max, must));
    }
    let notice = asked
        .filter(|pixels| *pixels as f64 > allowed)
        .map(|wanted| VideoNotice::PixelsLimited { wanted, allowed });
    Ok((smart_resize_frame(clip, factor, (min, max))?, notice))
}

/// `smart_resize` of qwen-vl-utils 0.0.14. Shrinking has no lower limit there, so very narrow frames would vanish.
fn smart_resize_frame(
    clip: ClipSize,
    factor: usize,
    (min, max): (usize, f64),
) -> Result<(usize, usize), VideoProcessError> {
    let (h, w, f) = (clip.height as f64, clip.width as f64, factor as f64);
    if clip.height == 0 || clip.width == 0 || h.max(w) / h.min(w) > MAX_ASPECT_RATIO {
        return Err(clip.narrow());
    }
    let rounded = [h, w].map(|side| ((side / f).round_ties_even() * f).max(f));
    let area = rounded[0] * rounded[1];
    let sides = if area > max {
        let beta = (h * w / max).sqrt();
        [h, w].map(|side| (side / beta / f).floor() * f)
    } else if area < min as f64 {
        let beta = (min as f64 / (h * w)).sqrt();
        [h, w].map(|side| (side * beta / f).ceil() * f)
    } else {
        rounded
    };
    match sides.contains(&0.0) {
        true => Err(VideoProcessError::Vanishes {
            width: clip.width,
            height: clip.height,
            max_pixels: max,
            factor,
        }),
        false => Ok((sides[0] as usize, sides[1] as usize)),
    }
}
