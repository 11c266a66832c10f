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
        found[0].starts_with("Channel data: all 30 boxes on 30 pictures lie inside"),
        "{}",
        found[0]
    );
    // Both corners lie in the first 64 of width and 96 of height once in 26,000 times; but two pictures are too few.
    assert_eq!(warnings(&inside[..3]).len(), 1);
    assert!(warnings(&inside[..2]).is_empty());
    // A point does so once in 163 times.
    let point = |x: usize| {
        let text = format!("{{\"point_2d\": [{x}, 32]}}");
        json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(&text)]})
    };
    let points: Vec<Json> = (10..13).map(point).collect();
    assert_eq!((warnings(&points).len(), warnings(&points[..2]).len()), (1, 0));
    let beyond: Vec<Json> = (36..66).map(row).collect();
    assert!(warnings(&beyond).is_empty());
    // Boxes of one picture lie beside each other, and say no more than one.
    let many = "[{\"bbox_2d\": [1, 2, 9, 32]}, {\"bbox_2d\": [1, 2, 8, 32]}, {\"bbox_2d\": [1, 2, 7, 32]}]";
    let many = json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(many)]});
    assert!(warnings(&[many]).is_empty());
}

#[test]
fn boxes_that_cannot_be_read_are_refused() {
    let folder = Folder::new();
    let answers =
        |text: &str| json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(text)]});
    let json = "write JSON such as [{\"bbox_2d\": [x1, y1, x2, y2], \"label\": \"cat\"}]";
    let cases = [
        (
            "[{\"bbox_2d\": [100, 200, 300], \"label\": \"a\"}]",
            "needs 4 numbers, but the answer gives 3; a box is [x1",
        ),
        ("[{\"bbox_2d\": [], \"label\": \"a\"}]", "needs 4 numbers, but the answer gives 0"),
        ("{\"point_2d\": [100, 200, 300]}", "`point_2d` needs 2 numbers, but the answer gives 3"),
        (
            "[{\"bbox_2d\": [\"100\", 200, 300, 400], \"label\": \"a\"}]",
            "`bbox_2d` is not a list of numbers; a box is [x1",
        ),
        ("[{\"bbox_2d\": \"1 2 3 4\"}]", "`bbox_2d` is not a list of numbers"),
        ("[{\"bbox_2d\": [NaN, 200, 300, 400]}]", "`bbox_2d` has a number that is not finite"),
        ("[{\"bbox_2d\": [100, 200, 300, 600, \"label\": \"a\"}]", json),
        ("[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\"}, {\"bbox_2d\": [100, 20", json),
        ("\"bbox_2d\": [1, 2, 3, 4]", json),
        (
            "[{\"bbox_2d\": [0.1, 0.2, 0.3, 0.6], \"label\": \"a\"}]",
            "[0.1, 0.2, 0.3, 0.6] looks like 0 to 1; multiply by 1000",
        ),
        (
            "[{\"bbox_2d\": [0, 0.5, 1, 1], \"label\": \"a\"}]",
            "[0.0, 0.5, 1.0, 1.0] looks like 0 to 1; multiply by 1000",
        ),
        ("{\"point_2d\": [0.25, 0.5]}", "[0.25, 0.5] looks like 0 to 1; multiply by 1000"),
    ];
    for (text, expected) in cases {
        let error = folder.sample_with(&answers(text), |_| {}).expect_err(text);
        assert_eq!(error.problem.kind(), "boxes", "{error}");
        let error = error.to_string();
        assert!(error.contains("The answer in message 2: ") && error.contains(expected), "{error}");
        let unread = folder.sample_with(&answers(text), |options| options.check_boxes = false);
        assert!(unread.is_ok(), "{text}");
    }
    let real = json!({"messages": [user("<image>Q"), model("<bbox>")], "images": ["img/a.png"],
        "objects": {"bbox": [[0.1, 0.2, 0.3, 0.6]]}});
    let error = folder.complaint(&real);
    assert!(error.contains("looks like 0 to 1; say bbox_type \"norm1\""), "{error}");
    // What may be something else is kept, and told.
    for (text, notes) in [
        ("{\"point\": [1, 2, 3]}", 1),
        ("[{\"bbox_2d\": [1, 2, 3, 4], \"image_id\": -1}]", 1),
        ("[0.1, 0.2, 0.3, 0.6]", 0),
        ("{\"bbox_3d\": [1, 2, 3, 4, 5, 6, 7, 8, 9]}", 0),
        ("[{\"bbox_2d\": [0, 0, 1, 1]}]", 0),
        ("[{\"bbox_2d\": [0.5, 100, 200, 300.5]}]", 0),
    ] {
        let sample = folder.sample(&answers(text));
        assert_eq!(sample.notes.len(), notes, "{text}: {:?}", sample.notes);
    }
}
