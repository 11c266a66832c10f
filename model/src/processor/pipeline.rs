//! From a conversation and its decoded pictures to [`ModelInputs`] (HF `Qwen3VLProcessor`).

use std::borrow::Cow;

use serde_json::Map;

use super::image::{
    Grid, ImageError, ImageProcessor, ImageProcessorConfig, PackedFrames, PatchLayout,
    PlannedImage, RgbImage, resize_bicubic, smart_resize,
};
use super::message::{Conversation, Detail, ImageRef, MediaKind, MediaRef, media};
use super::prompt::{MediaTokens, PromptBuilder, PromptError, RenderedChat};
use super::template::{ChatTemplate, RenderOptions, TemplateError, TemplateFiles};
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::config::{Qwen3VlConfig, VisionConfig};
use crate::inputs::{MediaItem, ModelInputs, Pixels, VisionSpan};

/// Largest area of an image whose part says `"detail": "low"`.
const LOW_DETAIL_PIXELS: usize = 512 * 512;

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
    #[error("{name}: {source}")]
    Image { name: String, source: Box<ImageError> },
    #[error("preprocessor_config.json: {0}")]
    ImageConfig(ImageError),
    #[error(
        "preprocessor_config.json cuts pictures into {found:?}, but vision_config of config.json expects {expected:?}"
    )]
    Layout { found: PatchLayout, expected: PatchLayout },
    #[error("the conversation has {expected} pictures, but {found} were decoded")]
    PictureCount { expected: usize, found: usize },
    #[error("the conversation has a video; videos are not supported yet, send frames as images")]
    Video,
}

/// Contents of the processor files of a checkpoint; `None` where a file is absent.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorFiles<'a> {
    pub tokenizer: &'a [u8],
    pub tokenizer_config: Option<&'a str>,
    pub chat_template_jinja: Option<&'a str>,
    pub chat_template_json: Option<&'a str>,
    pub preprocessor_config: Option<&'a str>,
}

/// Template, tokenizer and image processor of one checkpoint.
#[derive(Debug)]
pub struct Processor {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    images: ImageProcessor,
    image_token_id: u32,
    video_token_id: u32,
}

/// A conversation ready for the model.
#[derive(Debug)]
pub struct PreparedChat {
    /// The prompt as text, before placeholders are multiplied.
    pub rendered: String,
    pub inputs: ModelInputs,
    /// What became of each picture, in order.
    pub images: Vec<PlannedImage>,
}

impl Processor {
    /// Compiles the template and reads tokenizer and image settings.
    ///
    /// # Errors
    /// When a file is malformed or disagrees with `config.json`.
    pub fn new(config: &Qwen3VlConfig, files: ProcessorFiles<'_>) -> Result<Self, ProcessError> {
        let tokenizer =
            Tokenizer::from_bytes(files.tokenizer, files.tokenizer_config.map(str::as_bytes))?;
        let (image_token_id, video_token_id) = (config.image_token_id, config.video_token_id);
        PromptBuilder::new(&tokenizer, image_token_id, video_token_id)?;
        let settings = match files.preprocessor_config {
            Some(text) => {
                ImageProcessorConfig::from_json(text).map_err(ProcessError::ImageConfig)?
            }
            None => ImageProcessorConfig::qwen3_vl(),
        };
        check_layout(&settings.layout, &config.vision)?;
        let template = ChatTemplate::from_files(TemplateFiles {
            jinja: files.chat_template_jinja,
            json: files.chat_template_json,
            tokenizer_config: files.tokenizer_config,
        })?;
        Ok(Self {
            template,
            tokenizer,
            images: ImageProcessor::new(settings),
            image_token_id,
            video_token_id,
        })
    }

    /// Overrides the bounds on the area of pictures, in pixels after resizing.
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

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Settings for pictures.
    pub fn images(&self) -> &ImageProcessor {
        &self.images
    }

    /// The ids, spans and patches of a conversation whose media are `pictures`, in order.
    ///
    /// # Errors
    /// When a picture cannot be resized, the template fails or drops media.
    pub fn prepare(
        &self,
        conversation: &Conversation,
        pictures: &[RgbImage],
    ) -> Result<PreparedChat, ProcessError> {
        let refs = image_refs(conversation, pictures.len())?;
        let mut pixels = Pixels::default();
        let mut planned = Vec::with_capacity(pictures.len());
        for (index, (item, picture)) in refs.iter().zip(pictures).enumerate() {
            let (plan, frames) = self.process(item, picture).map_err(|e| named(index, item, e))?;
            planned.push(plan);
            pixels.items.push(MediaItem::from_frames(frames));
        }
        let (rendered, ids, spans) = self.prompt(conversation, &planned)?;
        let inputs = ModelInputs { ids, spans, images: pixels, videos: Pixels::default() };
        Ok(PreparedChat { rendered, inputs, images: planned })
    }

