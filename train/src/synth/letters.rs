//! Short printed strings: typeface, weight, width, slant and spacing of the letters.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, OutlineCurve};
use tiny_skia::{LineCap, LineJoin, Path, PathBuilder, Stroke, Transform};

use super::rng::Dice;
use super::strokes::{Hook, Marks, dot_path, path_of, strokes, with_serifs};
use super::typefaces::{Typeface, Typefaces};

/// The characters that strings are made of.
pub(super) const CHARACTERS: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Height of a capital letter in the units that letters are laid out in.
const CAP: f32 = 6.0;

static HACK: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).ok());
static UBUNTU: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT).ok());

/// Share of strings in typefaces from files, where there are any.
const FROM_FILES: f64 = 0.65;

/// How the letters of one string look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hand {
    face: Face,
    /// Width of the pen, in sixths of the height of a capital; outlines are thickened by it.
    pen: f32,
    /// Widths of letters times this.
    width: f32,
    /// Sideways shift per height.
    slant: f32,
    /// Added after every letter.
    spacing: f32,
    round: bool,
    /// Upright lines are this many times as thick as level ones.
    stems: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Face {
    Hack,
    Ubuntu,
    File(&'static Typeface),
    Strokes {
        marks: Marks,
        serifs: bool,
        /// Widths of `O` and `Q` times this.
        bowl: f32,
        /// Width of `0` times this.
        zero: f32,
    },
    Dots {
        gap: f32,
    },
}

impl Face {
    fn built_in(dice: &mut Dice) -> Self {
        match dice.weighted(&[0.22, 0.24, 0.46, 0.08]) {
            0 => Self::Hack,
            1 => Self::Ubuntu,
            2 => Self::strokes(dice),
            _ => Self::Dots { gap: if dice.chance(0.3) { 0.15 } else { -0.03 } },
        }
    }

    /// Our own strokes. Typefaces differ in how wide their round letters are and how narrow their zero is.
    fn strokes(dice: &mut Dice) -> Self {
        let marks = Marks {
            zero: dice.chance(0.3),
            one: dice.chance(0.6),
            i: dice.chance(0.4),
            j: *dice.pick(&[Hook::Bow, Hook::Headed, Hook::Low]),
        };
        let serifs = dice.chance(0.3);
        // Typefaces whose zero has no mark have a wide O.
        let bowl = if marks.zero { dice.real(0.95, 1.3) } else { dice.real(1.05, 1.45) };
        // At most 0.78 times as wide as the O.
        let zero = dice.real(0.95, 1.5).min(1.12 * bowl) as f32;
        let bowl = bowl as f32;
        Self::Strokes { marks, serifs, bowl, zero }
    }
}

/// Letters ready for drawing: capitals are 6 units high, the first letter starts at 0.
#[derive(Debug)]
pub(super) struct Lettering {
    /// The letters.
    pub path: Path,
    /// Pen to draw the path with.
    pub stroke: Option<Stroke>,
    /// Whether the path's inside is filled.
    pub fill: bool,
    /// Everything is to be drawn this many times as wide.
    pub stretch: f32,
}

impl Hand {
    /// Of these typefaces as a rule, where there are any, and of those that are built in.
    pub fn new(dice: &mut Dice, typefaces: Typefaces) -> Self {
        let face = if !typefaces.is_empty() && dice.chance(FROM_FILES) {
            Face::File(dice.pick(typefaces.all()))
        } else {
            Face::built_in(dice)
        };
        let pen = match face {
            Face::Hack => f64::max(0.0, dice.real(-0.2, 0.55)),
            Face::Ubuntu => f64::max(0.0, dice.real(-0.1, 0.8)),
            Face::File(_) => f64::max(0.0, dice.real(-0.5, 0.3)),
            Face::Strokes { .. } => dice.real(0.5, 1.35),
            Face::Dots { .. } => 0.0,
        };
        let slant = if dice.chance(0.2) { dice.real(-0.05, 0.22) } else { 0.0 };
        Self {
            face,
            pen: pen as f32,
            // An O must not become as narrow as a zero that has no dot.
            width: if dice.chance(0.5) { 1.0 } else { dice.real(0.88, 1.14) as f32 },
            slant: slant as f32,
            spacing: if dice.chance(0.5) { 0.0 } else { dice.real(-0.1, 1.2) as f32 },
            round: dice.chance(0.5),
            stems: if dice.chance(0.3) { dice.real(1.0, 1.7) as f32 } else { 1.0 },
        }
    }

    /// The letters of `text`; `None` where nothing can be drawn.
    pub fn write(&self, text: &str) -> Option<Lettering> {
        let mut builder = PathBuilder::new();
        let (mut x, width) = (0.0, self.width / self.stems);
        for character in text.chars() {
            let (path, advance) = self.glyph(character)?;
            let place = Transform::from_row(width, 0.0, -self.slant / self.stems, 1.0, x, 0.0);
            builder.push_path(&path.transform(place)?);
            x += advance * width + self.spacing / self.stems;
        }
        let stroke = (self.pen > 0.0).then(|| Stroke {
            width: self.pen,
            line_cap: if self.round { LineCap::Round } else { LineCap::Square },
            line_join: if self.round { LineJoin::Round } else { LineJoin::Miter },
            miter_limit: 1.5,
            ..Stroke::default()
        });
        let fill = !matches!(self.face, Face::Strokes { .. });
        Some(Lettering { path: builder.finish()?, stroke, fill, stretch: self.stems })
    }

    /// One letter and the distance to the next.
    fn glyph(&self, character: char) -> Option<(Path, f32)> {
        match self.face {
            Face::Hack => outline(HACK.as_ref()?, character),
            Face::Ubuntu => outline(UBUNTU.as_ref()?, character),
            Face::File(face) => outline(&face.font, character),
            Face::Strokes { marks, serifs, bowl, zero } => {
                // A heavy pen would fill a zero with its own stroke.
                let marks = Marks { zero: marks.zero && self.pen <= 0.9, ..marks };
                let wider = match character {
                    'O' | 'Q' => bowl,
                    '0' => zero,
                    _ => 1.0,
                };
                let path = path_of(strokes(character, marks))?;
                let path = path.transform(Transform::from_scale(wider, 1.0))?;
                let advance = path.bounds().right() + 0.9 + self.pen * self.stems;
                let path = if serifs { with_serifs(&path)? } else { path };
                Some((path, advance))
            }
            Face::Dots { gap } => {
                let scale = CAP / 7.0;
                let path = dot_path(character, gap)?;
                Some((path.transform(Transform::from_scale(scale, scale))?, 6.0 * scale))
            }
        }
    }
}

/// A letter of a typeface, scaled so that its capital H is 6 units high.
pub(super) fn outline(font: &impl Font, character: char) -> Option<(Path, f32)> {
    let capital = font.outline(font.glyph_id('H'))?.bounds;
    let scale = CAP / (capital.max.y - capital.min.y).abs();
    let id = font.glyph_id(character);
    let mut builder = PathBuilder::new();
    let mut last = None;
    for curve in font.outline(id)?.curves {
        push(&mut builder, &mut last, curve);
    }
    builder.close();
    let place = Transform::from_row(scale, 0.0, 0.0, -scale, 0.0, CAP);
    Some((builder.finish()?.transform(place)?, font.h_advance_unscaled(id) * scale))
}

/// Appends a curve; a new contour starts where it does not go on from the last one.
fn push(builder: &mut PathBuilder, last: &mut Option<ab_glyph::Point>, curve: OutlineCurve) {
    let (start, end) = match curve {
        OutlineCurve::Line(a, b)
        | OutlineCurve::Quad(a, _, b)
        | OutlineCurve::Cubic(a, _, _, b) => (a, b),
    };
    if *last != Some(start) {
        if last.is_some() {
            builder.close();
        }
        builder.move_to(start.x, start.y);
    }
    match curve {
        OutlineCurve::Line(_, b) => builder.line_to(b.x, b.y),
        OutlineCurve::Quad(_, c, b) => builder.quad_to(c.x, c.y, b.x, b.y),
        OutlineCurve::Cubic(_, c, d, b) => builder.cubic_to(c.x, c.y, d.x, d.y, b.x, b.y),
    }
    *last = Some(end);
}

/// Characters of `set` that are taken for each other, those that most often are more than once.
fn look_alikes(set: &[u8]) -> Vec<u8> {
    const LOOK_ALIKES: &[u8] = b"O0O0O0O0QDS5S5I1JI1JI1LB8Z2G6CVYW";
    LOOK_ALIKES.iter().copied().filter(|character| set.contains(character)).collect()
}

/// 1 to `most` characters: mixed, letters only or digits only; half of them, where they are to be `alike`, such as are taken for
/// each other.
pub(super) fn any_string(dice: &mut Dice, most: usize, alike: bool) -> String {
    let length = dice.whole(1, most.clamp(1, 8));
    let set = match dice.weighted(&[0.6, 0.25, 0.15]) {
        0 => &CHARACTERS[..],
        1 => &CHARACTERS[..26],
        _ => &CHARACTERS[26..],
    };
    let doubtful = look_alikes(set);
    let mut character = || match alike && dice.chance(0.5) {
        true => *dice.pick(&doubtful),
        false => *dice.pick(set),
    };
    (0..length).map(|_| char::from(character())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_face_writes_every_character() {
        let mut dice = Dice::new(3, 1);
        for _ in 0..60 {
            let hand = Hand::new(&mut dice, Typefaces::default());
            for character in CHARACTERS {
                let letter = hand.write(&char::from(*character).to_string()).expect("a letter");
                let height = letter.path.bounds().height();
                assert!((5.5..8.2).contains(&height), "{hand:?} {} {height}", *character as char);
            }
        }
    }

    #[test]
    fn a_zero_is_narrower_than_an_o_in_every_face_that_does_not_mark_it() {
        let mut dice = Dice::new(3, 5);
        let (mut widest, mut narrowest) = (0.0f32, 9.0f32);
        for _ in 0..800 {
            let hand = Hand::new(&mut dice, Typefaces::default());
            let width = |text| hand.write(text).expect("a letter").path.bounds().width();
            let Face::Strokes { marks, .. } = hand.face else { continue };
            if !marks.zero && hand.slant == 0.0 {
                let share = width("0") / width("O");
                (widest, narrowest) = (widest.max(share), narrowest.min(share));
            }
        }
        assert!((0.75..0.79).contains(&widest) && narrowest < 0.6, "{narrowest} to {widest}");
    }

    #[test]
    fn longer_strings_are_wider() {
        let hand = Hand::new(&mut Dice::new(3, 2), Typefaces::default());
        let width = |text| hand.write(text).expect("letters").path.bounds().width();
        assert!(width("HHHH") > 3.0 * width("H"));
    }

    #[test]
    fn alike_characters_come_often_where_they_are_wanted() {
        let share = |alike: bool| {
            let mut dice = Dice::new(3, 4);
            let texts = (0..2000).map(|_| any_string(&mut dice, 8, alike)).collect::<String>();
            let doubtful = texts.bytes().filter(|byte| b"O0S5I1J".contains(byte)).count();
            doubtful as f64 / texts.len() as f64
        };
        assert!((0.1..0.25).contains(&share(false)), "{}", share(false));
        assert!((0.34..0.46).contains(&share(true)), "{}", share(true));
    }

    #[test]
    fn strings_have_one_to_eight_characters() {
        let mut dice = Dice::new(3, 3);
        let mut lengths = [0; 9];
        for _ in 0..4000 {
            let text = any_string(&mut dice, 8, false);
            assert!(text.bytes().all(|byte| CHARACTERS.contains(&byte)), "{text}");
            lengths[text.len()] += 1;
        }
        assert_eq!(lengths[0], 0);
        assert!(lengths[1..].iter().all(|count| *count > 350), "{lengths:?}");
    }
}
