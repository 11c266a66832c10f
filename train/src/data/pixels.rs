//! Whether boxes that lie in 0 to 1000 are pixels all the same.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Sample;
use super::prepare::Measured;

/// Fewest pictures that say something.
const FEWEST: usize = 3;
/// Thousandths that lie so improbably (log10 of the chance) are not thousandths.
const IMPROBABLE: f64 = -5.0;

/// What the boxes of one channel tell. Pixels never leave their picture, but thousandths, which reach to 1000 on pictures
/// of any size, do: points on a picture of 224 x 224 pixels nineteen times of twenty, and boxes more often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BoxEvidence {
    pub boxes: usize,
    /// Pictures with boxes.
    pub pictures: usize,
    /// Those of them that a box would leave, if its numbers were pixels.
    pub left: usize,
    /// Log10 of the chance that thousandths would leave none of them, if corners and points lay anywhere on the pictures.
    pub log_chance: f64,
}

impl BoxEvidence {
    /// Takes the boxes of a sample into account.
    pub fn add(&mut self, sample: &Sample, measured: &Measured) {
        // Boxes of one picture often lie beside each other, so that they count once.
        let mut farthest: BTreeMap<usize, (f64, f64, f64)> = BTreeMap::new();
        for found in &sample.boxes {
            let [left, top, right, bottom] = found.corners;
            let (x, y, corners) = farthest.entry(found.media).or_default();
            (*x, *y) = (x.max(right), y.max(bottom));
            *corners = corners.max(if (left, top) == (right, bottom) { 1.0 } else { 2.0 });
            self.boxes += 1;
        }
        for (media, (x, y, corners)) in farthest {
            let Some((width, height)) = measured.sizes.get(media) else { continue };
            let (width, height) = (f64::from(*width), f64::from(*height));
            self.pictures += 1;
            self.left += usize::from(x > width || y > height);
            let share = |side: f64| (side / 1000.0).min(1.0).log10();
            self.log_chance += corners * (share(width) + share(height));
        }
    }

    /// Whether the numbers probably are pixels.
    pub fn is_of_pixels(&self) -> bool {
        self.left == 0 && self.pictures >= FEWEST && self.log_chance <= IMPROBABLE
    }

    /// A sentence on the boxes of `channel`, where they probably are pixels.
    pub fn warning(&self, channel: &str) -> Option<String> {
        let Self { boxes, pictures, .. } = self;
        self.is_of_pixels().then(|| {
            format!(
                "Channel {channel}: all {boxes} boxes on {pictures} pictures lie inside their picture when they are read as \
                 pixels; they probably are pixels, where Qwen3-VL expects thousandths of width and height. \
                 `train show --draw` shows where they lie."
            )
        })
    }
}
