//! What an evaluation counts: answers against the answers of a data file.

use qwen3_vl_model::grounding::{Shape, parse_grounding, parse_spans};
use serde::{Deserialize, Serialize};

/// How far both ends of a span of time may be off for it to count as found, in seconds.
pub const SPAN_TOLERANCE: f64 = 0.5;

/// One answer against its reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Whether the texts are equal, white space at both ends apart.
    pub exact: bool,
    /// F1 of words, without case, punctuation and articles (SQuAD, Rajpurkar et al. 2016).
    pub token_f1: f64,
    /// Where the reference has boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boxes: Option<BoxScore>,
    /// Where the reference has spans of time and no boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpanScore>,
}

/// Boxes of an answer against those of its reference. Pairs have equal labels and are chosen by the largest IoU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BoxScore {
    /// Mean IoU over all boxes of the answer or of the reference, whichever are more; boxes without a partner count 0.
    pub iou: f64,
    /// Pairs with an IoU of at least 0.5, over the same number.
    pub at_half: f64,
}

/// The first span of time of an answer against that of its reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SpanScore {
    pub iou: f64,
    /// Whether both ends are within [`SPAN_TOLERANCE`].
    pub near: bool,
}

impl Score {
    /// Compares `answer` with `reference`.
    pub fn new(answer: &str, reference: &str) -> Self {
        let boxes = box_score(answer, reference);
        Self {
            exact: answer.trim() == reference.trim(),
            token_f1: token_f1(answer, reference),
            spans: if boxes.is_some() { None } else { span_score(answer, reference) },
            boxes,
        }
    }
}

fn words(text: &str) -> Vec<String> {
    let kept = |c: char| if c.is_alphanumeric() { c } else { ' ' };
    let text: String = text.to_lowercase().chars().map(kept).collect();
    let words = text.split_whitespace().filter(|word| !["a", "an", "the"].contains(word));
    words.map(str::to_owned).collect()
}

fn token_f1(answer: &str, reference: &str) -> f64 {
    let (mut answer, reference) = (words(answer), words(reference));
    let both = answer.len() + reference.len();
    if both == 0 {
        return 1.0;
    }
    let mut common = 0;
    for word in &reference {
        if let Some(at) = answer.iter().position(|other| other == word) {
            answer.swap_remove(at);
            common += 1;
        }
    }
    2.0 * f64::from(common) / both as f64
}

/// Corners, lower first, and the label.
type LabelledBox = ([f64; 4], Option<String>);

fn boxes_of(text: &str) -> Vec<LabelledBox> {
    let found = parse_grounding(text).items.into_iter();
    let boxes = found.filter_map(|item| match item.shape {
        Shape::Box { x1, y1, x2, y2 } => {
            let corners = [x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)];
            Some((corners, item.label.map(|label| label.trim().to_lowercase())))
        }
        _ => None,
    });
    boxes.collect()
}

/// Intersection over union of two boxes `[left, top, right, bottom]`.
pub fn box_iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let side = |low: usize| (a[low + 2].min(b[low + 2]) - a[low].max(b[low])).max(0.0);
    let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let shared = side(0) * side(1);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { f64::from(u8::from(a == b)) }
}

fn box_score(answer: &str, reference: &str) -> Option<BoxScore> {
    let (mut found, mut wanted) = (boxes_of(answer), boxes_of(reference));
    let count = found.len().max(wanted.len());
    if wanted.is_empty() {
        return None;
    }
    let (mut sum, mut half) = (0.0, 0);
    while let Some((i, j, iou)) = best_pair(&found, &wanted) {
        found.swap_remove(i);
        wanted.swap_remove(j);
        sum += iou;
        half += usize::from(iou >= 0.5);
    }
    Some(BoxScore { iou: sum / count as f64, at_half: half as f64 / count as f64 })
}

fn best_pair(found: &[LabelledBox], wanted: &[LabelledBox]) -> Option<(usize, usize, f64)> {
    let places = (0..found.len()).flat_map(|i| (0..wanted.len()).map(move |j| (i, j)));
    let pairs = places.filter(|(i, j)| found[*i].1 == wanted[*j].1);
    let ious = pairs.map(|(i, j)| (i, j, box_iou(found[i].0, wanted[j].0)));
    ious.max_by(|a, b| a.2.total_cmp(&b.2)).filter(|pair| pair.2 > 0.0)
}

fn span_score(answer: &str, reference: &str) -> Option<SpanScore> {
    let first = |text: &str| parse_spans(text).spans.first().map(|span| (span.start, span.end));
    let (start, end) = first(reference)?;
    let Some((from, to)) = first(answer) else {
        return Some(SpanScore { iou: 0.0, near: false });
    };
    let shared = (to.min(end) - from.max(start)).max(0.0);
    let union = (to - from) + (end - start) - shared;
    // Decimal fractions of seconds are not exact in binary.
    let near = |a: f64, b: f64| (a - b).abs() <= SPAN_TOLERANCE + 1e-9;
    let iou = if union > 0.0 { shared / union } else { f64::from(u8::from(from == start)) };
    Some(SpanScore { iou, near: near(from, start) && near(to, end) })
}

