use super::*;
use crate::synth::{Bounds, Mixture, eval_row, turns};

fn scenes(seed: u64) -> impl Iterator<Item = (Scene, Dice)> {
    (0..1500).map(move |index| {
        let mut dice = Dice::new(seed, index);
        (Scene::shapes(&mut dice), dice)
    })
}

fn named<'a>(scene: &'a Scene, name: &str) -> Vec<&'a Thing> {
    scene.matching(|thing| thing.name() == name)
}

#[test]
fn relations_are_true_and_name_one_object_each() {
    let ways = [" to the left of the ", " to the right of the ", " above the ", " below the "];
    let (mut yes, mut no, mut seen) = (0, 0, [0; 4]);
    for (scene, mut dice) in scenes(30) {
        let Some(turn) = relation(&scene, &mut dice) else { continue };
        yes += usize::from(turn.answer.starts_with("Yes, "));
        no += usize::from(turn.answer.starts_with("No, "));
        let fact = turn.answer.trim_start_matches("Yes, ").trim_start_matches("No, ");
        let way = (0..4).find(|way| fact.contains(ways[*way])).expect("a direction");
        let (one, two) = fact.split_once(ways[way]).expect("two names");
        let one = named(&scene, one[4..].trim_end_matches(" is"));
        let two = named(&scene, two.trim_end_matches('.'));
        assert_eq!((one.len(), two.len()), (1, 1), "{}", turn.answer);
        let ([ax, ay], [bx, by]) = (one[0].rect.centre(), two[0].rect.centre());
        let holds = [ax < bx, ax > bx, ay < by, ay > by];
        assert!(holds[way], "{} {ax} {ay} {bx} {by}", turn.answer);
        seen[way] += 1;
        if turn.answer.starts_with(fact) {
            continue;
        }
        let claims = [p::TO_THE_LEFT, p::TO_THE_RIGHT, p::ABOVE, p::BELOW];
        let claimed =
            |ways: &&[&str]| ways.iter().any(|way| turn.question.contains(&format!("{way} the ")));
        let claim = claims.iter().position(claimed).expect("a claim");
        assert_eq!(holds[claim], turn.answer.starts_with("Yes, "), "{turn:?}");
    }
    let share = yes as f64 / (yes + no) as f64;
    assert!(yes > 100 && (0.43..0.57).contains(&share), "{yes} {no}");
    assert!(seen.iter().all(|count| *count > 80), "{seen:?}");
}

#[test]
fn a_diagonal_has_no_side() {
    assert_eq!(Side::of([10.0, 10.0], [50.0, 50.0], 100.0), None);
    assert_eq!(Side::of([10.0, 50.0], [20.0, 50.0], 100.0), None);
    assert_eq!(Side::of([10.0, 50.0], [50.0, 60.0], 100.0), Some(Side::Left));
    assert_eq!(Side::of([50.0, 90.0], [60.0, 10.0], 100.0), Some(Side::Below));
}

#[test]
fn colours_and_shapes_are_asked_only_of_single_ones() {
    for (scene, mut dice) in scenes(31) {
        if let Some(turn) = colour(&scene, &mut dice) {
            let words: Vec<&str> = turn.answer.trim_end_matches('.').split(' ').collect();
            let [_, shape, _, colour] = words[..] else { continue };
            if shape == "text" {
                continue;
            }
            let found = scene.matching(|thing| thing.shape.name() == shape);
            assert_eq!(found.len(), 1, "{turn:?}");
            assert_eq!(found[0].colour.name(), colour);
        }
        if let Some(turn) = shape(&scene.things, &mut dice) {
            let colour = turn.answer.split(' ').nth(1).expect("a colour");
            let found = scene.matching(|thing| thing.colour.name() == colour);
            assert_eq!(found.len(), 1, "{turn:?}");
            assert!(turn.answer.ends_with(&format!("{}.", found[0].shape.name())), "{turn:?}");
        }
    }
}

