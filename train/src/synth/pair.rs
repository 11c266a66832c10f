//! Two pictures that are equal, differ in one thing, or have nothing in common.

use super::ask_scene::contents;
use super::canvas::Look;
use super::geometry::Point;
use super::palette::{Colour, Rgb};
use super::phrases as p;
use super::rng::Dice;
use super::scene::{Kind, Scene, Thing};
use super::shapes::Shape;
use super::turn::{Channel, Turn};
use super::words::{article, number, phrase};

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The object at this place has another colour.
    Colour(usize),
    /// The object at this place has another shape.
    Shape(usize),
    /// One picture has more objects.
    Count,
    /// The only object is elsewhere.
    Place(&'static str, &'static str),
    /// Everything.
    All,
}

/// Two pictures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub first: Scene,
    pub second: Scene,
    pub change: Change,
}

impl Pair {
    pub fn new(dice: &mut Dice) -> Self {
        loop {
            let pair = match dice.weighted(&[0.2, 0.18, 0.17, 0.17, 0.13, 0.15]) {
                0 => Some(Self::equal(dice)),
                1 => Self::recoloured(dice),
                2 => Self::reshaped(dice),
                3 => Some(Self::counted(dice)),
                4 => Self::moved(dice),
                _ => Self::unrelated(dice),
            };
            if let Some(pair) = pair {
                return pair;
            }
        }
    }

    fn equal(dice: &mut Dice) -> Self {
        let first = few(dice, 3);
        Self { second: first.clone(), first, change: Change::Nothing }
    }

    fn recoloured(dice: &mut Dice) -> Option<Self> {
        let first = few(dice, 3);
        let place = dice.below(first.things.len());
        let thing = &first.things[place];
        let colours: Vec<Colour> = first.things.iter().map(|thing| thing.colour).collect();
        let colour = Colour::other(dice, &colours);
        let changed = thing.painted(colour, colour.shade(dice));
        let unique = first.shape_is_unique(thing.shape);
        unique.then(|| Self::with(dice, first, place, changed, Change::Colour(place)))
    }

    fn reshaped(dice: &mut Dice) -> Option<Self> {
        let first = few(dice, 3);
        let place = dice.below(first.things.len());
        let thing = &first.things[place];
        let shapes: Vec<Shape> = first.things.iter().map(|thing| thing.shape).collect();
        let kind = (thing.colour, Shape::other(dice, &shapes));
        let size = thing.rect.width().min(thing.rect.height()) * 0.9;
        let fresh = Thing::new(dice, kind, size);
        let changed = fresh.moved(thing.rect.centre()).painted(thing.colour, thing.rgb);
        let unique = size >= 14.0 && first.colour_is_unique(thing.colour);
        unique.then(|| Self::with(dice, first, place, changed, Change::Shape(place)))
    }

    /// A second picture that has `changed` at `place`; both get a background for all colours.
    fn with(dice: &mut Dice, first: Scene, place: usize, changed: Thing, change: Change) -> Self {
        let mut second = first.clone();
        second.things[place] = changed;
        let mut pair = Self { first, second, change };
        pair.share_look(dice);
        pair
    }

    fn share_look(&mut self, dice: &mut Dice) {
        let all = self.first.things.iter().chain(&self.second.things);
        let colours: Vec<Rgb> = all.map(|thing| thing.rgb).collect();
        let look = Look::new(dice, &colours);
        self.first.look = look.clone();
        self.second.look = look;
    }

    fn counted(dice: &mut Dice) -> Self {
        let kinds: Vec<Kind> = Scene::shapes(dice).things.iter().map(Thing::kind).collect();
        let kinds = if kinds.len() > 1 { kinds } else { vec![any_kind(dice), any_kind(dice)] };
        let first = Scene::of(dice, &kinds);
        let mut second = first.clone();
        for _ in 0..dice.whole(1, kinds.len() - 1) {
            let gone = dice.below(second.things.len());
            second.things.remove(gone);
        }
        match dice.chance(0.5) {
            true => Self { first, second, change: Change::Count },
            false => Self { first: second, second: first, change: Change::Count },
        }
    }

