//! Short videos of one object that moves, comes and goes.

use super::ask_scene::{colour_of, shape};
use super::canvas::{Drawn, Look};
use super::geometry::Point;
use super::palette::Colour;
use super::phrases as p;
use super::rng::Dice;
use super::scene::{Bounds, Thing};
use super::shapes::Shape;
use super::turn::{Channel, Turn};
use super::words::{article, capital, phrase};

/// Frames per second of every film.
pub(super) const FPS: f64 = 4.0;

/// Which way the object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    Left,
    Right,
    Up,
    Down,
    Still,
}

impl Motion {
    pub const ALL: [Self; 5] = [Self::Left, Self::Right, Self::Up, Self::Down, Self::Still];
    const SIDEWAYS: [Self; 3] = [Self::Left, Self::Right, Self::Still];

    /// The way in words, `None` for none.
    fn way(self) -> Option<&'static str> {
        match self {
            Self::Left => Some("to the left"),
            Self::Right => Some("to the right"),
            Self::Up => Some("up"),
            Self::Down => Some("down"),
            Self::Still => None,
        }
    }

    fn unit(self) -> Point {
        match self {
            Self::Left => [-1.0, 0.0],
            Self::Right => [1.0, 0.0],
            Self::Up => [0.0, -1.0],
            Self::Down => [0.0, 1.0],
            Self::Still => [0.0, 0.0],
        }
    }

    /// "moves to the left" or "does not move".
    fn verb(self) -> String {
        self.way().map_or_else(|| "does not move".into(), |way| format!("moves {way}"))
    }
}

/// A video before it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Film {
    size: (u32, u32),
    /// The object around the origin.
    thing: Thing,
    look: Look,
    /// Whether the noise changes from frame to frame.
    flicker: bool,
    /// Where the object's centre is in frame 0, and its way per frame.
    start: Point,
    step: Point,
    pub motion: Motion,
    pub frames: usize,
    /// The first frame that shows the object, and the one after the last.
    pub visible: (usize, usize),
}

impl Film {
    pub fn new(dice: &mut Dice, bounds: &Bounds) -> Self {
        let (short, long) = (bounds.side as usize * 3 / 10, bounds.side as usize * 5 / 8);
        let size = (dice.whole(short, long) as u32, dice.whole(short, long) as u32);
        let side = f64::from(size.0.min(size.1));
        let kind = (*dice.pick(&Colour::ALL), *dice.pick(&Shape::ALL));
        let measure = dice.real(side * 0.17, side * 0.34).max(16.0);
        let thing = Thing::new(dice, kind, measure);
        let motion = *dice.pick(if bounds.sideways { &Motion::SIDEWAYS } else { &Motion::ALL[..] });
        let frames = 2 * dice.whole(4, 12);
        let visible = if dice.chance(0.4) { (0, frames) } else { part(dice, frames) };
        let (from, to) = ends(dice, &thing, size, motion);
        let steps = (visible.1 - visible.0 - 1).max(1) as f64;
        let step = [(to[0] - from[0]) / steps, (to[1] - from[1]) / steps];
        let first = visible.0 as f64;
        let start = [from[0] - step[0] * first, from[1] - step[1] * first];
        let look = Look::new(dice, &[thing.rgb]);
        let flicker = dice.chance(0.5);
        Self { size, thing, look, flicker, start, step, motion, frames, visible }
    }

    /// Seconds from which to which the object is visible.
    pub fn interval(&self) -> [f64; 2] {
        [self.visible.0 as f64 / FPS, self.visible.1 as f64 / FPS]
    }

    /// All frames.
    pub fn draw(&self) -> Vec<Drawn> {
        let mut look = self.look.clone();
        let frame = |place: usize| {
            if self.flicker {
                look = look.next_frame();
            }
            match (self.visible.0..self.visible.1).contains(&place) {
                true => look.draw(self.size, &[self.at(place).mark()]),
                false => look.draw(self.size, &[]),
            }
        };
        (0..self.frames).map(frame).collect()
    }

    /// The object in frame `place`.
    pub fn at(&self, place: usize) -> Thing {
        let along = |axis: usize| self.start[axis] + self.step[axis] * place as f64;
        self.thing.moved([along(0), along(1)])
    }

    /// A question of `channel`, where this film has one.
    pub fn ask(&self, channel: Channel, dice: &mut Dice) -> Option<Turn> {
        let things = std::slice::from_ref(&self.thing);
        match channel {
            Channel::Motion => Some(self.ask_motion(dice)),
            Channel::Interval => Some(self.ask_interval(dice)),
            Channel::VideoDescribe => Some(self.describe(dice)),
            Channel::Color => colour_of(things, dice),
            Channel::Shape => shape(things, dice),
            _ => None,
        }
    }

