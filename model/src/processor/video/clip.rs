//! Decoded frames, resized one by one.

use super::{PlannedVideo, VideoProcessError};
use crate::processor::image::{ImageError, PackedFrames, RgbImage, resize_bicubic};

/// Takes the frames of a [`PlannedVideo`] as they are decoded and keeps only their resized bytes.
///
/// The bytes are those of an image resized to the same size, which are those of transformers' video processor. Patches are cut
/// later, a few temporal patches at a time, from the [`PackedFrames`] that [`ClipBuilder::finish`] returns.
#[derive(Debug)]
pub struct ClipBuilder<'a> {
    plan: &'a PlannedVideo,
    frames: Vec<RgbImage>,
}

impl<'a> ClipBuilder<'a> {
    /// A clip without frames.
    #[must_use]
    pub fn new(plan: &'a PlannedVideo) -> Self {
        Self { plan, frames: Vec::new() }
    }

    /// The frame of the source that [`ClipBuilder::push`] waits for; `None` when the clip is complete.
    #[must_use]
    pub fn next_index(&self) -> Option<usize> {
        self.plan.selection.indices.get(self.frames.len()).copied()
    }

    /// Resizes the next decoded frame and keeps it. A frame that stands several times in the plan is pushed once.
    ///
    /// # Errors
    /// [`VideoProcessError::FrameSize`] where it has not the announced size, [`VideoProcessError::FrameCount`] when the clip is
    /// complete, [`VideoProcessError::Image`] for malformed pictures.
    pub fn push(&mut self, frame: &RgbImage) -> Result<(), VideoProcessError> {
        let Some(index) = self.next_index() else {
            let expected = self.plan.decoded_indices().len();
            return Err(VideoProcessError::FrameCount { expected, found: expected + 1 });
        };
        self.check(frame, index)?;
        let resized = resize_bicubic(frame, self.plan.resized_height, self.plan.resized_width);
        while self.next_index_after() == Some(index) {
            self.frames.push(resized.clone());
        }
        self.frames.push(resized);
        Ok(())
    }

    /// The resized clip.
    ///
    /// # Errors
    /// [`VideoProcessError::FrameCount`] while frames are missing.
    pub fn finish(self) -> Result<PackedFrames, VideoProcessError> {
        let expected = self.plan.decoded_indices().len();
        if self.next_index().is_some() {
            let mut pushed = self.plan.selection.indices[..self.frames.len()].to_vec();
            pushed.dedup();
            return Err(VideoProcessError::FrameCount { expected, found: pushed.len() });
        }
        Ok(PackedFrames::new(self.frames, self.plan.layout, &self.plan.normalization)?)
    }

    /// The frame after the one that [`ClipBuilder::push`] waits for.
    fn next_index_after(&self) -> Option<usize> {
        self.plan.selection.indices.get(self.frames.len() + 1).copied()
    }

    fn check(&self, frame: &RgbImage, index: usize) -> Result<(), VideoProcessError> {
        let (expected_width, expected_height) = (self.plan.source_width, self.plan.source_height);
        // Fields of a picture are public, so its data may not fit its size.
        let RgbImage { width, height, ref data } = *frame;
        if (width, height) != (expected_width, expected_height) {
            return Err(VideoProcessError::FrameSize {
                index,
                width,
                height,
                expected_width,
                expected_height,
            });
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        match data.len() as u64 == expected {
            true => Ok(()),
            false => Err(ImageError::DataLength { width, height, expected, actual: data.len() })?,
        }
    }
}
