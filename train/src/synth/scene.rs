//! What is on a picture, and where.

use tiny_skia::Transform;

use super::canvas::{Drawn, Look, Mark};
use super::geometry::{Point, Rect, sin_cos};
use super::letters::{Hand, Lettering, any_string};
use super::palette::{Colour, Rgb};
use super::rng::Dice;
use super::shapes::Shape;
use super::turn::SynthBox;
use super::typefaces::Typefaces;

/// A colour and a shape.
pub(super) type Kind = (Colour, Shape);

/// An object on a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thing {
    pub colour: Colour,
    pub shape: Shape,
    pub rgb: Rgb,
    points: Vec<Point>,
    outline: Option<(Rgb, f64)>,
    /// The box around it, its outline included.
    pub rect: Rect,
}

impl Thing {
    /// An object of about `size` pixels around the origin.
    pub fn new(dice: &mut Dice, (colour, shape): Kind, size: f64) -> Self {
        let rgb = colour.shade(dice);
        let outline = dice.chance(0.15).then(|| edge(dice, rgb, size));
        let points = shape.polygon(dice, size);
        let grow = outline.map_or(0.0, |(_, width)| width / 2.0);
        let rect = Rect::around(&points).grown(grow);
        Self { colour, shape, rgb, points, outline, rect }
    }

    pub fn kind(&self) -> Kind {
        (self.colour, self.shape)
    }

    pub fn name(&self) -> String {
        format!("{} {}", self.colour.name(), self.shape.name())
    }

    /// Its box on a picture of this size.
    pub fn boxed(&self, size: (u32, u32)) -> SynthBox {
        SynthBox { bbox_2d: self.rect.per_mille(size), label: self.name() }
    }

    /// The same object elsewhere.
    pub fn moved(&self, by: Point) -> Self {
        let points = self.points.iter().map(|[x, y]| [x + by[0], y + by[1]]).collect();
        Self { points, rect: self.rect.moved(by), ..self.clone() }
    }

    /// The same object in another colour.
    pub fn painted(&self, colour: Colour, rgb: Rgb) -> Self {
        let darker = rgb.map(|byte| byte / 2);
        let outline = self.outline.map(|(_, width)| (darker, width));
        Self { colour, rgb, outline, ..self.clone() }
    }

    pub fn mark(&self) -> Mark<'_> {
        Mark::Polygon { points: &self.points, rgb: self.rgb, outline: self.outline }
    }
}

/// A thin line around an object, darker or lighter than it.
fn edge(dice: &mut Dice, rgb: Rgb, size: f64) -> (Rgb, f64) {
    let factor = if dice.chance(0.7) { dice.real(0.3, 0.7) } else { dice.real(1.2, 1.5) };
    let colour = rgb.map(|byte| (f64::from(byte) * factor).round() as u8);
    (colour, dice.real(1.0, 1.0 + size * 0.03))
}

/// A printed string.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    pub text: String,
    pub colour: Colour,
    rgb: Rgb,
    hand: Hand,
    place: Transform,
}

/// How hard a picture may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most objects, 1 to 4.
    pub objects: usize,
    /// Longest side in pixels, at least 100.
    pub side: u32,
    /// Most characters of a printed string, 1 to 8.
    pub letters: usize,
    /// Questions of one channel about objects are asked on small pictures with up to `objects` rows and columns of them.
    pub crowded: bool,
    /// Half of the characters of strings are those that are taken for each other.
    pub alike: bool,
    /// Objects of films go left or right or stay.
    pub sideways: bool,
    /// Typefaces of strings, beside those that are built in.
    pub typefaces: Typefaces,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            objects: 4,
            side: 320,
            letters: 8,
            crowded: false,
            alike: false,
            sideways: false,
            typefaces: Typefaces::default(),
        }
    }
}

/// A picture before it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scene {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Objects from left to right.
    pub things: Vec<Thing>,
    pub label: Option<Label>,
    pub look: Look,
}

