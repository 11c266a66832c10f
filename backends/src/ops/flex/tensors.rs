//! Tensors as the kernels take them, and as they give them.

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};

use super::attention::Rows;
use super::filled::filled;
use super::rotary::{self, Angles, ROWS};
use crate::ops::kernels_on;

/// The values of contiguous tensors, where kernels are on and all are f32.
pub fn slices<const N: usize>(tensors: &[FlexTensor; N]) -> Option<[&[f32]; N]> {
    let usable = kernels_on() && tensors.iter().all(|t| t.dtype() == DType::F32);
    let usable = usable && tensors.iter().all(|t| t.shape().num_elements() > 0);
    usable.then(|| tensors.each_ref().map(rows_of))
}

/// `[n, heads, d]` tensors as rows.
pub fn head_rows(tensors: &[FlexTensor; 3]) -> Option<[Rows<'_>; 3]> {
    let values = slices(tensors)?;
    let rows = |i: usize| {
        let [_, heads, d] = tensors[i].shape().dims();
        Rows { values: values[i], stride: heads * d, heads, d }
    };
    Some([rows(0), rows(1), rows(2)])
}

/// Queries and keys after rotation, `[n, 2 · width]`, beside the values.
pub struct Turned<'a> {
    turned: Vec<f32>,
    qkv: &'a [f32],
    pub angles: Angles<'a>,
    pub width: usize,
}

impl<'a> Turned<'a> {
    /// From `qkv [n, 3 · width]`, `cos` and `sin`.
    pub fn new(inputs: &'a [FlexTensor; 3]) -> Option<Self> {
        let [qkv, cos, sin] = slices(inputs)?;
        let width = inputs[0].shape()[1] / 3;
        let angles = Angles { cos, sin, half: inputs[1].shape()[2] };
        let turned = filled(qkv.len() / 3 * 2, ROWS * 2 * width, |first, turned| {
            let row = first / (2 * width);
            let rows = turned.chunks_mut(2 * width).zip(qkv[row * 3 * width..].chunks(3 * width));
            rows.for_each(|(to, from)| to.copy_from_slice(&from[..2 * width]));
            let [cos, sin] = [cos, sin].map(|all| &all[row * angles.half..]);
            let angles = Angles { cos, sin, ..angles };
            rotary::rotate(turned, 2 * width, 2 * width, angles, false);
        });
        Some(Self { turned, qkv, angles, width })
    }

    pub fn rows(&self) -> [Rows<'_>; 3] {
        let (d, width) = (2 * self.angles.half, self.width);
        let heads = width / d;
        [
            Rows { values: &self.turned, stride: 2 * width, heads, d },
            Rows { values: &self.turned[width..], stride: 2 * width, heads, d },
            Rows { values: &self.qkv[2 * width..], stride: 3 * width, heads, d },
        ]
    }
}

pub fn rows_of(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>().expect("a contiguous f32 tensor")
}

/// The values of a contiguous tensor of f32 that nobody else holds, where kernels may be used.
pub fn own_values(x: &mut FlexTensor) -> Option<&mut [f32]> {
    let whole = x.layout().contiguous_offsets()? == (0, x.shape().num_elements());
    let usable = kernels_on() && x.dtype() == DType::F32 && whole;
    usable.then(|| x.try_storage_mut::<f32>()).flatten()
}

/// The bytes of a contiguous tensor of one-byte numbers.
pub fn bytes_of(x: &FlexTensor) -> Option<&[u8]> {
    let (start, end) = x.layout().contiguous_offsets()?;
    matches!(x.dtype(), DType::I8 | DType::U8).then(|| &x.bytes()[start..end])
}

pub fn f32_tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}
