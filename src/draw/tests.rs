use std::path::Path;

use qwen3_vl_model::grounding::{Grounding, parse_grounding};
use qwen3_vl_model::processor::image::RgbImage;

use super::*;

const ORANGE: [u8; 3] = [213, 94, 0];
const BLUE: [u8; 3] = [0, 114, 178];
const GREY: [u8; 3] = [128; 3];

fn grey(width: u32, height: u32) -> RgbImage {
    RgbImage::new(width, height, vec![128; (width * height * 3) as usize]).unwrap()
}

fn at(image: &RgbImage, x: u32, y: u32) -> [u8; 3] {
    let start = ((y * image.width + x) * 3) as usize;
    image.data[start..start + 3].try_into().unwrap()
}

fn items(text: &str) -> Vec<Grounding> {
    let found = parse_grounding(text);
    assert_eq!(found.problems, []);
    found.items
}

fn plain(line: u32) -> DrawStyle {
    DrawStyle { line_width: Some(line), no_labels: true, text_scale: None }
}

/// Pixels of a colour in an area.
fn count(image: &RgbImage, colour: [u8; 3]) -> usize {
    image.data.chunks_exact(3).filter(|pixel| *pixel == colour).count()
}

#[test]
fn a_frame_lies_inside_its_box() {
    let mut image = grey(100, 50);
    let items = items(r#"{"bbox_2d": [100, 200, 500, 800], "label": "a"}"#);
    assert_eq!(draw(&mut image, &items, &plain(2)).shapes, 1);
    // The box is x 10..50, y 10..40.
    for (x, y) in [(10, 10), (49, 39), (11, 20), (48, 20), (30, 11), (30, 38)] {
        assert_eq!(at(&image, x, y), ORANGE, "{x} {y}");
    }
    for (x, y) in [(9, 10), (50, 39), (10, 9), (49, 40), (12, 12), (47, 37), (30, 20)] {
        assert_eq!(at(&image, x, y), GREY, "{x} {y}");
    }
    assert_eq!(count(&image, ORANGE), 40 * 30 - 36 * 26);
}

#[test]
fn boxes_at_the_edge_and_without_area_are_visible() {
    let mut image = grey(20, 20);
    draw(&mut image, &items(r#"{"bbox_2d": [0, 0, 1000, 1000]}"#), &plain(1));
    assert_eq!(count(&image, ORANGE), 20 * 20 - 18 * 18);
    let mut image = grey(20, 20);
    draw(&mut image, &items(r#"{"bbox_2d": [500, 500, 500, 500]}"#), &plain(3));
    assert_eq!((at(&image, 10, 10), count(&image, ORANGE)), (ORANGE, 1));
    // On the very edge nothing is left to draw, and nothing breaks.
    let mut image = grey(20, 20);
    draw(&mut image, &items(r#"{"bbox_2d": [1000, 1000, 1000, 1000]}"#), &plain(3));
    assert_eq!(count(&image, GREY), 400);
}

#[test]
fn a_point_is_a_disc_with_a_rim() {
    let mut image = grey(40, 40);
    draw(&mut image, &items(r#"{"point_2d": [500, 500]}"#), &plain(1));
    for (x, y) in [(20, 20), (23, 20), (20, 17)] {
        assert_eq!(at(&image, x, y), ORANGE, "{x} {y}");
    }
    // Orange has black ink.
    assert_eq!((at(&image, 24, 20), at(&image, 25, 20)), ([0; 3], GREY));
    let mut corner = grey(40, 40);
    draw(&mut corner, &items(r#"{"point_2d": [0, 1000]}"#), &plain(1));
    assert_eq!(at(&corner, 0, 39), ORANGE);
}

#[test]
fn each_label_has_its_colour() {
    let mut image = grey(100, 100);
    let text = r#"[{"bbox_2d": [0, 0, 100, 100], "label": "a"}, {"bbox_2d": [200, 0, 300, 100], "label": "b"},
                   {"bbox_2d": [400, 0, 500, 100], "label": "a"}]"#;
    draw(&mut image, &items(text), &plain(1));
    assert_eq!([0, 20, 40].map(|x| at(&image, x, 0)), [ORANGE, BLUE, ORANGE]);
}

/// The letter `l` of the font, on its ground above the box.
#[test]
fn a_caption_stands_above_its_box() {
    let mut image = grey(100, 100);
    let style = DrawStyle { line_width: Some(1), text_scale: Some(1), no_labels: false };
    let drawn =
        draw(&mut image, &items(r#"{"bbox_2d": [300, 500, 900, 900], "label": "l"}"#), &style);
    assert!(drawn.warnings().is_empty());
    // Ground: 8 + 4 pixels wide, 16 + 4 high, down to the box's first row.
    for (x, y) in [(30, 30), (41, 30), (30, 49), (41, 49)] {
        assert_eq!(at(&image, x, y), ORANGE, "{x} {y}");
    }
    for (x, y) in [(29, 30), (42, 30), (30, 29)] {
        assert_eq!(at(&image, x, y), GREY, "{x} {y}");
    }
    let row = |y: u32| (32..40).map(|x| u8::from(at(&image, x, y) == [0; 3])).collect::<Vec<_>>();
    // Rows 3, 4 and 13 of the glyph, 18 08 3E; row 0 is 2 pixels under the ground's top.
    assert_eq!(row(32 + 3), [0, 0, 0, 1, 1, 0, 0, 0]);
    assert_eq!(row(32 + 4), [0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(row(32 + 13), [0, 0, 1, 1, 1, 1, 1, 0]);
    assert_eq!(row(32 + 14), [0; 8]);
}

#[test]
fn a_caption_without_room_above_goes_inside_and_stays_in_the_picture() {
    let mut image = grey(60, 60);
    let style = DrawStyle { line_width: Some(1), text_scale: Some(1), no_labels: false };
    draw(&mut image, &items(r#"{"bbox_2d": [900, 100, 1000, 900], "label": "狗"}"#), &style);
    // 16 + 4 wide, moved left to end at the edge; inside the box, from its top at 6.
    assert_eq!((at(&image, 40, 6), at(&image, 59, 25), at(&image, 39, 6)), (ORANGE, ORANGE, GREY));
    assert_eq!(at(&image, 45, 5), GREY);
    assert!(count(&image, [0; 3]) > 30, "the glyph is there");
}

#[test]
fn a_point_at_the_right_edge_has_its_caption_on_the_left() {
    let style = DrawStyle { line_width: Some(1), text_scale: Some(1), no_labels: false };
    let point = |x: u32| items(&format!("{{\"point_2d\": [{x}, 500], \"label\": \"l\"}}"));
    let mut image = grey(60, 60);
    draw(&mut image, &point(900), &style);
    // The disc's middle is 54; its rim ends 4 pixels from there, the ground one pixel on.
    assert_eq!(
        (at(&image, 54, 30), at(&image, 49, 30), at(&image, 37, 20)),
        (ORANGE, GREY, ORANGE)
    );
    let mut image = grey(60, 60);
    draw(&mut image, &point(100), &style);
    assert_eq!((at(&image, 6, 30), at(&image, 10, 20), at(&image, 11, 20)), (ORANGE, GREY, ORANGE));
}

#[test]
fn tells_what_it_cannot_write() {
    let mut image = grey(60, 60);
    let style = DrawStyle { text_scale: Some(1), ..DrawStyle::default() };
    let text = r#"[{"point_2d": [1, 1], "label": "a very long caption"}, {"point_2d": [1, 900], "label": "😀\u200d"}]"#;
    let drawn = draw(&mut image, &items(text), &style);
    assert_eq!((drawn.shapes, drawn.shortened), (2, 1));
    assert_eq!(drawn.missing.iter().collect::<String>(), "😀");
    assert_eq!(
        drawn.warnings(),
        ["1 captions are too long for the picture.", "The font has no glyph for '😀'."]
    );
}

#[test]
fn odd_pictures_and_styles_are_drawn_without_fail() {
    let text = r#"[{"bbox_2d": [0, 0, 1000, 1000], "label": "é\u0301\n\t漢字 العربية"}, {"point_2d": [1000, 1000], "label": ""}]"#;
    for (width, height) in [(1, 1), (1, 300), (300, 1), (2, 2), (700, 20)] {
        for scale in [None, Some(0), Some(1), Some(u32::MAX)] {
            let mut image = grey(width, height);
            let style = DrawStyle { line_width: scale, text_scale: scale, no_labels: false };
            assert_eq!(draw(&mut image, &items(text), &style).shapes, 2);
            assert_eq!(image.data.len(), (width * height * 3) as usize);
        }
    }
    let mut broken = RgbImage { width: 50, height: 50, data: vec![0; 7] };
    draw(&mut broken, &items(text), &DrawStyle::default());
}

#[test]
fn lines_and_text_grow_with_the_picture() {
    let size = |width, height| {
        let size = Sizes::of(&RgbImage { width, height, data: Vec::new() }, &DrawStyle::default());
        (size.line, size.text_scale)
    };
    assert_eq!(size(100, 100), (1, 1));
    assert_eq!(size(1000, 2000), (5, 2));
    assert_eq!(size(4000, 3000), (15, 6));
}

#[test]
fn saves_by_extension_and_replaces_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = grey(24, 16);
    draw(&mut image, &items(r#"{"bbox_2d": [0, 0, 500, 500]}"#), &plain(2));
    for (name, is_exact) in [("a.png", true), ("a.WEBP", true), ("a.jpg", false), ("a.jpeg", false)]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, "old").unwrap();
        save(&image, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let decoded = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(decoded.dimensions(), (24, 16), "{name}");
        let pairs = decoded.as_raw().iter().zip(&image.data);
        let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(if is_exact { worst == 0 } else { worst < 120 }, "{name}: {worst}");
    }
    // Nothing but the four files is left.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[cfg(unix)]
#[test]
fn saved_files_can_be_read_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode =
        |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    std::fs::write(dir.path().join("plain"), "").unwrap();
    save(&grey(2, 2), &dir.path().join("a.png")).unwrap();
    assert_eq!(mode("a.png"), mode("plain"));
}

#[test]
fn refuses_outputs_before_work_starts() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str| check_output(&dir.path().join(name));
    assert_eq!(check("a.png").unwrap(), Format::Png);
    assert_eq!(check("a.JPG").unwrap(), Format::Jpeg);
    for name in ["a", "a.bmp", "a.png.txt", "png"] {
        assert!(matches!(check(name), Err(SaveError::Extension { .. })), "{name}");
    }
    std::fs::create_dir(dir.path().join("b.png")).unwrap();
    assert!(matches!(check("b.png"), Err(SaveError::IsFolder { .. })));
    assert!(matches!(check("none/a.png"), Err(SaveError::NoFolder { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(
        check_output(Path::new("out.gif")).unwrap_err().to_string(),
        "out.gif does not say which format to write: its name must end in .png, .jpg, .jpeg or .webp."
    );
    let huge = save(
        &RgbImage { width: 70_000, height: 1, data: vec![0; 210_000] },
        &dir.path().join("a.jpg"),
    );
    assert!(matches!(huge, Err(SaveError::Encode { .. })));
    assert!(!dir.path().join("a.jpg").exists());
}
