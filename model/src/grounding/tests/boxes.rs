use serde_json::json;

use crate::grounding::{
    Grounded, GroundingReason, PixelBox, PixelPoint, PixelShape, Shape, parse_grounding,
};

fn boxed(x1: f64, y1: f64, x2: f64, y2: f64) -> Shape {
    Shape::Box { x1, y1, x2, y2 }
}

fn point(x: f64, y: f64) -> Shape {
    Shape::Point { x, y }
}

/// Shapes with their labels, of an answer without problems that is whole.
fn clean(text: &str) -> Vec<(Shape, Option<String>)> {
    let found = parse_grounding(text);
    assert_eq!((&found.problems[..], found.truncated), (&[][..], false), "{text}");
    let item = |item: crate::grounding::Grounding| {
        assert!(text.get(item.text_range).is_some());
        (item.shape, item.label)
    };
    found.items.into_iter().map(item).collect()
}

fn labelled(shape: Shape, label: &str) -> (Shape, Option<String>) {
    (shape, Some(label.to_owned()))
}

/// The only problem of an answer, with the text it points to.
fn problem(text: &str) -> (GroundingReason, &str) {
    let found = parse_grounding(text);
    assert_eq!(found.problems.len(), 1, "{text}: {found:?}");
    let problem = found.problems[0].clone();
    (problem.reason, &text[problem.text_range])
}

fn shapes(found: &Grounded) -> Vec<Shape> {
    found.items.iter().map(|item| item.shape).collect()
}

