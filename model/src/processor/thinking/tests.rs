use super::*;

/// Joined reasoning and answer for a text pushed in the given pieces.
fn run<'a>(opened: bool, pieces: impl IntoIterator<Item = &'a str>) -> (String, String) {
    let mut splitter = ThinkingSplitter::new(opened);
    let mut segments = Vec::new();
    for piece in pieces {
        segments.extend(splitter.push(piece));
    }
    segments.extend(splitter.finish());
    let (mut reasoning, mut answer) = (String::new(), String::new());
    for segment in segments {
        match segment {
            Segment::Reasoning(text) => {
                assert!(answer.is_empty(), "reasoning after the answer");
                reasoning.push_str(&text);
            }
            Segment::Answer(text) => answer.push_str(&text),
        }
    }
    (reasoning, answer)
}

fn pair(reasoning: &str, answer: &str) -> (String, String) {
    (reasoning.to_owned(), answer.to_owned())
}

const CASES: [(bool, &str, &str, &str); 16] = [
    (true, "why\nso\n</think>\n\nbecause", "why\nso", "because"),
    (true, "\n\nwhy\n\n</think>x\n", "why", "x\n"),
    (true, "no end\n", "no end", ""),
    (true, "</think>\n\nx", "", "x"),
    (true, "<think>\nwhy</think>x", "why", "x"),
    (true, "a </thin </think>b</think>c", "a </thin ", "b</think>c"),
    (true, "a\n</thi", "a\n</thi", ""),
    (true, "<thi", "<thi", ""),
    (true, "", "", ""),
    (true, "\n", "", ""),
    (false, "<think>\nwhy\n</think>\n\nx", "why", "x"),
    (false, " \n<think>why</think>x", "why", "x"),
    (false, "plain\n</think> text", "", "plain\n</think> text"),
    (false, "\n plain", "", "\n plain"),
    (false, "<thi", "", "<thi"),
    (false, "x <think>y</think>", "", "x <think>y</think>"),
];

#[test]
fn reasoning_and_answer_are_told_apart() {
    for (opened, text, reasoning, answer) in CASES {
        assert_eq!(run(opened, [text]), pair(reasoning, answer), "{opened} {text:?}");
    }
}

#[test]
fn the_result_does_not_depend_on_the_pieces() {
    for (opened, text, reasoning, answer) in CASES {
        for size in 1..8 {
            let bytes = text.as_bytes().chunks(size);
            let pieces: Vec<&str> =
                bytes.map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(run(opened, pieces), pair(reasoning, answer), "{opened} {text:?} by {size}");
        }
    }
}

#[test]
fn text_is_released_as_soon_as_it_is_decided() {
    let mut splitter = ThinkingSplitter::for_prompt("<|im_start|>assistant\n<think>\n");
    assert!(splitter.is_reasoning());
    assert_eq!(splitter.push("one "), [Segment::Reasoning("one ".into())]);
    assert_eq!(splitter.push("two\n</"), [Segment::Reasoning("two".into())]);
    assert_eq!(splitter.push("b"), [Segment::Reasoning("\n</b".into())]);
    let both = [Segment::Reasoning("c".into()), Segment::Answer("d".into())];
    assert_eq!(splitter.push("c\n</think>\n\nd"), both);
    assert!(!splitter.is_reasoning());
    assert_eq!(splitter.push("\n"), [Segment::Answer("\n".into())]);
}

#[test]
fn a_closed_block_in_the_prompt_does_not_open_one() {
    assert!(opens_thinking("<|im_start|>assistant\n<think>\n"));
    assert!(!opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    assert!(!opens_thinking("<|im_start|>assistant\n"));
}