    /// As [`Self::prepare`], but from the sizes (width, height) of the pictures alone: no pixels in the result.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn plan(
        &self,
        conversation: &Conversation,
        sizes: &[(u32, u32)],
    ) -> Result<PreparedChat, ProcessError> {
        let refs = image_refs(conversation, sizes.len())?;
        let plan = |(index, (item, size)): (usize, (&&ImageRef, &(u32, u32)))| {
            let planned = self.plan_one(item, *size);
            planned.map_err(|e| named(index, item, e))
        };
        let images: Vec<_> =
            refs.iter().zip(sizes).enumerate().map(plan).collect::<Result<_, _>>()?;
        let (rendered, ids, spans) = self.prompt(conversation, &images)?;
        let inputs = ModelInputs { ids, spans, ..ModelInputs::default() };
        Ok(PreparedChat { rendered, inputs, images })
    }

    fn prompt(
        &self,
        conversation: &Conversation,
        images: &[PlannedImage],
    ) -> Result<(String, Vec<u32>, Vec<VisionSpan>), ProcessError> {
        let options = RenderOptions {
            tools: conversation.tools.clone(),
            add_generation_prompt: true,
            extra: Map::new(),
        };
        let chat = RenderedChat::render(&self.template, &conversation.messages, &options)?;
        let builder =
            PromptBuilder::new(&self.tokenizer, self.image_token_id, self.video_token_id)?;
        let counts: Vec<_> = images.iter().map(|i| MediaTokens::Image(i.tokens)).collect();
        let prompt = builder.build(&chat, &counts)?;
        let merge = self.images.config.layout.merge;
        let span = |(start, grid): (usize, Grid)| VisionSpan {
            kind: MediaKind::Image,
            start,
            rows: grid.h / merge,
            columns: grid.w / merge,
        };
        let starts = prompt.spans.iter().map(|s| (s.start, images[s.media_index].grid));
        Ok((chat.text(), prompt.ids, starts.map(span).collect()))
    }

    fn process(
        &self,
        item: &ImageRef,
        picture: &RgbImage,
    ) -> Result<(PlannedImage, PackedFrames), ImageError> {
        let processor = self.for_item(item)?;
        let size = (picture.width, picture.height);
        let (width, height) = requested_size(&processor, item, size)?;
        let resized = if (width, height) == size {
            processor.resize(picture)?
        } else {
            let requested = resize_bicubic(picture, height as usize, width as usize);
            Cow::Owned(processor.resize(&requested)?.into_owned())
        };
        let config = &processor.config;
        let frames = vec![resized.into_owned()];
        let packed = PackedFrames::new(frames, config.layout, &config.normalization)?;
        Ok((processor.plan(width as usize, height as usize)?, packed))
    }

    fn plan_one(&self, item: &ImageRef, size: (u32, u32)) -> Result<PlannedImage, ImageError> {
        let processor = self.for_item(item)?;
        let (width, height) = requested_size(&processor, item, size)?;
        processor.plan(width as usize, height as usize)
    }

    /// The image processor with the bounds that a content part brings.
    fn for_item(&self, item: &ImageRef) -> Result<ImageProcessor, ImageError> {
        let bound = |value: Option<u64>| value.map(|v| usize::try_from(v).unwrap_or(usize::MAX));
        let (min, mut max) = (bound(item.min_pixels), bound(item.max_pixels));
        if item.detail == Some(Detail::Low) && max.is_none() {
            max = Some(LOW_DETAIL_PIXELS.max(min.unwrap_or(self.images.config.min_pixels)));
        }
        Ok(ImageProcessor::new(self.images.config.clone().with_pixel_bounds(min, max)?))
    }
}

/// The size that `resized_height` and `resized_width` of a content part ask for (qwen-vl-utils), else its own.
fn requested_size(
    processor: &ImageProcessor,
    item: &ImageRef,
    size: (u32, u32),
) -> Result<(u32, u32), ImageError> {
    let Some((height, width)) = item.resized else { return Ok(size) };
    let config = &processor.config;
    let side = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (height, width) = smart_resize(
        side(height),
        side(width),
        config.layout.factor(),
        config.min_pixels,
        config.max_pixels,
    )?;
    Ok((width as u32, height as u32))
}

fn image_refs(conversation: &Conversation, found: usize) -> Result<Vec<&ImageRef>, ProcessError> {
    let image = |item: &'_ MediaRef| matches!(item, MediaRef::Image(_));
    let all = media(&conversation.messages);
    if !all.iter().all(|item| image(item)) {
        return Err(ProcessError::Video);
    }
    let images: Vec<&ImageRef> = all
        .into_iter()
        .filter_map(|item| match item {
            MediaRef::Image(image) => Some(image),
            MediaRef::Video(_) => None,
        })
        .collect();
    match images.len() == found {
        true => Ok(images),
        false => Err(ProcessError::PictureCount { expected: images.len(), found }),
    }
}

fn check_layout(found: &PatchLayout, vision: &VisionConfig) -> Result<(), ProcessError> {
    let expected = PatchLayout {
        patch: vision.patch_size,
        temporal: vision.temporal_patch_size,
        merge: vision.merge_size,
    };
    match *found == expected {
        true => Ok(()),
        false => Err(ProcessError::Layout { found: *found, expected }),
    }
}

fn named(index: usize, item: &ImageRef, source: ImageError) -> ProcessError {
    let location = item.source.as_ref().map(|source| source.describe());
    let name = location.unwrap_or_else(|| format!("image {}", index + 1));
    ProcessError::Image { name, source: Box::new(source) }
}
