//! What the model reads and learns, as text for people.

use qwen3_vl_model::processor::LabelledChat;
use qwen3_vl_model::processor::message::MediaKind;
use qwen3_vl_model::processor::prompt::{IMAGE_PAD, VIDEO_PAD};

use super::error::{RowProblem, SampleError};
use super::prepare::Preparer;
use super::sample::Sample;

/// A run of tokens of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Decoded; placeholders as one with their number, such as `<|image_pad|>x196`.
    pub text: String,
    /// Whether its tokens are learned.
    pub trained: bool,
    /// Whether it stands for a picture or a frame.
    pub media: bool,
    pub tokens: usize,
}

impl Preparer<'_> {
    /// The whole prompt of a sample as it is trained, from its ids and targets.
    ///
    /// # Errors
    /// As [`Preparer::measure`].
    pub fn rendered(&self, sample: &Sample) -> Result<Vec<Piece>, SampleError> {
        let (planned, _) = self.plan(sample)?;
        let pieces = self.pieces(&planned.labelled);
        pieces.map_err(|problem| problem.at(&sample.place))
    }

    fn pieces(&self, labelled: &LabelledChat) -> Result<Vec<Piece>, RowProblem> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for span in &labelled.chat.spans {
            self.text_pieces(labelled, start..span.start, &mut pieces)?;
            let pad = match span.kind {
                MediaKind::Image => IMAGE_PAD,
                MediaKind::Video => VIDEO_PAD,
            };
            let text = format!("{pad}x{}", span.len());
            pieces.push(Piece { text, trained: false, media: true, tokens: span.len() });
            start = span.range().end;
        }
        self.text_pieces(labelled, start..labelled.chat.ids.len(), &mut pieces)?;
        Ok(pieces)
    }

    fn text_pieces(
        &self,
        labelled: &LabelledChat,
        range: std::ops::Range<usize>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), RowProblem> {
        let mut start = range.start;
        for run in labelled.targets[range].chunk_by(|a, b| a == b) {
            let ids = &labelled.chat.ids[start..start + run.len()];
            let decoded = self.processor().tokenizer().decode(ids, false);
            let text = decoded.map_err(|error| RowProblem::Process(error.into()))?;
            pieces.push(Piece { text, trained: run[0], media: false, tokens: run.len() });
            start += run.len();
        }
        Ok(())
    }
}
