//! Who runs the tokens of an answer: its session, or a recorded step, which hands over to the session in the end.

use super::{Answer, Logits, SessionSlot};
use crate::model::Qwen3VlModel;
use crate::replay::{Entrant, Replay, Stepping, Terms, Turn};
use crate::session::Session;

/// A model and the session that an answer extends.
pub(super) struct Runner<'a> {
    pub model: &'a Qwen3VlModel,
    pub session: SessionSlot<'a>,
    pub stepping: Stepping,
    /// Tokens that were run by replaying, and those whose step was launched before they were known.
    pub replayed: usize,
    pub foreseen: usize,
    /// What runs ahead of the session.
    replay: Option<Replay<'a>>,
}

impl<'a> Runner<'a> {
    pub fn new(model: &'a Qwen3VlModel, session: SessionSlot<'a>) -> Self {
        let stepping = Stepping::Auto;
        Self { model, session, stepping, replayed: 0, foreseen: 0, replay: None }
    }

    /// Runs the token that was chosen last.
    pub fn logits_after(&mut self, last: u32, answer: &Answer) -> Logits {
        let need = answer.deciding();
        if let Some(logits) = need.and_then(|need| self.replayed(last, need, answer)) {
            return logits;
        }
        // What was not possible now will not be later in this answer.
        self.stepping = Stepping::Ordinary;
        self.settle();
        let logits = self.session.get().step(self.model, &[last]);
        Logits::read(logits, &[need]).swap_remove(0)
    }

    /// Logits after `last`, where `deciding` logits decide.
    fn replayed(&mut self, last: u32, deciding: usize, answer: &Answer) -> Option<Logits> {
        let (room, sampler) = (answer.room(), answer.sampler());
        if self.replay.is_none() {
            let session = self.session.get();
            let (cache, position) = (session.cache(), session.next_position());
            let entrant = Entrant { cache, id: last, position, room, sampler };
            let terms = Terms { stepping: self.stepping, most: u64::MAX };
            self.replay = Replay::begin(self.model, &[entrant], deciding, terms);
        }
        let replay = self.replay.as_mut()?;
        let logits = replay.after(&[Some(Turn { id: last, sampler })], room > 1)?.pop()?;
        self.replayed += usize::from(replay.is_recorded());
        self.foreseen += usize::from(replay.was_foreseen());
        logits
    }

    /// The session holds all tokens that were run.
    fn settle(&mut self) {
        if let Some(mut replay) = self.replay.take() {
            let session = self.session.get();
            let ids = replay.settle(0, session.cache_mut());
            session.go_on(&ids);
        }
    }

    /// The session holds nothing: what it and all else hold is half written.
    pub fn forget(&mut self) {
        self.replay = None;
        *self.session.get() = Session::new(self.model);
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        let seen = matches!(self.session, SessionSlot::Borrowed(_));
        if seen && !std::thread::panicking() {
            self.settle();
        }
    }
}
