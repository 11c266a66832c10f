use super::*;
use crate::processor::tokenizer::tests::{char_of, tiny};

/// All pieces of a stream, the last one from `finish`.
fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut decoder = StreamDecoder::new(tokenizer, skip_special);
    let mut pieces: Vec<String> = ids.iter().filter_map(|id| decoder.push(*id)).collect();
    pieces.extend(decoder.finish());
    pieces
}

#[test]
fn the_byte_table_is_that_of_gpt2() {
    for byte in 0..=255 {
        assert_eq!(byte_of(char_of(byte)), Some(byte));
    }
    assert_eq!(
        (byte_of(' '), byte_of('\u{144}'), byte_of('\u{ad}'), byte_of('日')),
        (None, None, None, None)
    );
}

#[test]
fn characters_appear_whole() {
    let tokenizer = tiny();
    let ids: Vec<u32> = "a日🤔é".bytes().map(u32::from).collect();
    assert_eq!(stream(&tokenizer, &ids, true), ["a", "日", "🤔", "é"]);
    assert_eq!(stream(&tokenizer, &ids[..3], true), ["a", "\u{fffd}"]);
    // A start byte that no continuation byte follows, and a stray continuation byte.
    assert_eq!(
        stream(&tokenizer, &[0xe6, 0x97, 0x61, 0x80, 0x62], true),
        ["\u{fffd}a", "\u{fffd}", "b"]
    );
}

#[test]
fn special_and_unknown_ids_are_silent() {
    let tokenizer = tiny();
    assert_eq!(stream(&tokenizer, &[303, 300, 151_800, 259], true), ["<think>", "hello"]);
    assert_eq!(stream(&tokenizer, &[300], false), ["<|im_end|>"]);
    // Nothing between the halves of a character but a token that is left out.
    assert_eq!(stream(&tokenizer, &[0xc3, 300, 400, 0xa9], true), ["é"]);
    assert_eq!(stream(&tokenizer, &[], true), [""; 0]);
}

#[test]
fn a_token_outside_the_byte_alphabet_is_literal() {
    let tokenizer = tiny();
    let id = tokenizer.token_to_id("\u{2603}280").unwrap();
    assert_eq!(stream(&tokenizer, &[id, 0xc3, id], true), ["\u{2603}280", "\u{fffd}\u{2603}280"]);
}

/// The defining property, on random ids with many broken sequences.
#[test]
fn pieces_together_equal_the_whole() {
    let tokenizer = tiny();
    let mut state = 1_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for round in 0..3000 {
        let length = random() % 12;
        // Bytes above 0x7f make broken and unbroken sequences likely.
        let ids: Vec<u32> = (0..length)
            .map(|_| if random() % 4 == 0 { random() % 310 } else { 0x80 + random() % 0x80 })
            .collect();
        for skip in [true, false] {
            let whole = tokenizer.decode(&ids, skip).unwrap();
            assert_eq!(stream(&tokenizer, &ids, skip).concat(), whole, "round {round}: {ids:?}");
        }
    }
}
