//! A whole answer.

use std::time::Duration;

use qwen3_vl_model::generate::{Answer, FinishReason, PromptLogprob, Timings};
use qwen3_vl_model::processor::message::MediaKind;
use qwen3_vl_model::processor::{MediaInfo, PlannedMedia, PreparedChat};
use qwen3_vl_model::sample::TokenLogprobs;
use qwen3_vl_model::stream::StreamEvent;
use qwen3_vl_video::VideoInfo;
use qwen3_vl_weights::media::OpenedMedia;

/// Token counts of a request (OpenAI `usage`, with the share of pictures).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    /// Tokens of the prompt that stand for pictures.
    pub image_tokens: usize,
    /// Tokens of the prompt that stand for videos, without those of their times.
    pub video_tokens: usize,
    /// Tokens of the prompt that an earlier turn had left in the cache.
    pub cached_tokens: usize,
    /// Tokens of the answer that are reasoning, without its markers.
    pub reasoning_tokens: usize,
}

/// Log probabilities of one generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprobs: TokenLogprobs,
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The answer without reasoning, special tokens and stop string.
    pub text: String,
    /// What a Thinking checkpoint wrote before its answer.
    pub reasoning: Option<String>,
    /// All generated ids, an end-of-sequence token included.
    pub token_ids: Vec<u32>,
    pub prompt_token_ids: Vec<u32>,
    pub finish_reason: FinishReason,
    /// The stop string that ended the answer.
    pub stopped_by: Option<String>,
    pub usage: Usage,
    pub timings: Timings,
    /// Seconds in which pictures were read, resized and cut.
    pub preprocess: Duration,
    /// What became of each picture.
    pub media: Vec<PlannedMedia>,
    /// Width and height of each medium, upright, before it was resized.
    pub sizes: Vec<(u32, u32)>,
    /// The video file behind each medium; `None` for pictures and lists of pictures.
    pub films: Vec<Option<Film>>,
    /// Sentences on what was wrong with the media without being fatal.
    pub warnings: Vec<String>,
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Of the tokens of the prompt but the first.
    pub prompt_logprobs: Option<Vec<PromptLogprob>>,
    /// The sampler's seed, which repeats the answer.
    pub seed: u64,
}

impl Response {
    /// The answer to a prepared conversation, before its first token.
    pub(crate) fn begun(chat: PreparedChat, report: MediaReport, logprobs: bool) -> Self {
        let image_tokens = chat.inputs.placeholders(MediaKind::Image);
        let video_tokens = chat.inputs.placeholders(MediaKind::Video);
        Self {
            text: String::new(),
            reasoning: None,
            token_ids: Vec::new(),
            prompt_token_ids: chat.inputs.ids,
            finish_reason: FinishReason::Interrupted,
            stopped_by: None,
            usage: Usage { image_tokens, video_tokens, ..Usage::default() },
            timings: Timings::default(),
            preprocess: report.time,
            warnings: warnings(&chat.media, &report.warnings),
            media: chat.media,
            sizes: report.sizes,
            films: report.films,
            logprobs: logprobs.then(Vec::new),
            prompt_logprobs: None,
            seed: 0,
        }
    }

    /// Sizes (width, height) of the pictures alone, upright, before they were resized.
    pub fn picture_sizes(&self) -> Vec<(u32, u32)> {
        let pairs = self.media.iter().zip(&self.sizes);
        let pictures = pairs.filter(|(medium, _)| medium.kind() == MediaKind::Image);
        pictures.map(|(_, size)| *size).collect()
    }

    /// Takes a piece of the answer.
    pub(crate) fn collect(&mut self, event: &StreamEvent) {
        match event {
            // The whole answer has them too.
            StreamEvent::Prompt(_) => {}
            StreamEvent::Text(text) => self.text.push_str(text),
            StreamEvent::Reasoning(text) => self.reasoning.get_or_insert_default().push_str(text),
            StreamEvent::Token(token) => {
                if let (Some(all), Some(logprobs)) = (&mut self.logprobs, &token.logprobs) {
                    all.push(TokenLogprob { id: token.id, logprobs: logprobs.clone() });
                }
            }
        }
    }

    /// The response with everything that is known at the end of the answer.
    pub(crate) fn completed(
        mut self,
        answer: &Answer,
        finish: FinishReason,
        timings: Timings,
    ) -> Self {
        self.token_ids = answer.generated().to_vec();
        self.seed = answer.seed();
        self.prompt_logprobs = answer.prompt_logprobs().map(<[PromptLogprob]>::to_vec);
        (self.finish_reason, self.timings) = (finish, timings);
        let (prompt, completion) = (self.prompt_token_ids.len(), self.token_ids.len());
        self.usage = Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            cached_tokens: timings.reused_tokens,
            ..self.usage
        };
        self
    }
}

/// What reading the media of a request told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaReport {
    /// Width and height of each medium, upright, before it was resized.
    pub sizes: Vec<(u32, u32)>,
    /// The video file behind each medium; `None` for pictures and lists of pictures.
    pub films: Vec<Option<Film>>,
    pub warnings: Vec<String>,
    /// From the first byte to patches.
    pub time: Duration,
}

impl MediaReport {
    /// What is known before anything is decoded.
    pub fn of(opened: &OpenedMedia<'_>) -> Self {
        let sizes = opened.infos().iter().map(MediaInfo::size).collect();
        let films = opened.films().into_iter().map(|film| film.map(Film::of)).collect();
        Self { sizes, films, ..Self::default() }
    }
}

/// A video file, as its container describes it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Film {
    /// Of an upright frame, in pixels.
    pub width: u32,
    pub height: u32,
    /// Frames per second on average.
    pub fps: f64,
    /// Whether the distances of frames differ.
    pub variable: bool,
    /// Frames in the file.
    pub frames: usize,
    /// In seconds.
    pub duration: f64,
    pub codec: String,
    /// What decoded it.
    pub decoder: &'static str,
}

impl Film {
    /// The facts of `info`.
    pub fn of(info: &VideoInfo) -> Self {
        Self {
            width: info.width,
            height: info.height,
            fps: info.fps,
            variable: info.variable,
            frames: info.frame_count(),
            duration: info.duration,
            codec: info.codec.clone(),
            decoder: info.decoder,
        }
    }
}

/// Notices of the planned videos, then what reading them told.
pub fn warnings(media: &[PlannedMedia], more: &[String]) -> Vec<String> {
    let notices = media.iter().flat_map(|medium| match medium {
        PlannedMedia::Video(video) => video.notices.as_slice(),
        PlannedMedia::Image(_) => &[],
    });
    notices.map(ToString::to_string).chain(more.iter().cloned()).collect()
}
