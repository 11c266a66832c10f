//! Objects in rows, and pages of short lines: pictures with much to tell, on which a model that knows nothing learns to look.
//!
//! One answer names every object or character in reading order, so that each picture teaches many times what a picture with a single
//! object does.

use tiny_skia::Transform;

use super::ask_scene::reading;
use super::canvas::{Drawn, Look, Mark};
use super::letters::{Hand, any_string};
use super::palette::{Colour, Rgb};
use super::rng::Dice;
use super::scene::{Bounds, Kind, Scene, Thing, extent, ink};
use super::shapes::Shape;
use super::turn::{Channel, Turn};
use super::words::phrase;

/// Of a board; not among the texts that the tokenizer is learnt from.
const BOARD: &[&str] = &[
    "[list|name|tell me|describe] [all |][the |][objects|shapes|things] row by row.",
    "what [objects|shapes|things] are in each row?",
    "row by row, what [is there|do you see|is shown]?",
];

/// Of all boxes of a board.
const BOARD_BOXES: &[&str] = &[
    "[locate|detect|find|mark] [all |][the |][objects|shapes|things] row by row.",
    "[give|report|output] the [boxes|bounding boxes|bbox coordinates] of [all |][the |][objects|shapes|things] row by row[, in JSON format|].",
];

/// Objects in rows and columns of equal size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Board {
    size: (u32, u32),
    rows: Vec<Vec<Thing>>,
    look: Look,
    /// Whether boxes are asked for, or names.
    pub boxed: bool,
}

impl Board {
    /// 1 to `bounds.objects` rows and columns.
    pub fn new(dice: &mut Dice, bounds: &Bounds, boxed: bool) -> Self {
        let [rows, columns] = [0; 2].map(|_| dice.whole(1, bounds.objects.clamp(1, 4)));
        let cell = dice.whole(16, 30) as f64;
        let mut at = |x, y| {
            let kind = (*dice.pick(&Colour::ALL), *dice.pick(&Shape::ALL));
            in_cell(dice, kind, (x, y), cell)
        };
        let mut row = |y: usize| (0..columns).map(|x| at(x, y)).collect();
        let rows: Vec<Vec<Thing>> = (0..rows).map(&mut row).collect();
        let colours: Vec<Rgb> = rows.iter().flatten().map(|thing| thing.rgb).collect();
        let look = Look::new(dice, &colours);
        let side = |cells: usize| (cells as f64 * cell) as u32;
        Self { size: (side(columns), side(rows.len())), rows, look, boxed }
    }

    pub fn draw(&self) -> Drawn {
        let marks: Vec<Mark<'_>> = self.rows.iter().flatten().map(Thing::mark).collect();
        self.look.draw(self.size, &marks)
    }

    /// All objects in reading order: their boxes, or their names with a line for each row.
    pub fn ask(&self, dice: &mut Dice) -> Turn {
        if self.boxed {
            let boxes = self.rows.iter().flatten().map(|thing| thing.boxed(self.size)).collect();
            return Turn::boxed(phrase(dice, BOARD_BOXES, &[]), boxes);
        }
        let line = |row: &Vec<Thing>| row.iter().map(Thing::name).collect::<Vec<_>>().join(", ");
        let answer = self.rows.iter().map(line).collect::<Vec<_>>().join("\n");
        Turn::new(Channel::Describe, phrase(dice, BOARD, &[]), answer)
    }
}

