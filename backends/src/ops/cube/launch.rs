//! What all launches share: outputs, widths of loads, and numbers of cubes.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::{CubeCount, CubeDim};

use crate::ops::kernels_on;

/// Most cubes along one axis of a launch; WebGPU promises no more.
pub(super) const CUBES: usize = 65_535;

/// Units of a cube in elementwise kernels.
const UNITS: usize = 256;

/// The element type of kernels for values of this dtype.
pub(super) fn element(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// Whether kernels are on and take these tensors: floats of at most 32 bits, and none empty.
pub(super) fn usable<const N: usize>(tensors: [&CubeTensor; N]) -> bool {
    let float = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    kernels_on() && tensors.iter().all(|t| float(t.dtype) && t.shape().num_elements() > 0)
}

/// A contiguous tensor of undefined values on the device of another.
pub(super) fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let handle = like.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// Numbers on the device of a tensor.
pub(super) fn table(like: &CubeTensor, words: &[u32]) -> CubeTensor {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (client, device) = (like.client.clone(), like.device.clone());
    let handle = client.create_from_slice(&bytes);
    CubeTensor::new_contiguous(client, device, Shape::new([words.len()]), handle, DType::U32)
}

/// Whether a tensor begins where `size` of its values may be loaded at once.
pub(super) fn starts_at(tensor: &CubeTensor, size: usize) -> bool {
    let bytes = (size * tensor.dtype.size()) as u64;
    tensor.handle.offset_start.unwrap_or(0).is_multiple_of(bytes)
}

/// How many values a unit loads at once: as many as the device likes where that divides all `lengths` (in values) and the
/// start of every tensor, else one.
pub(super) fn vector_size(tensors: &[&CubeTensor], lengths: &[usize]) -> usize {
    let fits = |size: &usize| {
        lengths.iter().all(|length| length.is_multiple_of(*size))
            && tensors.iter().all(|tensor| starts_at(tensor, *size))
    };
    let bytes = tensors.iter().map(|tensor| tensor.dtype.size()).max().unwrap_or(4);
    let widest = tensors[0].client.io_optimized_vector_sizes(bytes).max().unwrap_or(1);
    Some(widest).filter(fits).unwrap_or(1)
}

/// `count` cubes or a few more, as many axes as that takes; kernels number them by `CUBE_POS`.
pub(super) fn cubes(count: usize) -> CubeCount {
    let x = count.min(CUBES);
    CubeCount::Static(x as u32, count.div_ceil(x.max(1)) as u32, 1)
}

/// Cubes of one unit for each of `count` values or vectors.
pub(super) fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let units = UNITS.min(client.properties().hardware.max_units_per_cube as usize);
    (cubes(count.div_ceil(units)), CubeDim::new_1d(units as u32))
}
