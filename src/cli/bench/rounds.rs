//! Rounds: everything once, with a clock.

use std::time::Instant;

use burn::tensor::Tensor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qwen3_vl::backends::device::{lost, peak_resident_bytes};
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::experts::ExpertUsage;
use qwen3_vl::model::generate::{GenerateOptions, Generation, Lookup, SessionSlot, Timings};
use qwen3_vl::model::inputs::{MediaItem, ModelInputs, Pixels, PlaceholderIds};
use qwen3_vl::model::processor::image::PackedFrames;
use qwen3_vl::model::session::{PREFILL_CHUNK, Session};

use super::measure::Stage;
use super::picture::Opened;
use super::scope::{FIRST, QUESTION, Scope};
use super::streams::Streams;
use super::subject::Subject;

/// What a round does.
#[derive(Debug)]
pub struct Task<'a> {
    pub(super) subject: &'a Subject,
    pub picture: &'a Opened,
    pub scope: &'a Scope,
}

/// Seconds of one round; nothing where a stage was left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// Resizing, normalising and cutting the picture.
    pub preprocess: Option<f64>,
    /// The vision tower on it.
    pub vision: Option<f64>,
    /// The language model on picture and question.
    pub question: Option<f64>,
    /// From pixels and question to the first token.
    pub first_token: Option<f64>,
    /// The text prompt.
    pub prefill: Option<f64>,
    /// One token behind it.
    pub decode: Option<f64>,
    /// One token of every stream.
    pub streams: Option<Streams>,
    /// What became of experts on the host while tokens were written behind the text prompt.
    pub experts: Option<ExpertUsage>,
    /// A greedy answer without guesses and with them.
    pub guessed: Option<Guessed>,
    /// Largest resident size of the process before the streams, in bytes.
    pub peak: Option<u64>,
}

/// The same greedy answer, written without guesses and with them.
#[derive(Debug, Clone, Copy)]
pub struct Guessed {
    /// Seconds per token without.
    pub plain: f64,
    /// Seconds per token with.
    pub ahead: f64,
    /// Tokens that were guessed, and those of them that the answer has.
    pub drafted: usize,
    pub accepted: usize,
}

impl<'a> Task<'a> {
    pub fn new(subject: &'a Subject, picture: &'a Opened) -> Self {
        Self { subject, picture, scope: &subject.scope }
    }

    /// Seconds of a short text prompt, the first of the model.
    pub fn first_text(&self, course: &mut Course) -> anyhow::Result<f64> {
        course.step("first prompt");
        let start = Instant::now();
        self.ask(&mut Session::new(&self.subject.model), &self.text(FIRST))?;
        Ok(seconds(start))
    }

    /// One round.
    pub fn round(&self, course: &mut Course) -> anyhow::Result<Round> {
        let (mut round, mut session) = (Round::default(), None);
        for stage in self.scope.stages() {
            match stage {
                Stage::Picture => {
                    course.step("picture");
                    round.preprocess = Some(self.preprocess()?);
                }
                Stage::Question => {
                    course.step("picture and question");
                    let [vision, question, first_token] = self.look()?.map(Some);
                    round = Round { vision, question, first_token, ..round };
                }
                Stage::Text => {
                    course.step("text");
                    let (mut read, prefill) = self.read()?;
                    let before = self.subject.model.expert_usage();
                    let decode = self.go_on(&mut read)?;
                    let after = self.subject.model.expert_usage();
                    round.experts = after.zip(before).map(|(after, before)| after.since(before));
                    (round.prefill, round.decode) = (Some(prefill), Some(decode));
                    round.guessed =
                        self.scope.lookup.map(|with| self.guess(&mut read, with)).transpose()?;
                    session = Some(read);
                }
                Stage::Streams => {
                    round.peak = peak_resident_bytes();
                    course.step("streams");
                    round.streams =
                        session.take().map(|session| self.write_many(session)).transpose()?;
                }
            }
        }
        round.peak = round.peak.or_else(peak_resident_bytes);
        Ok(round)
    }

    /// Seconds of the picture processor, from pixels to patches.
    fn preprocess(&self) -> anyhow::Result<f64> {
        let start = Instant::now();
        let patches = self.subject.images.process(&self.picture.rgb)?;
        let seconds = seconds(start);
        drop(patches);
        Ok(seconds)
    }

    /// Seconds of vision tower, language model and both with the preprocessing, as `run` does it: the picture is kept as
    /// resized bytes, which become patches when the tower asks for them.
    fn look(&self) -> anyhow::Result<[f64; 3]> {
        let start = Instant::now();
        let (images, rgb) = (&self.subject.images, &self.picture.rgb);
        let resized = images.resize(rgb)?.into_owned();
        let config = &images.config;
        let frames = PackedFrames::new(vec![resized], config.layout, &config.normalization)?;
        let inputs = self.question(MediaItem::from_frames(frames))?;
        let asked = Instant::now();
        let vision = self.ask(&mut Session::new(&self.subject.model), &inputs)?;
        Ok([vision, seconds(asked) - vision, seconds(start)])
    }

