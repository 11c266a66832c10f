//! Conversations of any texts.

use super::*;

/// A small generator of numbers, so that failures can be repeated (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 20] = [
            "assistant",
            "<|im_start|>assistant\n",
            "<|im_end|>",
            "<image>",
            "<video>",
            "user",
            "<|image_pad|>",
            "<|video_pad|>",
            "<|vision_start|>",
            "\n",
            " ",
            "é",
            "漢字",
            "😀",
            "<|im_start|>",
            "</tool_response>",
            "a",
            "12",
            "\u{f0000}",
            "<|endoftext|>",
        ];
        (0..self.below(6)).map(|_| WORDS[self.below(WORDS.len())]).collect()
    }

    fn conversation(&mut self) -> (Conversation, Vec<bool>) {
        let (mut messages, mut trained) = (Vec::new(), Vec::new());
        if self.below(3) == 0 {
            messages.push(Message::system(self.text()));
            trained.push(false);
        }
        for _ in 0..=self.below(3) {
            let mut user = Message::new(Role::User);
            for _ in 0..self.below(4) {
                let image = self.below(3) == 0;
                user = if image { user.image("i.png") } else { user.text(self.text() + ".") };
            }
            messages.extend([user, Message::assistant(self.text())]);
            trained.extend([false, self.below(4) > 0]);
        }
        (Conversation { messages, tools: Vec::new() }, trained)
    }
}

/// Whatever stands in the texts, exactly the trained answers are learned, and the first of them begins where generation does.
#[test]
fn the_mask_of_any_conversation_is_its_trained_answers() {
    let processor = processor("instruct");
    let mut random = Random(7);
    for round in 0..400 {
        let (whole, trained) = random.conversation();
        let planned = plan(&processor, &whole, &trained, Think::Keep).unwrap();
        let answers = whole.messages.iter().zip(&trained).filter(|(_, trained)| **trained);
        let expected: Vec<String> =
            answers.map(|(message, _)| message.all_text() + "<|im_end|>\n").collect();
        assert_eq!(learned(&processor, &planned), expected, "round {round}");
        for span in &planned.chat.spans {
            assert!(!planned.targets[span.range()].contains(&true), "round {round}");
        }
        assert_eq!(planned.targets.len(), planned.chat.ids.len());
        if let Some(answer) = trained.iter().position(|trained| *trained) {
            let first = planned.targets.iter().position(|target| *target).unwrap();
            check_beginning(&processor, &whole, answer, &planned.chat.ids[..first]);
        }
    }
}
