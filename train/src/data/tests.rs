use std::fs;
use std::path::{Path, PathBuf};

use qwen3_vl_model::config::Qwen3VlConfig;
use qwen3_vl_model::processor::Processor;
use qwen3_vl_model::processor::message::{MediaRef, MediaSource, media};
use qwen3_vl_weights::load_processor;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;

fn processor() -> Processor {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dense_tied");
    let config = fs::read_to_string(fixtures.join("config.json")).unwrap();
    load_processor(&fixtures, &Qwen3VlConfig::from_json(&config).unwrap()).unwrap()
}

/// A folder with pictures of 64 x 96 and 128 x 32 pixels (width x height), frames, and a data file.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("img")).unwrap();
        let save = |name: &str, width, height, value| {
            image::RgbImage::from_pixel(width, height, image::Rgb([value, 0, 255]))
                .save(dir.path().join("img").join(name))
                .unwrap();
        };
        save("a.png", 64, 96, 10);
        save("b.png", 128, 32, 200);
        (0..8).for_each(|k| save(&format!("f{k}.png"), 64, 64, k * 20));
        Self { dir }
    }

    fn write(&self, text: &str) -> SourceOptions {
        let path = self.dir.path().join("data.jsonl");
        fs::write(&path, text).unwrap();
        SourceOptions::new(path)
    }

    fn rows(&self, rows: &[Json]) -> SourceOptions {
        self.write(&rows.iter().map(|row| row.to_string() + "\n").collect::<String>())
    }

    /// The only sample of the only row.
    fn sample_with(
        &self,
        row: &Json,
        change: impl FnOnce(&mut SourceOptions),
    ) -> Result<Sample, SampleError> {
        let mut options = self.rows(std::slice::from_ref(row));
        change(&mut options);
        let mut samples = read(options).unwrap().samples(0)?;
        assert_eq!(samples.len(), 1);
        Ok(samples.remove(0))
    }

    fn sample(&self, row: &Json) -> Sample {
        self.sample_with(row, |_| {}).unwrap_or_else(|error| panic!("{error}"))
    }

    fn complaint(&self, row: &Json) -> String {
        self.sample_with(row, |_| {}).unwrap_err().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }
}

/// Text that the model reads, learned parts in `{}`; paddings are counted.
fn shown(sample: &Sample) -> String {
    let processor = processor();
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let pieces = preparer.rendered(sample).unwrap_or_else(|error| panic!("{error}"));
    let piece = |piece: &Piece| match piece.trained {
        true => format!("{{{}}}", piece.text),
        false => piece.text.clone(),
    };
    pieces.iter().map(piece).collect()
}

fn turn(role: &str, text: &str) -> String {
    format!("<|im_start|>{role}\n{text}<|im_end|>\n")
}

fn answer(text: &str) -> String {
    format!("<|im_start|>assistant\n{{{text}<|im_end|>\n}}")
}

fn image(tokens: usize) -> String {
    format!("<|vision_start|><|image_pad|>x{tokens}<|vision_end|>")
}

fn human(value: &str) -> Json {
    json!({"from": "human", "value": value})
}

fn gpt(value: &str) -> Json {
    json!({"from": "gpt", "value": value})
}

fn user(content: impl Into<Json>) -> Json {
    json!({"role": "user", "content": content.into()})
}

fn model(content: impl Into<Json>) -> Json {
    json!({"role": "assistant", "content": content.into()})
}

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

