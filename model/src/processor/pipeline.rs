//! From a conversation and its media to [`ModelInputs`] (HF `Qwen3VLProcessor`), in two steps: sizes and times alone
//! give the whole prompt ([`Processor::plan`]), so that what does not fit is refused before a pixel is decoded; then
//! the pixels are filled in ([`PlannedChat::fill`]).

use serde_json::{Map, Value as Json};

use super::image::{
    Grid, ImageError, ImageProcessor, ImageProcessorConfig, PackedFrames, PatchLayout, RgbImage,
};
use super::labels::{self, LabelError, LabelledChat, Turns};
use super::message::{Conversation, ImageRef, MediaRef, media};
use super::picture;
use super::planned::{MediaInfo, PlannedChat, PlannedMedia};
use super::prompt::{PromptBuilder, PromptError, RenderedChat, VideoLayout};
use super::template::{ChatTemplate, RenderOptions, TemplateError, TemplateFiles};
use super::tokenizer::{Tokenizer, TokenizerError};
use super::video::{
    BudgetRule, SamplingRule, VideoConfigFiles, VideoProcessError, VideoProcessor,
    VideoProcessorConfig,
};
use crate::config::{Qwen3VlConfig, VisionConfig};
use crate::inputs::VisionSpan;

/// Why a conversation cannot become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Labels(#[from] LabelError),
    #[error("{name}: {source}")]
    Image { name: String, source: Box<ImageError> },
    #[error("{name}: {source}")]
    Video { name: String, source: Box<VideoProcessError> },
    #[error("preprocessor_config.json: {0}")]
    ImageConfig(ImageError),
    #[error(transparent)]
    VideoConfig(Box<VideoProcessError>),
    #[error(
        "{file} cuts pictures into {found}, but vision_config of config.json expects {expected}"
    )]
    Layout { file: &'static str, found: PatchLayout, expected: PatchLayout },
    #[error("the conversation has {expected} pictures and videos, but {found} were given")]
    MediaCount { expected: usize, found: usize },
    #[error("medium {index} of the conversation is of another kind than what was given for it")]
    MediaKind { index: usize },
    #[error("medium {index} of the conversation was planned as {planned:?}, but cut as {found:?}")]
    Patches { index: usize, planned: Grid, found: Grid },
}

/// Contents of the processor files of a checkpoint; `None` where a file is absent.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorFiles<'a> {
    pub tokenizer: &'a [u8],
    pub tokenizer_config: Option<&'a str>,
    pub chat_template_jinja: Option<&'a str>,
    pub chat_template_json: Option<&'a str>,
    pub preprocessor_config: Option<&'a str>,
    pub video_preprocessor_config: Option<&'a str>,
    pub processor_config: Option<&'a str>,
}

/// How videos are sampled, sized and written into the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VideoRules {
    pub sampling: SamplingRule,
    pub budget: BudgetRule,
    pub layout: VideoLayout,
    /// Overrides `cap_pixels_per_frame` of the checkpoint.
    pub cap_pixels_per_frame: Option<bool>,
}

/// Template, tokenizer, image and video processor of one checkpoint.
#[derive(Debug)]
pub struct Processor {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    images: ImageProcessor,
    videos: VideoProcessor,
    video_layout: VideoLayout,
    image_token_id: u32,
    video_token_id: u32,
}

impl Processor {
    /// Compiles the template and reads tokenizer, image and video settings.
    ///
    /// # Errors
    /// When a file is malformed or disagrees with `config.json`.
    pub fn new(config: &Qwen3VlConfig, files: ProcessorFiles<'_>) -> Result<Self, ProcessError> {
        let tokenizer =
            Tokenizer::from_bytes(files.tokenizer, files.tokenizer_config.map(str::as_bytes))?;
        let (image_token_id, video_token_id) = (config.image_token_id, config.video_token_id);
        PromptBuilder::new(&tokenizer, image_token_id, video_token_id)?;
        let images = match files.preprocessor_config {
            Some(text) => {
                ImageProcessorConfig::from_json(text).map_err(ProcessError::ImageConfig)?
            }
            None => ImageProcessorConfig::qwen3_vl(),
        };
        check_layout("preprocessor_config.json", &images.layout, &config.vision)?;
        let videos = VideoProcessorConfig::from_files(VideoConfigFiles {
            processor: files.processor_config,
            video: files.video_preprocessor_config,
            image: files.preprocessor_config,
        });
        let videos = videos.map_err(|error| ProcessError::VideoConfig(Box::new(error)))?;
        check_layout("video_preprocessor_config.json", &videos.layout, &config.vision)?;
        let template = ChatTemplate::from_files(TemplateFiles {
            jinja: files.chat_template_jinja,
            json: files.chat_template_json,
            tokenizer_config: files.tokenizer_config,
        })?;
        Ok(Self {
            template,
            tokenizer,
            images: ImageProcessor::new(images),
            videos: VideoProcessor::new(videos),
            video_layout: VideoLayout::default(),
            image_token_id,
            video_token_id,
        })
    }

