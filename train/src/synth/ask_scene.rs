//! Questions on one picture.

use super::geometry::Point;
use super::palette::Colour;
use super::phrases as p;
use super::rng::Dice;
use super::scene::{Kind, Scene, Thing};
use super::shapes::Shape;
use super::turn::{Channel, Turn};
use super::words::{article, list, number, phrase};

/// A question of `channel` on `scene`, where it has exactly one right answer there.
pub(super) fn ask(scene: &Scene, channel: Channel, dice: &mut Dice) -> Option<Turn> {
    match channel {
        Channel::Describe => Some(describe(scene, dice)),
        Channel::Color => colour(scene, dice),
        Channel::Shape => shape(&scene.things, dice),
        Channel::Count => count(scene, dice),
        Channel::Relation => relation(scene, dice),
        Channel::Box => boxes(scene, dice),
        Channel::Exists => exists(scene, dice),
        Channel::Text => text(scene, dice),
        Channel::Position => position(scene, dice),
        _ => None,
    }
}

/// "a red circle and two blue squares": kinds in the order of their leftmost objects, then the string.
pub(super) fn contents(scene: &Scene) -> String {
    let mut kinds: Vec<Kind> = Vec::new();
    for thing in &scene.things {
        if !kinds.contains(&thing.kind()) {
            kinds.push(thing.kind());
        }
    }
    let counted = |kind: Kind| match scene.matching(|thing| thing.kind() == kind).len() {
        1 => article(&format!("{} {}", kind.0.name(), kind.1.name())),
        many => format!("{} {} {}", number(many), kind.0.name(), kind.1.plural()),
    };
    let label = scene.label.as_ref().map(|label| format!("the text \"{}\"", label.text));
    list(&kinds.into_iter().map(counted).chain(label).collect::<Vec<_>>())
}

fn describe(scene: &Scene, dice: &mut Dice) -> Turn {
    let question = phrase(dice, p::DESCRIBE, &[]);
    let contents = contents(scene);
    let many = ["two ", "three ", "four "].iter().any(|word| contents.starts_with(word));
    let verb = if many { "are" } else { "is" };
    Turn::new(Channel::Describe, question, format!("There {verb} {contents}."))
}

fn colour(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    if let Some(label) = scene.label.as_ref().filter(|_| dice.chance(0.5)) {
        let question = phrase(dice, p::TEXT_COLOUR, &[]);
        let answer = format!("The text is {}.", label.colour.name());
        return Some(Turn::new(Channel::Color, question, answer));
    }
    colour_of(&scene.things, dice)
}

/// The colour of a thing whose shape no other one has.
pub(super) fn colour_of(things: &[Thing], dice: &mut Dice) -> Option<Turn> {
    let unique = |thing: &&Thing| things.iter().filter(|o| o.shape == thing.shape).count() == 1;
    let thing = *any(dice, &things.iter().filter(unique).collect::<Vec<_>>())?;
    let mut subject = thing.shape.name();
    if things.len() == 1 && dice.chance(0.35) {
        subject = *dice.pick(&["object", "shape", "object"]);
    }
    let question = phrase(dice, p::COLOUR, &[("s", subject)]);
    let answer = format!("The {} is {}.", thing.shape.name(), thing.colour.name());
    Some(Turn::new(Channel::Color, question, answer))
}

/// The shape of a thing whose colour no other one has.
pub(super) fn shape(things: &[Thing], dice: &mut Dice) -> Option<Turn> {
    let unique = |thing: &&Thing| things.iter().filter(|o| o.colour == thing.colour).count() == 1;
    let thing = *any(dice, &things.iter().filter(unique).collect::<Vec<_>>())?;
    let asked = spelled(dice, thing.colour);
    let question = match things.len() == 1 && dice.chance(0.35) {
        true => phrase(dice, p::SHAPE_ALONE, &[]),
        false => phrase(dice, p::SHAPE, &[("c", asked)]),
    };
    let (colour, shape) = (thing.colour.name(), article(thing.shape.name()));
    Some(Turn::new(Channel::Shape, question, format!("The {colour} object is {shape}.")))
}