#[test]
fn boxes_are_scaled_by_the_original_picture() {
    let folder = Folder::new();
    let texts = [
        user("<image><image>Where is <ref-object>?"),
        model("{\"bbox_2d\": <bbox>}, {\"bbox_2d\": <bbox>}"),
    ];
    let objects = |kind: &str, boxes: Json| {
        json!({"messages": texts, "images": ["img/a.png", "img/b.png"],
            "objects": {"ref": ["the cat"], "bbox": boxes, "bbox_type": kind, "image_id": [0, 1]}})
    };
    let cases = [
        objects("real", json!([[8, 12, 32, 97], [1, 2, 127, 31.5]])),
        objects(
            "norm1",
            json!([[0.125, 0.125, 0.5, 1.0], [0.0078125, 0.0625, 0.9921875, 0.984375]]),
        ),
        objects("qwen", json!([[125, 125, 500, 1000], [8, 62, 992, 984]])),
    ];
    for (index, row) in cases.iter().enumerate() {
        let sample = folder.sample(row);
        let text = shown(&sample);
        assert!(text.contains("Where is the cat?"), "{text}");
        assert!(
            text.contains("{\"bbox_2d\": [125, 125, 500, 1000]}, {\"bbox_2d\": [8, 62, 992, 984]}"),
            "{index} {text}"
        );
        let found: Vec<_> = sample.boxes.iter().map(|found| (found.media, found.corners)).collect();
        assert_eq!(found, [(0, [125.0, 125.0, 500.0, 1000.0]), (1, [8.0, 62.0, 992.0, 984.0])]);
        assert_eq!(sample.notes.len(), usize::from(index == 0), "97 of 96 rows is cut, and said");
    }
    let found = json!({"image": "img/a.png", "conversations": [human("<image>Q"),
        gpt("[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"x\"}]")]});
    let sample = folder.sample(&found);
    let expected = SampleBox { media: 0, corners: [1.0, 2.0, 3.0, 4.0], label: Some("x".into()) };
    assert_eq!(sample.boxes, [expected]);
}

#[test]
fn boxes_that_cannot_be_meant_are_refused() {
    let folder = Folder::new();
    let objects = |kind: &str, numbers: Json| {
        json!({"messages": [user("<image>Q"), model("<bbox>")], "images": ["img/a.png"],
            "objects": {"bbox": [numbers], "bbox_type": kind}})
    };
    let answers =
        |text: &str| json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(text)]});
    let cases = [
        (
            objects("real", json!([0, 0, 66, 5])),
            "66 lies outside of 0 to 64; bbox_type \"real\" means pixels",
        ),
        (objects("norm1", json!([0, 0, 5, 5])), "5 lies outside of 0 to 1; this looks like pixels"),
        (
            objects("qwen", json!([0, 0, 1016, 5])),
            "1016 lies outside of 0 to 1000; this looks like pixels",
        ),
        (objects("qwen", json!([9, 0, 5, 5])), "does not begin with the upper left corner"),
        (objects("qwen", json!([9, 0, 5])), "a list of 3 number(s), but it must have four numbers"),
        (
            objects("pixel", json!([0, 0, 5, 5])),
            "objects.bbox_type: expected \"real\", \"norm1\" or \"qwen\"",
        ),
        (
            answers("{\"bbox_2d\": [683, 12, 1016, 80]}"),
            "The answer in message 2: `bbox_2d` has 1016, but coordinates run from 0 to 1000; this looks like pixels",
        ),
        (answers("{\"bbox_2d\": [-3, 12, 16, 80]}"), "Qwen3-VL writes thousandths"),
        (answers("{\"bbox_2d\": [30, 12, 16, 80]}"), "write [x1, y1, x2, y2]"),
    ];
    for (row, expected) in cases {
        let error = folder.complaint(&row);
        assert!(error.contains(expected), "{error}");
        assert_eq!(
            folder.sample_with(&row, |_| {}).unwrap_err().problem.kind() == "boxes",
            !error.contains("number(s)") && !error.contains("expected")
        );
    }
    let pixels = answers("{\"bbox_2d\": [683, 12, 1016, 80]}");
    assert!(folder.sample_with(&pixels, |options| options.check_boxes = false).is_ok());
    let several = json!({"messages": [user("<image><image>Q"), model("<bbox>")],
        "images": ["img/a.png", "img/b.png"], "objects": {"bbox": [[1, 2, 3, 4]]}});
    assert!(folder.complaint(&several).contains("objects.image_id is missing"));
}

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

/// One picture of 12 x 12 tokens in a conversation, of which `words` are text.
fn long_sample(folder: &Folder, words: usize) -> Sample {
    image::RgbImage::new(384, 384).save(folder.dir.path().join("big.png")).unwrap();
    folder.sample(&json!({"image": "big.png", "conversations": [human("<image>Q"), gpt(&"a ".repeat(words))]}))
}

