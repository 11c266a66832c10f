//! Videos: size and times of a source -> sampled frames, their size and times -> resized bytes for the vision tower.
//!
//! | step | file | source |
//! |---|---|---|
//! | `video_preprocessor_config.json` | `config` `file` | transformers `Qwen3VLVideoProcessor` |
//! | settings of one video, checked | `wanted` | the video keys of qwen-vl-utils |
//! | when each frame of the source is shown | `source` | transformers `VideoMetadata` |
//! | which frames | `sampling` | `Qwen3VLVideoProcessor.sample_frames`, qwen-vl-utils `smart_nframes` |
//! | target size | `size` | `smart_resize` of the video processor, qwen-vl-utils `fetch_video` |
//! | times in the prompt | `timestamps` | `Qwen3VLProcessor._calculate_timestamps` |
//! | all of it for one video | `process` | `Qwen3VLVideoProcessor._preprocess` |
//! | resizing frame by frame | `clip` | as images: torchvision bicubic, antialiased, on uint8 tensors |
//!
//! Nothing here decodes: the caller decodes the frames that a [`PlannedVideo`] names and pushes them into a
//! [`ClipBuilder`] one by one.

mod clip;
mod config;
mod error;
mod file;
mod notice;
mod process;
mod sampling;
mod size;
mod source;
mod timestamps;
mod wanted;

pub use clip::ClipBuilder;
pub use config::{SampleRate, VideoConfigFiles, VideoProcessorConfig};
pub use error::VideoProcessError;
pub use notice::VideoNotice;
pub use process::{PlannedVideo, VideoProcessor};
pub use sampling::{FrameSelection, MOST_FRAMES, SamplingRule};
pub use size::{BudgetRule, ClipSize, smart_resize_clip};
pub use source::{SourceClip, SourceFrames};
pub use timestamps::group_times;
pub use wanted::with_defaults;

#[cfg(test)]
mod tests;
