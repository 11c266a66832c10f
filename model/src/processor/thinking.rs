//! Reasoning and answer told apart while a Thinking checkpoint streams (spec section 8.4).

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of streamed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text between `<think>` and `</think>`.
    Reasoning(String),
    /// Text after it.
    Answer(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space seen; the text may still open with `<think>`.
    Start,
    /// The first visible reasoning is still to come; newlines and a repeated `<think>` are dropped.
    ReasoningStart,
    Reasoning,
    /// The first visible character of the answer is still to come; newlines are dropped.
    AnswerStart,
    Answer,
}

/// Splits a stream at the first `</think>`. Markers may be cut anywhere between two pushes.
///
/// Newlines around the reasoning and at the start of the answer belong to the layout and are dropped,
/// as the Thinking template does when it reads such an answer back. Joined over all segments, the result does
/// not depend on how the text was cut.
#[derive(Clone, Debug)]
pub struct ThinkingSplitter {
    state: State,
    held: String,
}

impl ThinkingSplitter {
    /// `opened`: the prompt already ends with `<think>`, so that the stream begins inside the reasoning.
    pub fn new(opened: bool) -> Self {
        let state = if opened { State::ReasoningStart } else { State::Start };
        Self { state, held: String::new() }
    }

    /// Takes `opened` from the end of the rendered prompt.
    pub fn for_prompt(prompt: &str) -> Self {
        Self::new(opens_thinking(prompt))
    }

    /// Whether the stream is inside the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::ReasoningStart | State::Reasoning)
    }

    /// The segments that `text` completes; at most one of each kind, reasoning first.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        self.held.push_str(text);
        let (mut reasoning, mut answer) = (String::new(), String::new());
        while self.step(&mut reasoning, &mut answer) {}
        segments(reasoning, answer)
    }

    /// What was held back at the end of the stream. Reasoning without `</think>` stays reasoning.
    pub fn finish(&mut self) -> Vec<Segment> {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Start | State::Answer => segments(String::new(), held),
            State::ReasoningStart | State::Reasoning => {
                segments(held.trim_end_matches('\n').to_owned(), String::new())
            }
            State::AnswerStart => Vec::new(),
        }
    }

    /// One step of the machine over `held`; false when it needs more text.
    fn step(&mut self, reasoning: &mut String, answer: &mut String) -> bool {
        match self.state {
            State::Start => self.start(),
            State::ReasoningStart => self.reasoning_start(),
            State::Reasoning => self.reasoning(reasoning),
            State::AnswerStart => {
                self.drop_newlines();
                self.go_if(!self.held.is_empty(), State::Answer)
            }
            State::Answer => {
                answer.push_str(&self.held);
                self.held.clear();
                false
            }
        }
    }

    fn go_if(&mut self, condition: bool, state: State) -> bool {
        if condition {
            self.state = state;
        }
        condition
    }

    fn start(&mut self) -> bool {
        let visible = self.held.trim_start();
        if let Some(rest) = visible.strip_prefix(OPEN) {
            self.held = rest.to_owned();
            return self.go_if(true, State::ReasoningStart);
        }
        let undecided = OPEN.starts_with(visible);
        self.go_if(!undecided, State::Answer)
    }

    fn reasoning_start(&mut self) -> bool {
        self.drop_newlines();
        if let Some(rest) = self.held.strip_prefix(OPEN) {
            self.held = rest.to_owned();
            return true;
        }
        let undecided = OPEN.starts_with(&self.held);
        self.go_if(!undecided, State::Reasoning)
    }

    fn reasoning(&mut self, out: &mut String) -> bool {
        if let Some(at) = self.held.find(CLOSE) {
            out.push_str(self.held[..at].trim_end_matches('\n'));
            self.held.drain(..at + CLOSE.len());
            return self.go_if(true, State::AnswerStart);
        }
        // Newlines before a possible marker are dropped once the marker is complete: hold both back.
        let marker = partial_suffix(&self.held, CLOSE);
        let keep = self.held[..self.held.len() - marker].trim_end_matches('\n').len();
        out.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        false
    }

    fn drop_newlines(&mut self) {
        let newlines = self.held.len() - self.held.trim_start_matches('\n').len();
        self.held.drain(..newlines);
    }
}

/// Whether a rendered prompt ends inside an opened `<think>` block.
pub fn opens_thinking(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// Bytes at the end of `text` that are a proper beginning of `marker`, as many as possible.
pub(crate) fn partial_suffix(text: &str, marker: &str) -> usize {
    let longest = marker.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|&n| marker.as_bytes().starts_with(&text.as_bytes()[text.len() - n..]))
        .unwrap_or(0)
}

fn segments(reasoning: String, answer: String) -> Vec<Segment> {
    let both = [Segment::Reasoning(reasoning), Segment::Answer(answer)];
    let visible = |segment: &Segment| match segment {
        Segment::Reasoning(text) | Segment::Answer(text) => !text.is_empty(),
    };
    both.into_iter().filter(visible).collect()
}

#[cfg(test)]
mod tests;
