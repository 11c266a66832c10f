//! Drafts by prompt lookup: the tokens that followed where the last ones stood before (HF
//! `PromptLookupCandidateGenerator`, vLLM `ngram`). A step that runs a draft beside the last token reads the weights once for all
//! of them. What the sampler chooses decides how much of a draft counts, so that an answer is what it would be without.

use std::collections::VecDeque;

use super::Logits;

/// How tokens are guessed from prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Most tokens of a draft (HF `prompt_lookup_num_tokens`); it gets shorter while guesses are wrong.
    pub tokens: usize,
    /// Fewest and most last tokens that must have stood before; longer matches are preferred (HF `max_matching_ngram_size`).
    pub matched: (usize, usize),
}

impl Default for Lookup {
    fn default() -> Self {
        Self { tokens: 8, matched: (2, 4) }
    }
}

impl Lookup {
    /// At most `length` tokens that may follow `text`; none where its end has not stood before.
    fn guess(&self, text: &[u32], length: usize) -> Vec<u32> {
        let (least, most) = self.matched;
        let place = (least.max(1)..=most).rev().find_map(|n| {
            let start = text.len().checked_sub(n).filter(|start| *start > 0)?;
            (0..start).rev().find(|i| text[*i..*i + n] == text[start..]).map(|i| i + n)
        });
        let mut draft: Vec<u32> = Vec::new();
        let Some(place) = place else { return draft };
        for at in place..place + length {
            // Behind the end of the text stands the draft itself: what repeats is taken to go on repeating.
            let next = text.get(at).or_else(|| draft.get(at - text.len())).copied();
            draft.extend(next);
        }
        draft
    }
}

/// The drafts of one answer.
#[derive(Debug)]
pub(super) struct Drafts {
    lookup: Lookup,
    /// Prompt and answer.
    text: Vec<u32>,
    /// Most tokens of the next draft.
    length: usize,
    /// Tokens that were run but not chosen yet, each with the logits after it.
    ahead: VecDeque<(u32, Logits)>,
    /// Of the last draft.
    taken: usize,
}

impl Drafts {
    pub(super) fn new(lookup: Lookup, prompt: &[u32]) -> Self {
        let text = prompt.to_vec();
        Self { lookup, text, length: lookup.tokens.min(2), ahead: VecDeque::new(), taken: 0 }
    }

    /// The logits after the token `chosen`, where it had been guessed.
    pub(super) fn take(&mut self, chosen: u32) -> Option<Logits> {
        self.text.push(chosen);
        let (_, logits) = self.ahead.pop_front_if(|(guess, _)| *guess == chosen)?;
        self.taken += 1;
        Some(logits)
    }

    /// Forgets what was guessed wrongly; returns how many tokens these are, which were run.
    pub(super) fn drop_wrong(&mut self) -> usize {
        let wrong = self.ahead.len();
        if wrong > 0 {
            self.length = self.taken.max(self.length / 2).max(1);
        } else if self.taken > 0 {
            self.length = (2 * self.length).min(self.lookup.tokens);
        }
        self.ahead.clear();
        self.taken = 0;
        wrong
    }

    /// What may follow, at most `room` tokens.
    pub(super) fn guess(&self, room: usize) -> Vec<u32> {
        self.lookup.guess(&self.text, self.length.min(room))
    }

    /// Keeps the logits after each token of a draft that was run.
    pub(super) fn keep(&mut self, draft: Vec<u32>, logits: impl Iterator<Item = Logits>) {
        self.ahead = draft.into_iter().zip(logits).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(text: &[u32], length: usize) -> Vec<u32> {
        Lookup::default().guess(text, length)
    }

    #[test]
    fn what_followed_the_longest_and_latest_match_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 1, 2, 3], 2), [4, 9]);
        assert_eq!(guess(&[1, 2, 5, 6, 1, 2, 7, 8, 1, 2], 2), [7, 8], "the latest");
        assert_eq!(guess(&[3, 1, 2, 5, 8, 4, 1, 2, 7, 8, 3, 1, 2], 2), [5, 8], "the longest");
        assert!(guess(&[1, 2, 3, 4, 2], 4).is_empty(), "one token is no match");
        assert!(guess(&[], 4).is_empty() && guess(&[1], 4).is_empty());
    }

    #[test]
    fn what_repeats_goes_on_repeating() {
        assert_eq!(guess(&[7, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(guess(&[5, 5, 5], 3), [5, 5, 5]);
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_shrink_when_not() {
        let text: Vec<u32> = (0..20).chain(0..4).collect();
        let mut drafts = Drafts::new(Lookup::default(), &text);
        let mut next = 4..;
        for expected in [2, 4, 8, 8] {
            let draft = drafts.guess(100);
            assert_eq!(draft.len(), expected);
            let rows = vec![Logits::All(Vec::new()); draft.len()];
            drafts.keep(draft, rows.into_iter());
            for chosen in next.by_ref().take(expected) {
                assert!(drafts.take(chosen % 20).is_some());
            }
            assert_eq!(drafts.drop_wrong(), 0);
        }
        let draft = drafts.guess(3);
        assert_eq!(draft.len(), 3, "no more than there is room for");
        drafts.keep(draft, vec![Logits::All(Vec::new()); 3].into_iter());
        assert!(drafts.take(99).is_none());
        assert_eq!((drafts.drop_wrong(), drafts.length), (3, 4));
    }
}
