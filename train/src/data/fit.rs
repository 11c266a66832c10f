//! Samples that are longer than allowed, and what is done about them.

use qwen3_vl_model::processor::message::Conversation;
use qwen3_vl_model::processor::{LabelledChat, MediaInfo, Turns};

use super::budget::{Budget, tokens_of};
use super::error::RowProblem;
use super::prepare::{Note, Planned, Preparer, TooLong, vision_tokens};
use super::sample::Sample;

/// Most times that a sample is made smaller.
const ROUNDS: usize = 40;
/// How much smaller its media become each time.
const STEP: f64 = 0.9;

/// A sample that was planned.
pub(super) enum Fit {
    Kept(Planned),
    /// With smaller media.
    Shrunk(Conversation, Planned),
    /// Too long; the plan is the one of the whole sample.
    Dropped(Planned),
}

impl Preparer<'_> {
    pub(super) fn fit(
        &self,
        sample: &Sample,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
        notes: Vec<Note>,
    ) -> Result<Fit, RowProblem> {
        let labelled = self.labelled(sample, conversation, infos)?;
        self.check_budgets(conversation, &labelled)?;
        if labelled.target_tokens() == 0 {
            let why = "its answers hold nothing but reasoning, which think = \"mask\" leaves out";
            return Err(RowProblem::NoTarget { why });
        }
        let sizes = infos.iter().map(MediaInfo::size).collect();
        let whole = Planned { labelled, notes, sizes };
        if whole.labelled.chat.tokens() <= self.limits.sequence {
            return Ok(Fit::Kept(whole));
        }
        match self.limits.too_long {
            TooLong::Error => Err(self.too_long(&whole.labelled, "")),
            TooLong::Drop => Ok(Fit::Dropped(whole)),
            TooLong::Shrink => self.shrink(sample, conversation, infos, whole),
            TooLong::TrimText => self.trim(whole).map(Fit::Kept),
        }
    }

    fn labelled(
        &self,
        sample: &Sample,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
    ) -> Result<LabelledChat, RowProblem> {
        let turns = Turns { trained: &sample.trained, think: sample.think };
        Ok(self.processor.plan_labelled(conversation, infos, turns)?)
    }

    fn too_long(&self, labelled: &LabelledChat, hint: &'static str) -> RowProblem {
        RowProblem::TooLong {
            tokens: labelled.chat.tokens(),
            vision: vision_tokens(&labelled.chat.media),
            limit: self.limits.sequence,
            hint,
        }
    }

    /// Very narrow pictures and clips of many frames can need more tokens than a budget gives them.
    fn check_budgets(
        &self,
        conversation: &Conversation,
        labelled: &LabelledChat,
    ) -> Result<(), RowProblem> {
        use qwen3_vl_model::processor::message::{MediaKind, MediaSource, media};
        for (medium, planned) in media(&conversation.messages).iter().zip(&labelled.chat.media) {
            let limit = match planned.kind() {
                MediaKind::Image => self.limits.image_tokens,
                MediaKind::Video => self.limits.video_tokens,
            };
            let tokens = tokens_of(planned);
            if let Some(limit) = limit.filter(|limit| tokens > *limit) {
                let name = medium.source().map_or(String::new(), MediaSource::describe);
                return Err(RowProblem::Budget { name, tokens, limit });
            }
        }
        Ok(())
    }

    /// Gives all media the same smaller share of their tokens, until the sample fits.
    fn shrink(
        &self,
        sample: &Sample,
        conversation: &Conversation,
        infos: &[MediaInfo<'_>],
        whole: Planned,
    ) -> Result<Fit, RowProblem> {
        let planned = &whole.labelled.chat.media;
        let from = vision_tokens(planned);
        let excess = whole.labelled.chat.tokens() - self.limits.sequence;
        if excess >= from {
            return Err(self.too_long(&whole.labelled, ", which its text alone exceeds"));
        }
        let mut share = (from - excess) as f64 / from as f64;
        for _ in 0..ROUNDS {
            let mut smaller = conversation.clone();
            Budget::new(self.processor).shrink(&mut smaller.messages, planned, share);
            let labelled = self.labelled(sample, &smaller, infos)?;
            if labelled.chat.tokens() <= self.limits.sequence {
                let to = vision_tokens(&labelled.chat.media);
                let mut planned = Planned { labelled, ..whole };
                planned.notes.push(Note::Shrunk { from, to });
                return Ok(Fit::Shrunk(smaller, planned));
            }
            share *= STEP;
        }
        let hint = ", and its pictures and videos cannot be made small enough";
        Err(self.too_long(&whole.labelled, hint))
    }

    /// Cuts the end, which is text of the last answers. Without its `<|im_end|>` a cut answer does not teach to stop early.
    fn trim(&self, mut whole: Planned) -> Result<Planned, RowProblem> {
        let labelled = &mut whole.labelled;
        let (from, to) = (labelled.chat.tokens(), self.limits.sequence);
        if labelled.chat.spans.last().is_some_and(|span| span.range().end > to) {
            let hint = ", and a picture or video stands where the text would be cut";
            return Err(self.too_long(labelled, hint));
        }
        if !labelled.targets[..to].contains(&true) {
            let hint = ", and no token that is learned would be left";
            return Err(self.too_long(labelled, hint));
        }
        labelled.chat.ids.truncate(to);
        labelled.targets.truncate(to);
        whole.notes.push(Note::Trimmed { from, to });
        Ok(whole)
    }
}
