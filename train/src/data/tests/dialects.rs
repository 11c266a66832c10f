//! Rows of every dialect become the same samples.

use super::*;

#[test]
fn llava_rows_become_what_the_official_code_makes_of_them() {
    let folder = Folder::new();
    let row = json!({"id": "7", "image": ["img/a.png", "img/b.png"], "conversations": [
        human("<image>\n<image>\n  What\nnow? "), gpt(" An apple <image> \n"),
        human(" more "), gpt("")]});
    let expected = [
        turn("user", &(image(6) + &image(4) + "What\nnow?")),
        answer(" An apple <image> \n"),
        turn("user", "more"),
        answer(""),
    ];
    let sample = folder.sample(&row);
    assert_eq!(shown(&sample), expected.concat());
    assert_eq!(sample.trained, [false, true, false, true]);
    assert_eq!(&*sample.channel, "data");
    assert_eq!(sample.place.line, 1);
    // At the end, as in the demo file; and one file as a text, an empty list, null.
    let end = json!({"image": "img/a.png", "video": null, "conversations": [human("Q?\n<image>"), gpt("A")]});
    assert_eq!(
        shown(&folder.sample(&end)),
        turn("user", &("Q?".to_owned() + &image(6))) + &answer("A")
    );
    let none = json!({"image": [], "conversations": [human("Q"), gpt("A")]});
    assert_eq!(shown(&folder.sample(&none)), turn("user", "Q") + &answer("A"));
}

#[test]
fn sharegpt_rows_keep_their_white_space_and_roles() {
    let folder = Folder::new();
    let tools = json!([{"type": "function", "function": {"name": "f"}}]).to_string();
    let row = json!({"images": ["img/a.png"], "system": "S", "tools": tools, "conversations": [
        human("<image>\nQ"),
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "r"},
        gpt("A")]});
    let text = shown(&folder.sample(&row));
    let end = turn("user", &(image(6) + "\nQ"))
        + &answer("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>")
        + &turn("user", "<tool_response>\nr\n</tool_response>")
        + &answer("A");
    assert!(text.starts_with("<|im_start|>system\nS\n\n# Tools"), "{text}");
    assert!(text.ends_with(&end), "{text}");
}

#[test]
fn messages_with_texts_and_with_parts_are_equal() {
    let folder = Folder::new();
    let texts = json!({"messages": [user("<image>Q<image>\n"), model("A")], "images": ["img/a.png", "img/b.png"]});
    let part = |path: &str| json!({"type": "image", "image": path});
    let text = |text: &str| json!({"type": "text", "text": text});
    let parts = json!({"messages": [
        user(json!([part("img/a.png"), text("Q"), part("img/b.png"), text("\n")])), model("A")]});
    let bare = json!({"images": ["img/a.png", "img/b.png"], "messages": [
        user(json!([{"type": "image"}, text("Q"), {"type": "image"}, text("\n")])), model("A")]});
    let openai = json!({"messages": [
        user(json!([{"type": "image_url", "image_url": {"url": "img/a.png"}}, text("Q"), part("img/b.png"), text("\n")])),
        model(json!([text("A")]))]});
    let expected = turn("user", &(image(6) + "Q" + &image(4) + "\n")) + &answer("A");
    for row in [&texts, &parts, &bare, &openai] {
        let sample = folder.sample(row);
        assert_eq!(shown(&sample), expected);
        let paths: Vec<_> = media(&sample.conversation.messages)
            .iter()
            .map(|medium| medium.source().unwrap().describe())
            .collect();
        assert_eq!(paths, [folder.path("img/a.png"), folder.path("img/b.png")]);
    }
    // `<image>` in the texts of parts is text.
    let literal =
        json!({"messages": [user(json!([part("img/a.png"), text("<image> <bbox>")])), model("A")]});
    let expected = turn("user", &(image(6) + "<image> <bbox>")) + &answer("A");
    assert_eq!(shown(&folder.sample(&literal)), expected);
}

#[test]
fn parts_bring_their_own_sizes() {
    let folder = Folder::new();
    let small = json!({"messages": [user(json!([
        {"type": "image", "image": "img/a.png", "min_pixels": 1024, "max_pixels": 1024},
        {"type": "text", "text": "Q"}])), model("A")]});
    assert_eq!(shown(&folder.sample(&small)), turn("user", &(image(1) + "Q")) + &answer("A"));
}

