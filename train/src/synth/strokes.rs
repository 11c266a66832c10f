//! Two typefaces of our own: letters as pen strokes, and letters of 5 x 7 dots.

use tiny_skia::{Path, PathBuilder, PathSegment, Point, Rect};

/// What typefaces do, each in its own way, to tell `0`, `1`, `I` and `J` from other characters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Marks {
    /// A stroke through `0`.
    pub zero: bool,
    /// Feet of `1` and of `I`, which has a head then too.
    pub one: bool,
    pub i: bool,
    pub j: Hook,
}

/// Forms of `J`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum Hook {
    /// A bow upon the base line.
    #[default]
    Bow,
    /// The same with a head.
    Headed,
    /// A straight line that ends below the base line.
    Low,
}

/// Pen strokes of `character` (A-Z, 0-9), 6 units high, y downwards; `M`, `L` and `Q` as in SVG.
pub(super) fn strokes(character: char, marks: Marks) -> &'static str {
    match character {
        'A' => "M0 6 L2 0 L4 6 M.7 4 L3.3 4",
        'B' => "M0 3 L2.3 3 Q4 3 4 1.5 Q4 0 2.3 0 L0 0 L0 6 L2.3 6 Q4.2 6 4.2 4.5 Q4.2 3 2.3 3",
        'C' => "M4 1.2 Q3.4 0 2.1 0 Q0 0 0 3 Q0 6 2.1 6 Q3.4 6 4 4.8",
        'D' => "M0 0 L0 6 L1.8 6 Q4.1 6 4.1 3 Q4.1 0 1.8 0 L0 0",
        'E' => "M3.8 0 L0 0 L0 6 L3.8 6 M0 3 L3.2 3",
        'F' => "M3.8 0 L0 0 L0 6 M0 3 L3.2 3",
        'G' => "M4 1.2 Q3.4 0 2.1 0 Q0 0 0 3 Q0 6 2.1 6 Q4 6 4 4 L4 3.3 L2.4 3.3",
        'H' => "M0 0 L0 6 M4 0 L4 6 M0 3 L4 3",
        'I' if !marks.i => "M.4 0 L.4 6",
        'I' => "M0 0 L2.4 0 M1.2 0 L1.2 6 M0 6 L2.4 6",
        'J' => match marks.j {
            Hook::Bow => "M3 0 L3 4.3 Q3 6 1.5 6 Q0 6 0 4.4",
            Hook::Headed => "M1.4 0 L3 0 L3 4.3 Q3 6 1.5 6 Q0 6 0 4.4",
            Hook::Low => "M1.3 0 L1.3 5.6 Q1.3 6.9 0 6.9",
        },
        'K' => "M0 0 L0 6 M3.9 0 L0 3.6 M1.3 2.5 L4 6",
        'L' => "M0 0 L0 6 L3.6 6",
        'M' => "M0 6 L0 0 L2.3 4 L4.6 0 L4.6 6",
        'N' => "M0 6 L0 0 L4 6 L4 0",
        'O' => "M2.3 0 Q4.6 0 4.6 3 Q4.6 6 2.3 6 Q0 6 0 3 Q0 0 2.3 0",
        'P' => "M0 6 L0 0 L2.3 0 Q4 0 4 1.7 Q4 3.4 2.3 3.4 L0 3.4",
        'Q' => "M2.3 0 Q4.6 0 4.6 3 Q4.6 6 2.3 6 Q0 6 0 3 Q0 0 2.3 0 M2.8 4.3 L4.7 6.5",
        'R' => "M0 6 L0 0 L2.3 0 Q4 0 4 1.7 Q4 3.4 2.3 3.4 L0 3.4 M2 3.4 L4.1 6",
        'S' => "M3.9 1.1 Q3.3 0 2 0 Q.2 0 .2 1.5 Q.2 2.7 2 3 Q4 3.3 4 4.6 Q4 6 2 6 Q.5 6 0 4.8",
        'T' => "M0 0 L4.2 0 M2.1 0 L2.1 6",
        'U' => "M0 0 L0 4 Q0 6 2 6 Q4 6 4 4 L4 0",
        'V' => "M0 0 L2.1 6 L4.2 0",
        'W' => "M0 0 L1.4 6 L2.9 1 L4.4 6 L5.8 0",
        'X' => "M0 0 L4 6 M4 0 L0 6",
        'Y' => "M0 0 L2.1 3 L4.2 0 M2.1 3 L2.1 6",
        'Z' => "M0 0 L4 0 L0 6 L4 6",
        '0' if !marks.zero => "M1.6 0 Q3.2 0 3.2 3 Q3.2 6 1.6 6 Q0 6 0 3 Q0 0 1.6 0",
        '0' => "M1.7 0 Q3.4 0 3.4 3 Q3.4 6 1.7 6 Q0 6 0 3 Q0 0 1.7 0 M2.6 1.5 L.8 4.5",
        '1' if !marks.one => "M0 1.4 L1.7 0 L1.7 6",
        '1' => "M0 1.4 L1.7 0 L1.7 6 M0 6 L3.2 6",
        '2' => "M.1 1.5 Q.3 0 2 0 Q3.8 0 3.8 1.7 Q3.8 2.8 2.6 3.8 L0 6 L4 6",
        '3' => {
            "M.2 .9 Q.8 0 2 0 Q3.7 0 3.7 1.5 Q3.7 2.9 1.5 2.9 Q3.9 2.9 3.9 4.4 Q3.9 6 2 6 Q.6 6 0 5"
        }
        '4' => "M3 6 L3 0 L0 4.2 L4 4.2",
        '5' => "M3.6 0 L.6 0 L.3 2.8 Q1 2.2 2 2.2 Q3.9 2.2 3.9 4.1 Q3.9 6 1.9 6 Q.6 6 0 5",
        '6' => {
            "M3.5 .7 Q3 0 2.1 0 Q.1 0 .1 3.6 Q.1 6 2 6 Q3.9 6 3.9 4.2 Q3.9 2.5 2.1 2.5 Q.6 2.5 .1 4"
        }
        '7' => "M0 0 L4 0 L1.5 6",
        '8' => {
            "M2 0 Q3.7 0 3.7 1.4 Q3.7 2.8 2 2.8 Q.3 2.8 .3 1.4 Q.3 0 2 0 M2 2.8 Q4 2.8 4 4.4 Q4 6 2 6 Q0 6 0 4.4 Q0 2.8 2 2.8"
        }
        '9' => {
            "M.5 5.3 Q1 6 1.9 6 Q3.9 6 3.9 2.4 Q3.9 0 2 0 Q.1 0 .1 1.8 Q.1 3.5 1.9 3.5 Q3.4 3.5 3.9 2"
        }
        _ => "",
    }
}

