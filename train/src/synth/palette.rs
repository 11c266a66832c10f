//! Twelve colours with names that nobody disputes, and backgrounds that contrast with them.

use super::rng::Dice;

/// Red, green and blue.
pub(super) type Rgb = [u8; 3];

/// A colour that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Orange,
    Purple,
    Pink,
    Cyan,
    Brown,
    Gray,
    Black,
    White,
}

/// Lowest and highest hue in degrees, saturation and value, of one name.
struct Region {
    hue: (f64, f64),
    saturation: (f64, f64),
    value: (f64, f64),
}

impl Colour {
    pub const ALL: [Self; 12] = [
        Self::Red,
        Self::Green,
        Self::Blue,
        Self::Yellow,
        Self::Orange,
        Self::Purple,
        Self::Pink,
        Self::Cyan,
        Self::Brown,
        Self::Gray,
        Self::Black,
        Self::White,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Orange => "orange",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Cyan => "cyan",
            Self::Brown => "brown",
            Self::Gray => "gray",
            Self::Black => "black",
            Self::White => "white",
        }
    }

    /// A shade that still bears the name.
    pub fn shade(self, dice: &mut Dice) -> Rgb {
        if dice.chance(0.25) {
            return self.web();
        }
        let region = self.region();
        let mut draw = |range: (f64, f64)| dice.real(range.0, range.1);
        hsv(draw(region.hue), draw(region.saturation), draw(region.value))
    }

    /// What drawing programs mean by the name (CSS Color Module Level 4, "named colors").
    fn web(self) -> Rgb {
        match self {
            Self::Red => [255, 0, 0],
            Self::Green => [0, 128, 0],
            Self::Blue => [0, 0, 255],
            Self::Yellow => [255, 255, 0],
            Self::Orange => [255, 165, 0],
            Self::Purple => [128, 0, 128],
            Self::Pink => [255, 192, 203],
            Self::Cyan => [0, 255, 255],
            Self::Brown => [165, 42, 42],
            Self::Gray => [128, 128, 128],
            Self::Black => [0, 0, 0],
            Self::White => [255, 255, 255],
        }
    }

    fn region(self) -> Region {
        let (hue, saturation, value) = match self {
            Self::Red => ((-8.0, 6.0), (0.75, 1.0), (0.8, 1.0)),
            Self::Green => ((100.0, 145.0), (0.55, 1.0), (0.42, 0.9)),
            Self::Blue => ((214.0, 240.0), (0.7, 1.0), (0.6, 1.0)),
            Self::Yellow => ((50.0, 60.0), (0.7, 1.0), (0.9, 1.0)),
            Self::Orange => ((24.0, 38.0), (0.8, 1.0), (0.92, 1.0)),
            Self::Purple => ((270.0, 300.0), (0.55, 1.0), (0.45, 0.8)),
            Self::Pink => ((324.0, 350.0), (0.28, 0.6), (0.94, 1.0)),
            Self::Cyan => ((176.0, 189.0), (0.6, 1.0), (0.82, 1.0)),
            Self::Brown => ((16.0, 30.0), (0.6, 0.85), (0.36, 0.58)),
            Self::Gray => ((0.0, 360.0), (0.0, 0.03), (0.42, 0.62)),
            Self::Black => ((0.0, 360.0), (0.0, 0.2), (0.0, 0.11)),
            Self::White => ((0.0, 360.0), (0.0, 0.03), (0.95, 1.0)),
        };
        Region { hue, saturation, value }
    }

    /// A colour other than those in `taken`.
    pub fn other(dice: &mut Dice, taken: &[Self]) -> Self {
        let free: Vec<Self> = Self::ALL.into_iter().filter(|c| !taken.contains(c)).collect();
        *dice.pick(if free.is_empty() { &Self::ALL } else { &free })
    }
}

/// Hue in degrees (any), saturation and value from 0 to 1.
pub(super) fn hsv(hue: f64, saturation: f64, value: f64) -> Rgb {
    let hue = (hue + 360.0) % 360.0 / 60.0;
    let channel = |offset: f64| {
        let place = (offset + hue) % 6.0;
        let part = place.min(4.0 - place).clamp(0.0, 1.0);
        ((value - value * saturation * part) * 255.0).round() as u8
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// How different two colours look, 0 to 765: the weighted distance known as "redmean".
pub(super) fn distance(one: Rgb, two: Rgb) -> f64 {
    let [r, g, b] = [0, 1, 2].map(|c| f64::from(one[c]) - f64::from(two[c]));
    let mean = (f64::from(one[0]) + f64::from(two[0])) / 2.0;
    let red = (2.0 + mean / 256.0) * r * r;
    let blue = (2.0 + (255.0 - mean) / 256.0) * b * b;
    (red + 4.0 * g * g + blue).sqrt()
}

/// How bright a colour is, 0 to 255 (the luma of ITU-R BT.601).
pub(super) fn lightness([r, g, b]: Rgb) -> f64 {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
}

/// The smallest distance between `colour` and one of `others`.
pub(super) fn contrast(colour: Rgb, others: &[Rgb]) -> f64 {
    others.iter().map(|other| distance(colour, *other)).fold(f64::INFINITY, f64::min)
}

/// A background that differs from all of `objects` by `least`, or the best of sixty tries.
pub(super) fn background(dice: &mut Dice, objects: &[Rgb], least: f64) -> Rgb {
    let mut best = ([255; 3], 0.0);
    for _ in 0..60 {
        let colour = any_background(dice);
        let contrast = contrast(colour, objects);
        if contrast >= least {
            return colour;
        }
        if contrast > best.1 {
            best = (colour, contrast);
        }
    }
    best.0
}

fn any_background(dice: &mut Dice) -> Rgb {
    let hue = dice.real(0.0, 360.0);
    match dice.weighted(&[0.2, 0.08, 0.12, 0.2, 0.16, 0.24]) {
        0 => grey(dice.real(0.96, 1.0)),
        1 => grey(dice.real(0.0, 0.1)),
        2 => grey(dice.real(0.1, 0.95)),
        3 => hsv(hue, dice.real(0.03, 0.3), dice.real(0.8, 1.0)),
        4 => hsv(hue, dice.real(0.1, 0.8), dice.real(0.1, 0.4)),
        _ => hsv(hue, dice.real(0.1, 0.9), dice.real(0.35, 0.95)),
    }
}

fn grey(value: f64) -> Rgb {
    [(value * 255.0).round() as u8; 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hue_saturation_and_value() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [255, 0, 0]);
        assert_eq!(hsv(120.0, 1.0, 1.0), [0, 255, 0]);
        assert_eq!(hsv(-120.0, 1.0, 1.0), [0, 0, 255]);
        assert_eq!(hsv(60.0, 0.5, 0.8), [204, 204, 102]);
    }

    #[test]
    fn no_shade_comes_near_another_name() {
        let mut dice = Dice::new(1, 1);
        for one in Colour::ALL {
            for two in Colour::ALL.into_iter().filter(|two| *two != one) {
                for _ in 0..400 {
                    let (a, b) = (one.shade(&mut dice), two.shade(&mut dice));
                    assert!(distance(a, b) > 60.0, "{one:?} {a:?} and {two:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn backgrounds_contrast() {
        let mut dice = Dice::new(1, 2);
        for _ in 0..500 {
            let objects: Vec<Rgb> =
                (0..4).map(|_| dice.pick(&Colour::ALL).shade(&mut dice.clone())).collect();
            let colour = background(&mut dice, &objects, 140.0);
            assert!(contrast(colour, &objects) >= 90.0, "{colour:?} on {objects:?}");
        }
    }
}
