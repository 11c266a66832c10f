//! The facade: a loaded checkpoint that answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use qwen3_vl_backends::device::lost::caught;
use qwen3_vl_backends::graph::beside_recordings;
use qwen3_vl_backends::ops::Products;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_backends::{Placement, SelectedDevice};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::generate::{GenerateError, Generation, SessionSlot};
use qwen3_vl_model::inputs::ModelInputs;
use qwen3_vl_model::processor::{PreparedChat, ProcessError, Processor};
use qwen3_vl_model::sample::GenerationDefaults;
use qwen3_vl_model::session::{PREFILL_CHUNK, Session};
use qwen3_vl_model::stream::{StreamEvent, TextStream};
use qwen3_vl_weights::adapter::read_adapter;
use qwen3_vl_weights::hub::HubOptions;
use qwen3_vl_weights::media::{MediaProgress, OpenedMedia};
use qwen3_vl_weights::{LoadReport, MediaLimits, ModelSource, Progress, load_placed};

use crate::grammar::{Grammars, Guide};
use crate::options::LoadOptions;
use crate::ready::Ready;
use crate::response::MediaReport;
use crate::{Error, Request, Response, nano};

/// A checkpoint on a device, with its processor: `load`, then `generate` or `stream`.
#[derive(Debug)]
pub struct Qwen3Vl {
    model: Qwen3VlModel,
    processor: Processor,
    defaults: GenerationDefaults,
    placement: Placement,
    media: MediaLimits,
    report: LoadReport,
    folder: PathBuf,
    sees: bool,
    load_time: Duration,
    pub(crate) grammars: Grammars,
    scheme: Option<QuantScheme>,
}

impl Qwen3Vl {
    /// Loads a checkpoint folder, a GGUF file, a hub id, or the embedded checkpoint by the name [`nano::NAME`].
    ///
    /// # Errors
    /// When the device is not there, the download fails, or a file of the checkpoint is missing or wrong.
    pub fn load(model: &str, options: LoadOptions) -> Result<Self, Error> {
        Self::load_with(model, options, &mut ())
    }

