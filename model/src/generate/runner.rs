//! Who runs the tokens of an answer: its session, or a recorded step, which hands over to the session in the end.

use super::{Answer, Logits, SessionSlot};
use crate::model::Qwen3VlModel;
use crate::replay::{Asked, Entrant, Replay, Stepping, Terms};
use crate::session::Session;

/// A model and the session that an answer extends.
pub(super) struct Runner<'a> {
    pub model: &'a Qwen3VlModel,
    pub session: SessionSlot<'a>,
    pub stepping: Stepping,
    /// Tokens that were run by replaying.
    pub replayed: usize,
    /// What runs ahead of the session.
    replay: Option<Replay<'a>>,
}

impl<'a> Runner<'a> {
    pub fn new(model: &'a Qwen3VlModel, session: SessionSlot<'a>) -> Self {
        Self { model, session, stepping: Stepping::Auto, replayed: 0, replay: None }
    }

    /// Runs the token that was chosen last.
    pub fn logits_after(&mut self, last: u32, answer: &Answer) -> Logits {
        let need = answer.deciding();
        if let Some(logits) = need.and_then(|need| self.replayed(last, need, answer.room())) {
            return logits;
        }
        // What was not possible now will not be later in this answer.
        self.stepping = Stepping::Ordinary;
        self.settle();
        let logits = self.session.get().step(self.model, &[last]);
        Logits::read(logits, &[need]).swap_remove(0)
    }

    /// Logits after `last`, where `deciding` logits decide, for an answer with room for so many tokens.
    fn replayed(&mut self, last: u32, deciding: usize, room: usize) -> Option<Logits> {
        if self.replay.is_none() {
            let session = self.session.get();
            let (cache, position) = (session.cache(), session.next_position());
            let entrant = Entrant { cache, id: last, position, room };
            let terms = Terms { stepping: self.stepping, most: u64::MAX };
            self.replay = Replay::begin(self.model, &[entrant], deciding, terms);
        }
        let replay = self.replay.as_mut()?;
        let asked = Asked { deciding, goes_on: room > 1 };
        let logits = replay.after(&[Some(last)], asked)?.pop();
        self.replayed += usize::from(replay.is_recorded());
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