    fn moved(dice: &mut Dice) -> Option<Self> {
        let kind = any_kind(dice);
        let first = Scene::of(dice, &[kind]);
        let thing = &first.things[0];
        let [x, y] = thing.rect.centre();
        let (width, height) = (f64::from(first.size.0), f64::from(first.size.1));
        let (by, names): (Point, _) = match dice.chance(0.65) {
            true => ([width - 2.0 * x, 0.0], ["on the left", "on the right"]),
            false => ([0.0, height - 2.0 * y], ["at the top", "at the bottom"]),
        };
        let far = by[0].abs() >= width * 0.3 || by[1].abs() >= height * 0.3;
        let names = if by[0] + by[1] > 0.0 { names } else { [names[1], names[0]] };
        let mut second = first.clone();
        second.things[0] = thing.moved(by);
        far.then_some(Self { first, second, change: Change::Place(names[0], names[1]) })
    }

    fn unrelated(dice: &mut Dice) -> Option<Self> {
        let (first, second) = (few(dice, 2), few(dice, 2));
        let differ = first.things.iter().all(|one| {
            second.things.iter().all(|two| one.colour != two.colour && one.shape != two.shape)
        });
        differ.then_some(Self { first, second, change: Change::All })
    }

    /// What each picture shows. Answers begin with it: a small model that has to name the difference in its first words would have to
    /// compare all objects at once, where it can compare what it has written word by word.
    fn seen(&self) -> String {
        let (old, new) = (contents(&self.first), contents(&self.second));
        format!("The first picture shows {old} and the second shows {new}.")
    }

    /// How many objects each picture has.
    fn numbers(&self) -> String {
        let (first, second) = (self.first.things.len(), self.second.things.len());
        let noun = if first == 1 { "object" } else { "objects" };
        format!(
            "The first picture has {} {noun} and the second has {}.",
            number(first),
            number(second)
        )
    }

    /// The sentence that tells the difference.
    fn difference(&self) -> String {
        let (first, second) = (&self.first.things, &self.second.things);
        match self.change {
            Change::Nothing => "The pictures are the same.".into(),
            Change::Colour(at) => {
                let shape = first[at].shape.name();
                let (old, new) = (first[at].colour.name(), second[at].colour.name());
                format!("The {shape} is {old} in the first picture and {new} in the second.")
            }
            Change::Shape(at) => {
                let colour = first[at].colour.name();
                let [old, new] = [&first[at], &second[at]].map(|thing| article(thing.shape.name()));
                format!(
                    "The {colour} object is {old} in the first picture and {new} in the second."
                )
            }
            Change::Count => self.numbers(),
            Change::Place(old, new) => {
                let name = first[0].name();
                format!("The {name} is {old} in the first picture and {new} in the second.")
            }
            Change::All => "The pictures have nothing in common.".into(),
        }
    }

    /// One question on the two pictures.
    pub fn ask(&self, dice: &mut Dice) -> Turn {
        // A fifth of the pairs is equal; they are asked about it more often, so that both answers are as likely.
        let weights = match self.change {
            Change::Nothing => [0.35, 0.5, 0.05, 0.1],
            _ => [0.55, 0.13, 0.14, 0.18],
        };
        let (question, answer) = match dice.weighted(&weights) {
            0 => {
                let answer = format!("{} {}", self.seen(), self.difference());
                (phrase(dice, p::DIFFERENCE, &[]), answer)
            }
            1 => {
                let answer = match self.change {
                    Change::Nothing => "The pictures are the same.",
                    _ => "The pictures are different.",
                };
                (phrase(dice, p::SAME, &[]), format!("{} {answer}", self.seen()))
            }
            2 => {
                let answer = format!("{} {}", self.numbers(), self.more());
                (phrase(dice, p::WHICH_HAS_MORE, &[]), answer)
            }
            _ => self.one(dice),
        };
        Turn::new(Channel::Compare, question, answer)
    }

