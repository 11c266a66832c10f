//! Filled areas in a picture; what lies outside it is left out.

use qwen3_vl_model::processor::image::RgbImage;

use super::colour::Colour;

/// Pixels from `left`/`top` to before `right`/`bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub left: i64,
    pub top: i64,
    pub right: i64,
    pub bottom: i64,
}

/// A picture to draw into.
pub(super) struct Canvas<'a> {
    image: &'a mut RgbImage,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(image: &'a mut RgbImage) -> Self {
        Self { image }
    }

    pub(super) fn width(&self) -> i64 {
        i64::from(self.image.width)
    }

    pub(super) fn height(&self) -> i64 {
        i64::from(self.image.height)
    }

    /// Fills an area.
    pub(super) fn fill(&mut self, area: Area, colour: Colour) {
        let left = area.left.clamp(0, self.width()) as usize;
        let right = area.right.clamp(0, self.width()) as usize;
        let row_len = self.image.width as usize * 3;
        for y in area.top.clamp(0, self.height())..area.bottom.clamp(0, self.height()) {
            let start = y as usize * row_len;
            let row = self.image.data.get_mut(start + left * 3..start + right.max(left) * 3);
            row.unwrap_or_default().chunks_exact_mut(3).for_each(|p| p.copy_from_slice(&colour.0));
        }
    }

    /// Draws the outline of an area, inside it.
    pub(super) fn frame(&mut self, area: Area, line: i64, colour: Colour) {
        let Area { left, top, right, bottom } = area;
        self.fill(Area { bottom: bottom.min(top + line), ..area }, colour);
        self.fill(Area { top: top.max(bottom - line), ..area }, colour);
        self.fill(Area { right: right.min(left + line), ..area }, colour);
        self.fill(Area { left: left.max(right - line), ..area }, colour);
    }

    /// Fills a disc around the middle of a pixel.
    pub(super) fn disc(&mut self, (x, y): (i64, i64), radius: i64, colour: Colour) {
        for dy in -radius..=radius {
            let half = ((radius * radius - dy * dy) as f64).sqrt() as i64;
            let row = Area { left: x - half, top: y + dy, right: x + half + 1, bottom: y + dy + 1 };
            self.fill(row, colour);
        }
    }
}
