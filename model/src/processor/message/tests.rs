use serde_json::json;

use super::*;

fn one(json: &Json) -> Result<Message, MessageError> {
    Message::try_from(json.clone())
}

/// The error of a file whose only message is `message`.
fn complaint(message: &Json) -> String {
    Conversation::from_json(&json!([message]).to_string()).unwrap_err().to_string()
}

fn user(parts: &Json) -> Json {
    json!({"role": "user", "content": parts})
}

fn location(text: &str) -> Option<MediaSource> {
    Some(MediaSource::from(text))
}

#[test]
fn both_spellings_of_parts_are_read_in_order() {
    let message = one(&user(&json!([
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://x/1.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": null}},
        {"type": "input_image", "image_url": "2.png", "detail": "high"},
        {"type": "image", "image": "3.png", "min_pixels": 4096, "max_pixels": 65536},
        {"image": "file:///4.png", "resized_height": 64, "resized_width": 96},
        {"type": "image", "url": "5.png"},
        {"type": "image", "path": "6.png", "uuid": "u", "cache_control": {"type": "ephemeral"}},
        {"type": "image"},
        {"type": "video", "video": "7.mp4", "fps": 2, "max_frames": 8, "video_start": 0, "video_end": 1.5},
        {"type": "video_url", "video_url": {"url": "8.mp4"}},
        {"type": "video", "video": ["f1.png", "f2.png"], "sample_fps": 2.0, "nframes": 4},
        {"type": "input_text", "text": "b"},
        {"text": "c"},
    ])))
    .unwrap();
    let sources: Vec<_> = message.media().iter().map(|media| media.source().cloned()).collect();
    let frames = MediaSource::Frames(vec!["f1.png".into(), "f2.png".into()]);
    let mut expected: Vec<_> = [
        "https://x/1.png",
        "data:image/png;base64,AA==",
        "2.png",
        "3.png",
        "file:///4.png",
        "5.png",
        "6.png",
    ]
    .map(location)
    .into();
    expected.extend([None, location("7.mp4"), location("8.mp4"), Some(frames)]);
    assert_eq!(sources, expected);
    assert_eq!(message.all_text(), "abc");
    let MediaRef::Image(image) = &message.media()[0] else {
        panic!("the first medium is an image")
    };
    assert_eq!(image.detail, Some(Detail::Low));
    let MediaRef::Image(image) = &message.media()[1] else {
        panic!("the second medium is an image")
    };
    assert_eq!(image.detail, None);
    let MediaRef::Image(image) = &message.media()[3] else {
        panic!("the fourth medium is an image")
    };
    assert_eq!((image.min_pixels, image.max_pixels), (Some(4096), Some(65536)));
    let MediaRef::Image(image) = &message.media()[4] else {
        panic!("the fifth medium is an image")
    };
    assert_eq!(image.resized, Some((64, 96)));
    let MediaRef::Video(video) = &message.media()[8] else { panic!("the ninth medium is a video") };
    assert_eq!(
        (video.fps, video.max_frames, video.start, video.end),
        (Some(2.0), Some(8), Some(0.0), Some(1.5))
    );
    let MediaRef::Video(video) = &message.media()[10] else { panic!("the last medium is a video") };
    assert_eq!((video.num_frames, video.sample_fps), (Some(4), Some(2.0)));
}

#[test]
fn the_template_sees_the_message_as_it_was_written() {
    let written = json!({
        "role": "assistant", "name": "bob", "content": null, "extra": {"z": 1, "a": 1.0},
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    });
    let message = one(&written).unwrap();
    assert_eq!(Json::from(message.clone()).to_string(), written.to_string());
    assert_eq!(message.tool_calls().len(), 1);
    let video = one(&user(&json!([{"type": "video_url", "video_url": {"url": "a.mp4"}}]))).unwrap();
    assert_eq!(
        video.as_json()["content"][0],
        json!({"type": "video", "video_url": {"url": "a.mp4"}})
    );
    let thought = one(&json!({"role": "assistant", "content": "a", "reasoning": "why"})).unwrap();
    assert_eq!(thought.reasoning_content(), Some("why"));
}

