//! The weight of a linear layer or of an embedding: as it was trained, or rounded to a few bits.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::tensor::{Device, Int, Tensor};
use qwen3_vl_backends::ops;
use qwen3_vl_backends::quant::QuantScheme;

/// `[out, in]`. As a module it is what it holds, under no name of its own, so that a weight as it was trained has the path
/// that it would have alone.
#[derive(Debug, Clone)]
pub enum Weight {
    Dense(Param<Tensor<2>>),
    Quantised(Quantised),
}

/// Codes and scales of a rounded weight, see [`qwen3_vl_backends::quant`]. It takes no part in training.
#[derive(Module, Debug)]
pub struct Quantised {
    codes: Param<Tensor<2, Int>>,
    scales: Param<Tensor<2>>,
    #[module(skip)]
    scheme: QuantScheme,
    inputs: usize,
}

impl Quantised {
    /// A weight of `inputs` columns.
    ///
    /// # Panics
    /// When codes and scales do not have the shapes that `scheme` gives such a weight.
    pub fn new(
        codes: Tensor<2, Int>,
        scales: Tensor<2>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> Self {
        let rows = codes.dims()[0];
        assert_eq!(codes.dims(), [rows, scheme.row_bytes(inputs)], "codes of {scheme}");
        assert_eq!(scales.dims(), [rows, scheme.scale_columns(inputs)], "scales of {scheme}");
        Self {
            codes: Param::initialized(ParamId::new(), codes),
            scales: Param::initialized(ParamId::new(), scales),
            scheme,
            inputs,
        }
    }

    /// How it is rounded.
    pub fn scheme(&self) -> QuantScheme {
        self.scheme
    }
}

impl Weight {
    /// `[out, in]`; nothing is allocated.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Quantised(weight) => [weight.codes.lazy_shape()[0], weight.inputs],
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.lazy_device(),
            Self::Quantised(weight) => weight.codes.lazy_device(),
        }
    }

    /// How it is rounded, if it is.
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self {
            Self::Dense(_) => None,
            Self::Quantised(weight) => Some(weight.scheme),
        }
    }

    /// The numbers themselves; rounded ones are expanded to f32.
    pub fn values(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Quantised(weight) => weight.expand(weight.codes.val(), weight.scales.val()),
        }
    }

    /// The rows of `ids`, as [`Self::values`].
    pub fn rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val().select(0, ids),
            Self::Quantised(weight) => {
                let (codes, scales) = (weight.codes.val(), weight.scales.val());
                ops::expand_rows(codes, scales, ids, weight.scheme, weight.inputs)
            }
        }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`.
    pub fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match (self, bias) {
            (Self::Dense(weight), Some(bias)) => ops::affine(x, weight.val(), bias),
            (Self::Dense(weight), None) => ops::linear(x, weight.val()),
            (Self::Quantised(weight), None) => weight.product(x),
            (Self::Quantised(weight), Some(bias)) => {
                let y = weight.product(x);
                let bias = bias.cast(y.dtype());
                y + bias.unsqueeze::<2>()
            }
        }
    }
}

impl Quantised {
    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear_quantised(x, self.codes.val(), self.scales.val(), self.scheme)
    }

    fn expand(&self, codes: Tensor<2, Int>, scales: Tensor<2>) -> Tensor<2> {
        ops::expand_quantised(codes, scales, self.scheme, self.inputs)
    }
}

/// Does the same to either kind.
macro_rules! either {
    ($weight:expr, $held:ident => $value:expr) => {
        match $weight {
            Weight::Dense($held) => $value,
            Weight::Quantised($held) => $value,
        }
    };
    ($weight:expr, $held:ident => as $value:expr) => {
        match $weight {
            Weight::Dense($held) => Weight::Dense($value),
            Weight::Quantised($held) => Weight::Quantised($value),
        }
    };
}

// The derived code for an enum would put the variant's name into every path.
impl Module for Weight {
    fn collect_devices(&self, devices: Devices) -> Devices {
        either!(self, held => Module::collect_devices(held, devices))
    }

    fn fork(self, device: &Device) -> Self {
        either!(self, held => as Module::fork(held, device))
    }

    fn to_device(self, device: &Device) -> Self {
        either!(self, held => as Module::to_device(held, device))
    }

    fn train(self) -> Self {
        either!(self, held => as Module::train(held))
    }

    fn valid(&self) -> Self {
        either!(self, held => as Module::valid(held))
    }

    fn materialize(self) -> Self {
        either!(self, held => as Module::materialize(held))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        either!(self, held => Module::visit(held, visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        either!(self, held => as Module::map(held, mapper))
    }
}

impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        either!(self, held => ModuleDisplayDefault::content(held, content))
    }
}

impl ModuleDisplay for Weight {}