    fn called(&self, dice: &mut Dice) -> String {
        match dice.weighted(&[0.55, 0.25, 0.2]) {
            0 => format!("the {}", self.thing.name()),
            1 => "the object".into(),
            _ => format!("the {}", self.thing.shape.name()),
        }
    }

    fn ask_motion(&self, dice: &mut Dice) -> Turn {
        let called = self.called(dice);
        let fact = format!("the {} {}.", self.thing.name(), self.motion.verb());
        if dice.chance(0.7) {
            let question = phrase(dice, p::MOTION, &[("x", &called)]);
            return Turn::new(Channel::Motion, question, capital(&fact));
        }
        // Of five motions, one can only be denied.
        let yes = dice.chance(0.625) && self.motion != Motion::Still;
        let others = Motion::ALL.into_iter().filter(|motion| *motion != self.motion);
        let others: Vec<&str> = others.filter_map(Motion::way).collect();
        let claim = match self.motion.way() {
            Some(way) if yes => way,
            _ => dice.pick(&others),
        };
        let question = phrase(dice, p::DOES_IT_MOVE, &[("x", &called), ("r", claim)]);
        let answer = format!("{}, {fact}", if yes { "Yes" } else { "No" });
        Turn::new(Channel::Motion, question, answer)
    }

    fn seen(&self) -> String {
        let [from, to] = self.interval();
        format!("is visible from {from:.1} to {to:.1} seconds")
    }

    fn ask_interval(&self, dice: &mut Dice) -> Turn {
        let called = self.called(dice);
        let question = phrase(dice, p::INTERVAL, &[("x", &called)]);
        let answer = format!("The {} {}.", self.thing.name(), self.seen());
        Turn { interval: Some(self.interval()), ..Turn::new(Channel::Interval, question, answer) }
    }

    /// When the object comes or goes, where it does.
    pub fn ask_moment(&self, dice: &mut Dice) -> Option<Turn> {
        let ([from, to], called) = (self.interval(), self.called(dice));
        let comes = dice.chance(0.5);
        let (patterns, verb, time) = match comes {
            true => (p::APPEARS, "appears", from),
            false => (p::VANISHES, "disappears", to),
        };
        let happens = if comes { self.visible.0 > 0 } else { self.visible.1 < self.frames };
        let question = phrase(dice, patterns, &[("x", &called)]);
        let answer = format!("The {} {verb} at {time:.1} seconds.", self.thing.name());
        happens.then(|| Turn::new(Channel::Interval, question, answer))
    }

    fn describe(&self, dice: &mut Dice) -> Turn {
        let question = phrase(dice, p::VIDEO, &[]);
        let whole = self.visible == (0, self.frames);
        let seen = if whole { String::new() } else { format!("{} and ", self.seen()) };
        let name = article(&self.thing.name());
        let answer = capital(&format!("{name} {seen}{}.", self.motion.verb()));
        Turn::new(Channel::VideoDescribe, question, answer)
    }
}

/// A part of the frames: from the start, up to the end or in the middle, mostly in whole half seconds.
fn part(dice: &mut Dice, frames: usize) -> (usize, usize) {
    let grid = if dice.chance(0.75) { 2 } else { 1 };
    let last = frames / grid;
    let least = 4_usize.div_ceil(grid);
    loop {
        let (from, to) = match dice.weighted(&[0.25, 0.25, 0.5]) {
            0 => (0, dice.whole(least, last)),
            1 => (dice.whole(0, last - least), last),
            _ => (dice.whole(1, last), dice.whole(1, last - 1)),
        };
        let (from, to) = (from * grid, to * grid);
        if from + 4 <= to && to <= frames && to - from < frames {
            return (from, to);
        }
    }
}