#[test]
fn columns_are_read_as_the_map_says() {
    let folder = Folder::new();
    let cases = [
        (
            ColumnMap::prompt_completion(),
            json!({"prompt": "Q", "completion": "A"}),
            turn("user", "Q") + &answer("A"),
        ),
        (
            ColumnMap::prompt_completion(),
            json!({"prompt": [user("Q"), model("B"), user("R")], "completion": [model("A")]}),
            turn("user", "Q") + &turn("assistant", "B") + &turn("user", "R") + &answer("A"),
        ),
        (
            ColumnMap::query_response(),
            json!({"query": "<image>Q", "response": "A", "images": ["img/a.png"], "history": [["q", "a"]], "system": "S"}),
            turn("system", "S")
                + &turn("user", "q")
                + &answer("a")
                + &turn("user", &(image(6) + "Q"))
                + &answer("A"),
        ),
        (
            ColumnMap::alpaca(),
            json!({"instruction": "Add", "input": "1 2", "output": "3"}),
            turn("user", "Add\n1 2") + &answer("3"),
        ),
        (
            ColumnMap::alpaca(),
            json!({"instruction": "Add", "input": "", "output": "3", "system": ""}),
            turn("user", "Add") + &answer("3"),
        ),
    ];
    for (columns, row, expected) in cases {
        let sample = folder.sample_with(&row, |options| options.columns = Some(columns)).unwrap();
        assert_eq!(shown(&sample), expected);
    }
}

#[test]
fn columns_may_hold_messages_with_parts() {
    let folder = Folder::new();
    let row = json!({"prompt": [user(json!([{"type": "image"}, {"type": "text", "text": "Q"}]))],
        "completion": [model("A")], "images": ["img/a.png"]});
    let columns = Some(ColumnMap::prompt_completion());
    let sample = folder.sample_with(&row, |options| options.columns = columns).unwrap();
    assert_eq!(shown(&sample), turn("user", &(image(6) + "Q")) + &answer("A"));
}

#[test]
fn videos_are_files_or_lists_of_frames() {
    let folder = Folder::new();
    let frames: Vec<String> = (0..4).map(|k| format!("img/f{k}.png")).collect();
    let row = json!({"videos": [frames], "fps": 2, "messages": [user("<video>Q"), model("A")]});
    let sample = folder.sample(&row);
    let MediaRef::Video(video) = media(&sample.conversation.messages)[0] else { panic!("a video") };
    assert_eq!(video.sample_fps, Some(2.0));
    assert!(matches!(&video.source, Some(MediaSource::Frames(frames)) if frames.len() == 4));
    let group =
        |time: &str| format!("<{time} seconds><|vision_start|><|video_pad|>x4<|vision_end|>");
    let expected = turn("user", &(group("0.2") + &group("1.2") + "Q")) + &answer("A");
    assert_eq!(shown(&sample), expected);
    let each = json!({"videos": [frames, frames], "fps": [2, 4],
        "messages": [user("<video><video>"), model("A")]});
    let sample = folder.sample(&each);
    let rates: Vec<_> = media(&sample.conversation.messages)
        .iter()
        .map(|medium| match medium {
            MediaRef::Video(video) => video.sample_fps,
            MediaRef::Image(_) => None,
        })
        .collect();
    assert_eq!(rates, [Some(2.0), Some(4.0)]);
}

#[test]
fn turns_say_whether_they_are_learned() {
    let folder = Folder::new();
    let with = |key: &str, value: Json| {
        let mut first = model("A");
        first[key] = value;
        json!({"messages": [user("Q"), first, user("R"), model("B")]})
    };
    for (key, value) in [("loss", json!(false)), ("loss_scale", json!(0.0)), ("weight", json!(0))] {
        assert_eq!(folder.sample(&with(key, value)).trained, [false, false, false, true]);
    }
    assert_eq!(folder.sample(&with("loss", json!(null))).trained, [false, true, false, true]);
    let last = |options: &mut SourceOptions| options.train_on = TrainOn::Last;
    let sample = |row: &Json| folder.sample_with(row, last).unwrap().trained;
    assert_eq!(sample(&with("loss", json!(null))), [false, false, false, true]);
    assert_eq!(sample(&with("loss", json!(true))), [false, true, false, true]);
    let error = folder.complaint(&with("loss_scale", json!(0.5)));
    assert!(
        error.contains(
            "messages[1].loss_scale: the value is 0.5, but it must be true, false, 0 or 1"
        ),
        "{error}"
    );
}

#[test]
fn packed_rows_hold_several_samples() {
    let folder = Folder::new();
    let one = |text: &str| json!({"conversations": [human(text), gpt("A")]});
    let list = json!([[one("1"), one("2")], one("3")]);
    let set = read(folder.write(&list.to_string())).unwrap();
    assert_eq!(set.len(), 2);
    let texts: Vec<Vec<String>> = (0..2)
        .map(|row| {
            let samples = set.samples(row).unwrap();
            samples.iter().map(|sample| sample.conversation.messages[0].all_text()).collect()
        })
        .collect();
    assert_eq!(texts, [vec!["1", "2"], vec!["3"]]);
    let bad = read(folder.rows(&[json!([one("1"), 2])])).unwrap().samples(0);
    assert!(bad.is_ok(), "one line is a list of rows, the second of which is bad");
    let error = read(folder.rows(&[json!([one("1"), [2]]), json!([[]])])).unwrap();
    assert!(error.samples(0).unwrap_err().to_string().contains("expected a list of objects only"));
}