    fn more(&self) -> String {
        match self.first.things.len().cmp(&self.second.things.len()) {
            std::cmp::Ordering::Greater => "The first picture has more objects.".into(),
            std::cmp::Ordering::Less => "The second picture has more objects.".into(),
            std::cmp::Ordering::Equal => "Both pictures have the same number of objects.".into(),
        }
    }

    fn one(&self, dice: &mut Dice) -> (String, String) {
        let (name, scene) = match dice.chance(0.5) {
            true => ("first", &self.first),
            false => ("second", &self.second),
        };
        let question = phrase(dice, p::ONE_OF_TWO, &[("n", name)]);
        (question, format!("The {name} picture shows {}.", contents(scene)))
    }
}

fn any_kind(dice: &mut Dice) -> Kind {
    (*dice.pick(&Colour::ALL), *dice.pick(&Shape::ALL))
}

/// A picture of at most `most` objects.
fn few(dice: &mut Dice, most: usize) -> Scene {
    loop {
        let scene = Scene::shapes(dice);
        if scene.things.len() <= most {
            return scene;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(pair: &Pair) -> Vec<usize> {
        let (one, two) = (&pair.first.things, &pair.second.things);
        (0..one.len().min(two.len())).filter(|place| one[*place] != two[*place]).collect()
    }

    #[test]
    fn pairs_differ_in_what_they_say() {
        for index in 0..400 {
            let pair = Pair::new(&mut Dice::new(7, index));
            let (one, two) = (&pair.first.things, &pair.second.things);
            match pair.change {
                Change::Nothing => assert_eq!(pair.first, pair.second),
                Change::Colour(at) => {
                    assert_eq!(differing(&pair), [at]);
                    assert_eq!((one[at].shape, one[at].rect), (two[at].shape, two[at].rect));
                    assert_ne!(one[at].colour, two[at].colour);
                }
                Change::Shape(at) => {
                    assert_eq!(differing(&pair), [at]);
                    assert_eq!(one[at].rgb, two[at].rgb);
                    assert_ne!(one[at].shape, two[at].shape);
                }
                Change::Count => assert_ne!(one.len(), two.len()),
                Change::Place(old, new) => {
                    let centre = |thing: &Thing| thing.rect.centre();
                    let (a, b) = (centre(&one[0]), centre(&two[0]));
                    let right = if old.contains("left") { a[0] < b[0] } else { true };
                    let down = if old.contains("top") { a[1] < b[1] } else { true };
                    assert!(right && down && old != new, "{old} {new} {a:?} {b:?}");
                }
                Change::All => assert_ne!(one[0].colour, two[0].colour),
            }
        }
    }

    #[test]
    fn answers_end_in_what_follows_from_what_they_show() {
        for index in 0..400 {
            let mut dice = Dice::new(9, index);
            let pair = Pair::new(&mut dice);
            let answer = pair.ask(&mut dice).answer;
            let (shown, numbers) = (pair.seen(), pair.numbers());
            let rest = answer.strip_prefix(&shown).or_else(|| answer.strip_prefix(&numbers));
            match rest.map(str::trim_start) {
                Some("The pictures are the same.") => assert_eq!(pair.first, pair.second),
                Some("The pictures are different.") => assert_ne!(pair.first, pair.second),
                Some(rest) if answer.starts_with(&shown) => assert_eq!(rest, pair.difference()),
                Some(rest) => assert_eq!(rest, pair.more()),
                None => {
                    assert!(
                        [&pair.first, &pair.second].iter().any(|scene| answer
                            .ends_with(&format!(" picture shows {}.", contents(scene)))),
                        "{answer}"
                    )
                }
            }
        }
    }

    #[test]
    fn same_and_different_are_both_common() {
        let same = (0..1000).filter(|index| {
            let pair = Pair::new(&mut Dice::new(8, *index));
            pair.change == Change::Nothing
        });
        let share = same.count();
        assert!((150..350).contains(&share), "{share}");
    }
}