impl Scene {
    /// 1 to 4 objects.
    pub fn shapes(dice: &mut Dice) -> Self {
        Self::bounded(dice, &Bounds::default())
    }

    /// As [`Self::shapes`], within bounds.
    pub fn bounded(dice: &mut Dice, bounds: &Bounds) -> Self {
        let count = 1 + dice.weighted(&[0.22, 0.27, 0.26, 0.25][..bounds.objects.clamp(1, 4)]);
        let kinds = any_kinds(dice, count);
        let size = any_size(dice, bounds.side);
        Self::sized(dice, &kinds, size)
    }

    /// These objects somewhere on a picture.
    pub fn of(dice: &mut Dice, kinds: &[Kind]) -> Self {
        let size = any_size(dice, Bounds::default().side);
        Self::sized(dice, kinds, size)
    }

    fn sized(dice: &mut Dice, kinds: &[Kind], size: (u32, u32)) -> Self {
        let things = arranged(dice, size, kinds);
        let colours: Vec<Rgb> = things.iter().map(|thing| thing.rgb).collect();
        let look = Look::new(dice, &colours);
        Self { size, things, label: None, look }
    }

    /// A printed string, sometimes with one object.
    pub fn string(dice: &mut Dice, bounds: &Bounds) -> Self {
        loop {
            let text = any_string(dice, bounds.letters, bounds.alike);
            let size = text_size(dice, text.len(), bounds.side);
            let (things, zone) = match dice.chance(0.22) {
                true => beside(dice, size),
                false => (vec![], whole(size)),
            };
            let colour = ink(dice);
            let rgb = colour.shade(dice);
            let mut colours: Vec<Rgb> = things.iter().map(|thing| thing.rgb).collect();
            colours.push(rgb);
            let look = Look::for_letters(dice, &colours);
            let hand = Hand::new(dice, bounds.typefaces);
            let label = placed(dice, (text, hand), (colour, rgb), zone);
            if label.is_some() && look.shows_letters(rgb) {
                return Self { size, things, label, look };
            }
        }
    }

    pub fn draw(&self) -> Drawn {
        let lettering = self.label.as_ref().and_then(|label| label.hand.write(&label.text));
        let mut marks: Vec<Mark<'_>> = self.things.iter().map(Thing::mark).collect();
        if let (Some(label), Some(lettering)) = (&self.label, &lettering) {
            marks.push(Mark::Letters { lettering, place: label.place, rgb: label.rgb });
        }
        self.look.draw(self.size, &marks)
    }

    /// The objects that `wanted` holds for, from left to right.
    pub fn matching(&self, wanted: impl Fn(&Thing) -> bool) -> Vec<&Thing> {
        self.things.iter().filter(|thing| wanted(thing)).collect()
    }

    /// Whether no other object has this shape.
    pub fn shape_is_unique(&self, shape: Shape) -> bool {
        self.matching(|thing| thing.shape == shape).len() == 1
    }

    pub fn colour_is_unique(&self, colour: Colour) -> bool {
        self.matching(|thing| thing.colour == colour).len() == 1
    }

    pub fn kind_is_unique(&self, kind: Kind) -> bool {
        self.matching(|thing| thing.kind() == kind).len() == 1
    }
}

fn whole((width, height): (u32, u32)) -> Rect {
    Rect { x1: 0.0, y1: 0.0, x2: f64::from(width), y2: f64::from(height) }
}

/// Three tenths of `side` (96 of 320) to `side` pixels, at most twice as long as wide, often about square.
fn any_size(dice: &mut Dice, side: u32) -> (u32, u32) {
    let aspect = if dice.chance(0.45) { dice.real(1.0, 1.12) } else { dice.real(1.0, 2.0) };
    let least = (side * 3 / 10).max(48);
    let short = dice.real(f64::from(least), f64::from(side) / aspect);
    let (short, long) = (short as u32, (short * aspect) as u32);
    let sides = (short, long.clamp(least, side.min(2 * short)));
    if dice.chance(0.5) { sides } else { (sides.1, sides.0) }
}

