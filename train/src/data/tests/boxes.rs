//! Boxes and what they are measured in.

use super::*;

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
