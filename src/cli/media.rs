//! Pictures and videos on the command line.

use std::path::Path;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use qwen3_vl::model::processor::VideoRules;
use qwen3_vl::model::processor::message::{
    ImageRef, MediaRef, VideoRef, default_videos, fill_media,
};
use qwen3_vl::model::processor::prompt::VideoLayout;
use qwen3_vl::model::processor::video::{BudgetRule, SamplingRule};
use qwen3_vl::video::DecoderChoice;
use qwen3_vl::weights::MediaLimits;
use qwen3_vl::{Conversation, Message};

use super::{input, usage_error};

/// What is shown to the model.
#[derive(Debug, Args)]
pub struct MediaArgs {
    /// Picture: path, http(s) or file URL, or data URI (repeat for several)
    #[arg(long, value_name = "IMAGE")]
    pub image: Vec<String>,
    /// Video: path, folder of images (with --raw-fps), URL or data URI (repeat for several; they follow the pictures)
    #[arg(long, value_name = "VIDEO")]
    pub video: Vec<String>,
    #[command(flatten)]
    pub settings: MediaSettings,
}

/// How pictures and videos are sampled and sized. Parts of a messages file may say it for themselves.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pictures and videos")]
pub struct MediaSettings {
    /// Smallest area of a picture, or of a frame, after resizing, in pixels
    #[arg(long, value_name = "PIXELS")]
    pub min_pixels: Option<usize>,
    /// Largest area of a picture, or of a frame, after resizing, in pixels (1024 pixels make one token)
    #[arg(long, value_name = "PIXELS")]
    pub max_pixels: Option<usize>,
    /// Largest area of all frames of a video together, in pixels
    #[arg(long, value_name = "PIXELS")]
    total_pixels: Option<u64>,
    /// Frames per second that are looked at [default: the checkpoint's, 2]
    #[arg(long, value_name = "RATE", conflicts_with = "num_frames", allow_negative_numbers = true)]
    fps: Option<f64>,
    /// Frames that are looked at, evenly spread
    #[arg(long, visible_alias = "nframes", value_name = "N")]
    num_frames: Option<u64>,
    /// Fewest frames that --fps may give [default: the checkpoint's, 4]
    #[arg(long, value_name = "N")]
    min_frames: Option<u64>,
    /// Most frames that --fps may give [default: the checkpoint's, 768]
    #[arg(long, value_name = "N")]
    max_frames: Option<u64>,
    /// Begin at this second
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    video_start: Option<f64>,
    /// End at this second
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    video_end: Option<f64>,
    /// Images per second of a folder given as --video
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    raw_fps: Option<f64>,
    /// Keep a frame within its even share of the clip (cap_pixels_per_frame of transformers) [default: the checkpoint's]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    cap_pixels_per_frame: Option<bool>,
    /// How a clip stands in the prompt: as in transformers 4.57 (as Qwen trained) or 5
    #[arg(long, value_name = "STYLE", default_value = "hf4")]
    video_prompt_style: PromptStyle,
    /// Whose rules choose frames and their size
    #[arg(long, value_name = "RULES", default_value = "transformers")]
    video_rules: Rules,
    /// Which decoders may be used
    #[arg(long, value_name = "DECODER", default_value = "auto")]
    video_decoder: Decoder,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PromptStyle {
    /// The groups of time and frame take the place of the template's own markers
    Hf4,
    /// The groups stand between the template's own markers
    Hf5,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rules {
    /// Qwen3VLVideoProcessor of transformers 5
    Transformers,
    /// fetch_video of qwen-vl-utils 0.0.14
    QwenVlUtils,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Decoder {
    /// The first that can: built-in, linked libav, ffmpeg on PATH
    Auto,
    /// GIF, APNG, WebP, images, H.264 in mp4 and mov
    BuiltIn,
    /// The FFmpeg libraries (cargo feature libav)
    Libav,
    /// The ffmpeg and ffprobe programs
    Ffmpeg,
}

impl MediaSettings {
    /// Refuses bounds that contradict each other.
    ///
    /// # Errors
    /// A usage error that names both options.
    pub fn check(&self) -> anyhow::Result<()> {
        if let (Some(min), Some(max)) = (self.min_pixels, self.max_pixels)
            && min > max
        {
            let message = format!("--min-pixels {min} is larger than --max-pixels {max}");
            return Err(usage_error(ErrorKind::ValueValidation, message));
        }
        Ok(())
    }

    /// Whose rules hold.
    pub fn rules(&self) -> VideoRules {
        let (sampling, budget) = match self.video_rules {
            Rules::Transformers => (SamplingRule::Transformers, BudgetRule::Transformers),
            Rules::QwenVlUtils => (SamplingRule::QwenVlUtils, BudgetRule::QwenVlUtils),
        };
        let layout = match self.video_prompt_style {
            PromptStyle::Hf4 => VideoLayout::Hf4,
            PromptStyle::Hf5 => VideoLayout::Hf5,
        };
        VideoRules { sampling, budget, layout, cap_pixels_per_frame: self.cap_pixels_per_frame }
    }

    /// What may be fetched and decoded.
    pub fn limits(&self) -> MediaLimits {
        let decoder = match self.video_decoder {
            Decoder::Auto => DecoderChoice::Auto,
            Decoder::BuiltIn => DecoderChoice::BuiltIn,
            Decoder::Libav => DecoderChoice::Libav,
            Decoder::Ffmpeg => DecoderChoice::Ffmpeg,
        };
        MediaLimits { decoder, ..MediaLimits::default() }
    }

    /// What videos take where they say nothing themselves.
    pub fn video_defaults(&self) -> VideoRef {
        let wide = |pixels: Option<usize>| pixels.map(|pixels| pixels as u64);
        VideoRef {
            min_pixels: wide(self.min_pixels),
            max_pixels: wide(self.max_pixels),
            total_pixels: self.total_pixels,
            fps: self.fps,
            num_frames: self.num_frames,
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            start: self.video_start,
            end: self.video_end,
            raw_fps: self.raw_fps,
            ..VideoRef::default()
        }
    }
}

impl MediaArgs {
    /// The pictures, then the videos.
    pub fn media(&self) -> Vec<MediaRef> {
        let images = self.image.iter().map(|image| MediaRef::Image(ImageRef::new(image.as_str())));
        let video = |video: &String| MediaRef::Video(VideoRef::new(video.as_str()));
        images.chain(self.video.iter().map(video)).collect()
    }

    /// One question about the media, after an optional system message.
    pub fn question(&self, system: Option<&str>, text: impl Into<String>) -> Conversation {
        let question = self.media().into_iter().fold(Message::user(""), Message::media_part);
        let system = system.map(Message::system);
        let messages = system.into_iter().chain([question.text(text)]).collect();
        self.finished(Conversation { messages, tools: Vec::new() })
    }

    /// Reads a conversation, giving its parts without source the media named beside it.
    ///
    /// # Errors
    /// When the file cannot be read, is malformed, or waits for other media.
    pub fn conversation_file(&self, path: &Path) -> anyhow::Result<Conversation> {
        let text = input::file(path)?;
        let name = || path.display().to_string();
        let mut conversation = Conversation::from_json(&text).with_context(name)?;
        fill_media(&mut conversation.messages, self.media()).with_context(name)?;
        Ok(self.finished(conversation))
    }

    fn finished(&self, mut conversation: Conversation) -> Conversation {
        default_videos(&mut conversation.messages, &self.settings.video_defaults());
        conversation
    }
}