/// The colour of letters: black and white more often than the others, as on most pictures.
pub(super) fn ink(dice: &mut Dice) -> Colour {
    match dice.weighted(&[0.22, 0.1, 0.68]) {
        0 => Colour::Black,
        1 => Colour::White,
        _ => *dice.pick(&Colour::ALL),
    }
}

/// As [`any_size`], but wide enough for longer strings.
fn text_size(dice: &mut Dice, length: usize, side: u32) -> (u32, u32) {
    let (width, height) = any_size(dice, side);
    match length > 4 && height > width && dice.chance(0.7) {
        true => (height, width),
        false => (width, height),
    }
}

/// Colours and shapes with as many repetitions as people's pictures have.
fn any_kinds(dice: &mut Dice, count: usize) -> Vec<Kind> {
    let (mut colours, mut shapes) = (Colour::ALL.to_vec(), Shape::ALL.to_vec());
    dice.shuffle(&mut colours);
    dice.shuffle(&mut shapes);
    let repeated = dice.whole(2, 4).min(count);
    let (same_colour, same_shape) = match dice.weighted(&[0.36, 0.24, 0.18, 0.1, 0.12]) {
        0 => (0, 0),
        1 => {
            let any = |_| (*dice.pick(&Colour::ALL), *dice.pick(&Shape::ALL));
            return (0..count).map(any).collect();
        }
        2 => (0, repeated),
        3 => (repeated, 0),
        _ => (repeated, repeated),
    };
    let place = |repeated: usize, at: usize| if at < repeated { 0 } else { at };
    let kind = |at| (colours[place(same_colour, at)], shapes[place(same_shape, at)]);
    (0..count).map(kind).collect()
}

/// Objects of these kinds that neither touch nor have centres above each other, from left to right.
///
/// A picture without room for all is arranged anew with smaller objects.
fn arranged(dice: &mut Dice, size: (u32, u32), kinds: &[Kind]) -> Vec<Thing> {
    let side = f64::from(size.0.min(size.1));
    let most = [0.5, 0.44, 0.38, 0.34][kinds.len().clamp(1, 4) - 1];
    let mut shrink = 1.0;
    loop {
        if let Some(mut things) = attempt(dice, size, kinds, (side * 0.13, side * most * shrink)) {
            things.sort_by(|a, b| a.rect.centre()[0].total_cmp(&b.rect.centre()[0]));
            return things;
        }
        shrink = f64::max(shrink * 0.93, 0.45);
    }
}

fn attempt(
    dice: &mut Dice,
    size: (u32, u32),
    kinds: &[Kind],
    (least, most): (f64, f64),
) -> Option<Vec<Thing>> {
    let mut things: Vec<Thing> = Vec::with_capacity(kinds.len());
    let least = least.max(15.0);
    for kind in kinds {
        let measure = dice.real(least, most.max(least + 1.0));
        let thing = Thing::new(dice, *kind, measure);
        let found = (0..25).find_map(|_| {
            let moved = somewhere(dice, &thing, whole(size))?;
            fits(&moved, &things, size).then_some(moved)
        });
        things.push(found?);
    }
    Some(things)
}

/// The object, which lies around the origin, anywhere in `zone`.
fn somewhere(dice: &mut Dice, thing: &Thing, zone: Rect) -> Option<Thing> {
    let by = shift(dice, thing.rect, zone)?;
    Some(thing.moved(by))
}

/// A shift that brings `rect` into `zone`, 1.5 pixels from its edges; `None` where it is too large.
fn shift(dice: &mut Dice, rect: Rect, zone: Rect) -> Option<Point> {
    let room = zone.grown(-1.5);
    let mut along = |low: f64, high: f64| (high >= low).then(|| dice.real(low, high));
    let x = along(room.x1 - rect.x1, room.x2 - rect.x2);
    let y = along(room.y1 - rect.y1, room.y2 - rect.y2);
    Some([x?, y?])
}