#[test]
fn built_and_read_messages_are_equal() {
    let built = Message::new(Role::User).image("a.png").text("what?").video("b.mp4");
    let read = one(&user(&json!([
        {"type": "image", "image": "a.png"}, {"type": "text", "text": "what?"}, {"type": "video", "video": "b.mp4"},
    ])));
    assert_eq!(built, read.unwrap());
    assert_eq!(Message::user("Hi"), one(&json!({"role": "user", "content": "Hi"})).unwrap());
    assert_eq!(Message::user("Hi").text("you").all_text(), "Hiyou");
    let round_trip: Message =
        serde_json::from_str(&serde_json::to_string(&built).unwrap()).unwrap();
    assert_eq!(round_trip, built);
    let bytes = Message::new(Role::User).image(vec![1, 2, 3]);
    assert_eq!(bytes.as_json()["content"], json!([{"type": "image"}]));
    assert_eq!(bytes.media()[0].source(), Some(&MediaSource::from(vec![1, 2, 3])));
    assert_eq!(Message::assistant("a").reasoning("r").reasoning_content(), Some("r"));
    let roles = [Message::system(""), Message::assistant(""), Message::tool("")]
        .map(|message| message.role());
    assert_eq!(roles, [Role::System, Role::Assistant, Role::Tool]);
}

