//! Host arithmetic of the vision tower: everything that follows from the grids alone.

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::VisionConfig;
use crate::processor::image::Grid;
use crate::rope::Rotary;

/// Coordinates, interpolation taps and attention segments of a batch of images or clips.
#[derive(Debug, Clone)]
pub struct VisionPlan {
    grids: Vec<Grid>,
    /// (row, column) of every patch in its own frame, in block order.
    coordinates: Vec<[u32; 2]>,
    /// Table rows and weights of the four bilinear taps of every patch, tap-major `[4, patches]`.
    tap_rows: Vec<i64>,
    tap_weights: Vec<f32>,
    /// Runs of frames of equal size.
    segments: Vec<Segment>,
    rope_theta: f64,
    head_dim: usize,
}

/// `frames` consecutive frames of `patches` patches each; attention stays inside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub frames: usize,
    pub patches: usize,
}

impl VisionPlan {
    /// The plan of `grids` in order.
    pub fn new(config: &VisionConfig, grids: &[Grid]) -> Self {
        let mut plan = Self {
            grids: grids.to_vec(),
            coordinates: Vec::new(),
            tap_rows: Vec::new(),
            tap_weights: Vec::new(),
            segments: segments(grids),
            rope_theta: config.rope_theta,
            head_dim: config.head_dim(),
        };
        let mut taps = Vec::new();
        for grid in grids {
            let frame: Vec<[u32; 2]> = block_order(grid, config.merge_size).collect();
            let frame_taps: Vec<Taps> =
                frame.iter().map(|at| Taps::new(*at, grid, config.position_side)).collect();
            for _ in 0..grid.t {
                plan.coordinates.extend_from_slice(&frame);
                taps.extend_from_slice(&frame_taps);
            }
        }
        for tap in 0..4 {
            plan.tap_rows.extend(taps.iter().map(|t| t.rows[tap]));
            plan.tap_weights.extend(taps.iter().map(|t| t.weights[tap]));
        }
        plan
    }

    /// Patches in all.
    pub fn patches(&self) -> usize {
        self.coordinates.len()
    }

    /// The grids that the plan was made of.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// Patches of every frame.
    pub fn frame_lengths(&self) -> Vec<usize> {
        let frames = |segment: &Segment| std::iter::repeat_n(segment.patches, segment.frames);
        self.segments.iter().flat_map(frames).collect()
    }

    /// Taps of the learned positions: table rows and weights, tap-major `[4 · patches]`.
    pub fn taps(&self) -> (&[i64], &[f32]) {
        (&self.tap_rows, &self.tap_weights)
    }

    /// Rotary tables, `[row · freq, column · freq]` per patch (HF `rot_pos_emb`).
    pub(crate) fn rotary(&self, device: &Device) -> Rotary {
        let quarter = self.head_dim / 4;
        let frequency = |k| self.rope_theta.powf(-((2 * k) as f64) / (self.head_dim / 2) as f64);
        let frequencies: Vec<f32> = (0..quarter).map(|k| frequency(k) as f32).collect();
        let angles: Vec<f32> = self
            .coordinates
            .iter()
            .flat_map(|at| at.iter().flat_map(|p| frequencies.iter().map(|f| *p as f32 * f)))
            .collect();
        Rotary::from_angles(&angles, 2 * quarter, 1.0, device)
    }

    pub(super) fn tap_tensors(&self, device: &Device) -> (Tensor<1, burn::tensor::Int>, Tensor<3>) {
        let n = self.patches();
        let rows = TensorData::new(self.tap_rows.clone(), [4 * n]);
        let weights = TensorData::new(self.tap_weights.clone(), [4, n, 1]);
        (
            Tensor::from_data(rows, device),
            Tensor::from_data(weights, (device, burn::tensor::DType::F32)),
        )
    }
}

/// Patches of one frame in the order of the patch rows: 2x2 blocks in raster order, raster order inside a block.
fn block_order(grid: &Grid, merge: usize) -> impl Iterator<Item = [u32; 2]> {
    let (rows, columns) = (grid.h / merge, grid.w / merge);
    (0..rows).flat_map(move |block_row| {
        (0..columns).flat_map(move |block_column| {
            (0..merge).flat_map(move |row| {
                (0..merge).map(move |column| {
                    [(block_row * merge + row) as u32, (block_column * merge + column) as u32]
                })
            })
        })
    })
}

fn segments(grids: &[Grid]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for grid in grids {
        match segments.last_mut() {
            Some(last) if last.patches == grid.h * grid.w => last.frames += grid.t,
            _ => segments.push(Segment { frames: grid.t, patches: grid.h * grid.w }),
        }
    }
    segments
}

/// Bilinear, corner-aligned interpolation of the square position table (HF `fast_pos_embed_interpolate`).
#[derive(Debug, Clone, Copy)]
struct Taps {
    rows: [i64; 4],
    weights: [f32; 4],
}

impl Taps {
    fn new([row, column]: [u32; 2], grid: &Grid, side: usize) -> Self {
        let (top, bottom, down) = neighbours(row, grid.h, side);
        let (left, right, across) = neighbours(column, grid.w, side);
        let at = |row: usize, column: usize| (row * side + column) as i64;
        Self {
            rows: [at(top, left), at(top, right), at(bottom, left), at(bottom, right)],
            weights: [
                (1.0 - down) * (1.0 - across),
                (1.0 - down) * across,
                down * (1.0 - across),
                down * across,
            ],
        }
    }
}

/// Lower and upper table index and the weight of the upper one, for position `index` of `length`.
fn neighbours(index: u32, length: usize, side: usize) -> (usize, usize, f32) {
    let source = index as f32 * (side - 1) as f32 / (length.max(2) - 1) as f32;
    let low = source.floor();
    let low_index = (low as usize).min(side - 1);
    (low_index, (low_index + 1).min(side - 1), source - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_before_rasters() {
        let order: Vec<_> = block_order(&Grid { t: 1, h: 2, w: 4 }, 2).collect();
        assert_eq!(order, [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]);
    }

    #[test]
    fn a_grid_of_the_tables_own_side_reads_the_table_as_it_is() {
        for at in 0..48 {
            assert_eq!(neighbours(at, 48, 48), (at as usize, (at as usize + 1).min(47), 0.0));
        }
        assert_eq!(neighbours(0, 1, 48), (0, 1, 0.0));
    }

    #[test]
    fn frames_of_equal_size_share_a_segment() {
        let grids = [(2, 4, 6), (1, 6, 4), (1, 2, 2)].map(|(t, h, w)| Grid { t, h, w });
        let expected = [Segment { frames: 3, patches: 24 }, Segment { frames: 1, patches: 4 }];
        assert_eq!(segments(&grids), expected);
    }
}
