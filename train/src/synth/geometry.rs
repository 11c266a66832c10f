//! Plane geometry that gives the same numbers on every machine.

/// Sine and cosine of an angle in radians between -2 pi and 2 pi, by their series: the ones of the system's library may differ in
/// the last digit from machine to machine.
pub(super) fn sin_cos(angle: f64) -> (f64, f64) {
    let quarter = angle / 4.0;
    let square = quarter * quarter;
    let (mut sin, mut cos, mut term) = (0.0, 0.0, 1.0);
    for step in 0..12 {
        let place = f64::from(2 * step);
        cos += term;
        let odd = term * quarter / (place + 1.0);
        sin += odd;
        term = -odd * quarter / (place + 2.0);
    }
    debug_assert!(square < 4.0);
    let double = |(sin, cos): (f64, f64)| (2.0 * sin * cos, cos * cos - sin * sin);
    double(double((sin, cos)))
}

/// A point in pixels, y downwards.
pub(super) type Point = [f64; 2];

/// `point` turned about the origin by `degrees`, clockwise on the screen.
pub(super) fn turned(point: Point, degrees: f64) -> Point {
    let (sin, cos) = sin_cos(degrees * std::f64::consts::PI / 180.0);
    [point[0] * cos - point[1] * sin, point[0] * sin + point[1] * cos]
}

/// An upright rectangle: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub x1: f64,
    pub y1: f64,
    pub x2: f64,
    pub y2: f64,
}

impl Rect {
    /// The smallest rectangle around `points`; all zero for none.
    pub fn around(points: &[Point]) -> Self {
        let Some(first) = points.first() else {
            return Self { x1: 0.0, y1: 0.0, x2: 0.0, y2: 0.0 };
        };
        let start = Self { x1: first[0], y1: first[1], x2: first[0], y2: first[1] };
        points.iter().fold(start, |rect, point| Self {
            x1: rect.x1.min(point[0]),
            y1: rect.y1.min(point[1]),
            x2: rect.x2.max(point[0]),
            y2: rect.y2.max(point[1]),
        })
    }

    pub fn width(&self) -> f64 {
        self.x2 - self.x1
    }

    pub fn height(&self) -> f64 {
        self.y2 - self.y1
    }

    pub fn centre(&self) -> Point {
        [(self.x1 + self.x2) / 2.0, (self.y1 + self.y2) / 2.0]
    }

    /// Every side moved outwards.
    pub fn grown(&self, by: f64) -> Self {
        Self { x1: self.x1 - by, y1: self.y1 - by, x2: self.x2 + by, y2: self.y2 + by }
    }

    pub fn meets(&self, other: &Self) -> bool {
        self.x1 < other.x2 && other.x1 < self.x2 && self.y1 < other.y2 && other.y1 < self.y2
    }

    pub fn moved(&self, by: Point) -> Self {
        Self { x1: self.x1 + by[0], y1: self.y1 + by[1], x2: self.x2 + by[0], y2: self.y2 + by[1] }
    }

    /// Whole numbers from 0 to 1000 relative to a picture of `size` (width, height).
    pub fn per_mille(&self, size: (u32, u32)) -> [u32; 4] {
        let scaled =
            |value: f64, side: u32| (value / f64::from(side) * 1000.0).round().clamp(0.0, 1000.0);
        [
            scaled(self.x1, size.0) as u32,
            scaled(self.y1, size.1) as u32,
            scaled(self.x2, size.0) as u32,
            scaled(self.y2, size.1) as u32,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_agree_with_the_library() {
        for step in -200..=200 {
            let angle = f64::from(step) * std::f64::consts::PI / 100.0;
            let (sin, cos) = sin_cos(angle);
            assert!((sin - angle.sin()).abs() < 1e-12, "sin {angle}");
            assert!((cos - angle.cos()).abs() < 1e-12, "cos {angle}");
        }
    }

    #[test]
    fn boxes_in_thousandths() {
        let rect = Rect { x1: -1.0, y1: 25.0, x2: 50.0, y2: 101.0 };
        assert_eq!(rect.per_mille((200, 100)), [0, 250, 250, 1000]);
        assert_eq!(Rect::around(&[[1.0, 5.0], [3.0, 2.0]]).centre(), [2.0, 3.5]);
    }

    #[test]
    fn turning_is_clockwise_on_the_screen() {
        let [x, y] = turned([1.0, 0.0], 90.0);
        assert!(x.abs() < 1e-12 && (y - 1.0).abs() < 1e-12);
    }
}
