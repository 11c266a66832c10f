//! Resized frames kept as bytes, cut into patches a few at a time.

use std::ops::Range;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::patchify::check_frames;
use super::{Grid, ImageError, Normalization, NormalizationTable, PatchLayout, RgbImage, patchify};

/// The frames of an image (one) or clip at the size that the vision tower takes.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedFrames {
    frames: Vec<RgbImage>,
    layout: PatchLayout,
    table: NormalizationTable,
    grid: Grid,
    key: LazyKey,
}

/// A digest that follows from the rest, so that it takes no part in comparisons.
#[derive(Debug, Clone, Default)]
struct LazyKey(OnceLock<[u8; 32]>);

impl PartialEq for LazyKey {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl PackedFrames {
    /// Frames of one size, which `layout` divides.
    ///
    /// # Errors
    /// As [`patchify`].
    pub fn new(
        frames: Vec<RgbImage>,
        layout: PatchLayout,
        normalization: &Normalization,
    ) -> Result<Self, ImageError> {
        let first = check_frames(&frames, layout.factor())?;
        let grid = layout.grid(frames.len(), first.height as usize, first.width as usize);
        Ok(Self { frames, layout, table: normalization.table(), grid, key: LazyKey::default() })
    }

    /// Patches of the whole clip.
    #[must_use]
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// How the frames are cut.
    #[must_use]
    pub fn layout(&self) -> &PatchLayout {
        &self.layout
    }

    /// The frames, before normalising.
    #[must_use]
    pub fn frames(&self) -> &[RgbImage] {
        &self.frames
    }

    /// Patch rows of the temporal patches `range`, as [`patchify`] makes them of the whole clip.
    ///
    /// # Panics
    /// When the range is empty or reaches past `grid().t`.
    #[must_use]
    pub fn patches(&self, range: Range<usize>) -> Vec<f32> {
        let temporal = self.layout.temporal;
        let end = (range.end * temporal).min(self.frames.len());
        let frames = &self.frames[range.start * temporal..end];
        let patches = patchify(frames, &self.layout, &self.table);
        patches.expect("the frames were checked when they were packed").pixel_values
    }

    /// A digest of everything that the patches follow from, computed when it is first asked for.
    #[must_use]
    pub fn content_key(&self) -> [u8; 32] {
        *self.key.0.get_or_init(|| {
            let mut digest = Sha256::new();
            let Grid { t, h, w } = self.grid;
            [t, h, w].iter().for_each(|side| digest.update((*side as u64).to_le_bytes()));
            self.frames.iter().for_each(|frame| digest.update(&frame.data));
            let channels = self.table.0.iter().flatten();
            channels.for_each(|value| digest.update(value.to_le_bytes()));
            digest.finalize().into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: PatchLayout = PatchLayout { patch: 2, temporal: 2, merge: 2 };
    const PLAIN: Normalization = Normalization { rescale: None, mean_std: None };

    fn clip(frames: u8) -> Vec<RgbImage> {
        let frame = |seed: u8| (0..4 * 8 * 3).map(|i| seed.wrapping_mul(31) ^ i as u8).collect();
        (0..frames).map(|seed| RgbImage::new(8, 4, frame(seed)).unwrap()).collect()
    }

    #[test]
    fn parts_of_a_clip_make_the_whole() {
        let frames = clip(5);
        let whole = patchify(&frames, &LAYOUT, &PLAIN.table()).unwrap();
        let packed = PackedFrames::new(frames, LAYOUT, &PLAIN).unwrap();
        assert_eq!(packed.grid(), whole.grid);
        assert_eq!(packed.patches(0..3), whole.pixel_values);
        let parts: Vec<f32> = (0..3).flat_map(|t| packed.patches(t..t + 1)).collect();
        assert_eq!(parts, whole.pixel_values);
    }

    #[test]
    fn a_changed_pixel_changes_the_hash() {
        let hash = |frames: Vec<RgbImage>| {
            PackedFrames::new(frames, LAYOUT, &PLAIN).unwrap().content_key()
        };
        let mut other = clip(2);
        other[1].data[5] ^= 1;
        assert_eq!(hash(clip(2)), hash(clip(2)));
        assert_ne!(hash(clip(2)), hash(other));
    }

    #[test]
    fn frames_that_do_not_divide_are_refused() {
        let odd = RgbImage::new(5, 4, vec![0; 60]).unwrap();
        assert!(matches!(
            PackedFrames::new(vec![odd], LAYOUT, &PLAIN),
            Err(ImageError::NotDivisible { .. })
        ));
    }
}