    /// A session that has read the text prompt, and the seconds that it took.
    fn read(&self) -> anyhow::Result<(Session, f64)> {
        let mut session = Session::new(&self.subject.model);
        if self.scope.depth > 0 {
            self.ask(&mut session, &self.text(self.scope.depth))?;
        }
        let start = Instant::now();
        self.ask(&mut session, &self.text(self.scope.prompt))?;
        Ok((session, seconds(start)))
    }

    /// Runs a prompt up to the logits of its last token, and returns the seconds in the vision tower.
    fn ask(&self, session: &mut Session, inputs: &ModelInputs) -> anyhow::Result<f64> {
        let prefill = session.prefill(&self.subject.model, inputs, PREFILL_CHUNK)?;
        wait_for(prefill.logits);
        Ok(prefill.vision.as_secs_f64())
    }

    /// Seconds per token behind the text prompt: of an answer as `run` writes it where its steps are replayed, else of steps
    /// that are given the tokens.
    fn go_on(&self, session: &mut Session) -> anyhow::Result<f64> {
        let model = &self.subject.model;
        if !model.records_steps(1) {
            return Ok(self.write(|id, _| self.subject.step(session, id)));
        }
        Ok(self.answer(session, None)?.decode.as_secs_f64() / self.scope.tokens as f64)
    }

    /// Where the time of a greedy answer to the text prompt went, which `session` has read.
    fn answer(&self, session: &mut Session, lookup: Option<Lookup>) -> anyhow::Result<Timings> {
        let max_new_tokens = self.scope.tokens + 1;
        let options = GenerateOptions { max_new_tokens, lookup, ..Default::default() };
        let (slot, prompt) = (SessionSlot::Borrowed(session), self.text(self.scope.prompt));
        let mut answer = Generation::start(&self.subject.model, slot, &prompt, options)?;
        answer.by_ref().try_for_each(|token| token.map(drop))?;
        Ok(answer.timings())
    }

    /// A greedy answer, without guesses and with them.
    fn guess(&self, session: &mut Session, with: Lookup) -> anyhow::Result<Guessed> {
        let [plain, ahead] = [None, Some(with)].map(|lookup| self.answer(session, lookup));
        let (plain, ahead) = (plain?, ahead?);
        let each = |timings: &Timings| timings.decode.as_secs_f64() / self.scope.tokens as f64;
        Ok(Guessed {
            plain: each(&plain),
            ahead: each(&ahead),
            drafted: ahead.drafted_tokens,
            accepted: ahead.accepted_tokens,
        })
    }

    /// Seconds per token of `step`, which is given each token and its number.
    pub(super) fn write(&self, mut step: impl FnMut(u32, usize)) -> f64 {
        let start = Instant::now();
        let ids = ids(self.subject.model.config());
        ids.take(self.scope.tokens).enumerate().for_each(|(number, id)| step(id, number));
        seconds(start) / self.scope.tokens as f64
    }

    pub(super) fn text(&self, tokens: usize) -> ModelInputs {
        ModelInputs::text(ids(self.subject.model.config()).take(tokens).collect())
    }

    fn question(&self, picture: MediaItem) -> anyhow::Result<ModelInputs> {
        let config = self.subject.model.config();
        let [before, behind] = QUESTION;
        let mut words = ids(config);
        let mut prompt: Vec<u32> = words.by_ref().take(before).collect();
        prompt.push(config.vision_start_token_id);
        prompt.extend(std::iter::repeat_n(config.image_token_id, self.scope.planned.tokens));
        prompt.push(config.vision_end_token_id);
        prompt.extend(words.take(behind));
        let tokens = PlaceholderIds::of(config);
        let images = Pixels { items: vec![picture] };
        Ok(ModelInputs::from_ids(prompt, images, Pixels::default(), tokens)?)
    }
}

impl Subject {
    fn step(&self, session: &mut Session, id: u32) {
        wait_for(session.step(&self.model, &[id]));
    }
}

/// Ids of text, again and again.
pub fn ids(config: &Qwen3VlConfig) -> impl Iterator<Item = u32> + use<> {
    let special = [
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    ];
    (0..config.text.vocab_size as u32).cycle().filter(move |id| !special.contains(id))
}

/// Reading waits for the device.
pub(super) fn wait_for(logits: Tensor<2>) {
    drop(lost::read(logits));
}

pub(super) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// The line on standard error that tells what is being measured.
pub struct Course {
    bar: ProgressBar,
    started: bool,
}

impl Course {
    /// Of so many rounds, the first prompt before and two probes after them.
    pub fn new(stages: Vec<Stage>, rounds: u32) -> Self {
        let steps = 1 + stages.len() as u64 * u64::from(rounds) + 2;
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("measuring {bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self { bar, started: false }
    }

    /// The next step begins.
    pub fn step(&mut self, name: &'static str) {
        self.bar.inc(u64::from(std::mem::replace(&mut self.started, true)));
        self.bar.set_message(name);
    }

    /// Removes the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
