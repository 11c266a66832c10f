//! From marks to pixels: background, anti-aliasing, blur, noise and JPEG-like artefacts.

use tiny_skia::{
    FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, PremultipliedColorU8, Stroke, Transform,
};

use super::blocks::artefacts;
use super::geometry::Point;
use super::letters::Lettering;
use super::palette::{Rgb, background, contrast, distance, lightness};
use super::rng::Dice;

/// A picture in memory, row by row, three bytes a pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// What is drawn on the background, in order.
pub(super) enum Mark<'a> {
    Polygon { points: &'a [Point], rgb: Rgb, outline: Option<(Rgb, f64)> },
    Letters { lettering: &'a Lettering, place: Transform, rgb: Rgb },
}

/// How a picture is drawn, apart from what is on it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    base: Rgb,
    /// The colour at the other end, and the direction of the change.
    gradient: Option<(Rgb, Point)>,
    /// Size of slow changes of brightness.
    blotches: f64,
    /// Standard deviation of the noise, in steps of 255.
    noise: f64,
    noise_over_all: bool,
    noise_in_colour: bool,
    noise_seed: u64,
    /// Pixels are this many samples wide and high.
    samples: u32,
    antialias: bool,
    /// Passes of a 3 x 3 blur.
    blur: u8,
    jpeg: Option<(u8, bool)>,
}

impl Look {
    /// A background on which all of `objects` can be seen.
    pub fn new(dice: &mut Dice, objects: &[Rgb]) -> Self {
        Self::with_noise(dice, objects, 28.0)
    }

    /// A background for letters, whose lines are thin: less noise.
    pub fn for_letters(dice: &mut Dice, objects: &[Rgb]) -> Self {
        Self::with_noise(dice, objects, 15.0)
    }

    fn with_noise(dice: &mut Dice, objects: &[Rgb], most: f64) -> Self {
        let noisy = dice.chance(0.4);
        let noise = if noisy { dice.real(2.0, most) } else { 0.0 };
        let blotches = if dice.chance(0.15) { dice.real(5.0, 25.0) } else { 0.0 };
        let least = 140.0 + 1.5 * noise + 1.5 * blotches;
        let base = background(dice, objects, least);
        let gradient = if dice.chance(0.25) { gradient(dice, base, objects, least) } else { None };
        let (samples, antialias) = match dice.weighted(&[0.45, 0.2, 0.2, 0.15]) {
            0 => (1, true),
            1 => (1, false),
            2 => (2, true),
            _ => (3, false),
        };
        let quality = dice.whole(35, 92) as u8;
        Self {
            base,
            gradient,
            blotches,
            noise,
            noise_over_all: dice.chance(0.5),
            noise_in_colour: dice.chance(0.5),
            noise_seed: u64::from(dice.bits()),
            samples,
            antialias,
            blur: [0, 1, 2][dice.weighted(&[0.82, 0.13, 0.05])],
            jpeg: dice.chance(0.2).then(|| (quality, dice.chance(0.7))),
        }
    }

    /// A plain background without any artefact.
    #[cfg(test)]
    pub fn plain(base: Rgb) -> Self {
        Self {
            base,
            gradient: None,
            blotches: 0.0,
            noise: 0.0,
            noise_over_all: false,
            noise_in_colour: false,
            noise_seed: 0,
            samples: 1,
            antialias: true,
            blur: 0,
            jpeg: None,
        }
    }

    /// The same look with other noise, for the next frame of a film.
    pub fn next_frame(&self) -> Self {
        Self { noise_seed: self.noise_seed + 1, ..self.clone() }
    }

    /// Whether letters of this colour can be read everywhere: they differ in brightness, not only in colour.
    pub fn shows_letters(&self, ink: Rgb) -> bool {
        let far = self.gradient.map(|(far, _)| far);
        let unrest = self.noise + self.blotches;
        [Some(self.base), far].into_iter().flatten().all(|ground| {
            let step = (lightness(ground) - lightness(ink)).abs();
            step >= 45.0 + 1.5 * unrest && distance(ground, ink) >= 170.0 + 2.0 * unrest
        })
    }