/// Where the centre begins and ends: the whole way stays in the picture and is at least 35 % of it.
fn ends(dice: &mut Dice, thing: &Thing, size: (u32, u32), motion: Motion) -> (Point, Point) {
    let half = [thing.rect.width() / 2.0 + 1.5, thing.rect.height() / 2.0 + 1.5];
    let sides = [f64::from(size.0), f64::from(size.1)];
    let unit = motion.unit();
    let mut from = [0.0; 2];
    let mut to = [0.0; 2];
    for axis in 0..2 {
        let (low, high) = (half[axis], sides[axis] - half[axis]);
        if unit[axis] == 0.0 {
            from[axis] = dice.real(low, high);
            to[axis] = from[axis];
            continue;
        }
        let way = dice.real(f64::min(0.35 * sides[axis], high - low), high - low);
        let start = dice.real(low, high - way);
        let ends = [start, start + way];
        let forward = usize::from(unit[axis] < 0.0);
        (from[axis], to[axis]) = (ends[forward], ends[1 - forward]);
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_stays_in_the_picture_and_goes_its_way() {
        for index in 0..500 {
            let film = Film::new(&mut Dice::new(9, index), &Bounds::default());
            let (first, last) = (film.at(film.visible.0), film.at(film.visible.1 - 1));
            let (a, b) = (first.rect.centre(), last.rect.centre());
            let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
            let far = 0.3 * f64::from(film.size.0.min(film.size.1));
            match film.motion {
                Motion::Left => assert!(dx < -far && dy.abs() < 1e-6),
                Motion::Right => assert!(dx > far && dy.abs() < 1e-6),
                Motion::Up => assert!(dy < -far && dx.abs() < 1e-6),
                Motion::Down => assert!(dy > far && dx.abs() < 1e-6),
                Motion::Still => assert!(dx.abs() + dy.abs() < 1e-6),
            }
            for place in [film.visible.0, film.visible.1 - 1] {
                let rect = film.at(place).rect;
                assert!(rect.x1 >= 0.0 && rect.x2 <= f64::from(film.size.0), "{rect:?}");
                assert!(rect.y1 >= 0.0 && rect.y2 <= f64::from(film.size.1), "{rect:?}");
            }
        }
    }

    #[test]
    fn films_go_sideways_where_they_are_to() {
        let bounds = Bounds { sideways: true, ..Bounds::default() };
        let film = |index| Film::new(&mut Dice::new(9, index), &bounds).motion;
        let seen: Vec<Motion> = (0..60).map(film).collect();
        for motion in Motion::ALL {
            let level = !matches!(motion, Motion::Up | Motion::Down);
            assert_eq!(seen.contains(&motion), level, "{motion:?}");
        }
    }

    #[test]
    fn frames_outside_the_interval_are_empty() {
        let mut dice = Dice::new(9, 9);
        let film = std::iter::repeat_with(|| Film::new(&mut dice, &Bounds::default()))
            .find(|film| film.visible.0 > 0)
            .expect("a film that begins empty");
        let film = Film { look: Look::plain([9, 99, 199]), ..film };
        let frames = film.draw();
        assert_eq!(frames.len(), film.frames);
        let empty = |frame: &Drawn| frame.rgb.chunks_exact(3).all(|pixel| pixel == [9, 99, 199]);
        for (place, frame) in frames.iter().enumerate() {
            let shown = (film.visible.0..film.visible.1).contains(&place);
            assert_eq!(empty(frame), !shown, "frame {place} of {:?}", film.visible);
        }
    }

    #[test]
    fn answers_tell_the_motion_and_the_interval() {
        for index in 0..400 {
            let mut dice = Dice::new(9, index);
            let film = Film::new(&mut dice, &Bounds::default());
            let turn = film.ask_motion(&mut dice);
            let said = |text: &str| Motion::ALL.iter().position(|m| text.contains(&m.verb()));
            let truth = Motion::ALL.iter().position(|motion| *motion == film.motion);
            assert_eq!(said(&turn.answer), truth, "{turn:?}");
            if turn.answer.starts_with("Yes") {
                let way = film.motion.way().expect("a way");
                assert!(turn.question.contains(way), "{turn:?}");
            } else if turn.answer.starts_with("No") {
                let way = film.motion.way().unwrap_or("nowhere");
                assert!(!turn.question.contains(way), "{turn:?}");
            }
            let turn = film.ask_interval(&mut dice);
            let [from, to] = turn.interval.expect("an interval");
            assert_eq!((from * FPS, to * FPS), (film.visible.0 as f64, film.visible.1 as f64));
            assert!(
                turn.answer.contains(&format!("from {from:.1} to {to:.1} seconds")),
                "{turn:?}"
            );
        }
    }

    #[test]
    fn yes_and_no_of_motions() {
        let mut dice = Dice::new(9, 10);
        let (mut yes, mut all) = (0, 0);
        for _ in 0..6000 {
            let turn = Film::new(&mut dice, &Bounds::default()).ask_motion(&mut dice);
            yes += usize::from(turn.answer.starts_with("Yes"));
            all += usize::from(turn.answer.starts_with("Yes") || turn.answer.starts_with("No"));
        }
        let share = yes as f64 / all as f64;
        assert!((0.46..0.54).contains(&share), "{share}");
    }
}
