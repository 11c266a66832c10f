//! Frames -> the rows that the vision tower embeds.

use super::{ImageError, NormalizationTable, RgbImage};
use crate::config::VisionConfig;
use rayon::prelude::*;

/// How a picture is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchLayout {
    /// Side of a patch in pixels (`patch_size`, 16).
    pub patch: usize,
    /// Frames of a patch (`temporal_patch_size`, 2).
    pub temporal: usize,
    /// Side, in patches, of the block that becomes one token (`merge_size`, 2).
    pub merge: usize,
}

impl std::fmt::Display for PatchLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { patch, temporal, merge } = self;
        write!(f, "patch_size {patch}, temporal_patch_size {temporal}, merge_size {merge}")
    }
}

impl PatchLayout {
    /// The one that a vision tower reads.
    #[must_use]
    pub fn of(vision: &VisionConfig) -> Self {
        Self {
            patch: vision.patch_size,
            temporal: vision.temporal_patch_size,
            merge: vision.merge_size,
        }
    }

    /// Side of a token in pixels: every picture is a multiple of it.
    #[must_use]
    pub fn factor(&self) -> usize {
        self.patch * self.merge
    }

    /// Floats of one patch row, `3 * temporal * patch * patch`.
    #[must_use]
    pub fn row_len(&self) -> usize {
        3 * self.temporal * self.patch * self.patch
    }

    /// The grid of `frames` frames of `height` x `width` pixels; frames that do not fill a patch count as one.
    #[must_use]
    pub fn grid(&self, frames: usize, height: usize, width: usize) -> Grid {
        Grid { t: frames.div_ceil(self.temporal), h: height / self.patch, w: width / self.patch }
    }
}

/// Patches of one image or clip, before merging (`image_grid_thw`, `video_grid_thw`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Temporal patches; 1 for an image.
    pub t: usize,
    /// Patch rows.
    pub h: usize,
    /// Patch columns.
    pub w: usize,
}

impl Grid {
    /// Rows of `pixel_values`.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.t * self.h * self.w
    }

    /// Tokens in the prompt, after merging `merge_size` x `merge_size` patches into one.
    #[must_use]
    pub fn tokens(&self, merge_size: usize) -> usize {
        self.patches() / (merge_size * merge_size)
    }
}

/// What the vision tower takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePatches {
    /// `[grid.patches(), 3 * temporal * patch * patch]`, row-major.
    pub pixel_values: Vec<f32>,
    /// The grid of these patches.
    pub grid: Grid,
}

/// Normalises frames and packs them into patch rows.
///
/// A row is one patch, `[3, temporal, patch, patch]` flattened. Rows run over temporal patches, then over blocks of
/// `merge` x `merge` patches in raster order, then over the patches of the block: the pixels `[t, temporal, 3, h/m, m, p,
/// w/m, m, p]` permuted to `[t, h/m, w/m, m, m, 3, temporal, p, p]`. The last frame is repeated where a temporal patch
/// lacks frames, so an image is a clip of one frame.
///
/// # Errors
/// [`ImageError::NoFrames`], [`ImageError::FrameSize`] where frames differ in size, [`ImageError::NotDivisible`],
/// [`ImageError::ZeroSize`], [`ImageError::DataLength`].
pub fn patchify(
    frames: &[RgbImage],
    layout: &PatchLayout,
    table: &NormalizationTable,
) -> Result<ImagePatches, ImageError> {
    let first = check_frames(frames, layout.factor())?;
    let grid = layout.grid(frames.len(), first.height as usize, first.width as usize);
    let mut pixel_values = vec![0.0; grid.patches() * layout.row_len()];
    let block_row = grid.w * layout.merge * layout.row_len();
    let block_rows = grid.h / layout.merge;
    pixel_values.par_chunks_mut(block_row).enumerate().for_each(|(i, out)| {
        let source = BlockRow {
            frames,
            layout,
            table,
            first_frame: i / block_rows * layout.temporal,
            top: i % block_rows * layout.factor(),
        };
        source.pack(out);
    });
    Ok(ImagePatches { pixel_values, grid })
}

pub(super) fn check_frames(frames: &[RgbImage], factor: usize) -> Result<&RgbImage, ImageError> {
    let first = frames.first().ok_or(ImageError::NoFrames)?;
    for (index, frame) in frames.iter().enumerate() {
        frame.check()?;
        if (frame.width, frame.height) != (first.width, first.height) {
            return Err(ImageError::FrameSize {
                index,
                width: frame.width,
                height: frame.height,
                first_width: first.width,
                first_height: first.height,
            });
        }
    }
    let (width, height) = (first.width as usize, first.height as usize);
    if !width.is_multiple_of(factor) || !height.is_multiple_of(factor) {
        return Err(ImageError::NotDivisible { width, height, factor });
    }
    Ok(first)
}