    /// Draws `marks` on this background; `size` is width and height.
    pub fn draw(&self, size: (u32, u32), marks: &[Mark<'_>]) -> Drawn {
        let mut dice = Dice::new(self.noise_seed, u64::MAX);
        let (width, height) = size;
        let mut rgb = self.backdrop(size, &mut dice);
        if !self.noise_over_all {
            self.add_noise(&mut rgb, &mut dice);
        }
        if let Some(layer) = self.layer(size, marks) {
            compose(&mut rgb, &layer, size, self.samples);
        }
        (0..self.blur).for_each(|_| blur(&mut rgb, width as usize, height as usize));
        if self.noise_over_all {
            self.add_noise(&mut rgb, &mut dice);
        }
        if let Some((quality, halve)) = self.jpeg {
            artefacts(&mut rgb, width as usize, quality, halve);
        }
        Drawn { width, height, rgb }
    }

    fn backdrop(&self, (width, height): (u32, u32), dice: &mut Dice) -> Vec<u8> {
        if self.gradient.is_none() && self.blotches == 0.0 {
            return self.base.repeat(width as usize * height as usize);
        }
        let (far, [dx, dy]) = self.gradient.unwrap_or((self.base, [1.0, 0.0]));
        let change = [0, 1, 2].map(|c| f64::from(far[c]) - f64::from(self.base[c]));
        let grid: [f64; 36] = std::array::from_fn(|_| dice.normal() * self.blotches * 0.5);
        let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
        for y in 0..height {
            let v = (f64::from(y) + 0.5) / f64::from(height);
            for x in 0..width {
                let u = (f64::from(x) + 0.5) / f64::from(width);
                let part = (0.5 + (u - 0.5) * dx + (v - 0.5) * dy).clamp(0.0, 1.0);
                let light = if self.blotches > 0.0 { smooth(&grid, u, v) } else { 0.0 };
                rgb.extend(
                    [0, 1, 2].map(|c| (f64::from(self.base[c]) + change[c] * part + light) as u8),
                );
            }
        }
        rgb
    }

    fn add_noise(&self, rgb: &mut [u8], dice: &mut Dice) {
        if self.noise == 0.0 {
            return;
        }
        for pixel in rgb.chunks_exact_mut(3) {
            let mut step = dice.normal() * self.noise;
            for byte in pixel {
                *byte = (f64::from(*byte) + step).round() as u8;
                if self.noise_in_colour {
                    step = dice.normal() * self.noise;
                }
            }
        }
    }

    /// The marks alone, on nothing; `None` where there are none.
    fn layer(&self, (width, height): (u32, u32), marks: &[Mark<'_>]) -> Option<Pixmap> {
        if marks.is_empty() {
            return None;
        }
        let mut pixmap = Pixmap::new(width * self.samples, height * self.samples)?;
        let scale = Transform::from_scale(self.samples as f32, self.samples as f32);
        marks.iter().for_each(|mark| self.mark(&mut pixmap, mark, scale));
        Some(pixmap)
    }

    fn mark(&self, pixmap: &mut Pixmap, mark: &Mark<'_>, scale: Transform) {
        match mark {
            Mark::Polygon { points, rgb, outline } => {
                let Some(path) = closed(points) else { return };
                self.fill(pixmap, &path, *rgb, scale);
                if let Some((rgb, width)) = outline {
                    let line_join = LineJoin::Round;
                    let stroke = Stroke { width: *width as f32, line_join, ..Stroke::default() };
                    pixmap.stroke_path(&path, &self.paint(*rgb), &stroke, scale, None);
                }
            }
            Mark::Letters { lettering, place, rgb } => {
                let transform = place.post_concat(scale);
                if lettering.fill {
                    self.fill(pixmap, &lettering.path, *rgb, transform);
                }
                if let Some(stroke) = &lettering.stroke {
                    let paint = self.paint(*rgb);
                    pixmap.stroke_path(&lettering.path, &paint, stroke, transform, None);
                }
            }
        }
    }

    fn fill(&self, pixmap: &mut Pixmap, path: &Path, rgb: Rgb, transform: Transform) {
        pixmap.fill_path(path, &self.paint(rgb), FillRule::Winding, transform, None);
    }

    fn paint(&self, [r, g, b]: Rgb) -> Paint<'static> {
        let mut paint = Paint::default();
        paint.set_color_rgba8(r, g, b, 255);
        paint.anti_alias = self.antialias;
        paint
    }
}

/// A second colour not far from `base` on which all `objects` can be seen too.
fn gradient(dice: &mut Dice, base: Rgb, objects: &[Rgb], least: f64) -> Option<(Rgb, Point)> {
    for _ in 0..20 {
        let far = base.map(|byte| (f64::from(byte) + dice.real(-90.0, 90.0)).round() as u8);
        let middle = [0, 1, 2].map(|c| far[c] / 2 + base[c] / 2);
        if contrast(far, objects) >= least && contrast(middle, objects) >= least {
            let (x, y) = (dice.real(-1.0, 1.0), dice.real(-1.0, 1.0));
            return Some((far, [x, y]));
        }
    }
    None
}

/// A 6 x 6 grid of values, interpolated.
fn smooth(grid: &[f64; 36], u: f64, v: f64) -> f64 {
    let (x, y) = (u.clamp(0.0, 0.999) * 5.0, v.clamp(0.0, 0.999) * 5.0);
    let (column, row) = (x as usize, y as usize);
    let (fx, fy) = (x - column as f64, y - row as f64);
    let at = |dx: usize, dy: usize| grid[(row + dy) * 6 + column + dx];
    let top = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
    let bottom = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
    top * (1.0 - fy) + bottom * fy
}

fn closed(points: &[Point]) -> Option<Path> {
    let (first, rest) = points.split_first()?;
    let mut builder = PathBuilder::new();
    builder.move_to(first[0] as f32, first[1] as f32);
    rest.iter().for_each(|point| builder.line_to(point[0] as f32, point[1] as f32));
    builder.close();
    builder.finish()
}

/// Puts `layer`, `samples` times as large, on the picture.
fn compose(rgb: &mut [u8], layer: &Pixmap, (width, _): (u32, u32), samples: u32) {
    let (width, samples) = (width as usize, samples as usize);
    let (pixels, row) = (layer.pixels(), width * samples);
    let area = (samples * samples) as u32;
    for (place, target) in rgb.chunks_exact_mut(3).enumerate() {
        let corner = place / width * samples * row + place % width * samples;
        let mut sum = [0u32; 4];
        for y in 0..samples {
            let line = &pixels[corner + y * row..corner + y * row + samples];
            line.iter().for_each(|pixel| add(&mut sum, *pixel));
        }
        if sum[3] == 0 {
            continue;
        }
        let full = 255 * area;
        for (byte, value) in target.iter_mut().zip(sum) {
            let below = u32::from(*byte) * (full - sum[3]) / 255;
            *byte = ((value + below + area / 2) / area).min(255) as u8;
        }
    }
}

fn add(sum: &mut [u32; 4], pixel: PremultipliedColorU8) {
    let bytes = [pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()];
    sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum += u32::from(byte));
}