    /// As [`Self::load`], telling `progress` of every tensor.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        model: &str,
        options: LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let devices = options.open_devices()?;
        let hub = options.hub.clone().unwrap_or_else(HubOptions::from_env);
        let folder = nano::resolve(model, &hub)?;
        let source = ModelSource::find(&folder, options.mmproj.as_deref())?;
        let checkpoint = source.open()?;
        let config = checkpoint.config().clone();
        let config = options.context.apply(config)?;
        let checkpoint = checkpoint.with_config(config);
        let processor = source
            .processor(checkpoint.config())?
            .with_pixel_bounds(options.min_pixels, options.max_pixels)?
            .with_video_rules(options.video);
        let defaults = source.generation_defaults()?;
        let (config, stored) = (checkpoint.config(), checkpoint.main_dtype());
        let (placement, precision) = options.place(&devices, config, stored)?;
        let adapter = options.adapter.as_deref().map(read_adapter).transpose()?;
        let scheme = options.rounding(config).map(|rounding| rounding.scheme);
        let how = options.how(precision, options.quant.as_ref());
        let (mut model, report) = load_placed(&checkpoint, &placement, how, progress)?;
        if let Some(adapter) = adapter {
            model = adapter.attach(model)?;
        }
        Ok(Self {
            model: model
                .with_cache_dtype(options.cache_dtype(precision))
                .with_products(Products::of(options.dtype, precision)),
            processor,
            defaults,
            placement,
            media: options.media,
            report,
            folder: source.path().to_owned(),
            sees: source.sees(),
            load_time: start.elapsed(),
            grammars: Grammars::default(),
            scheme,
        })
    }

    /// The model.
    pub fn model(&self) -> &Qwen3VlModel {
        &self.model
    }

    /// Template, tokenizer and image settings.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Whether the checkpoint has a vision tower.
    pub fn sees(&self) -> bool {
        self.sees
    }

    /// The device that the model is on; with a map, that of the embedding.
    pub fn device(&self) -> &SelectedDevice {
        &self.placement.embed
    }

    /// Which device holds which part.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// How linear weights are rounded, where they are.
    pub fn scheme(&self) -> Option<QuantScheme> {
        self.scheme
    }

    /// What the checkpoint's `generation_config.json` says.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// Which tensors were found, and what was left over.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The folder or GGUF file that the checkpoint was loaded from.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Time that loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// A conversation whose turns share one cache.
    pub fn chat(&self) -> Chat<'_> {
        Chat { engine: self, session: Session::new(&self.model) }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When a picture cannot be read or the conversation does not fit the model.
    pub fn generate(&self, request: &Request) -> Result<Response, Error> {
        self.stream(request)?.finish()
    }

    /// Answers a request piece by piece.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn stream(&self, request: &Request) -> Result<AnswerStream<'_>, Error> {
        self.stream_prepared(self.prepare(request, &mut ())?, request)
    }

    /// Answers a request whose prompt was made by [`Self::prepare`], piece by piece.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn stream_prepared(
        &self,
        prepared: Prepared,
        request: &Request,
    ) -> Result<AnswerStream<'_>, Error> {
        let session = SessionSlot::Owned(Box::new(Session::new(&self.model)));
        self.answer(session, prepared, request)
    }

    fn answer<'a>(
        &'a self,
        session: SessionSlot<'a>,
        prepared: Prepared,
        request: &Request,
    ) -> Result<AnswerStream<'a>, Error> {
        let Ready { prepared, options, stops, guide } = self.ready(prepared, request)?;
        let text = self.assembler(&prepared, stops);
        let logprobs = options.logprobs.is_some();
        let generation = Generation::start(&self.model, session, &prepared.chat.inputs, options)?;
        let generation = generation.with_constraint(guide.map(Guide::boxed));
        let stream = TextStream::new(generation, text);
        Ok(AnswerStream { stream, response: prepared.begin(logprobs) })
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.processor.tokenizer().encode(text).map_err(ProcessError::from)?)
    }

    /// The text of ids, control tokens included.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, Error> {
        Ok(self.processor.tokenizer().decode(ids, false).map_err(ProcessError::from)?)
    }

    /// The ids of a chat, whose media are opened but not decoded.
    ///
    /// # Errors
    /// When a medium cannot be opened, or `progress` stops.
    pub fn count(
        &self,
        request: &Request,
        progress: &mut dyn MediaProgress,
    ) -> Result<Vec<u32>, Error> {
        let opened = self.open(request, progress)?;
        let infos = opened.infos();
        let planned = self.processor.plan_with(&request.conversation, &infos, &request.template)?;
        Ok(planned.ids)
    }

    /// The final hidden state after the last token of a prompt, of `hidden_size` values. Other threads may write answers
    /// meanwhile; what they record waits.
    ///
    /// # Errors
    /// When the prompt is empty or no prompt of this model, or a device is lost.
    pub fn embed(&self, prepared: &Prepared) -> Result<Vec<f32>, Error> {
        let inputs = &prepared.chat.inputs;
        let embed = || {
            beside_recordings(|| {
                Session::new(&self.model).embed(&self.model, inputs, PREFILL_CHUNK)
            })
        };
        Ok(caught(embed).map_err(GenerateError::from)?.map_err(GenerateError::from)?)
    }

    /// The prompt of a bare text, without a chat template.
    ///
    /// # Errors
    /// When it is too long.
    pub fn prepare_text(&self, text: &str) -> Result<Prepared, Error> {
        let ids = self.processor.tokenizer().encode(text).map_err(ProcessError::from)?;
        self.prepare_ids(ids, text.to_owned())
    }

    /// The prompt of bare ids; `rendered` is their text.
    ///
    /// # Errors
    /// When there are too many.
    pub fn prepare_ids(&self, ids: Vec<u32>, rendered: String) -> Result<Prepared, Error> {
        self.check_context(ids.len())?;
        let chat = PreparedChat { rendered, inputs: ModelInputs::text(ids), media: Vec::new() };
        Ok(Prepared { chat, report: MediaReport::default() })
    }

    /// Reads the media of a request and makes its prompt. What does not fit the context is refused from sizes and
    /// times alone, before pixels are decoded.
    ///
    /// # Errors
    /// When a medium cannot be read, the prompt is too long, or `progress` stops.
    pub fn prepare(
        &self,
        request: &Request,
        progress: &mut dyn MediaProgress,
    ) -> Result<Prepared, Error> {
        let start = Instant::now();
        let opened = self.open(request, progress)?;
        let infos = opened.infos();
        let planned = self.processor.plan_with(&request.conversation, &infos, &request.template)?;
        self.check_context(planned.tokens())?;
        let report = MediaReport::of(&opened);
        let decoded = opened.decode(&self.processor, &planned, &self.media, progress)?;
        let report = MediaReport { warnings: decoded.warnings, time: start.elapsed(), ..report };
        Ok(Prepared { chat: planned.fill(decoded.items)?, report })
    }

    /// The media of a request, which only a model with a vision tower takes.
    fn open<'r>(
        &self,
        request: &'r Request,
        progress: &mut dyn MediaProgress,
    ) -> Result<OpenedMedia<'r>, Error> {
        let opened = OpenedMedia::open(&request.conversation, &self.media, progress)?;
        match self.sees || opened.infos().is_empty() {
            true => Ok(opened),
            false => Err(Error::NoVision { path: self.folder.clone() }),
        }
    }

    fn check_context(&self, tokens: usize) -> Result<(), Error> {
        let limit = self.model.config().text.max_position_embeddings;
        if tokens >= limit {
            let over = tokens + 1 - limit;
            return Err(GenerateError::ContextOverflow { tokens, limit, over }.into());
        }
        Ok(())
    }
}

