//! Eight shapes as polygons, fine enough that no corner of a circle can be seen.

use super::geometry::{Point, Rect, sin_cos, turned};
use super::rng::Dice;

/// A shape that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Rectangle,
    Triangle,
    Star,
    Diamond,
    Cross,
    Heart,
}

impl Shape {
    pub const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Rectangle,
        Self::Triangle,
        Self::Star,
        Self::Diamond,
        Self::Cross,
        Self::Heart,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Rectangle => "rectangle",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Diamond => "diamond",
            Self::Cross => "cross",
            Self::Heart => "heart",
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Rectangle => "rectangles",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Diamond => "diamonds",
            Self::Cross => "crosses",
            Self::Heart => "hearts",
        }
    }

    /// A shape other than those in `taken`.
    pub fn other(dice: &mut Dice, taken: &[Self]) -> Self {
        let free: Vec<Self> = Self::ALL.into_iter().filter(|s| !taken.contains(s)).collect();
        *dice.pick(if free.is_empty() { &Self::ALL } else { &free })
    }

    /// A closed polygon whose longer side measures `size` pixels before it is turned, around the origin.
    ///
    /// Proportions vary only where the name stays right, and nothing is turned so far that a square looks like a diamond.
    pub fn polygon(self, dice: &mut Dice, size: f64) -> Vec<Point> {
        let mut points = self.plain(dice);
        let rect = Rect::around(&points);
        let scale = size / rect.width().max(rect.height());
        let [x, y] = rect.centre();
        let degrees = self.turn(dice);
        for point in &mut points {
            *point = turned([(point[0] - x) * scale, (point[1] - y) * scale], degrees);
        }
        centred(points)
    }

    fn plain(self, dice: &mut Dice) -> Vec<Point> {
        match self {
            Self::Circle => ring(96, |_| 1.0),
            Self::Square => block(1.0, 1.0),
            Self::Rectangle => rectangle(dice),
            Self::Triangle => triangle(dice),
            Self::Star => star(dice),
            Self::Diamond => diamond(dice),
            Self::Cross => cross(dice.real(0.22, 0.4)),
            Self::Heart => heart(dice),
        }
    }

    fn turn(self, dice: &mut Dice) -> f64 {
        let most = match self {
            Self::Circle => return 0.0,
            Self::Triangle if dice.chance(0.25) => 180.0,
            Self::Diamond => 4.0,
            Self::Square | Self::Rectangle => 7.0,
            Self::Triangle | Self::Star | Self::Cross | Self::Heart => 12.0,
        };
        match dice.chance(0.5) {
            true => 0.0,
            false => dice.real(-most, most),
        }
    }
}

/// The same points with the middle of their box at the origin.
fn centred(mut points: Vec<Point>) -> Vec<Point> {
    let [x, y] = Rect::around(&points).centre();
    points.iter_mut().for_each(|point| *point = [point[0] - x, point[1] - y]);
    points
}

/// `corners` points around the origin, the first one on top.
fn ring(corners: usize, radius: impl Fn(usize) -> f64) -> Vec<Point> {
    let corner = |place: usize| {
        let (sin, cos) = sin_cos(2.0 * std::f64::consts::PI * place as f64 / corners as f64);
        [radius(place) * sin, -radius(place) * cos]
    };
    (0..corners).map(corner).collect()
}

fn block(x: f64, y: f64) -> Vec<Point> {
    vec![[-x, -y], [x, -y], [x, y], [-x, y]]
}

fn rectangle(dice: &mut Dice) -> Vec<Point> {
    let aspect = dice.real(1.5, 2.8);
    match dice.chance(0.6) {
        true => block(aspect, 1.0),
        false => block(1.0, aspect),
    }
}

fn triangle(dice: &mut Dice) -> Vec<Point> {
    let height = dice.real(1.5, 2.1);
    let top = if dice.chance(0.2) { dice.real(-0.8, 0.8) } else { 0.0 };
    vec![[top, -height / 2.0], [1.0, height / 2.0], [-1.0, height / 2.0]]
}

fn star(dice: &mut Dice) -> Vec<Point> {
    let (rays, inner) = match dice.chance(0.9) {
        true => (5, dice.real(0.36, 0.52)),
        false => (6, dice.real(0.45, 0.55)),
    };
    ring(2 * rays, |place| if place % 2 == 0 { 1.0 } else { inner })
}

fn diamond(dice: &mut Dice) -> Vec<Point> {
    let height = if dice.chance(0.4) { 1.0 } else { dice.real(1.0, 1.6) };
    let points = vec![[0.0, -height], [1.0, 0.0], [0.0, height], [-1.0, 0.0]];
    match dice.chance(0.15) {
        true => points.into_iter().map(|[x, y]| [y, x]).collect(),
        false => points,
    }
}

fn cross(arm: f64) -> Vec<Point> {
    let quarter = [[-arm, -1.0], [arm, -1.0], [arm, -arm]];
    (0..4).flat_map(|turn| quarter.map(|point| quarter_turns(point, turn))).collect()
}

fn quarter_turns(point: Point, turns: usize) -> Point {
    (0..turns).fold(point, |[x, y], _| [-y, x])
}

/// Two cubic curves, mirrored.
fn heart(dice: &mut Dice) -> Vec<Point> {
    let dip = dice.real(0.22, 0.36);
    let stretch = dice.real(0.9, 1.1);
    let upper = [[0.0, dip], [0.12, -0.08], [0.98, -0.12], [1.0, 0.52]];
    let lower = [[1.0, 0.52], [1.0, 1.02], [0.38, 1.35], [0.0, 1.8]];
    let half: Vec<Point> = [upper, lower].iter().flat_map(|curve| cubic(curve, 24)).collect();
    let left = half.iter().skip(1).rev().map(|[x, y]| [-x, *y]);
    let tip = [[0.0, 1.8]];
    let right = half.iter().copied();
    right.chain(tip).chain(left).map(|[x, y]| [x * stretch, y]).collect()
}

/// `steps` points of a Bezier curve, its end left out.
fn cubic(p: &[Point; 4], steps: usize) -> Vec<Point> {
    let at = |step: usize| {
        let t = step as f64 / steps as f64;
        let u = 1.0 - t;
        let weights = [u * u * u, 3.0 * u * u * t, 3.0 * u * t * t, t * t * t];
        [0, 1].map(|axis| weights.iter().zip(p).map(|(w, point)| w * point[axis]).sum())
    };
    (0..steps).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_aspects() {
        let mut dice = Dice::new(2, 1);
        for shape in Shape::ALL {
            for _ in 0..200 {
                let points = shape.polygon(&mut dice, 100.0);
                let rect = Rect::around(&points);
                let longest = rect.width().max(rect.height());
                assert!((85.0..135.0).contains(&longest), "{shape:?} {longest}");
                assert!(rect.centre().iter().all(|c| c.abs() < 1e-9), "{shape:?}");
                let aspect = longest / rect.width().min(rect.height());
                match shape {
                    Shape::Circle | Shape::Square | Shape::Cross => assert!(aspect < 1.02),
                    Shape::Rectangle => assert!(aspect > 1.3, "{aspect}"),
                    _ => assert!(aspect < 1.9, "{shape:?} {aspect}"),
                }
            }
        }
    }

    #[test]
    fn a_heart_is_closed_and_symmetric() {
        let points = heart(&mut Dice::new(2, 2));
        let rect = Rect::around(&points);
        assert!((rect.x1 + rect.x2).abs() < 1e-9);
        assert_eq!(points.len(), 96);
    }
}