#[test]
fn a_file_is_a_list_or_an_object() {
    let list = r#"[{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]"#;
    assert_eq!(parse_messages(list).unwrap(), [Message::system("S"), Message::user("q")]);
    let object = format!(r#"{{"messages": {list}, "tools": [{{"name": "f"}}]}}"#);
    let conversation = Conversation::from_json(&object).unwrap();
    assert_eq!((conversation.messages.len(), conversation.tools.len()), (2, 1));
    assert!(parse_messages(&object).unwrap_err().to_string().starts_with("tools"));
}

#[test]
fn broken_files_are_errors_with_a_place() {
    let cases = [
        ("{", "not valid JSON"),
        ("[", "line 1 column 1"),
        ("3", "messages: expected a list of messages, but found 3"),
        ("[]", "at least one message"),
        ("{}", "messages is missing"),
        (r#"{"messages": [], "temperature": 1}"#, "`temperature` is not known here"),
        (
            r#"{"messages": [{"role": "user", "content": ""}], "tools": {}}"#,
            "tools: expected a list",
        ),
        (
            r#"{"messages": [{"role": "user", "content": ""}], "tools": [1]}"#,
            "tools[0]: expected a tool object",
        ),
        (r#"["x"]"#, "messages[0]: expected a message object, but found the string \"x\""),
    ];
    for (file, expected) in cases {
        let message = Conversation::from_json(file).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn broken_messages_are_errors_with_a_place() {
    let call = |call: Json| json!({"role": "assistant", "content": "", "tool_calls": call});
    let cases = [
        (json!({"content": "x"}), "messages[0].role is missing"),
        (
            json!({"role": "developer", "content": "x"}),
            "messages[0].role: `developer` is not known",
        ),
        (json!({"role": 1}), "messages[0].role: expected a role name"),
        (json!({"role": "user"}), "messages[0].content is missing"),
        (
            json!({"role": "user", "content": null}),
            "messages[0].content: expected a string or a list",
        ),
        (json!({"role": "user", "content": {"text": "x"}}), "an object with 1 key(s)"),
        (call(json!({})), "messages[0].tool_calls: expected a list"),
        (call(json!([{"function": {}}])), "messages[0].tool_calls[0].name is missing"),
    ];
    for (message, expected) in cases {
        let complaint = complaint(&message);
        assert!(
            complaint.starts_with("messages[0]") && complaint.contains(expected),
            "{complaint}"
        );
    }
    let alone = one(&json!({"role": "x"})).unwrap_err().to_string();
    assert!(alone.starts_with("role: `x`"), "{alone}");
}

#[test]
fn broken_parts_are_errors_with_a_place() {
    let cases = [
        (json!("x"), "expected a content part object"),
        (json!({}), ".type is missing"),
        (json!({"type": "input_audio"}), ".type: `input_audio` is not known"),
        (json!({"type": 1}), ".type: expected the name of a part type"),
        (json!({"type": "text"}), ".text is missing"),
        (json!({"type": "text", "text": null}), ".text: expected a string, but found null"),
        (
            json!({"type": "text", "text": "x", "image": null}),
            "`image` does not belong into a part that is a text",
        ),
        (
            json!({"type": "image", "image": "a", "text": "x"}),
            "`text` does not belong into a part that is an image",
        ),
        (
            json!({"type": "video", "video": "a", "image": "x"}),
            "`image` does not belong into a part that is a video",
        ),
        (json!({"type": "image_url"}), ".image_url is missing"),
        (json!({"type": "video_url"}), ".video_url is missing"),
        (json!({"type": "image_url", "image_url": {}}), ".image_url.url is missing"),
        (json!({"type": "image_url", "image_url": {"url": 1}}), ".image_url.url: expected a URL"),
        (
            json!({"type": "image_url", "image_url": {"url": "a", "x": 1}}),
            ".image_url: `x` is not known",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "a", "detail": "max"}}),
            ".detail: the value is the string",
        ),
        (json!({"type": "image", "image": ""}), "not empty"),
        (json!({"type": "image", "image": 1}), ".image: expected a path or a URL"),
        (json!({"type": "image", "image": ["a"]}), "one image, not a list"),
        (json!({"type": "image", "image": "a", "url": "b"}), "not stand beside `url`"),
        (
            json!({"type": "image", "image": "a", "max_pixel": 9}),
            "`max_pixel` is not known here; allowed are image,",
        ),
        (json!({"type": "image", "image": "a", "min_pixels": 0}), ".min_pixels: the value is 0"),
        (
            json!({"type": "image", "image": "a", "min_pixels": 9, "max_pixels": 8}),
            "not exceed max_pixels, which is 8",
        ),
        (json!({"type": "image", "image": "a", "resized_width": 8}), ".resized_height is missing"),
        (
            json!({"type": "video", "video": ["a", 1]}),
            ".video[1]: expected the path or URL of a frame",
        ),
        (json!({"type": "video", "video": "a", "fps": 0}), ".fps: the value is 0"),
        (
            json!({"type": "video", "video": "a", "fps": 1, "nframes": 8}),
            ".fps: the value is 1, but it must not stand",
        ),
        (
            json!({"type": "video", "video": "a", "video_start": -1}),
            ".video_start: the value is -1",
        ),
    ];
    for (part, expected) in cases {
        let complaint = complaint(&user(&json!([{"type": "text", "text": "first"}, part])));
        let placed = complaint.starts_with("messages[0].content[1]");
        assert!(placed && complaint.contains(expected), "{complaint}");
    }
}

#[test]
fn images_fill_the_parts_that_wait_for_them() {
    let file = r#"[{"role": "user", "content": [{"type": "image"}, {"type": "image", "image": "own.png"}]},
                   {"role": "user", "content": [{"type": "image", "image": null}]}]"#;
    let mut messages = parse_messages(file).unwrap();
    let before = messages.clone();
    let images = |names: &[&str]| -> Vec<MediaRef> {
        names.iter().map(|name| MediaRef::Image(ImageRef::new(*name))).collect()
    };
    for names in [&[][..], &["a.png"], &["a.png", "b.png", "c.png"]] {
        let count = names.len();
        let message = fill_media(&mut messages, images(names)).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("{count} image(s) were given, but the messages hold 2")),
            "{message}"
        );
        assert_eq!(messages, before);
    }
    fill_media(&mut messages, images(&["a.png", "b.png"])).unwrap();
    let sources: Vec<_> = media(&messages).iter().map(|media| media.source().cloned()).collect();
    assert_eq!(sources, ["a.png", "own.png", "b.png"].map(location));
    assert!(media(&messages).iter().all(|media| media.kind() == MediaKind::Image));
    fill_media(&mut messages, vec![]).unwrap();
}

#[test]
fn videos_keep_what_their_parts_say() {
    let file = r#"[{"role": "user", "content": [{"type": "video", "fps": 4}, {"type": "image"},
                   {"type": "video", "video": "own.mp4", "nframes": 8}]}]"#;
    let mut messages = parse_messages(file).unwrap();
    let given = VideoRef { fps: Some(1.0), max_frames: Some(9), ..VideoRef::new("a.mp4") };
    let media_given = vec![MediaRef::Video(given.clone()), MediaRef::Image(ImageRef::new("b.png"))];
    fill_media(&mut messages, media_given).unwrap();
    default_videos(&mut messages, &VideoRef { max_frames: Some(7), ..given });
    let all = media(&messages);
    let MediaRef::Video(first) = all[0] else { panic!("{all:?}") };
    assert_eq!((first.fps, first.max_frames), (Some(4.0), Some(9)));
    assert_eq!(first.source, Some("a.mp4".into()));
    let MediaRef::Video(last) = all[2] else { panic!("{all:?}") };
    assert_eq!((last.fps, last.num_frames, last.max_frames), (None, Some(8), Some(7)));
    assert_eq!(last.source, Some("own.mp4".into()));
}