#[test]
fn long_samples_are_refused_dropped_shrunk_or_trimmed() {
    let (folder, processor) = (Folder::new(), processor());
    let sample = long_sample(&folder, 40);
    let measure = |sequence, too_long| {
        let limits = Limits { too_long, ..Limits::sequence(sequence) };
        Preparer::new(&processor, limits).measure(&sample)
    };
    let whole = measure(4096, TooLong::Error).unwrap();
    assert_eq!((whole.vision_tokens, whole.patches, whole.dropped), (144, 576, false));
    let text = whole.tokens - 144;
    let error = measure(whole.tokens - 1, TooLong::Error).unwrap_err().to_string();
    let expected = format!(
        "The row has {} tokens, 144 of them of pictures and videos, but the limit is {}.",
        whole.tokens,
        whole.tokens - 1
    );
    assert!(error.ends_with(&expected), "{error}");
    assert_eq!(measure(whole.tokens, TooLong::Error).unwrap(), whole);
    let dropped = measure(whole.tokens - 1, TooLong::Drop).unwrap();
    assert!(dropped.dropped);
    let shrunk = measure(text + 100, TooLong::Shrink).unwrap();
    assert_eq!(
        (shrunk.vision_tokens, shrunk.tokens, shrunk.targets),
        (100, text + 100, whole.targets)
    );
    assert_eq!(shrunk.notes, [Note::Shrunk { from: 144, to: 100 }]);
    let least = measure(text + 1, TooLong::Shrink).unwrap();
    assert_eq!(least.vision_tokens, 1);
    let error = measure(text, TooLong::Shrink).unwrap_err().to_string();
    assert!(error.contains("which its text alone exceeds"), "{error}");
    let trimmed = measure(whole.tokens - 10, TooLong::TrimText).unwrap();
    assert_eq!(
        (trimmed.tokens, trimmed.targets, trimmed.vision_tokens),
        (whole.tokens - 10, whole.targets - 10, 144)
    );
    let error = measure(100, TooLong::TrimText).unwrap_err().to_string();
    assert!(error.contains("a picture or video stands where the text would be cut"), "{error}");
    let error = measure(whole.tokens - whole.targets, TooLong::TrimText).unwrap_err().to_string();
    assert!(error.contains("no token that is learned would be left"), "{error}");
}

#[test]
fn rows_are_decoded_as_they_were_measured() {
    let (folder, processor) = (Folder::new(), processor());
    let sample = long_sample(&folder, 40);
    for (sequence, too_long) in
        [(4096, TooLong::Error), (150, TooLong::Shrink), (180, TooLong::TrimText)]
    {
        let limits = Limits { too_long, ..Limits::sequence(sequence) };
        let preparer = Preparer::new(&processor, limits);
        let measured = preparer.measure(&sample).unwrap();
        let Prepared::Row(row) = preparer.prepare(&sample).unwrap() else { panic!("a row") };
        assert_eq!((row.tokens(), row.target_tokens()), (measured.tokens, measured.targets));
        assert_eq!(row.targets.len(), row.inputs.ids.len());
        let patches: usize = row.inputs.images.items.iter().map(|item| item.grid.patches()).sum();
        assert_eq!(patches, measured.patches);
        assert_eq!(row.notes.len(), usize::from(too_long != TooLong::Error));
    }
    let limits = Limits { too_long: TooLong::Drop, ..Limits::sequence(50) };
    let Prepared::Dropped(dropped) = Preparer::new(&processor, limits).prepare(&sample).unwrap()
    else {
        panic!("dropped")
    };
    assert_eq!((dropped.limit, dropped.place), (50, sample.place));
}