#[test]
fn counts_are_right_and_balanced() {
    let mut seen = [0; 5];
    for (scene, mut dice) in scenes(32) {
        let Some(turn) = count(&scene, &mut dice) else { continue };
        let words: Vec<&str> = turn.answer.trim_end_matches('.').split(' ').collect();
        let number = ["no", "one", "two", "three", "four"].iter().position(|n| *n == words[2]);
        let number = number.expect("a number");
        let what = words[3..].join(" ");
        let plural = |thing: &Thing| format!("{} {}", thing.colour.name(), thing.shape.plural());
        let fits = |thing: &Thing| {
            let forms = [
                "object".to_owned(),
                "objects".into(),
                thing.shape.name().into(),
                thing.shape.plural().into(),
                format!("{} object", thing.colour.name()),
                format!("{} objects", thing.colour.name()),
                thing.name(),
                plural(thing),
            ];
            forms.contains(&what)
        };
        assert_eq!(scene.matching(fits).len(), number, "{turn:?}");
        seen[number] += 1;
    }
    assert!(seen.iter().all(|count| *count > 130), "{seen:?}");
}

#[test]
fn existence_is_true_and_balanced() {
    let (mut yes, mut all) = (0, 0);
    for (scene, mut dice) in scenes(33) {
        let Some(turn) = exists(&scene, &mut dice) else { continue };
        if turn.answer.ends_with("text.") {
            continue;
        }
        let says = turn.answer.starts_with("Yes");
        let what = turn.answer.trim_end_matches('.');
        let what = what.split_once(if says { " is " } else { " no " }).expect("a kind").1;
        let what = what.trim_start_matches("a ").trim_start_matches("an ");
        let fits = |thing: &Thing| {
            what == thing.name()
                || what == thing.shape.name()
                || what == format!("{} object", thing.colour.name())
        };
        assert_eq!(!scene.matching(fits).is_empty(), says, "{turn:?}");
        yes += u32::from(says);
        all += 1;
    }
    let share = f64::from(yes) / f64::from(all);
    assert!((0.46..0.54).contains(&share), "{share}");
}

#[test]
fn boxes_name_all_objects_asked_for_in_order() {
    for (scene, mut dice) in scenes(34) {
        let Some(turn) = boxes(&scene, &mut dice) else { continue };
        let parsed: serde_json::Value = serde_json::from_str(&turn.answer).expect("JSON");
        let parsed = parsed.as_array().expect("a list");
        assert_eq!(parsed.len(), turn.boxes.len());
        let mut last = 0;
        for (entry, found) in parsed.iter().zip(&turn.boxes) {
            assert_eq!(entry["label"], found.label.as_str());
            let [x1, y1, x2, y2] = found.bbox_2d;
            assert!(x1 < x2 && y1 < y2 && x2 <= 1000 && y2 <= 1000, "{turn:?}");
            assert!(x1 + x2 >= last, "{turn:?}");
            last = x1 + x2;
            assert_eq!(entry["bbox_2d"][3], y2);
        }
    }
}

#[test]
fn identical_objects_are_counted_in_descriptions() {
    let kinds = |list: &[Kind]| {
        let mut scene = Scene::of(&mut Dice::new(35, 0), list);
        // The order on the picture is drawn; here it is that of the list.
        scene.things.sort_by_key(|thing| list.iter().position(|kind| *kind == thing.kind()));
        contents(&scene)
    };
    let (circle, star) = ((Colour::Red, Shape::Circle), (Colour::Orange, Shape::Star));
    assert_eq!(kinds(&[circle]), "a red circle");
    assert_eq!(kinds(&[star, circle, circle]), "an orange star and two red circles");
    assert_eq!(kinds(&[circle, star]), "a red circle and an orange star");
}

#[test]
fn questions_have_no_open_slot_and_end_cleanly() {
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..3000 {
        for turn in turns(36, index, &Mixture::default()) {
            let text = &turn.question;
            assert!(!text.contains(['{', '}', '[', ']', '|']) && !text.contains("  "), "{text}");
            assert!(!text.contains(" ?") && !text.contains(" ."), "{text}");
            assert!(text.is_ascii() && text == text.trim(), "{text}");
            assert!(!text.contains(" ,") && !text.contains("??"), "{text}");
            assert!(
                !turn.answer.is_empty() && !turn.answer.contains(['{', '}'])
                    || turn.channel == "box"
            );
            seen.insert(text.clone());
        }
    }
    assert!(seen.len() > 8000, "{}", seen.len());
}

#[test]
fn colour_names_of_evaluation_are_balanced() {
    let mut seen = std::collections::BTreeMap::new();
    for index in 0..600 {
        let row = eval_row(37, index, Channel::Color, &Bounds::default());
        *seen.entry(row.turns[0].answer.rsplit(' ').next().map(String::from)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 12);
    assert!(seen.values().all(|count| *count >= 25), "{seen:?}");
}