/// The path that an SVG-like text of `M`, `L` and `Q` describes; `None` for an empty one.
pub(super) fn path_of(text: &str) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let mut rest = text.split_ascii_whitespace();
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<f32>().ok());
    while let Some(first) = rest.next() {
        let (verb, digits) = first.split_at(1);
        let x = number(Some(digits))?;
        let y = number(rest.next())?;
        match verb {
            "M" => builder.move_to(x, y),
            "L" => builder.line_to(x, y),
            _ => builder.quad_to(x, y, number(rest.next())?, number(rest.next())?),
        }
    }
    builder.finish()
}

/// The path with a short level line at every end of a steep straight one.
pub(super) fn with_serifs(path: &Path) -> Option<Path> {
    let mut builder = PathBuilder::new();
    builder.push_path(path);
    let mut last: Option<(Point, bool)> = None;
    for segment in path.segments() {
        match segment {
            PathSegment::MoveTo(point) => {
                serif(&mut builder, last);
                last = Some((point, false));
            }
            PathSegment::LineTo(point) => {
                let from = last.map_or(point, |(from, _)| from);
                let steep = (point.y - from.y).abs() > 2.0 * (point.x - from.x).abs();
                if steep && matches!(last, Some((_, false))) {
                    serif(&mut builder, Some((from, true)));
                }
                last = Some((point, steep));
            }
            PathSegment::QuadTo(_, point) | PathSegment::CubicTo(_, _, point) => {
                last = Some((point, false));
            }
            PathSegment::Close => {}
        }
    }
    serif(&mut builder, last);
    builder.finish()
}