#[test]
fn budgets_are_in_tokens() {
    let (folder, processor) = (Folder::new(), processor());
    let measure = |limits: &Limits, sample: &Sample| {
        Preparer::new(&processor, limits.clone()).measure(sample)
    };
    let sample = long_sample(&folder, 4);
    let limits = Limits { image_tokens: Some(30), ..Limits::sequence(4096) };
    assert_eq!(measure(&limits, &sample).unwrap().vision_tokens, 25);
    let frames: Vec<String> = (0..8).map(|k| format!("img/f{k}.png")).collect();
    let row = json!({"videos": [frames], "fps": 2, "messages": [user("<video>Q"), model("A")]});
    let sample = folder.sample(&row);
    let plain = measure(&Limits::sequence(4096), &sample).unwrap();
    assert_eq!((plain.vision_tokens, plain.patches), (16, 64));
    let limits = Limits { video_tokens: Some(4), ..Limits::sequence(4096) };
    assert_eq!(measure(&limits, &sample).unwrap().vision_tokens, 4);
    let limits = Limits { video_tokens: Some(3), ..Limits::sequence(4096) };
    let error = measure(&limits, &sample).unwrap_err();
    assert_eq!(error.problem.kind(), "too_long");
    assert!(
        error
            .to_string()
            .contains("a list of 8 frames has 4 tokens at the least, but the limit is 3"),
        "{error}"
    );
    let limits = Limits { frames: Some(4), ..Limits::sequence(4096) };
    let fewer = measure(&limits, &sample).unwrap();
    assert_eq!(
        (fewer.vision_tokens, &fewer.notes[..]),
        (8, &[Note::Frames { from: 8, to: 4 }][..])
    );
    let pieces = Preparer::new(&processor, limits).rendered(&sample).unwrap();
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert!(text.contains("<0.5 seconds>") && text.contains("<2.5 seconds>"), "{text}");
}

#[test]
fn a_check_counts_everything() {
    let (folder, processor) = (Folder::new(), processor());
    let good =
        |text: &str| json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(text)]});
    let rows = [
        good("A"),
        json!({"image": "img/none.png", "conversations": [human("<image>Q"), gpt("A")]}),
        good("A"),
        json!({"conversations": [human("<image>Q"), gpt("A")]}),
        json!({"conversations": [human("Q")]}),
        good(&"long ".repeat(300)),
        json!({"channel": "other", "conversations": [human("Q"), gpt("B")]}),
    ];
    let set = read(folder.rows(&rows)).unwrap();
    let limits = Limits { too_long: TooLong::Drop, ..Limits::sequence(100) };
    let preparer = Preparer::new(&processor, limits);
    let mut steps = Vec::new();
    let sets = [set];
    let report =
        check(&sets, &preparer, CheckOptions::default(), &mut |done, all| steps.push((done, all)));
    assert_eq!(steps, [(7, 7)]);
    assert_eq!((report.rows, report.good, report.samples, report.dropped), (7, 4, 3, 1));
    assert!(!report.is_good());
    let kinds: Vec<_> = report.problems.iter().map(|p| (p.place.line, p.kind)).collect();
    assert_eq!(kinds, [(2, "missing_file"), (4, "placeholders"), (5, "no_target")]);
    assert_eq!((report.count("missing_file"), report.count("json")), (1, 0));
    assert_eq!(report.duplicates.len(), 1);
    assert_eq!((report.duplicates[0].place.line, report.duplicates[0].first.line), (3, 1));
    assert_eq!((report.long[0].place.line, report.long[0].dropped), (6, true));
    assert_eq!((report.channels["data"].samples, report.channels["other"].samples), (2, 1));
    assert_eq!(report.channels["data"].vision_tokens, 12);
    assert_eq!((report.tokens.count, report.tokens.buckets.values().sum::<usize>()), (3, 3));
    let short = CheckOptions { most_listed: 1, ..CheckOptions::default() };
    let short = check(&sets, &preparer, short, &mut |_, _| {});
    assert_eq!((short.problems.len(), short.problem_counts.len()), (1, 3));
    let text = serde_json::to_value(&report).unwrap();
    assert!(text["problems"][0]["place"].as_str().unwrap().ends_with("data.jsonl, line 2"));
    assert_eq!(sets[0].row_at_line(6), Some(5));
}

#[test]
fn of_a_drawn_set_the_first_rows_are_looked_at() {
    let questions = crate::synth::Questions::one_of(&[crate::synth::Channel::Color]);
    let options = SynthOptions { rows: 1_000_000, seed: 3, mixture: Default::default(), questions };
    let (sets, processor) = ([drawn(options)], processor());
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let options = CheckOptions { most_drawn: 5, ..CheckOptions::default() };
    let report = check(&sets, &preparer, options, &mut |_, _| {});
    assert_eq!((report.rows, report.good, report.not_drawn), (5, 5, 999_995));
}

