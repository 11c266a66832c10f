//! Rotation by half-split pairs, shared by the vision tower and the language model.

use burn::tensor::{DType, Device, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::ops;

/// Cosines and sines of the rotary angles of `n` rows, `[n, 1, head_dim / 2]` each, in f32.
///
/// HF keeps them twice side by side (`cat(angles, angles)`); one half says the same.
#[derive(Debug, Clone)]
pub struct Rotary {
    pub cos: Tensor<3>,
    pub sin: Tensor<3>,
}

impl Rotary {
    /// Uploads `angles`, row-major `[n, half]`, whose cosine and sine are multiplied by `scale`.
    pub fn from_angles(angles: &[f32], half: usize, scale: f32, device: &Device) -> Self {
        let rows = angles.len() / half;
        let upload = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle) * scale).collect();
            Tensor::from_data(TensorData::new(values, [rows, 1, half]), (device, DType::F32))
        };
        Self { cos: upload(f32::cos), sin: upload(f32::sin) }
    }

    /// The same tables in another dtype.
    pub fn cast(self, dtype: DType) -> Self {
        Self { cos: self.cos.cast(dtype), sin: self.sin.cast(dtype) }
    }

    /// The same tables on another device.
    pub(crate) fn move_to(self, device: &Device) -> Self {
        Self { cos: lost::moved(self.cos, device), sin: lost::moved(self.sin, device) }
    }

    /// HF `rotate_half` form: `x [n, heads, head_dim]`, halves `a|b` become `a·cos − b·sin | b·cos + a·sin`.
    /// Runs in the tables' dtype and returns the dtype of `x`.
    pub fn rotate(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rotate(x, self.cos.clone(), self.sin.clone())
    }

    /// Cosines and sines.
    pub(crate) fn tables(&self) -> [Tensor<3>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }

    /// The tables as transformers shows them: `[n, head_dim]` with both halves.
    pub fn full(&self) -> (Tensor<2>, Tensor<2>) {
        let twice = |half: &Tensor<3>| {
            let rows = half.clone().squeeze_dim::<2>(1);
            Tensor::cat(vec![rows.clone(), rows], 1)
        };
        (twice(&self.cos), twice(&self.sin))
    }
}
