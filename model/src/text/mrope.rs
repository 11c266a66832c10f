//! Interleaved multi-axis rotary embedding (HF `Qwen3VLTextRotaryEmbedding`).

use burn::tensor::{DType, Device};

use super::positions::Position;
use crate::config::{RopeConfig, YarnConfig};
use crate::rope::Rotary;

/// Frequencies and their axes, computed once per model.
#[derive(Debug, Clone, PartialEq)]
pub struct Mrope {
    /// `head_dim / 2` frequencies in f32.
    frequencies: Vec<f32>,
    /// Axis (0 time, 1 height, 2 width) of each frequency.
    axes: Vec<usize>,
    /// Multiplies cos and sin; 1 unless YaRN.
    attention_factor: f32,
}

impl Mrope {
    /// Tables for heads of `head_dim`.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let half = head_dim / 2;
        let plain = |k: usize| config.theta.powf(-((2 * k) as f64) / head_dim as f64);
        let frequency = |k| match &config.yarn {
            None => plain(k),
            Some(yarn) => yarn_frequency(yarn, config.theta, head_dim, k),
        };
        Self {
            frequencies: (0..half).map(|k| frequency(k) as f32).collect(),
            axes: (0..half).map(|k| axis(k, &config.sections)).collect(),
            attention_factor: config.yarn.as_ref().map_or(1.0, |y| y.attention_factor as f32),
        }
    }

    /// The frequencies (HF `inv_freq`).
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// The axis of every frequency.
    pub fn axes(&self) -> &[usize] {
        &self.axes
    }

    /// Multiplier of cos and sin (HF `attention_scaling`).
    pub fn attention_factor(&self) -> f32 {
        self.attention_factor
    }

    /// Angles `position · frequency` in f32, exact to positions of a million; tables in `compute`.
    pub fn rotary(&self, positions: &[Position], compute: DType, device: &Device) -> Rotary {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|at| {
                self.frequencies.iter().zip(&self.axes).map(|(f, axis)| at.0[*axis] as f32 * f)
            })
            .collect();
        Rotary::from_angles(&angles, self.frequencies.len(), self.attention_factor, device)
            .cast(compute)
    }
}

/// T H W T H W ... while the sections of H and W last, then T.
fn axis(k: usize, sections: &[usize; 3]) -> usize {
    let axis = k % 3;
    if axis > 0 && k < 3 * sections[axis] { axis } else { 0 }
}

/// HF `_compute_yarn_parameters`: interpolated below, extrapolated above, a ramp between.
fn yarn_frequency(yarn: &YarnConfig, theta: f64, head_dim: usize, k: usize) -> f64 {
    let dim = head_dim as f64;
    let length = yarn.original_max_position_embeddings as f64;
    let correction = |rotations: f64| {
        dim * (length / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
    };
    let (low, high) = (correction(yarn.beta_fast), correction(yarn.beta_slow));
    let (low, high) = if yarn.truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    let width = if low == high { 0.001 } else { high - low };
    let ramp = ((k as f64 - low) / width).clamp(0.0, 1.0);
    let frequency = theta.powf(-((2 * k) as f64) / dim);
    frequency / yarn.factor * ramp + frequency * (1.0 - ramp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RopeConfig {
        RopeConfig { theta: 5e6, sections: [24, 20, 20], yarn: None }
    }

    #[test]
    fn the_published_sections_interleave_and_end_in_time() {
        let mrope = Mrope::new(&config(), 128);
        let count = |axis| mrope.axes().iter().filter(|a| **a == axis).count();
        assert_eq!([count(0), count(1), count(2)], [24, 20, 20]);
        assert_eq!(mrope.axes()[..6], [0, 1, 2, 0, 1, 2]);
        assert_eq!(mrope.axes()[60..], [0, 0, 0, 0]);
    }

    /// A table rounded to bf16 would be off by whole turns here.
    #[test]
    fn angles_up_to_a_million_are_those_of_f32() {
        let device = qwen3_vl_backends::device::select(None).unwrap().device;
        let mrope = Mrope::new(&config(), 128);
        for position in [200_000, 999_999, 1_048_575] {
            let rotary = mrope.rotary(&[Position([position; 3])], DType::F32, &device);
            let cos = rotary.cos.to_data().try_to_vec::<f32>().unwrap();
            for (k, found) in cos.iter().enumerate() {
                let exact = (position as f32 * mrope.frequencies()[k]) as f64;
                let off = (*found as f64 - exact.cos()).abs();
                assert!(off < 1e-6, "position {position}, frequency {k}: {off}");
            }
        }
    }
}
