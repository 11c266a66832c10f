//! Nothing that a model may write makes the parsers panic, hang or point outside the text.

use crate::grounding::{PixelShape, parse_grounding, parse_spans};

/// A xorshift generator: the same texts on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const PIECES: [&str; 64] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    ":",
    ",",
    "\\",
    "\\u",
    "\\ud83d",
    "\n",
    " ",
    "```",
    "```json",
    "//",
    "-",
    "–",
    "to",
    "from ",
    " and ",
    "between ",
    "00:12",
    "1:02:03.5",
    ":",
    "12",
    "12.5",
    "1e999",
    "-3",
    "NaN",
    "null",
    "s",
    " seconds",
    "<",
    ">",
    "at ",
    "until ",
    "秒",
    "到",
    "é",
    "😀",
    "\u{301}",
    "\u{0}",
    "\"bbox_2d\": ",
    "bbox_2d",
    "\"point_2d\":",
    "'bbox_3d':",
    "[1, 2, 3, 4]",
    "[5, 6]",
    "\"label\": \"dog\"",
    "'label': 'it's'",
    "\"start\":",
    "\"end\": 5",
    "\"timestamp\": ",
    "\"image\": 2",
    "{\"bbox_2d\": [1, 2, 3, 4]}",
    "99999999999999999999",
    "%",
    "0",
    ".",
    "**",
    "# ",
    "the ",
    "true",
];

fn check(text: &str) {
    let found = parse_grounding(text);
    for item in &found.items {
        assert!(text.get(item.text_range.clone()).is_some(), "{text:?}");
        let PixelShape::Box(b) = item.shape.to_pixels(640, 480) else { continue };
        assert!(
            0.0 <= b.x1 && b.x1 <= b.x2 && b.x2 <= 640.0 && b.y1 <= b.y2 && b.y2 <= 480.0,
            "{text:?}"
        );
    }
    for problem in &found.problems {
        assert!(text.get(problem.text_range.clone()).is_some(), "{text:?}");
    }
    let found = parse_spans(text);
    for span in &found.spans {
        assert!(text.get(span.text_range.clone()).is_some(), "{text:?}");
        assert!(0.0 <= span.start && span.start <= span.end && span.end.is_finite(), "{text:?}");
    }
    for problem in &found.problems {
        assert!(text.get(problem.text_range.clone()).is_some(), "{text:?}");
    }
}

#[test]
fn random_pieces_never_panic() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..20_000 {
        let pieces = random.below(24);
        let text: String = (0..pieces).map(|_| PIECES[random.below(PIECES.len())]).collect();
        check(&text);
    }
}

#[test]
fn random_characters_never_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..5_000 {
        let length = random.below(60);
        let code = |random: &mut Random| match random.below(4) {
            0 => char::from_u32(random.below(0x11_0000) as u32).unwrap_or(' '),
            _ => char::from(random.below(128) as u8),
        };
        let text: String = (0..length).map(|_| code(&mut random)).collect();
        check(&text);
    }
}

#[test]
fn every_cut_of_an_answer_is_read() {
    let text = "Sure — at 00:12:\n```json\n[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"狗 \\ud83d\\ude00\", 'x': None},\n\
                {\"start\": \"00:12\", \"end\": 14.5, \"event\": \"é\"}]\n```\nand <12.5 seconds> to 1m30s.";
    for (at, _) in text.char_indices() {
        check(&text[..at]);
        check(&text[at..]);
    }
}

/// Deep nesting, and brackets and quotes that are opened over and over: the work stays in proportion to the length.
#[test]
fn hostile_texts_are_bounded() {
    for piece in [
        "[",
        "{",
        "[{",
        "{\"a\":",
        "{\"a",
        "[\"",
        "[1,",
        "{\"bbox_2d\":[",
        "\"",
        "'",
        "00:",
        "12 ",
        "```",
        "\", \"",
    ] {
        check(&piece.repeat(20_000));
    }
    // What is left when the search gives up is told.
    let quotes = format!("{}{}", "[\"".repeat(20_000), "{\"point_2d\": [1, 2]}");
    let found = parse_grounding(&quotes);
    assert_eq!((found.items.len(), found.problems.len()), (0, 1));
    let inside = format!("{}{}", "[x ".repeat(20_000), "{\"point_2d\": [1, 2]}");
    assert_eq!(parse_grounding(&inside).items.len(), 1);
}
