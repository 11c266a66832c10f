use serde_json::json;

use super::*;

/// 256 byte tokens, a few merges and Qwen's kinds of added tokens:
/// `<|im_end|>` 300 special, `<|image_pad|>` 301 special, `<|video_pad|>` 302 special, `<think>` 303 not special.
pub(crate) fn tiny_json() -> Json {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255_u8 {
        vocab.insert(char_of(byte).to_string(), byte.into());
    }
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ã ©", "< |"];
    for (index, merge) in merges.iter().enumerate() {
        vocab.insert(merge.replace(' ', ""), (256 + index).into());
    }
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    for filler in vocab.len()..300 {
        vocab.insert(format!("\u{2603}{filler}"), filler.into());
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            added(300, "<|im_end|>", true), added(301, "<|image_pad|>", true), added(302, "<|video_pad|>", true),
            added(303, "<think>", false),
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": " ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": merges.map(|merge| merge.split(' ').collect::<Vec<_>>())},
    })
}

pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::from_bytes(tiny_json().to_string().as_bytes(), None).unwrap()
}

/// GPT-2's `bytes_to_unicode`, written as in its source.
pub(crate) fn char_of(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
}

#[test]
fn added_tokens_are_matched_unless_asked_not_to() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.encode("hello hello").unwrap(), [259, 260]);
    assert_eq!(tokenizer.encode("<think>é<|image_pad|>").unwrap(), [303, 261, 301]);
    let plain = tokenizer.encode_plain("<|image_pad|>").unwrap();
    assert!(plain.iter().all(|id| *id < 300) && plain[0] == 262, "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), "<|image_pad|>");
    assert_eq!(
        tokenizer.encode_plain("hello e\u{301}").unwrap(),
        tokenizer.encode("hello é").unwrap()
    );
    assert_eq!(tokenizer.encode("").unwrap(), [0_u32; 0]);
}

#[test]
fn special_tokens_and_unknown_ids() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.decode(&[303, 259, 300], true).unwrap(), "<think>hello");
    assert_eq!(tokenizer.decode(&[303, 259, 300], false).unwrap(), "<think>hello<|im_end|>");
    assert_eq!(
        tokenizer.decode(&[259, 400, 151_800, u32::MAX, 260], false).unwrap(),
        "hello hello"
    );
    assert!(tokenizer.is_special(300) && !tokenizer.is_special(303) && !tokenizer.is_special(400));
    assert_eq!(
        (tokenizer.id_to_token(260), tokenizer.id_to_token(400)),
        (Some("Ġhello".into()), None)
    );
    assert_eq!(
        (tokenizer.token_to_id("<think>"), tokenizer.token_to_id("none")),
        (Some(303), None)
    );
    assert_eq!(tokenizer.vocab_size(), 304);
}

#[test]
fn text_is_never_cut_or_padded() {
    let mut json = tiny_json();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap();
    assert_eq!(tokenizer.encode("hello hello hello").unwrap(), [259, 260, 260]);
}

#[test]
fn the_config_adds_tokens_and_must_agree() {
    let json = tiny_json().to_string();
    let load =
        |config: Json| Tokenizer::from_bytes(json.as_bytes(), Some(config.to_string().as_bytes()));
    let config = json!({
        "eos_token": "<|im_end|>", "pad_token": {"content": "<|new|>"}, "chat_template": "ignored",
        "added_tokens_decoder": {
            "300": {"content": "<|im_end|>", "special": true}, "304": {"content": "<|new|>", "special": true},
            "305": {"content": "<plain>", "special": false},
        },
    });
    let tokenizer = load(config).unwrap();
    assert_eq!((tokenizer.eos_token_id(), tokenizer.pad_token_id()), (Some(300), Some(304)));
    assert_eq!(tokenizer.encode("<|new|><plain>").unwrap(), [304, 305]);
    assert!(tokenizer.is_special(304) && !tokenizer.is_special(305));
    let wrong =
        load(json!({"added_tokens_decoder": {"310": {"content": "<|im_end|>", "special": true}}}));
    let message = wrong.unwrap_err().to_string();
    assert!(
        message.contains("`<|im_end|>` has id 310, but tokenizer.json gives it the id 300"),
        "{message}"
    );
}

#[test]
fn broken_files_are_errors() {
    let message = |json: &str, config: Option<&str>| {
        Tokenizer::from_bytes(json.as_bytes(), config.map(str::as_bytes)).unwrap_err().to_string()
    };
    assert!(message("{", None).starts_with("tokenizer.json cannot be read: "));
    assert!(message("", None).starts_with("tokenizer.json cannot be read: "));
    assert!(
        message(&tiny_json().to_string(), Some("["))
            .starts_with("tokenizer_config.json cannot be read: ")
    );
    let mut json = tiny_json();
    json["decoder"] = Json::Null;
    assert!(message(&json.to_string(), None).contains("the decoder is absent"));
    json["decoder"] = json!({"type": "Fuse"});
    assert!(message(&json.to_string(), None).contains("uses a ByteLevel decoder"));
}