/// A request as the model takes it, and what reading its media told.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub chat: PreparedChat,
    pub report: MediaReport,
}

impl Prepared {
    /// The response to a request, nothing of which is written yet, with room for `logprobs`.
    pub(crate) fn begin(self, logprobs: bool) -> Response {
        Response::begun(self.chat, self.report, logprobs)
    }
}

/// A conversation with its cache: a turn that begins like the one before is computed from where it differs.
#[derive(Debug)]
pub struct Chat<'m> {
    engine: &'m Qwen3Vl,
    session: Session,
}

impl Chat<'_> {
    /// Answers the whole conversation so far, piece by piece.
    ///
    /// # Errors
    /// As [`Qwen3Vl::generate`].
    pub fn stream(&mut self, request: &Request) -> Result<AnswerStream<'_>, Error> {
        self.stream_prepared(self.engine.prepare(request, &mut ())?, request)
    }

    /// As [`Qwen3Vl::stream_prepared`], in this conversation.
    ///
    /// # Errors
    /// As [`Qwen3Vl::generate`].
    pub fn stream_prepared(
        &mut self,
        prepared: Prepared,
        request: &Request,
    ) -> Result<AnswerStream<'_>, Error> {
        self.engine.answer(SessionSlot::Borrowed(&mut self.session), prepared, request)
    }

    /// Tokens in the cache.
    pub fn cached_tokens(&self) -> usize {
        self.session.len()
    }
}

/// An answer being written: an iterator over its pieces, which also collects them.
pub struct AnswerStream<'a> {
    stream: TextStream<'a>,
    response: Response,
}

impl AnswerStream<'_> {
    /// Reads the answer to its end.
    ///
    /// # Errors
    /// When a step fails.
    pub fn finish(mut self) -> Result<Response, Error> {
        for event in &mut self {
            event?;
        }
        Ok(self.into_response())
    }

    /// The answer as far as it was read.
    pub fn into_response(mut self) -> Response {
        self.response.usage.reasoning_tokens = self.stream.reasoning_tokens();
        self.response.stopped_by = self.stream.stopped_by().map(str::to_owned);
        let (finish, timings) = (self.stream.finish_reason(), self.stream.timings());
        self.response.completed(self.stream.answer(), finish, timings)
    }
}

impl Iterator for AnswerStream<'_> {
    type Item = Result<StreamEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.stream.next()?;
        if let Ok(event) = &event {
            self.response.collect(event);
        }
        Some(event.map_err(Error::from))
    }
}