fn any<'a, T>(dice: &mut Dice, items: &'a [T]) -> Option<&'a T> {
    if items.is_empty() { None } else { Some(dice.pick(items)) }
}

/// The name of a colour in a question; answers always say "gray".
fn spelled(dice: &mut Dice, colour: Colour) -> &'static str {
    match colour {
        Colour::Gray if dice.chance(0.4) => "grey",
        colour => colour.name(),
    }
}

/// A set of objects that a question names.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Query {
    All,
    Shape(Shape),
    Colour(Colour),
    Kind(Kind),
}

impl Query {
    fn holds(self, thing: &Thing) -> bool {
        match self {
            Self::All => true,
            Self::Shape(shape) => thing.shape == shape,
            Self::Colour(colour) => thing.colour == colour,
            Self::Kind(kind) => thing.kind() == kind,
        }
    }

    /// Singular and plural in an answer.
    fn names(self) -> (String, String) {
        match self {
            Self::All => ("object".into(), "objects".into()),
            Self::Shape(shape) => (shape.name().into(), shape.plural().into()),
            Self::Colour(colour) => {
                (format!("{} object", colour.name()), format!("{} objects", colour.name()))
            }
            Self::Kind((colour, shape)) => {
                let (colour, one, many) = (colour.name(), shape.name(), shape.plural());
                (format!("{colour} {one}"), format!("{colour} {many}"))
            }
        }
    }

    /// Singular and plural in a question.
    fn asked(self, dice: &mut Dice) -> (String, String) {
        let noun = *dice.pick(&["object", "object", "shape", "thing", "figure"]);
        match self {
            Self::All => (noun.into(), format!("{noun}s")),
            Self::Colour(colour) => {
                let colour = spelled(dice, colour);
                (format!("{colour} {noun}"), format!("{colour} {noun}s"))
            }
            Self::Kind((colour, shape)) => {
                let colour = spelled(dice, colour);
                (format!("{colour} {}", shape.name()), format!("{colour} {}", shape.plural()))
            }
            Self::Shape(_) => self.names(),
        }
    }

    /// Every query that finds something, without [`Query::All`].
    fn present(things: &[Thing]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for thing in things {
            let mine =
                [Self::Shape(thing.shape), Self::Colour(thing.colour), Self::Kind(thing.kind())];
            all.extend(
                mine.iter().filter(|query| !all.contains(query)).copied().collect::<Vec<_>>(),
            );
        }
        all
    }

    /// A query that finds nothing, though half of it is there.
    fn absent(dice: &mut Dice, things: &[Thing]) -> Option<Self> {
        let thing = any(dice, things)?;
        let shapes: Vec<Shape> = things.iter().map(|thing| thing.shape).collect();
        let colours: Vec<Colour> = things.iter().map(|thing| thing.colour).collect();
        let query = match dice.weighted(&[0.28, 0.27, 0.25, 0.2]) {
            0 => Self::Kind((thing.colour, *dice.pick(&Shape::ALL))),
            1 => Self::Kind((*dice.pick(&Colour::ALL), thing.shape)),
            2 => Self::Shape(Shape::other(dice, &shapes)),
            _ => Self::Colour(Colour::other(dice, &colours)),
        };
        (!things.iter().any(|thing| query.holds(thing))).then_some(query)
    }
}

/// The most objects that a scene of evaluation has.
const MOST_COUNTED: usize = 4;

fn count(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    let query = match scene.label.is_none() && dice.chance(0.45) {
        true => Query::All,
        false => some_query(scene, dice)?,
    };
    let found = scene.matching(|thing| query.holds(thing)).len();
    if found > MOST_COUNTED {
        return None;
    }
    let (_, asked) = query.asked(dice);
    let question = phrase(dice, p::COUNT, &[("k", &asked)]);
    let (one, many) = query.names();
    let answer = match found {
        1 => format!("There is one {one}."),
        _ => format!("There are {} {many}.", number(found)),
    };
    Some(Turn::new(Channel::Count, question, answer))
}

