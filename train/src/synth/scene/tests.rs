use super::*;
use crate::synth::canvas::Look;

/// A scene on a plain background that contrasts with everything, without blur or noise.
fn plainly(scene: Scene) -> Scene {
    let colours: Vec<Rgb> = scene.things.iter().map(|thing| thing.rgb).collect();
    let ground = super::super::palette::background(&mut Dice::new(0, 0), &colours, 150.0);
    Scene { look: Look::plain(ground), ..scene }
}

/// The box of pixels inside `zone` that differ from the corner of the picture.
fn mask(scene: &Scene, zone: Rect) -> Rect {
    let drawn = scene.draw();
    let ground = &drawn.rgb[..3];
    let mut points = Vec::new();
    for (place, pixel) in drawn.rgb.chunks_exact(3).enumerate() {
        let (x, y) = (place % drawn.width as usize, place / drawn.width as usize);
        let (x, y) = (x as f64, y as f64);
        if pixel != ground && x >= zone.x1 && x <= zone.x2 && y >= zone.y1 && y <= zone.y2 {
            points.extend([[x, y], [x + 1.0, y + 1.0]]);
        }
    }
    Rect::around(&points)
}

#[test]
fn boxes_are_tight() {
    for index in 0..150 {
        let scene = plainly(Scene::shapes(&mut Dice::new(20, index)));
        for thing in &scene.things {
            let found = mask(&scene, thing.rect.grown(2.0));
            let wanted = thing.rect;
            let sides = [
                found.x1 - wanted.x1,
                found.y1 - wanted.y1,
                found.x2 - wanted.x2,
                found.y2 - wanted.y2,
            ];
            assert!(sides.iter().all(|side| side.abs() <= 1.0), "{index} {thing:?} {sides:?}");
        }
    }
}

#[test]
fn scenes_keep_their_rules() {
    for index in 0..1500 {
        let Scene { size, things, look: _, label } = Scene::shapes(&mut Dice::new(21, index));
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        assert!(size.0.min(size.1) >= 96 && size.0.max(size.1) <= 320, "{size:?}");
        assert!(width.max(height) / width.min(height) <= 2.01, "{size:?}");
        assert!((1..=4).contains(&things.len()) && label.is_none());
        for (place, thing) in things.iter().enumerate() {
            let rect = thing.rect;
            assert!(rect.x1 >= 0.0 && rect.y1 >= 0.0 && rect.x2 <= width && rect.y2 <= height);
            for other in &things[place + 1..] {
                assert!(!rect.meets(&other.rect), "{index}");
                assert!(rect.centre()[0] < other.rect.centre()[0] - width * 0.049, "{index}");
            }
        }
    }
}

#[test]
fn every_number_of_objects_is_common_and_kinds_repeat() {
    let (mut numbers, mut repeated) = ([0; 5], 0);
    for index in 0..2000 {
        let scene = Scene::shapes(&mut Dice::new(22, index));
        numbers[scene.things.len()] += 1;
        let twice = |thing: &Thing| !scene.kind_is_unique(thing.kind());
        repeated += usize::from(scene.things.iter().any(twice));
    }
    assert!(numbers[1..].iter().all(|count| *count > 380), "{numbers:?}");
    assert!((120..600).contains(&repeated), "{repeated}");
}

#[test]
fn strings_lie_inside_and_are_wide_enough() {
    for index in 0..300 {
        let scene = plainly_lettered(Scene::string(&mut Dice::new(23, index), &Bounds::default()));
        let all = whole(scene.size);
        let found = mask(&scene, all);
        let label = scene.label.as_ref().expect("a string");
        let margins = [found.x1, found.y1, all.x2 - found.x2, all.y2 - found.y2];
        assert!(margins.iter().all(|margin| *margin >= 1.0), "{index} {label:?} {margins:?}");
        let cell = found.width() / label.text.len() as f64;
        assert!(cell >= 3.0 && found.height() >= 9.0, "{index} {label:?} {found:?}");
    }
}

/// Only the string, black on white.
fn plainly_lettered(scene: Scene) -> Scene {
    let label = scene.label.map(|label| Label { rgb: [0; 3], ..label });
    Scene { look: Look::plain([255; 3]), things: vec![], label, ..scene }
}