/// A scene of 1 to `bounds.objects` rows and columns of small objects, most of which can be told by their colour or shape alone.
///
/// Its few tokens have room for many questions, each of which is about another object.
pub(super) fn crowd(dice: &mut Dice, bounds: &Bounds) -> Scene {
    let [rows, columns] = [0; 2].map(|_| dice.whole(1, bounds.objects.clamp(1, 4)));
    let cell = dice.whole(16, 40) as f64;
    let (mut colours, mut shapes) = (Colour::ALL.to_vec(), Shape::ALL.to_vec());
    dice.shuffle(&mut colours);
    dice.shuffle(&mut shapes);
    let (few_colours, few_shapes) = (dice.chance(0.3), dice.chance(0.3));
    let mut things = Vec::with_capacity(rows * columns);
    for place in 0..rows * columns {
        let colour = if few_colours { *dice.pick(&colours[..4]) } else { colours[place % 12] };
        let shape = if few_shapes { *dice.pick(&shapes[..3]) } else { shapes[place % 8] };
        things.push(in_cell(dice, (colour, shape), (place % columns, place / columns), cell));
    }
    things.sort_by(|a, b| a.rect.centre()[0].total_cmp(&b.rect.centre()[0]));
    let inks: Vec<Rgb> = things.iter().map(|thing| thing.rgb).collect();
    let size = (columns as f64 * cell, rows as f64 * cell);
    let look = Look::new(dice, &inks);
    Scene { size: (size.0 as u32, size.1 as u32), things, label: None, look }
}

/// An object near the middle of column `x` and row `y`.
fn in_cell(dice: &mut Dice, kind: Kind, (x, y): (usize, usize), cell: f64) -> Thing {
    let measure = dice.real(0.6, 0.85) * cell;
    let thing = Thing::new(dice, kind, measure);
    let mut middle = |place: usize, long: f64| {
        let free = f64::max(0.0, (cell - long) / 2.0 - 0.5);
        (place as f64 + 0.5) * cell + dice.real(-free, free)
    };
    let to = [middle(x, thing.rect.width()), middle(y, thing.rect.height())];
    let [from_x, from_y] = thing.rect.centre();
    thing.moved([to[0] - from_x, to[1] - from_y])
}

/// Lines of characters below each other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Page {
    size: (u32, u32),
    lines: Vec<(String, Transform)>,
    hand: Hand,
    rgb: Rgb,
    look: Look,
}

impl Page {
    /// 1 to `bounds.letters` lines, at most 4, of 1 to `bounds.letters` characters.
    pub fn new(dice: &mut Dice, bounds: &Bounds) -> Self {
        loop {
            if let Some(page) = Self::attempt(dice, bounds) {
                return page;
            }
        }
    }

    fn attempt(dice: &mut Dice, bounds: &Bounds) -> Option<Self> {
        let (colour, hand) = (ink(dice), Hand::new(dice, bounds.typefaces));
        let rgb = colour.shade(dice);
        let look = Look::for_letters(dice, &[rgb]);
        if !look.shows_letters(rgb) {
            return None;
        }
        let count = dice.whole(1, bounds.letters.clamp(1, 4));
        let scale = dice.real(1.7, 3.2);
        let pitch = scale * 6.0 * dice.real(1.45, 1.9);
        let mut lines = Vec::with_capacity(count);
        let mut width: f64 = 0.0;
        for line in 0..count {
            let text = any_string(dice, bounds.letters, bounds.alike);
            let lettering = hand.write(&text)?;
            let (wide, _, pen) = extent(&lettering);
            let left = pen * scale + dice.real(1.0, 6.0);
            let across = (scale as f32) * lettering.stretch;
            let start = left as f32 - lettering.path.bounds().left() * across;
            let top = (line as f64 * pitch + (pitch - scale * 6.0) / 2.0) as f32;
            let place = Transform::from_row(across, 0.0, 0.0, scale as f32, start, top);
            width = width.max(left + wide * scale + dice.real(1.0, 6.0));
            lines.push((text, place));
        }
        let size = (width.ceil() as u32, (count as f64 * pitch).ceil() as u32);
        (size.0 <= 7 * size.1).then_some(Self { size, lines, hand, rgb, look })
    }