/// A query whose number is drawn first, so that every answer that the picture can give is as likely.
fn some_query(scene: &Scene, dice: &mut Dice) -> Option<Query> {
    let present = Query::present(&scene.things);
    let found = |query: &Query| scene.matching(|thing| query.holds(thing)).len();
    let mut numbers: Vec<usize> = present.iter().map(found).collect();
    numbers.push(0);
    numbers.sort_unstable();
    numbers.dedup();
    match *dice.pick(&numbers) {
        0 => Query::absent(dice, &scene.things),
        wanted => {
            let fitting: Vec<Query> =
                present.into_iter().filter(|query| found(query) == wanted).collect();
            any(dice, &fitting).copied()
        }
    }
}

fn exists(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    if dice.chance(if scene.label.is_some() { 0.5 } else { 0.05 }) {
        let answer = match scene.label {
            Some(_) => "Yes, there is text.",
            None => "No, there is no text.",
        };
        let question = phrase(dice, p::ANY_TEXT, &[]);
        return Some(Turn::new(Channel::Exists, question, answer.into()));
    }
    let yes = dice.chance(0.5);
    let query = match yes {
        true => any(dice, &Query::present(&scene.things)).copied(),
        false => (0..20).find_map(|_| Query::absent(dice, &scene.things)),
    }?;
    let (one, many) = query.asked(dice);
    let slots = [("a", article(&one)), ("one", one), ("k", many)];
    let slots: Vec<(&str, &str)> = slots.iter().map(|(n, value)| (*n, value.as_str())).collect();
    let question = phrase(dice, p::EXISTS, &slots);
    let name = query.names().0;
    let answer = match yes {
        true => format!("Yes, there is {}.", article(&name)),
        false => format!("No, there is no {name}."),
    };
    Some(Turn::new(Channel::Exists, question, answer))
}

fn text(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    let Some(label) = &scene.label else {
        let question = phrase(dice, p::TEXT, &[]);
        return Some(Turn::new(Channel::Text, question, "There is no text.".into()));
    };
    Some(reading(&label.text, dice))
}

/// What is written, whether a string or the lines of a page.
pub(super) fn reading(text: &str, dice: &mut Dice) -> Turn {
    let question = phrase(dice, p::TEXT, &[]);
    Turn::new(Channel::Text, question, format!("The text reads \"{text}\"."))
}

/// One character of the string, for learning where characters stand.
pub(super) fn character(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    const PLACES: [&str; 8] =
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
    let text = &scene.label.as_ref().filter(|label| label.text.len() > 1)?.text;
    let place = dice.below(text.len());
    let last = place + 1 == text.len() && dice.chance(0.7);
    let name = if last { "last" } else { PLACES[place] };
    let question = phrase(dice, p::CHARACTER, &[("n", name)]);
    let answer = format!("The {name} character is \"{}\".", &text[place..=place]);
    Some(Turn::new(Channel::Text, question, answer))
}

fn boxes(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    let query = match dice.weighted(&[0.5, 0.25, 0.25]) {
        0 => {
            let unique: Vec<&Thing> = scene.matching(|thing| scene.kind_is_unique(thing.kind()));
            Query::Kind((*any(dice, &unique)?).kind())
        }
        1 if scene.label.is_none() => Query::All,
        _ => *any(dice, &Query::present(&scene.things))?,
    };
    let found = scene.matching(|thing| query.holds(thing));
    let (one, many) = query.asked(dice);
    let question = match found.len() == 1 && query != Query::All {
        true => phrase(dice, p::BOX_ONE, &[("x", &format!("the {one}"))]),
        false => phrase(dice, p::BOX_MANY, &[("k", &many), ("one", &one)]),
    };
    Some(Turn::boxed(question, found.iter().map(|thing| thing.boxed(scene.size)).collect()))
}

/// Where one thing is as seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Above,
    Below,
}

impl Side {
    /// Where the centre `one` is as seen from `two`, if one axis clearly outweighs the other; `side` is the shorter one of the picture.
    pub fn of(one: Point, two: Point, side: f64) -> Option<Self> {
        let (dx, dy) = (one[0] - two[0], one[1] - two[1]);
        let clear =
            |main: f64, other: f64| main.abs() >= 1.5 * other.abs() && main.abs() >= 0.15 * side;
        if clear(dx, dy) {
            return Some(if dx < 0.0 { Self::Left } else { Self::Right });
        }
        clear(dy, dx).then_some(if dy < 0.0 { Self::Above } else { Self::Below })
    }

    fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    fn words(self) -> &'static str {
        self.ways()[0]
    }

    /// Ways to say it; the first one is that of the answers.
    fn ways(self) -> &'static [&'static str] {
        match self {
            Self::Left => p::TO_THE_LEFT,
            Self::Right => p::TO_THE_RIGHT,
            Self::Above => p::ABOVE,
            Self::Below => p::BELOW,
        }
    }
}

fn relation(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    let named = scene.matching(|thing| scene.kind_is_unique(thing.kind()));
    let side = f64::from(scene.size.0.min(scene.size.1));
    let mut pairs = Vec::new();
    for one in &named {
        for two in named.iter().filter(|two| !std::ptr::eq(*one, **two)) {
            let place = Side::of(one.rect.centre(), two.rect.centre(), side);
            pairs.extend(place.map(|place| (*one, *two, place)));
        }
    }
    let (one, two, place) = *any(dice, &pairs)?;
    let names = (called(scene, one, dice), called(scene, two, dice));
    let fact = format!("the {} is {} the {}.", one.name(), place.words(), two.name());
    let (question, answer) = match dice.weighted(&[0.3, 0.2, 0.4, 0.1]) {
        0 => (related(dice, p::WHERE, &names, place), super::words::capital(&fact)),
        1 => {
            let patterns = match place {
                Side::Left | Side::Right => p::LEFT_OR_RIGHT,
                Side::Above | Side::Below => p::ABOVE_OR_BELOW,
            };
            (related(dice, patterns, &names, place), super::words::capital(&fact))
        }
        3 if scene.things.len() == 2 && scene.label.is_none() => {
            (related(dice, p::WHAT_IS, &names, place), super::words::capital(&fact))
        }
        _ => {
            let yes = dice.chance(0.5);
            let claim = if yes { place } else { place.opposite() };
            let word = if yes { "Yes" } else { "No" };
            (related(dice, p::IS_IT, &names, claim), format!("{word}, {fact}"))
        }
    };
    let mut pair = [one.name(), two.name()];
    pair.sort();
    Some(Turn { pair: Some(pair), ..Turn::new(Channel::Relation, question, answer) })
}

/// In which part of the picture an object is, if it is clearly in one; a kind that evaluation leaves out.
pub(super) fn position(scene: &Scene, dice: &mut Dice) -> Option<Turn> {
    let named = scene.matching(|thing| scene.kind_is_unique(thing.kind()));
    let thing = *any(dice, &named)?;
    let [x, y] = thing.rect.centre();
    let third = |part: f64| match part {
        ..0.3 => Some(0),
        0.4..0.6 => Some(1),
        0.7.. => Some(2),
        _ => None,
    };
    let row = third(y / f64::from(scene.size.1))?;
    let column = third(x / f64::from(scene.size.0))?;
    let place = [
        ["in the top left", "at the top", "in the top right"],
        ["on the left", "in the center", "on the right"],
        ["in the bottom left", "at the bottom", "in the bottom right"],
    ][row][column];
    let asked = called(scene, thing, dice);
    let question = phrase(dice, p::POSITION, &[("x", &asked)]);
    Some(Turn::new(Channel::Position, question, format!("The {} is {place}.", thing.name())))
}

fn related(dice: &mut Dice, patterns: &[&str], names: &(String, String), place: Side) -> String {
    let way = *dice.pick(place.ways());
    phrase(dice, patterns, &[("x", &names.0), ("y", &names.1), ("r", way)])
}

/// A name in a question, shorter where that is enough.
fn called(scene: &Scene, thing: &Thing, dice: &mut Dice) -> String {
    let colour = spelled(dice, thing.colour);
    match dice.weighted(&[0.7, 0.2, 0.1]) {
        1 if scene.shape_is_unique(thing.shape) => format!("the {}", thing.shape.name()),
        2 if scene.colour_is_unique(thing.colour) => format!("the {colour} object"),
        _ => format!("the {colour} {}", thing.shape.name()),
    }
}

#[cfg(test)]
mod tests;
