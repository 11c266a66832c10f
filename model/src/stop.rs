//! Stop strings over streamed text.

use crate::processor::thinking::partial_suffix;

/// A list of stop strings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// An empty string would stop before the first token.
    #[error("Stop string {index} is empty; a stop string needs at least one character.")]
    Empty {
        /// Its position in the list, from 0.
        index: usize,
    },
}

/// What a push lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that is safe to show: it stands before any stop string.
    pub text: String,
    /// Index of the stop string that was reached; nothing more is let through after it.
    pub matched: Option<usize>,
}

/// Cuts a stream before the first stop string that becomes complete.
///
/// Text that may still turn into a stop string is held back. "First" is the match that ends earliest; of
/// matches that end together, the longest. So the result does not depend on how the text was cut into pushes.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    matched: Option<usize>,
}

impl StopMatcher {
    /// A matcher at the start of an answer; no stop strings let everything through at once.
    ///
    /// # Errors
    /// [`StopError::Empty`] for an empty stop string.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(StopError::Empty { index }),
            None => Ok(Self { stops, held: String::new(), matched: None }),
        }
    }

    /// The stop strings, in the order that [`StopOutput::matched`] counts.
    pub fn stops(&self) -> &[String] {
        &self.stops
    }

    /// Takes new text and returns what may be shown. After a match everything is swallowed.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.matched.is_some() {
            return StopOutput { text: String::new(), matched: self.matched };
        }
        self.held.push_str(text);
        if let Some((start, index)) = self.first_match() {
            self.matched = Some(index);
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return StopOutput { text, matched: self.matched };
        }
        let keep =
            self.stops.iter().map(|stop| partial_suffix(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        StopOutput { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// What was held back when the answer ended without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the match that ends first; the earlier start wins, then the earlier stop string.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = |(index, stop): (usize, &String)| Some((self.held.find(stop)?, index));
        let matches = self.stops.iter().enumerate().filter_map(found);
        matches.min_by_key(|&(start, index)| (start + self.stops[index].len(), start, index))
    }
}

#[cfg(test)]
mod tests;