/// A level line through the point, if a steep line ends there at the top or at the bottom of the letter.
fn serif(builder: &mut PathBuilder, end: Option<(Point, bool)>) {
    if let Some((Point { x, y }, true)) = end.filter(|(point, _)| point.y == 0.0 || point.y == 6.0)
    {
        builder.move_to(x - 0.6, y);
        builder.line_to(x + 0.6, y);
    }
}

/// Seven rows of five dots, the highest bit on the left.
fn dots(character: char) -> [u8; 7] {
    match character {
        'A' => [0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11],
        'B' => [0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e],
        'C' => [0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e],
        'D' => [0x1c, 0x12, 0x11, 0x11, 0x11, 0x12, 0x1c],
        'E' => [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f],
        'F' => [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10],
        'G' => [0x0e, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0f],
        'H' => [0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11],
        'I' => [0x0e, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e],
        'J' => [0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c],
        'K' => [0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11],
        'L' => [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f],
        'M' => [0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11],
        'N' => [0x11, 0x11, 0x19, 0x15, 0x13, 0x11, 0x11],
        'O' => [0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e],
        'P' => [0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10],
        'Q' => [0x0e, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0d],
        'R' => [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11],
        'S' => [0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e],
        'T' => [0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04],
        'U' => [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e],
        'V' => [0x11, 0x11, 0x11, 0x11, 0x11, 0x0a, 0x04],
        'W' => [0x11, 0x11, 0x11, 0x15, 0x15, 0x15, 0x0a],
        'X' => [0x11, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x11],
        'Y' => [0x11, 0x11, 0x11, 0x0a, 0x04, 0x04, 0x04],
        'Z' => [0x1f, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1f],
        '0' => [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e],
        '1' => [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e],
        '2' => [0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f],
        '3' => [0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e],
        '4' => [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02],
        '5' => [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e],
        '6' => [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e],
        '7' => [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08],
        '8' => [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e],
        '9' => [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c],
        _ => [0; 7],
    }
}

/// Squares of side 1 for the dots of `character`, a little larger than their cells so that neighbours join; `gap` parts them.
pub(super) fn dot_path(character: char, gap: f32) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let side = 1.0 - gap;
    for (y, row) in dots(character).into_iter().enumerate() {
        let lit = |x: &usize| row >> (4 - x) & 1 == 1;
        for x in (0..5).filter(lit) {
            if let Some(rect) = Rect::from_xywh(x as f32, y as f32, side, side) {
                builder.push_rect(rect);
            }
        }
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Marks = Marks { zero: false, one: false, i: false, j: Hook::Bow };
    const MARKED: Marks = Marks { zero: true, one: true, i: true, j: Hook::Low };

    #[test]
    fn every_character_is_drawn_and_differs() {
        let all: Vec<char> = ('A'..='Z').chain('0'..='9').collect();
        for (place, one) in all.iter().enumerate() {
            for marks in [PLAIN, MARKED] {
                let path = path_of(strokes(*one, marks)).expect("strokes");
                let bounds = path.bounds();
                let heights = 6.0..7.0;
                assert!(heights.contains(&bounds.height()), "{one} {bounds:?}");
                assert!(bounds.left() >= 0.0 && bounds.right() < 6.0, "{one} {bounds:?}");
                assert!(
                    with_serifs(&path).expect("serifs").bounds().width() < bounds.width() + 1.3
                );
            }
            assert!(dot_path(*one, 0.0).is_some());
            for two in &all[place + 1..] {
                assert_ne!(dots(*one), dots(*two), "{one} {two}");
                for marks in [PLAIN, MARKED] {
                    assert_ne!(strokes(*one, marks), strokes(*two, marks), "{one} {two}");
                }
            }
        }
        let length = |path: Option<Path>| path.map_or(0, |path| path.len());
        let plain = path_of("M0 0 L0 6 M4 0 L4 6 M0 3 L4 3");
        assert_eq!(length(plain.as_ref().and_then(with_serifs)), length(plain) + 8);
        assert!(path_of("").is_none() && dot_path('?', 0.0).is_none());
    }
}
