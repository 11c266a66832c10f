use super::*;
use tokenizers::Tokenizer;

use crate::synth::Channel;

/// The checkpoint's tokenizer, as committed.
fn committed() -> Tokenizer {
    let text = include_bytes!("../../../../examples/nano/model/tokenizer.json");
    Tokenizer::from_bytes(text).expect("tokenizer.json")
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let encoding = tokenizer.encode(text, false).expect("encoded");
    encoding.get_ids().iter().map(|id| tokenizer.decode(&[*id], false).expect("decoded")).collect()
}

#[test]
fn letters_and_digits_of_strings_are_single_tokens() {
    let tokenizer = committed();
    let mut dice = crate::synth::rng::Dice::new(40, 0);
    for _ in 0..2000 {
        let text = crate::synth::letters::any_string(&mut dice, 8, false);
        let wanted: Vec<String> = text.chars().map(String::from).collect();
        let answer = format!("The text reads \"{text}\".");
        let all = pieces(&tokenizer, &answer);
        assert_eq!(all[..4], ["The", " text", " reads", " \""], "{answer}");
        assert_eq!(all[4..all.len() - 1], wanted, "{answer}");
    }
}

#[test]
fn ids_and_special_tokens() {
    let tokenizer = committed();
    assert_eq!(tokenizer.get_vocab_size(true), VOCABULARY);
    for (place, (content, special)) in SPECIAL.iter().enumerate() {
        let id = (VOCABULARY - SPECIAL.len() + place) as u32;
        assert_eq!(tokenizer.token_to_id(content), Some(id));
        let added = tokenizer.get_added_tokens_decoder();
        assert_eq!(added[&id].special, *special, "{content}");
        let text = format!("a{content}b");
        assert_eq!(tokenizer.encode(text, false).expect("encoded").get_ids()[1], id);
    }
}

#[test]
fn any_text_comes_back() {
    let tokenizer = committed();
    for text in ["Größe: 5 µm", "你好，世界 🙂", "a\n\n b\t c\r\n", "\u{0}\u{7f}~^", "JSON bbox_2d"]
    {
        let ids = tokenizer.encode(text, false).expect("encoded");
        assert_eq!(tokenizer.decode(ids.get_ids(), false).expect("decoded"), text);
    }
}

#[test]
fn our_own_texts_are_short() {
    let tokenizer = committed();
    let length = |text: &str| tokenizer.encode(text, false).expect("encoded").len();
    for index in 0..500 {
        for turn in turns(41, index, &Mixture::default()) {
            // Those about two pictures tell both.
            let usual = if turn.channel == Channel::Compare.name() { 84 } else { 42 };
            let most = usual * turn.boxes.len().max(1);
            assert!(length(&turn.question) <= 40, "{}", turn.question);
            assert!(length(&turn.answer) <= most, "{}", turn.answer);
        }
    }
    assert_eq!(length("user\n"), 2);
    assert_eq!(length("assistant\n"), 2);
    assert_eq!(length("There is a red circle and a blue square."), 10);
}

#[test]
fn strings_are_taken_out_of_the_text() {
    assert_eq!(without_strings("The text reads \"AB1\"."), "The text reads \"1\".");
    assert_eq!(without_strings("\"A\" or \"7X\", JSON"), "\"1\" or \"1\", 1");
    assert_eq!(without_strings("I see A red circle at 1.5 s"), "I see A red circle at 1.5 s");
}

#[test]
fn learning_repeats_and_keeps_letters_apart() {
    let text = learn(1, 300).expect("learnt");
    assert!(text == learn(1, 300).expect("learnt"), "two runs differ");
    let tokenizer = Tokenizer::from_bytes(text.as_bytes()).expect("a tokenizer");
    assert_eq!(tokenizer.get_vocab_size(true), VOCABULARY);
    assert_eq!(pieces(&tokenizer, "\"QXZAON10\"").len(), 10);
    let error =
        learnt(&["ab".into()], 300).map(|model| model["vocab"].as_object().map(|v| v.len()));
    assert_eq!(error.expect("learnt"), Some(256));
}
