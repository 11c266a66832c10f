//! Labels beside those of the official code.

use super::*;

/// Labels of qwen-vl-finetune (`golden.json`, `train_labels`), with the official tokenizer. The third row is its known
/// fault: the word "assistant" of the user begins a bogus span there.
#[test]
fn labels_are_those_of_the_official_code() {
    let folder = std::env::var_os("QWEN3_VL_ASSETS").map(PathBuf::from);
    let Some(folder) = folder.filter(|folder| folder.join("tokenizer.json").is_file()) else {
        println!("skipped: set QWEN3_VL_ASSETS to a folder that holds the official tokenizer.json");
        return;
    };
    let config = read(&tests_dir().join("fixtures/dense_tied/config_v4.json"));
    let config = config_with_official_ids(&config);
    let tokenizer = read(&folder.join("tokenizer.json"));
    let tokenizer_config = read(&folder.join("tokenizer_config.json"));
    let chat_template_jinja = read(&folder.join("chat_template.jinja"));
    let files = ProcessorFiles {
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: Some(&tokenizer_config),
        chat_template_jinja: Some(&chat_template_jinja),
        chat_template_json: None,
        preprocessor_config: None,
        video_preprocessor_config: None,
        processor_config: None,
    };
    let processor = Processor::new(&config, files).unwrap();
    let golden: Json =
        serde_json::from_str(&read(&tests_dir().join("fixtures/golden.json"))).unwrap();
    let rows: Vec<(Vec<u32>, Vec<i64>)> =
        serde_json::from_value(golden["train_labels"].clone()).unwrap();
    let conversations = [
        vec![Message::user("q"), Message::assistant("a b c")],
        vec![
            Message::user("q"),
            Message::assistant("a"),
            Message::user("q2"),
            Message::assistant("b\n"),
        ],
        vec![Message::user("the word\nassistant\nhere"), Message::assistant("z")],
        vec![Message::user("x"), Message::assistant("")],
    ];
    for (index, (messages, (ids, labels))) in conversations.into_iter().zip(rows).enumerate() {
        let trained: Vec<bool> =
            messages.iter().map(|message| message.role() == Role::Assistant).collect();
        let planned = plan(&processor, &conversation(messages), &trained, Think::Keep).unwrap();
        assert_eq!(planned.chat.ids, ids, "row {index}");
        let official: Vec<bool> = labels.iter().map(|label| *label != -100).collect();
        match index {
            2 => {
                assert_ne!(planned.targets, official);
                let expected: Vec<bool> = (0..ids.len()).map(|at| at + 3 >= ids.len()).collect();
                assert_eq!(planned.targets, expected);
            }
            _ => assert_eq!(planned.targets, official, "row {index}"),
        }
    }
}

/// A tiny configuration whose placeholders are those of the official tokenizer.
fn config_with_official_ids(text: &str) -> Qwen3VlConfig {
    let mut json: Json = serde_json::from_str(text).unwrap();
    let ids = [
        ("image_token_id", 151_655),
        ("video_token_id", 151_656),
        ("vision_start_token_id", 151_652),
        ("vision_end_token_id", 151_653),
    ];
    for (key, id) in ids {
        json[key] = id.into();
    }
    json["text_config"]["vocab_size"] = 151_936.into();
    Qwen3VlConfig::from_json(&json.to_string()).unwrap()
}