/// Means over many scores; `None` where no reference had such a thing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    pub answers: u64,
    /// Answers that could not be generated; they count as wrong everywhere.
    pub failed: u64,
    #[serde(skip)]
    sums: Sums,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Sums {
    exact: u64,
    token_f1: f64,
    boxes: (u64, f64, f64),
    spans: (u64, f64, u64),
}

/// The figures of a [`Tally`], shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub answers: u64,
    pub failed: u64,
    pub exact_match: f64,
    pub token_f1: f64,
    pub box_iou: Option<f64>,
    pub box_iou_at_half: Option<f64>,
    pub temporal_iou: Option<f64>,
    /// Spans with both ends within half a second.
    pub interval_near: Option<f64>,
}

impl Tally {
    /// Counts an answer; `None` for one that could not be generated.
    pub fn add(&mut self, answer: Option<&str>, reference: &str) {
        let score = Score::new(answer.unwrap_or_default(), reference);
        self.answers += 1;
        self.failed += u64::from(answer.is_none());
        let sums = &mut self.sums;
        sums.exact += u64::from(score.exact && answer.is_some());
        sums.token_f1 += if answer.is_some() { score.token_f1 } else { 0.0 };
        if let Some(boxes) = score.boxes {
            let (count, iou, half) = sums.boxes;
            sums.boxes = (count + 1, iou + boxes.iou, half + boxes.at_half);
        }
        if let Some(spans) = score.spans {
            let (count, iou, near) = sums.spans;
            sums.spans = (count + 1, iou + spans.iou, near + u64::from(spans.near));
        }
    }

    /// The means.
    pub fn figures(&self) -> Figures {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let all = |sum: f64| mean(sum, self.answers).unwrap_or(0.0);
        let Sums { exact, token_f1, boxes, spans } = self.sums;
        Figures {
            answers: self.answers,
            failed: self.failed,
            exact_match: all(exact as f64),
            token_f1: all(token_f1),
            box_iou: mean(boxes.1, boxes.0),
            box_iou_at_half: mean(boxes.2, boxes.0),
            temporal_iou: mean(spans.1, spans.0),
            interval_near: mean(spans.2 as f64, spans.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_squad_counts_them() {
        assert_eq!(token_f1("The red circle.", "a Red circle"), 1.0);
        assert_eq!(token_f1("red red circle", "red square"), 2.0 / 5.0);
        assert_eq!(token_f1("", "x"), 0.0);
        assert_eq!(token_f1("the", ""), 1.0);
    }

    #[test]
    fn boxes_are_paired_by_label_and_overlap() {
        let text = |boxes: &[([u32; 4], &str)]| {
            let one =
                |(b, l): &([u32; 4], &str)| format!("{{\"bbox_2d\": {b:?}, \"label\": \"{l}\"}}");
            format!("[{}]", boxes.iter().map(one).collect::<Vec<_>>().join(", "))
        };
        let (a, b) = ([0, 0, 100, 100], [500, 500, 600, 600]);
        let reference = text(&[(a, "red circle"), (b, "blue square")]);
        let score = |answer: &str| Score::new(answer, &reference).boxes.unwrap();
        assert_eq!(score(&text(&[(b, "blue square"), (a, "red circle")])).iou, 1.0);
        assert_eq!(score(&text(&[(a, "red circle")])), BoxScore { iou: 0.5, at_half: 0.5 });
        // Right places with exchanged labels are wrong.
        assert_eq!(score(&text(&[(a, "blue square"), (b, "red circle")])).iou, 0.0);
        let half = score(&text(&[([0, 0, 100, 50], "red circle"), (b, "blue square")]));
        assert_eq!(half, BoxScore { iou: 0.75, at_half: 1.0 });
        let more = score(&text(&[(a, "red circle"), (b, "blue square"), (a, "red circle")]));
        assert!((more.iou - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(score("no idea"), BoxScore { iou: 0.0, at_half: 0.0 });
        assert_eq!(Score::new("x", "no boxes").boxes, None);
    }

    #[test]
    fn spans_are_near_when_both_ends_are() {
        let reference = "The red circle is visible from 1.0 to 3.0 seconds.";
        let score = |answer: &str| Score::new(answer, reference).spans.unwrap();
        assert_eq!(score(reference), SpanScore { iou: 1.0, near: true });
        let late = score("It is visible from 1.5 to 3.5 seconds.");
        assert_eq!(late, SpanScore { iou: 0.6, near: true });
        assert!(!score("It is visible from 1.0 to 3.6 seconds.").near);
        assert_eq!(score("never"), SpanScore { iou: 0.0, near: false });
    }

    #[test]
    fn failed_answers_are_wrong() {
        let mut tally = Tally::default();
        tally.add(Some("yes "), "yes");
        tally.add(None, "");
        let figures = tally.figures();
        assert_eq!((figures.answers, figures.failed, figures.exact_match), (2, 1, 0.5));
        assert_eq!((figures.token_f1, figures.box_iou), (0.5, None));
    }
}