fn fits(thing: &Thing, others: &[Thing], (width, height): (u32, u32)) -> bool {
    let gap = f64::from(width.min(height)) * 0.03;
    let apart = f64::from(width) * 0.05;
    let [x, _] = thing.rect.centre();
    let grown = thing.rect.grown(gap);
    others
        .iter()
        .all(|other| !grown.meets(&other.rect) && (other.rect.centre()[0] - x).abs() >= apart)
}

/// One object in the upper or lower part of a picture, and the part that is left.
fn beside(dice: &mut Dice, size: (u32, u32)) -> (Vec<Thing>, Rect) {
    let all = whole(size);
    let cut = all.y2 * dice.real(0.42, 0.5);
    let (zone, rest) = match dice.chance(0.5) {
        true => (Rect { y2: cut, ..all }, Rect { y1: cut, ..all }),
        false => (Rect { y1: all.y2 - cut, ..all }, Rect { y2: all.y2 - cut, ..all }),
    };
    let kind = (*dice.pick(&Colour::ALL), *dice.pick(&Shape::ALL));
    let most = f64::min(zone.height(), zone.width()) * 0.7;
    let measure = dice.real(f64::max(15.0, most * 0.4), most.max(16.0));
    let thing = Thing::new(dice, kind, measure);
    match somewhere(dice, &thing, zone) {
        Some(thing) => (vec![thing], rest),
        None => (vec![], all),
    }
}

/// The string in `zone`, as wide as its length needs for being read; `None` where it does not fit.
fn placed(
    dice: &mut Dice,
    (text, hand): (String, Hand),
    ink: (Colour, Rgb),
    zone: Rect,
) -> Option<Label> {
    let lettering = hand.write(&text)?;
    let (low, high) = match text.len() {
        1 => (0.12, 0.5),
        2 => (0.25, 0.75),
        3 => (0.36, 0.88),
        length => (0.45 + 0.045 * (length - 4) as f64, 0.94),
    };
    let (wide, tall, pen) = extent(&lettering);
    let wanted = dice.real(low, high) * zone.width() / wide;
    let scale = wanted.min(dice.real(0.5, 0.75) * zone.height() / tall);
    let degrees = if dice.chance(0.35) { dice.real(-4.0, 4.0) } else { 0.0 };
    let (sin, cos) = sin_cos(degrees * std::f64::consts::PI / 180.0);
    let [a, b] = [scale * cos, scale * sin].map(|value| value as f32);
    let turn = Transform::from_row(a, b, -b, a, 0.0, 0.0).pre_scale(lettering.stretch, 1.0);
    let bounds = lettering.path.clone().transform(turn)?.bounds();
    let [x1, y1, x2, y2] =
        [bounds.left(), bounds.top(), bounds.right(), bounds.bottom()].map(f64::from);
    let rect = Rect { x1, y1, x2, y2 }.grown(pen * scale * 1.45);
    let by = shift(dice, rect, zone)?;
    let place = turn.post_translate(by[0] as f32, by[1] as f32);
    let least = if text.len() < 4 { 0.25 } else { low * 0.9 };
    let readable = scale * 6.0 >= 12.0 && rect.width() >= least.min(low) * zone.width();
    let (colour, rgb) = ink;
    readable.then_some(Label { text, colour, rgb, hand, place })
}

/// Width, height and half the pen of letters before they are scaled.
pub(super) fn extent(lettering: &Lettering) -> (f64, f64, f64) {
    let pen = lettering.stroke.as_ref().map_or(0.0, |stroke| f64::from(stroke.width));
    let bounds = lettering.path.bounds();
    let stretch = f64::from(lettering.stretch);
    let (wide, tall) = (f64::from(bounds.width()) + pen, f64::from(bounds.height()) + pen);
    (wide * stretch, tall, pen * stretch / 2.0)
}

#[cfg(test)]
mod tests;