/// One pass of the weights 1, 2, 1 in both directions; the border stays.
fn blur(rgb: &mut [u8], width: usize, height: usize) {
    for step in [3, width * 3] {
        let before = rgb.to_vec();
        let (first, last) = if step == 3 { (0, height) } else { (1, height.saturating_sub(1)) };
        for y in first..last {
            let columns = if step == 3 { 3..width * 3 - 3 } else { 0..width * 3 };
            for x in columns {
                let place = y * width * 3 + x;
                let value = |place: usize| u16::from(before[place]);
                let sum = value(place - step) + 2 * value(place) + value(place + step);
                rgb[place] = ((sum + 2) / 4) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square() -> Vec<Point> {
        vec![[10.0, 10.0], [30.0, 10.0], [30.0, 20.0], [10.0, 20.0]]
    }

    #[test]
    fn every_number_of_samples_gives_the_same_square() {
        let points = square();
        for (samples, antialias) in [(1, false), (1, true), (2, true), (3, false)] {
            let look = Look { samples, antialias, ..Look::plain([250, 250, 250]) };
            let marks = [Mark::Polygon { points: &points, rgb: [200, 10, 20], outline: None }];
            let drawn = look.draw((40, 30), &marks);
            for (place, pixel) in drawn.rgb.chunks_exact(3).enumerate() {
                let (x, y) = (place % 40, place / 40);
                let inside = (10..30).contains(&x) && (10..20).contains(&y);
                let wanted = if inside { [200, 10, 20] } else { [250, 250, 250] };
                assert_eq!(pixel, wanted, "{samples} {antialias} at {x}, {y}");
            }
        }
    }

    #[test]
    fn noise_has_the_asked_strength_and_repeats() {
        let look = Look { noise: 12.0, noise_in_colour: true, ..Look::plain([128; 3]) };
        let drawn = look.draw((100, 100), &[]);
        let square = |byte: &u8| (f64::from(*byte) - 128.0).powi(2) / 30_000.0;
        let deviation = drawn.rgb.iter().map(square).sum::<f64>().sqrt();
        assert!((11.0..13.0).contains(&deviation), "{deviation}");
        assert_eq!(drawn, look.draw((100, 100), &[]));
        assert_ne!(drawn, look.next_frame().draw((100, 100), &[]));
    }

    #[test]
    fn a_blur_keeps_the_mean_and_softens_edges() {
        let points = square();
        let marks = [Mark::Polygon { points: &points, rgb: [0; 3], outline: None }];
        let sharp = Look::plain([200; 3]).draw((40, 30), &marks);
        let soft = Look { blur: 1, ..Look::plain([200; 3]) }.draw((40, 30), &marks);
        let sum = |drawn: &Drawn| drawn.rgb.iter().map(|byte| i64::from(*byte)).sum::<i64>();
        assert!((sum(&sharp) - sum(&soft)).abs() < 1500);
        assert!(soft.rgb.iter().any(|byte| (60..140).contains(byte)));
        assert!(!sharp.rgb.iter().any(|byte| (60..140).contains(byte)));
    }
}