/// One temporal patch of one row of blocks.
struct BlockRow<'a> {
    frames: &'a [RgbImage],
    layout: &'a PatchLayout,
    table: &'a NormalizationTable,
    first_frame: usize,
    /// Uppermost pixel row.
    top: usize,
}

impl BlockRow<'_> {
    fn pack(&self, out: &mut [f32]) {
        let PatchLayout { patch, merge, .. } = *self.layout;
        for (i, row) in out.chunks_exact_mut(self.layout.row_len()).enumerate() {
            let (block, in_block) = (i / (merge * merge), i % (merge * merge));
            let y = self.top + in_block / merge * patch;
            let x = (block * merge + in_block % merge) * patch;
            self.pack_patch(y, x, row);
        }
    }

    fn pack_patch(&self, y: usize, x: usize, row: &mut [f32]) {
        let area = self.layout.patch * self.layout.patch;
        let channels = row.chunks_exact_mut(self.layout.temporal * area);
        for ((channel, slab), table) in channels.enumerate().zip(&self.table.0) {
            for t in 0..self.layout.temporal {
                let frame = self.first_frame + t;
                if t > 0 && frame >= self.frames.len() {
                    slab.copy_within((t - 1) * area..t * area, t * area);
                } else {
                    let out = &mut slab[t * area..(t + 1) * area];
                    self.pack_plane(&self.frames[frame], (y, x, channel), table, out);
                }
            }
        }
    }

    /// One channel of one frame of a patch.
    fn pack_plane(
        &self,
        frame: &RgbImage,
        (y, x, channel): (usize, usize, usize),
        table: &[f32; 256],
        out: &mut [f32],
    ) {
        let patch = self.layout.patch;
        let rows = frame.data.chunks_exact(frame.row_len()).skip(y);
        for (line, row) in out.chunks_exact_mut(patch).zip(rows) {
            let pixels = row[x * 3..(x + patch) * 3].as_chunks::<3>().0;
            for (value, pixel) in line.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::image::Normalization;

    const LAYOUT: PatchLayout = PatchLayout { patch: 2, temporal: 2, merge: 2 };

    /// Sample values as floats, unchanged.
    fn plain() -> NormalizationTable {
        Normalization { rescale: None, mean_std: None }.table()
    }

    /// Red holds the row, green the column, blue the frame.
    fn frame(number: u8, height: u32, width: u32) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| [y as u8, x as u8, number]));
        RgbImage::new(width, height, pixels.flatten().collect()).unwrap()
    }

    #[test]
    fn rows_run_block_by_block() {
        let out = patchify(&[frame(9, 8, 4)], &LAYOUT, &plain()).unwrap();
        assert_eq!(out.grid, Grid { t: 1, h: 4, w: 2 });
        assert_eq!((out.grid.patches(), out.grid.tokens(2)), (8, 2));
        let rows: Vec<&[f32]> = out.pixel_values.chunks_exact(24).collect();
        let corners: Vec<(f32, f32)> = rows.iter().map(|row| (row[0], row[8])).collect();
        let expected = [(0, 0), (0, 2), (2, 0), (2, 2), (4, 0), (4, 2), (6, 0), (6, 2)];
        assert_eq!(corners, expected.map(|(y, x)| (y as f32, x as f32)));
        // red of both frames, green of both frames, blue of both frames
        assert_eq!(rows[0][..8], [0., 0., 1., 1., 0., 0., 1., 1.]);
        assert_eq!(rows[0][8..16], [0., 1., 0., 1., 0., 1., 0., 1.]);
        assert_eq!(rows[0][16..], [9.0; 8]);
    }

    #[test]
    fn an_odd_clip_repeats_its_last_frame() {
        let frames: Vec<RgbImage> = (1..=3).map(|i| frame(i, 4, 4)).collect();
        let out = patchify(&frames, &LAYOUT, &plain()).unwrap();
        assert_eq!(out.grid, Grid { t: 2, h: 2, w: 2 });
        assert_eq!(out.pixel_values[16..24], [1., 1., 1., 1., 2., 2., 2., 2.]);
        let last = &out.pixel_values[4 * 24..];
        assert_eq!(last[16..24], [3.0; 8]);
    }

    #[test]
    fn refuses_what_cannot_be_cut() {
        let refuse = |frames: &[RgbImage]| patchify(frames, &LAYOUT, &plain()).unwrap_err();
        assert!(matches!(refuse(&[]), ImageError::NoFrames));
        assert!(matches!(refuse(&[frame(0, 6, 4)]), ImageError::NotDivisible { factor: 4, .. }));
        let mixed = [frame(0, 4, 4), frame(0, 4, 8)];
        assert!(matches!(refuse(&mixed), ImageError::FrameSize { index: 1, .. }));
    }
}
