//! Draws what an answer points at into the picture, and saves pictures.
//!
//! ```no_run
//! # use qwen3_vl::{draw, model};
//! # fn picture() -> model::processor::image::RgbImage { unimplemented!() }
//! let answer = r#"{"bbox_2d": [100, 200, 300, 400], "label": "dog"}"#;
//! let path = std::path::Path::new("out.png");
//! draw::check_output(path)?;
//! let found = model::grounding::parse_grounding(answer);
//! let mut image = picture();
//! let drawn = draw::draw(&mut image, &found.items, &draw::DrawStyle::default());
//! drawn.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
//! draw::save(&image, path)?;
//! # Ok::<(), draw::SaveError>(())
//! ```

mod canvas;
mod colour;
mod label;
mod save;
#[cfg(test)]
mod tests;

pub use save::{Format, SaveError, check_output, save};

use std::collections::BTreeSet;

use qwen3_vl_model::grounding::{Grounding, PixelBox, PixelPoint, PixelShape};
use qwen3_vl_model::processor::image::RgbImage;

use canvas::{Area, Canvas};
use colour::{Colour, Palette};
use label::Label;

/// How [`draw`] draws; what is `None` is chosen from the size of the picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrawStyle {
    /// Width of a box's lines, in pixels. A point's disc has three times this radius.
    pub line_width: Option<u32>,
    /// How many pixels a pixel of the 16 pixels high font has on a side.
    pub text_scale: Option<u32>,
    /// Leaves the captions out.
    pub no_labels: bool,
}

/// What [`draw`] drew, and what it could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawn {
    /// Boxes and points.
    pub shapes: usize,
    /// Captions that did not fit into the picture's width and end in `…`.
    pub shortened: usize,
    /// Characters of captions that the font lacks; each is drawn as U+FFFD.
    pub missing: BTreeSet<char>,
}

impl Drawn {
    /// A sentence for each thing that is not in the picture as the answer has it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.shortened > 0 {
            warnings.push(format!("{} captions are too long for the picture.", self.shortened));
        }
        if !self.missing.is_empty() {
            let list: Vec<String> = self.missing.iter().map(|c| format!("{c:?}")).collect();
            warnings.push(format!("The font has no glyph for {}.", list.join(", ")));
        }
        warnings
    }
}

/// Draws boxes as frames and points as discs, with their captions ([`Grounding::caption`]) on top of all of them.
///
/// All items with one label have one colour, from a palette that people with colour blindness tell apart; after
/// seven labels colours repeat. A frame lies inside its box. Captions are set in GNU Unifont, which has every
/// script of Unicode's basic plane; right-to-left text is not reordered and Indic scripts are not joined.
///
/// The items must belong to this picture, see [`Grounded::of_image`](qwen3_vl_model::grounding::Grounded::of_image).
pub fn draw<'a>(
    image: &mut RgbImage,
    items: impl IntoIterator<Item = &'a Grounding>,
    style: &DrawStyle,
) -> Drawn {
    let size = Sizes::of(image, style);
    let mut palette = Palette::default();
    let items: Vec<(PixelShape, Colour, Option<String>)> = items
        .into_iter()
        .map(|item| {
            let shape = item.shape.to_pixels(image.width, image.height);
            (shape, palette.colour_of(item.label.as_deref()), item.caption())
        })
        .collect();
    let mut canvas = Canvas::new(image);
    for (shape, colour, _) in &items {
        draw_shape(&mut canvas, *shape, *colour, &size);
    }
    let mut drawn = Drawn { shapes: items.len(), ..Drawn::default() };
    for (shape, colour, caption) in &items {
        if let Some(caption) = caption.as_deref().filter(|_| !style.no_labels) {
            draw_caption(&mut canvas, (*shape, *colour), caption, &size, &mut drawn);
        }
    }
    drawn
}

/// Lengths in pixels.
struct Sizes {
    line: i64,
    text_scale: i64,
}

impl Sizes {
    /// A picture whose shorter side has 1000 pixels gets lines of 5 pixels and text of 32.
    fn of(image: &RgbImage, style: &DrawStyle) -> Self {
        let side = image.width.min(image.height);
        let line = style.line_width.unwrap_or((side / 200).clamp(1, 40));
        let text_scale = style.text_scale.unwrap_or((side / 500).clamp(1, 20));
        // More than the picture's longer side looks no different.
        let within = |value: u32| i64::from(value.min(image.width.max(image.height)).max(1));
        Self { line: within(line), text_scale: within(text_scale) }
    }

    fn radius(&self) -> i64 {
        3 * self.line
    }
}

fn draw_shape(canvas: &mut Canvas<'_>, shape: PixelShape, colour: Colour, size: &Sizes) {
    match shape {
        PixelShape::Box(corners) => canvas.frame(area(corners), size.line, colour),
        PixelShape::Point(point) => {
            // The rim keeps it visible on a ground of its own colour.
            let centre = pixel(point);
            canvas.disc(centre, size.radius() + size.line, colour.ink());
            canvas.disc(centre, size.radius(), colour);
        }
    }
}

fn draw_caption(
    canvas: &mut Canvas<'_>,
    (shape, colour): (PixelShape, Colour),
    caption: &str,
    size: &Sizes,
    drawn: &mut Drawn,
) {
    let label = Label::new(caption, size.text_scale, canvas.width());
    if label.is_empty() {
        return;
    }
    let (width, height) = label.size();
    let (left, top) = match shape {
        PixelShape::Box(corners) => above(area(corners), height),
        PixelShape::Point(point) => {
            let (x, y) = pixel(point);
            let away = size.radius() + 2 * size.line;
            let fits_right = x + away + width <= canvas.width();
            (if fits_right { x + away } else { x - away - width }, y - height / 2)
        }
    };
    let left = left.clamp(0, (canvas.width() - width).max(0));
    let top = top.clamp(0, (canvas.height() - height).max(0));
    label.draw(canvas, (left, top), colour);
    drawn.shortened += usize::from(label.shortened);
    drawn.missing.extend(label.missing);
}

/// Where a caption of this height goes: on top of the box, inside it where there is no room above.
fn above(area: Area, height: i64) -> (i64, i64) {
    let top = if area.top >= height { area.top - height } else { area.top };
    (area.left, top)
}

/// The pixels of a box, at least one.
fn area(corners: PixelBox) -> Area {
    let (left, top) = (corners.x1.round() as i64, corners.y1.round() as i64);
    Area {
        left,
        top,
        right: (corners.x2.round() as i64).max(left + 1),
        bottom: (corners.y2.round() as i64).max(top + 1),
    }
}

/// The pixel that a point lies in.
fn pixel(point: PixelPoint) -> (i64, i64) {
    (point.x.floor() as i64, point.y.floor() as i64)
}