    pub fn draw(&self) -> Drawn {
        let written: Vec<_> = self
            .lines
            .iter()
            .filter_map(|(text, place)| Some((self.hand.write(text)?, *place)))
            .collect();
        let mark = |(lettering, place)| Mark::Letters { lettering, place, rgb: self.rgb };
        let marks: Vec<Mark<'_>> = written.iter().map(|(l, place)| mark((l, *place))).collect();
        self.look.draw(self.size, &marks)
    }

    /// The text, with its line breaks.
    pub fn ask(&self, dice: &mut Dice) -> Turn {
        let texts: Vec<&str> = self.lines.iter().map(|(text, _)| text.as_str()).collect();
        reading(&texts.join("\n"), dice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_stay_in_their_cells_and_are_told_in_reading_order() {
        for index in 0..200 {
            let mut dice = Dice::new(12, index);
            let board = Board::new(&mut dice, &Bounds::default(), false);
            let (columns, rows) = (board.rows[0].len(), board.rows.len());
            let cell = f64::from(board.size.0) / columns as f64;
            assert_eq!(board.size.1 as usize, cell as usize * rows);
            for (y, row) in board.rows.iter().enumerate() {
                assert_eq!(row.len(), columns);
                for (x, thing) in row.iter().enumerate() {
                    let [cx, cy] = thing.rect.centre().map(|c| (c / cell) as usize);
                    assert_eq!((cx, cy), (x, y), "{thing:?}");
                    assert!(thing.rect.x1 >= 0.0 && thing.rect.x2 <= f64::from(board.size.0));
                }
            }
            let answer = board.ask(&mut dice).answer;
            let told: Vec<Vec<String>> =
                answer.lines().map(|line| line.split(", ").map(str::to_owned).collect()).collect();
            let names: Vec<Vec<String>> =
                board.rows.iter().map(|row| row.iter().map(Thing::name).collect()).collect();
            assert_eq!(told, names);
            let boxes = Board { boxed: true, ..board }.ask(&mut dice).boxes;
            let labels: Vec<String> = boxes.into_iter().map(|found| found.label).collect();
            assert_eq!(labels, names.concat());
        }
    }

    #[test]
    fn a_crowd_is_a_scene_whose_objects_do_not_meet() {
        let bounds = Bounds { objects: 3, crowded: true, ..Bounds::default() };
        for index in 0..200 {
            let scene = crowd(&mut Dice::new(15, index), &bounds);
            assert!((1..=9).contains(&scene.things.len()));
            let lefts: Vec<f64> = scene.things.iter().map(|t| t.rect.centre()[0]).collect();
            assert!(lefts.is_sorted(), "{lefts:?}");
            for (place, thing) in scene.things.iter().enumerate() {
                let others = &scene.things[place + 1..];
                assert!(others.iter().all(|other| !other.rect.meets(&thing.rect)), "{scene:?}");
                let edge = [f64::from(scene.size.0), f64::from(scene.size.1)];
                assert!(thing.rect.x1 >= 0.0 && thing.rect.x2 <= edge[0]);
                assert!(thing.rect.y1 >= 0.0 && thing.rect.y2 <= edge[1]);
            }
        }
    }

    #[test]
    fn lines_of_a_page_lie_on_it_and_below_each_other() {
        let bounds = Bounds { letters: 5, ..Bounds::default() };
        for index in 0..200 {
            let page = Page::new(&mut Dice::new(13, index), &bounds);
            assert!((1..=4).contains(&page.lines.len()));
            let mut last = 0.0;
            for (text, place) in &page.lines {
                assert!((1..=5).contains(&text.len()), "{text}");
                let path = page.hand.write(text).expect("letters").path;
                let drawn = path.transform(*place).expect("a path").bounds();
                assert!(drawn.left() >= 0.0 && drawn.right() <= page.size.0 as f32, "{drawn:?}");
                assert!(drawn.bottom() <= page.size.1 as f32 + 2.0, "{drawn:?} {:?}", page.size);
                assert!(drawn.top() + 1.0 >= last, "{drawn:?} {last}");
                last = drawn.bottom() - 2.0;
            }
        }
    }
}
