//! Rows that cannot be meant are named.

use super::*;

#[test]
fn bad_rows_are_named() {
    let folder = Folder::new();
    let turns = json!([human("Q"), gpt("A")]);
    let cases = [
        (json!([1, 2]), "line 1: The packed row: expected a list of objects only, but found 1."),
        (
            json!({"conversation": turns}),
            "the key `conversation` is not known here (did you mean `conversations`?)",
        ),
        (
            json!({"conversations": turns, "imgae": "x"}),
            "the key `imgae` is not known here (did you mean `image`?)",
        ),
        (
            json!({"conversations": turns, "messages": turns}),
            "mixes two ways of writing: `conversations` and `messages`",
        ),
        (
            json!({"conversations": [human("Q"), model("A")]}),
            "`from` and `value` in conversations[0] and `role` and `content` in conversations[1]",
        ),
        (
            json!({"conversations": [{"from": "human", "content": "Q"}]}),
            "mixes two ways of writing: `from` and `value`",
        ),
        (
            json!({"conversations": turns, "image": "img/a.png", "images": ["img/a.png"]}),
            "`image` and `images`",
        ),
        (
            json!({"conversations": [human("<image>Q"), gpt("A")]}),
            "1 `<image>` stand in the text, but `image` holds 0 file(s); the numbers must be equal.",
        ),
        (
            json!({"conversations": [human("Q"), gpt("<image>A")], "image": "img/a.png"}),
            "0 `<image>` stand in the text, but `image` holds 1 file(s); the numbers must be equal. Placeholders count in turns of the user",
        ),
        (
            json!({"messages": [user("<video>"), model("A")], "videos": []}),
            "1 `<video>` stand in the text, but `videos` holds 0",
        ),
        (
            json!({"conversations": [{"from": "user", "value": "Q"}]}),
            "conversations[0].from: the role `user` is not known here (did you mean `human`?); known are human, gpt, system",
        ),
        (json!({"messages": [{"role": "gpt", "content": "Q"}]}), "did you mean `assistant`?"),
        (
            json!({"conversations": [human("Q")]}),
            "No token of the row would be learned; it has no answer",
        ),
        (
            json!({"messages": [user("Q"), {"role": "assistant", "content": "A", "loss": false}]}),
            "No token of the row would be learned; every answer says that it is not.",
        ),
        (
            json!({"messages": [{"role": "user", "content": "Q", "loss": true}, model("A")]}),
            "be an answer (assistant, gpt)",
        ),
        (
            json!({"conversations": []}),
            "conversations: the value is [], but it must hold at least one turn.",
        ),
        (json!({"conversations": [{"from": "human"}]}), "conversations[0].value is missing"),
        (
            json!({"conversations": [{"from": "human", "value": 3}]}),
            "conversations[0].value: expected a text, but found 3.",
        ),
        (
            json!({"query": "Q", "response": "A"}),
            "columns = { prompt = \"query\", answer = \"response\" }",
        ),
        (json!({"messages": [user("Q")], "chosen": "a"}), "holds preferences (`chosen`)"),
        (
            json!({"messages": [user("Q"), {"role": "assistant", "content": "A", "thinkin": "x"}]}),
            "did you mean `thinking`?",
        ),
        (
            json!({"messages": [user(json!([{"type": "image", "image": "img/a.png", "max_pixel": 3}])), model("A")]}),
            "messages[0].content[0]: `max_pixel` is not known here",
        ),
        (
            json!({"messages": [user(json!([{"type": "image", "image": "img/a.png"}])), user("<image>"), model("A")], "images": ["img/b.png"]}),
            "`<image>` in messages[1].content and a list of parts with media in messages[0]",
        ),
        (
            json!({"messages": [user(json!([{"type": "image", "image": "img/a.png"}, {"type": "text", "text": "<image>x"}])), model("A")],
                "images": ["img/a.png", "img/b.png"]}),
            "0 content part(s) {\"type\": \"image\"} wait for a file, but `images` holds 2 file(s); the numbers must be equal. In a row with media among its content parts",
        ),
        (
            json!({"messages": [user("<image>Q"), model("<bbox>")], "images": ["img/a.png"], "objects": {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}}),
            "1 `<bbox>` stand in the text, but `objects.bbox` holds 2 box(es); the numbers must be equal.",
        ),
        (
            json!({"messages": [user("<image>Q"), model("A")], "images": ["img/a.png"], "objects": {"ref": ["x"], "bbox": []}}),
            "0 `<ref-object>` stand in the text, but `objects.ref` holds 1 name(s)",
        ),
        (
            json!({"conversations": turns, "system": "S", "tools": "{"}),
            "tools: the value is the string \"{\", but it must be a list of tool objects",
        ),
        (
            json!({"messages": [{"role": "system", "content": "S"}, user("Q"), model("A")], "system": "S"}),
            "the key `system` and a first turn of role `system`",
        ),
        (
            json!({"conversations": [{"from": "function_call", "value": "f(1)"}]}),
            "be a tool call as JSON",
        ),
        (
            json!({"messages": [user("<video>"), model("A")], "videos": [["img/a.png"]]}),
            "fps is missing; it should be how many of these frames there are per second",
        ),
        (
            json!({"messages": [user("<video>"), model("A")], "videos": [[]], "fps": 1}),
            "videos[0]: the value is [], but it must have at least one frame",
        ),
        (
            json!({"messages": [user("Q"), model("A")], "fps": 1}),
            "be left out in a row without `videos`",
        ),
    ];
    for (row, expected) in cases {
        let row = if row.is_array() { json!([row]) } else { row };
        let set = read(folder.write(&row.to_string())).unwrap();
        let error = set.samples(0).unwrap_err().to_string();
        assert!(error.contains(expected), "{row}\n{error}");
    }
    let set = read(folder.write("{\"a\": 1}\n\n{\"conversations\": [\n")).unwrap();
    let error = set.samples(1).unwrap_err();
    assert_eq!((error.place.line, error.problem.kind()), (3, "json"));
    let set =
        read(folder.write("{\"image\": \"a\", \"conversations\": [], \"image\": \"b\"}")).unwrap();
    let error = set.samples(0).unwrap_err().to_string();
    assert!(error.contains("the key `image` stands there twice"), "{error}");
    let ignored = json!({"conversations": turns, "score": 3});
    assert!(folder.sample_with(&ignored, |options| options.ignore = vec!["score".into()]).is_ok());
}

#[test]
fn missing_files_name_row_path_and_root() {
    let folder = Folder::new();
    let row = json!({"image": "a.png", "conversations": [human("<image>Q"), gpt("A")]});
    let error = folder.complaint(&row);
    let path = folder.path("a.png");
    assert!(
        error.contains(&format!(
            "line 1: The file {path} is missing (written as `a.png`). Paths begin at the folder"
        )),
        "{error}"
    );
    let root = PathBuf::from(folder.path("img"));
    let sample = folder.sample_with(&row, |options| options.root = Some(root.clone())).unwrap();
    assert_eq!(
        media(&sample.conversation.messages)[0].source().unwrap().describe(),
        folder.path("img/a.png")
    );
    let other = json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt("A")]});
    let error =
        folder.sample_with(&other, |options| options.root = Some(root.clone())).unwrap_err();
    assert!(error.to_string().contains("exists beside the data file; leave out `root`"), "{error}");
    let error =
        folder.sample_with(&row, |options| options.root = Some(root.join("none"))).unwrap_err();
    assert!(error.to_string().contains("(root) does not exist"), "{error}");
}
