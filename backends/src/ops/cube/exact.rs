//! Products of f32 in f32.
//!
//! Where tensor cores take TF32, Burn multiplies f32 on them, whose factors have 10 bits of mantissa: results differ by some 1e-3
//! from those of every other device. Who asks for f32 is not served with that (torch has it off as well, see
//! `torch.backends.cuda.matmul.allow_tf32`); for speed there are bf16 and f16.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::std::InputBinding;

use super::launch::element;

/// `x [.., m, k] · y [.., k, n]`, by units that multiply and add in f32 where Burn would take TF32.
pub(super) fn product(x: CubeTensor, y: CubeTensor) -> CubeTensor {
    if !would_be_narrowed(&x, &y) || [&x, &y].iter().any(|t| t.shape().num_elements() == 0) {
        return CubeBackend::float_matmul(x, y);
    }
    let out = init_matmul_output(&x, &y, DType::F32);
    let f32 = element(DType::F32);
    let mut elements =
        MatmulElems::from_globals(&MatmulGlobalElems { lhs: f32, rhs: f32, out: f32 });
    let [a, b] = [&x, &y].map(|t| InputBinding::new(t.clone().binding(), f32));
    let units = Strategy::SimpleUnit(Default::default());
    let launched = launch_ref(&units.into(), &x.client, a, b, out.clone().binding(), &mut elements);
    match launched {
        Ok(()) => out,
        // No card is known that units do not run on.
        Err(_) => CubeBackend::float_matmul(x, y),
    }
}

fn would_be_narrowed(x: &CubeTensor, y: &CubeTensor) -> bool {
    let whole = [x, y].iter().all(|t| t.dtype == DType::F32);
    whole && x.client.properties().supports_type(ElemType::Float(FloatKind::TF32))
}
