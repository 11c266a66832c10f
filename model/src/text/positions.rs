//! Position ids on three axes (HF `get_rope_index`).

use crate::inputs::VisionSpan;

/// Time, height and width of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub [u32; 3]);

/// Positions of a prompt and where generation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    pub prompt: Vec<Position>,
    /// The position, on all axes, of the first generated token: prompt length + HF `rope_deltas`.
    pub next: u32,
}

impl Positions {
    /// Positions of `length` tokens, `spans` of which are images or video frames, in order of `start`.
    ///
    /// Text advances all axes together. A span keeps one time, counts rows and columns from there,
    /// and the text after it goes on at the larger of its two sides.
    ///
    /// # Panics
    /// When the spans overlap or reach past `length`.
    pub fn new(length: usize, spans: &[VisionSpan]) -> Self {
        let mut prompt = Vec::with_capacity(length);
        let mut current = 0u32;
        for span in spans {
            let text = span.start - prompt.len();
            push_text(&mut prompt, &mut current, text);
            for row in 0..span.rows as u32 {
                let at = |column| Position([current, current + row, current + column]);
                prompt.extend((0..span.columns as u32).map(at));
            }
            current += span.rows.max(span.columns) as u32;
        }
        let rest = length - prompt.len();
        push_text(&mut prompt, &mut current, rest);
        let next = prompt.iter().flat_map(|p| p.0).max().map_or(0, |last| last + 1);
        Self { prompt, next }
    }

    /// HF `rope_deltas`: what is added to a token's index to get its position, after the prompt.
    pub fn delta(&self) -> i64 {
        self.next as i64 - self.prompt.len() as i64
    }
}

fn push_text(prompt: &mut Vec<Position>, current: &mut u32, count: usize) {
    prompt.extend((*current..*current + count as u32).map(|p| Position([p; 3])));
    *current += count as u32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::message::MediaKind;

    fn image(start: usize, rows: usize, columns: usize) -> VisionSpan {
        VisionSpan { kind: MediaKind::Image, start, rows, columns }
    }

    /// The worked example of the specification.
    #[test]
    fn two_images_in_text() {
        let positions = Positions::new(26, &[image(4, 3, 2), image(15, 1, 5)]);
        assert_eq!(positions.prompt[4..6], [Position([4, 4, 4]), Position([4, 4, 5])]);
        assert_eq!(positions.prompt[9], Position([4, 6, 5]));
        assert_eq!(positions.prompt[10], Position([7; 3]));
        assert_eq!(positions.prompt[19], Position([12, 12, 16]));
        assert_eq!((positions.next, positions.delta()), (23, -3));
    }

    #[test]
    fn text_alone_counts_up() {
        let positions = Positions::new(3, &[]);
        assert_eq!(positions.prompt, [0, 1, 2].map(|p| Position([p; 3])));
        assert_eq!(positions.delta(), 0);
    }
}