#[test]
fn reads_the_forms_that_models_write() {
    let dog = labelled(boxed(12.0, 34.0, 560.0, 780.0), "dog");
    let cat = labelled(boxed(1.0, 2.0, 3.0, 4.0), "cat");
    let both = [dog.clone(), cat.clone()];
    let fenced = "```json\n[\n\t{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"},\n\
                  \t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"cat\"}\n]\n```";
    let cases: [(&str, &[_]); 14] = [
        (fenced, &both),
        (&fenced[8..fenced.len() - 4], &both),
        (&format!("Here they are:\n{fenced}\nAnything else?"), &both),
        (
            "```json\n{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"}\n```\nand\n```\n\
             {\"bbox_2d\": [1, 2, 3, 4], \"label\": \"cat\"}\n```",
            &both,
        ),
        (r#"The dog is at {"bbox_2d": [12, 34, 560, 780], "label": "dog"}."#, &both[..1]),
        (r#"{'bbox_2d': [12, 34, 560, 780], 'label': 'dog'}"#, &both[..1]),
        (r#"[{"bbox_2d": [12, 34, 560, 780,], "label": "dog",},]"#, &both[..1]),
        (r#"{"bbox_2d": [12.0, 34.0, 5.6e2, 780], "label": "dog"}"#, &both[..1]),
        // Commas between items forgotten, as some training sets have them.
        (
            "[\n\t{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"}\n\
             \t{\"bbox_2d\": [1, 2, 3, 4]\n \"label\": \"cat\"}\n]",
            &both,
        ),
        ("[{bbox_2d: [12, 34, 560, 780], label: \"dog\"} // first\n]", &both[..1]),
        (
            r#"{"objects": {"animals": [{"label": "dog", "bbox_2d": [12, 34, 560, 780]}]}}"#,
            &both[..1],
        ),
        (r#"{"label": "dog", "bbox": [12, 34, 560, 780]}"#, &both[..1]),
        // One line an object, and several lists.
        (
            "{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"}\n{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"cat\"}",
            &both,
        ),
        (
            "[{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"}] [{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"cat\"}]",
            &both,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(clean(text), expected, "{text}");
    }
}

#[test]
fn keeps_everything_beside_the_coordinates() {
    let text = r#"[{"point_2d": [346, 328], "label": "person", "role": "referee", "score": 0.5,
                    "shirt": {"colour": "black", "number": 7}, "sub_label": "standing"}]"#;
    let item = &parse_grounding(text).items[0];
    assert_eq!(item.shape, point(346.0, 328.0));
    assert_eq!(item.caption().as_deref(), Some("person: standing"));
    let attributes =
        json!({"role": "referee", "score": 0.5, "shirt": {"colour": "black", "number": 7}});
    assert_eq!(json!(item.attributes), attributes);
    assert_eq!(&text[item.text_range.clone()], &text[1..text.len() - 1]);

    let ocr = r#"{"bbox_2d": [0, 0, 1000, 20], "text_content": "AUSFAHRT"}"#;
    assert_eq!(parse_grounding(ocr).items[0].caption().as_deref(), Some("AUSFAHRT"));
}

#[test]
fn reads_several_shapes_of_one_object() {
    let text = r#"{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "point_2d": [2, 3], "label": "a"}"#;
    let expected = [boxed(1.0, 2.0, 3.0, 4.0), boxed(5.0, 6.0, 7.0, 8.0), point(2.0, 3.0)];
    assert_eq!(clean(text), expected.map(|shape| labelled(shape, "a")));

    let nested = r#"{"bbox_2d": [1, 2, 30, 40], "label": "a", "parts": [{"bbox_2d": [5, 6, 7, 8], "label": "b"}]}"#;
    let expected =
        [labelled(boxed(1.0, 2.0, 30.0, 40.0), "a"), labelled(boxed(5.0, 6.0, 7.0, 8.0), "b")];
    assert_eq!(clean(nested), expected);

    // The key of the outer one comes after the inner one.
    let after = r#"{"parts": [{"point_2d": [5, 6]}], "point_2d": [7, 8]}"#;
    assert_eq!(clean(after).len(), 2);
}

#[test]
fn reads_labels_with_quotes_and_escapes() {
    let label = |text: &str| clean(text)[0].1.clone().unwrap();
    assert_eq!(
        label(r#"{"bbox_2d": [1, 2, 3, 4], "label": "the \"big\" dog"}"#),
        r#"the "big" dog"#
    );
    assert_eq!(label(r#"{"label": "the "big" dog", "bbox_2d": [1, 2, 3, 4]}"#), r#"the "big" dog"#);
    assert_eq!(
        label(r#"{"label": "says "yes", loudly", "bbox_2d": [1, 2, 3, 4]}"#),
        r#"says "yes", loudly"#
    );
    assert_eq!(label(r#"{'label': 'the dog's bowl', 'bbox_2d': [1, 2, 3, 4]}"#), "the dog's bowl");
    assert_eq!(
        label(r#"{"label": "caf\u00e9 \ud83d\ude00 \ud83d", "bbox_2d": [1, 2, 3, 4]}"#),
        "café 😀 \u{fffd}"
    );
    assert_eq!(
        label(r#"{"label": "红色的汽车 {1} [a]", "bbox_2d": [1, 2, 3, 4]}"#),
        "红色的汽车 {1} [a]"
    );
    assert_eq!(label(r#"{"label": "\alpha", "bbox_2d": [1, 2, 3, 4]}"#), r"\alpha");
}

#[test]
fn takes_lists_without_key_only_where_there_are_no_keys() {
    let bare = parse_grounding("The box is [100, 200, 300, 400].");
    assert_eq!(shapes(&bare), [boxed(100.0, 200.0, 300.0, 400.0)]);
    assert!(bare.items[0].bare);
    let several = parse_grounding("<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>");
    assert_eq!(shapes(&several), [boxed(1.0, 2.0, 3.0, 4.0), boxed(5.0, 6.0, 7.0, 8.0)]);

    let keyed = parse_grounding(r#"[1, 2, 3, 4] {"bbox_2d": [5, 6, 7, 8]}"#);
    assert_eq!(shapes(&keyed), [boxed(5.0, 6.0, 7.0, 8.0)]);
    assert!(!keyed.items[0].bare);
    for text in ["[4, 3, 2, 1]", "[1, 2, 3]", "[1, 2]", "[10, 20, 30, 4000]", "[\"a\"]", "f[0]", ""]
    {
        assert_eq!(parse_grounding(text), Grounded::default(), "{text}");
    }
}

#[test]
fn keeps_whole_items_of_a_cut_answer() {
    let text = "```json\n[\n\t{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"dog\"},\n\
                \t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"cat\"}\n]\n```";
    let second = text.find("{\"bbox_2d\": [1,").unwrap();
    let close = text.find("\n]").unwrap();
    for end in 9..text.len() {
        let found = parse_grounding(&text[..end]);
        let whole = usize::from(end >= second - 3) + usize::from(end >= close);
        assert_eq!(found.items.len(), whole, "{end}: {found:?}");
        let is_open = end < close + 2;
        assert_eq!(found.truncated, is_open, "{end}: {:?}", &text[..end]);
    }
    let cut = &text[..second + 18];
    let (reason, part) = problem(cut);
    assert_eq!((reason, part), (GroundingReason::Truncated, &cut[second..]));
    assert!(parse_grounding(cut).truncated);
}

#[test]
fn a_number_at_the_cut_is_not_trusted() {
    let found = parse_grounding(r#"[{"point_2d": [10, 20]}, {"point_2d": [30, 4"#);
    assert_eq!(shapes(&found), [point(10.0, 20.0)]);
    assert_eq!(found.problems.len(), 1);
    assert!(found.truncated);
    for end in [r#", "x": nul"#, r#", "x": -"#, r#", "x""#, r#", "x": "y\"#] {
        let text = format!(r#"[{{"point_2d": [10, 20]{end}"#);
        let found = parse_grounding(&text);
        assert_eq!(found.problems[0].reason, GroundingReason::Truncated, "{text}");
        assert!(found.truncated, "{text}");
    }
}

#[test]
fn tells_what_cannot_be_used() {
    use GroundingReason::*;
    let key = || "bbox_2d".to_owned();
    let cases = [
        ("[1, 2, 3]", WrongCount { key: key(), expected: 4, found: 3 }),
        ("[]", WrongCount { key: key(), expected: 4, found: 0 }),
        ("null", NotNumbers { key: key() }),
        ("\"1, 2, 3, 4\"", NotNumbers { key: key() }),
        ("[1, 2, 3, \"4\"]", NotNumbers { key: key() }),
        ("[1, 2, 3, 1000.5]", OutOfRange { key: key(), value: 1000.5 }),
        ("[-1, 2, 3, 4]", OutOfRange { key: key(), value: -1.0 }),
        ("[1, 2, 3, 1e999]", NotFinite { key: key() }),
        ("[1, 2, NaN, 4]", NotFinite { key: key() }),
        ("[30, 2, 3, 4]", Reversed { key: key(), x1: 30.0, y1: 2.0, x2: 3.0, y2: 4.0 }),
        ("[1, 20, 3, 4]", Reversed { key: key(), x1: 1.0, y1: 20.0, x2: 3.0, y2: 4.0 }),
    ];
    for (value, expected) in cases {
        let item = format!("{{\"bbox_2d\": {value}, \"label\": \"x\"}}");
        let text = format!("[{{\"point_2d\": [5, 6]}}, {item}, {{\"point_2d\": [7, 8]}}]");
        assert_eq!(problem(&text), (expected, &item[..]));
        let found = parse_grounding(&text);
        assert_eq!(shapes(&found), [point(5.0, 6.0), point(7.0, 8.0)]);
        assert!(!found.truncated);
    }
    let (reason, _) = problem(r#"{"bbox_3d": [0.1, 0.2, 3, 1, 1, 1, 0, 0, 0], "label": "table"}"#);
    assert_eq!(reason, ThreeDimensional);
    let (reason, _) = problem(r#"{"point_2d": [1, 2, 3]}"#);
    assert_eq!(reason.to_string(), "`point_2d` needs 2 numbers, but the answer gives 3.");
    // The edges of the range, and a box without area, are fine.
    assert_eq!(clean(r#"{"bbox_2d": [0, 0, 1000, 1000]}"#)[0].0, boxed(0.0, 0.0, 1000.0, 1000.0));
    assert_eq!(clean(r#"{"bbox_2d": [5, 5, 5, 5]}"#)[0].0, boxed(5.0, 5.0, 5.0, 5.0));
}

#[test]
fn broken_items_are_problems_and_their_neighbours_survive() {
    let cases = [
        (
            r#"[{"bbox_2d": [1, 2, x, 4], "label": "a"}, {"point_2d": [7, 8]}]"#,
            "{\"bbox_2d\": [1, 2, x, 4], \"label\": \"a\"}",
        ),
        (r#"[{"bbox_2d": [1, 2, 3, 4}, {"point_2d": [7, 8]}]"#, "{\"bbox_2d\": [1, 2, 3, 4}"),
        (
            r#"[{"label" "a", "bbox_2d": [1, 2, 3, 4]}, {"point_2d": [7, 8]}]"#,
            "bbox_2d\": [1, 2, 3, 4]}, {\"point_2d\": [7, 8]}]",
        ),
        ("\"bbox_2d\": [1, 2, 3, 4]\n{\"point_2d\": [7, 8]}", "bbox_2d\": [1, 2, 3, 4]"),
        (r#"{"bbox_2d": [12%, 2, 3, 4]} {"point_2d": [7, 8]}"#, "{\"bbox_2d\": [12"),
    ];
    for (text, part) in cases {
        let (reason, at) = problem(text);
        assert!(matches!(reason, GroundingReason::Malformed { .. }), "{text}: {reason:?}");
        assert_eq!(at, part, "{text}");
        assert_eq!(shapes(&parse_grounding(text)), [point(7.0, 8.0)], "{text}");
    }
    // Talking of keys is no attempt at grounding.
    let talk = "I can return bbox_2d and \"point_2d\" if you like {x [";
    assert_eq!(parse_grounding(talk).problems, []);
}

#[test]
fn knows_the_picture_of_an_item() {
    let image = |member: &str| {
        parse_grounding(&format!("{{\"point_2d\": [1, 2], {member}}}")).items[0].image
    };
    assert_eq!(image(r#""image_index": 0"#), Some(0));
    assert_eq!(image(r#""image": 2"#), Some(1));
    assert_eq!(image(r#""image": "Picture 3""#), Some(2));
    assert_eq!(image(r#""image": "photo2""#), None);
    assert_eq!(image(r#""image": "a.jpg""#), None);
    assert_eq!(image(r#""label": "x""#), None);
    for wrong in ["\"image\": 0", "\"image_index\": -1", "\"image\": 1.5"] {
        let (reason, _) = problem(&format!("{{\"point_2d\": [1, 2], {}}}", wrong));
        assert!(matches!(reason, GroundingReason::Image { .. }), "{wrong}");
    }
    let mut found = parse_grounding(
        r#"[{"point_2d": [1, 1]}, {"point_2d": [2, 2], "image": 2}, {"point_2d": [3, 3], "image": 3}]"#,
    );
    found.check_images(2);
    assert_eq!(shapes(&found), [point(1.0, 1.0), point(2.0, 2.0)]);
    assert_eq!(found.of_image(1).count(), 1);
    assert_eq!(found.problems[0].reason, GroundingReason::NoSuchImage { image: 3, images: 2 });
}

#[test]
fn converts_to_pixels() {
    let pixels = boxed(0.0, 125.0, 500.0, 1000.0).to_pixels(1920, 1080);
    assert_eq!(pixels, PixelShape::Box(PixelBox { x1: 0.0, y1: 135.0, x2: 960.0, y2: 1080.0 }));
    // Not rounded: 333 / 1000 * 100.
    let pixels = point(333.0, 999.0).to_pixels(100, 10);
    assert_eq!(pixels, PixelShape::Point(PixelPoint { x: 33.3, y: 9.99 }));
    // Shapes built by hand are limited to the picture.
    let pixels = boxed(-5.0, 0.0, 2000.0, 10.0).to_pixels(10, 1000);
    assert_eq!(pixels, PixelShape::Box(PixelBox { x1: 0.0, y1: 0.0, x2: 10.0, y2: 10.0 }));
}