#[test]
fn boxes_that_are_probably_pixels_are_told_from_the_whole_set() {
    let (folder, processor) = (Folder::new(), processor());
    let row = |x: usize| {
        let text = format!("{{\"bbox_2d\": [1, 2, {x}, 32]}}");
        json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(&text)]})
    };
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let warnings = |rows: &[Json]| {
        let sets = [read(folder.rows(rows)).unwrap()];
        check(&sets, &preparer, CheckOptions::default(), &mut |_, _| {}).warnings
    };
    let inside: Vec<Json> = (10..40).map(row).collect();
    let found = warnings(&inside);
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .starts_with("Channel data: all 30 boxes on pictures of at most 800 pixels lie inside"),
        "{}",
        found[0]
    );
    assert!(warnings(&inside[1..]).is_empty());
    let beyond: Vec<Json> = (36..66).map(row).collect();
    assert!(warnings(&beyond).is_empty());
}

#[test]
fn films_are_sampled_within_their_limits() {
    let (folder, processor) = (Folder::new(), processor());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/videos");
    let row = json!({"video": "constant25.mp4", "conversations": [human("<video>\nQ"), gpt("A")]});
    let root = |options: &mut SourceOptions| options.root = Some(fixtures.clone());
    let sample = folder.sample_with(&row, root).unwrap();
    let prepare = |limits: Limits| {
        let preparer = Preparer::new(&processor, limits);
        let measured = preparer.measure(&sample).unwrap();
        let Prepared::Row(row) = preparer.prepare(&sample).unwrap() else { panic!("a row") };
        let grid = row.inputs.videos.items[0].grid;
        assert_eq!((row.tokens(), grid.patches()), (measured.tokens, measured.patches));
        (grid.t, measured.vision_tokens)
    };
    // 12 frames in 0.48 s, of which the checkpoint takes at least 4; two make a temporal patch.
    let fast = Limits { fps: Some(25.0), ..Limits::sequence(4096) };
    let (plain, tokens) = prepare(Limits::sequence(4096));
    assert_eq!(plain, 2);
    assert_eq!(prepare(fast.clone()).0, 6);
    assert_eq!(prepare(Limits { frames: Some(8), ..fast.clone() }).0, 4);
    assert_eq!(prepare(Limits { frames: Some(2), ..fast }).0, 1);
    let budget = Limits { video_tokens: Some(tokens / 2), ..Limits::sequence(4096) };
    let (same, fewer) = prepare(budget);
    assert_eq!(same, plain);
    assert!(fewer <= tokens / 2, "{fewer} {tokens}");
}

#[test]
fn budgets_hold_under_the_rule_of_qwen_vl_utils() {
    use qwen3_vl_model::processor::VideoRules;
    use qwen3_vl_model::processor::video::{BudgetRule, SamplingRule};
    let rules = VideoRules {
        sampling: SamplingRule::QwenVlUtils,
        budget: BudgetRule::QwenVlUtils,
        ..VideoRules::default()
    };
    let (folder, processor) = (Folder::new(), processor().with_video_rules(rules));
    let frames: Vec<String> = (0..8).map(|k| format!("img/f{k}.png")).collect();
    let row = json!({"videos": [frames], "fps": 2, "messages": [user("<video>Q"), model("A")]});
    let sample = folder.sample(&row);
    let tokens = |limits: Limits| {
        Preparer::new(&processor, limits)
            .measure(&sample)
            .unwrap_or_else(|e| panic!("{e}"))
            .vision_tokens
    };
    let whole = tokens(Limits::sequence(4096));
    assert!(whole >= 4 * 128, "every frame of qwen-vl-utils has 128 tokens or more: {whole}");
    let bounded = Limits { video_tokens: Some(100), frames: Some(8), ..Limits::sequence(4096) };
    let bounded = tokens(bounded);
    assert!((50..=100).contains(&bounded), "{bounded}");
    let shrunk = tokens(Limits { too_long: TooLong::Shrink, ..Limits::sequence(200) });
    assert!((4..200).contains(&shrunk), "{shrunk}");
}