    /// Overrides the bounds on the area of images, in pixels after resizing.
    ///
    /// # Errors
    /// When the smaller bound exceeds the larger.
    pub fn with_pixel_bounds(
        mut self,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<Self, ProcessError> {
        let config = self.images.config.with_pixel_bounds(min, max);
        self.images = ImageProcessor::new(config.map_err(ProcessError::ImageConfig)?);
        Ok(self)
    }

    /// Chooses how videos are sampled, sized and written into the prompt.
    #[must_use]
    pub fn with_video_rules(mut self, rules: VideoRules) -> Self {
        self.videos = self.videos.with_rules(rules.sampling, rules.budget);
        if let Some(cap) = rules.cap_pixels_per_frame {
            self.videos.config.cap_pixels_per_frame = cap;
        }
        Self { video_layout: rules.layout, ..self }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Settings for images.
    pub fn images(&self) -> &ImageProcessor {
        &self.images
    }

    /// Settings for videos.
    pub fn videos(&self) -> &VideoProcessor {
        &self.videos
    }

    /// Tokens, sizes and sampled frames of a conversation, of whose media only `infos` is known, in order.
    ///
    /// # Errors
    /// When `infos` are not those of the conversation, a medium cannot be resized or sampled, or the template fails.
    pub fn plan(
        &self,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
    ) -> Result<PlannedChat, ProcessError> {
        self.plan_with(conversation, infos, &Map::new())
    }

    /// As [`Processor::plan`], with further variables of the chat template.
    ///
    /// # Errors
    /// As [`Processor::plan`].
    pub fn plan_with(
        &self,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
        variables: &Map<String, Json>,
    ) -> Result<PlannedChat, ProcessError> {
        let media = self.plan_media(conversation, infos)?;
        let options = RenderOptions {
            add_generation_prompt: true,
            extra: variables.clone(),
            ..labels::options(conversation)
        };
        let chat = RenderedChat::render(&self.template, &conversation.messages, &options)?;
        Ok(self.spell(&chat, media)?.chat)
    }

    /// As [`Processor::plan`], for a conversation that ends with an answer, and for every id whether it is learned.
    ///
    /// # Errors
    /// As [`Processor::plan`]; [`ProcessError::Labels`] when the template does not let `turns` be told from the rest.
    pub fn plan_labelled(
        &self,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
        turns: Turns<'_>,
    ) -> Result<LabelledChat, ProcessError> {
        let chat = labels::render(&self.template, conversation, turns)?;
        self.spell(&chat, self.plan_media(conversation, infos)?)
    }

    /// The resized bytes of a picture for image part `item`.
    ///
    /// # Errors
    /// When the picture cannot be resized within the bounds.
    pub fn cut(&self, item: &ImageRef, picture: &RgbImage) -> Result<PackedFrames, ImageError> {
        picture::cut(&self.images, item, picture)
    }

    fn plan_media(
        &self,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
    ) -> Result<Vec<PlannedMedia>, ProcessError> {
        let refs = media(&conversation.messages);
        let (expected, found) = (refs.len(), infos.len());
        if expected != found {
            return Err(ProcessError::MediaCount { expected, found });
        }
        let pairs = refs.into_iter().zip(infos).enumerate();
        pairs.map(|(index, (item, info))| self.plan_medium(index, item, info)).collect()
    }

    fn plan_medium(
        &self,
        index: usize,
        item: &MediaRef,
        info: &MediaInfo<'_>,
    ) -> Result<PlannedMedia, ProcessError> {
        let name = || match item.source() {
            Some(source) => source.describe(),
            None => format!("{} {}", item.kind(), index + 1),
        };
        match (item, info) {
            (MediaRef::Image(image), MediaInfo::Image { width, height }) => {
                let planned = picture::plan(&self.images, image, (*width, *height));
                let image = |e| ProcessError::Image { name: name(), source: Box::new(e) };
                planned.map(PlannedMedia::Image).map_err(image)
            }
            (MediaRef::Video(video), MediaInfo::Video(clip)) => {
                let planned = self.videos.plan(clip, video);
                let video = |e| ProcessError::Video { name: name(), source: Box::new(e) };
                planned.map(|clip| PlannedMedia::Video(Box::new(clip))).map_err(video)
            }
            _ => Err(ProcessError::MediaKind { index: index + 1 }),
        }
    }

    /// The ids of a rendered chat, and where its media stand in them.
    fn spell(
        &self,
        chat: &RenderedChat,
        media: Vec<PlannedMedia>,
    ) -> Result<LabelledChat, ProcessError> {
        let builder =
            PromptBuilder::new(&self.tokenizer, self.image_token_id, self.video_token_id)?
                .with_layout(self.video_layout);
        let counts: Vec<_> = media.iter().map(PlannedMedia::tokens).collect();
        let prompt = builder.build(chat, &counts)?;
        let merge = self.images.config.layout.merge;
        let spans = prompt.spans.iter().map(|span| {
            let grid = media[span.media_index].grid();
            let (rows, columns) = (grid.h / merge, grid.w / merge);
            VisionSpan { kind: span.kind, start: span.start, rows, columns }
        });
        let spans = spans.collect();
        let chat = PlannedChat { rendered: chat.text(), ids: prompt.ids, spans, media };
        Ok(LabelledChat { chat, targets: prompt.targets })
    }
}

fn check_layout(
    file: &'static str,
    found: &PatchLayout,
    vision: &VisionConfig,
) -> Result<(), ProcessError> {
    let expected = PatchLayout::of(vision);
    match *found == expected {
        true => Ok(()),
        false => Err(ProcessError::Layout { file, found: *found, expected }),
    }
}
