//! The weight of a linear layer, of an embedding or of the experts of a layer: as it was trained, or rounded to a few bits.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::tensor::{Device, Int, Tensor};
use qwen3_vl_backends::ops::{self, Share};
use qwen3_vl_backends::quant::QuantScheme;

/// `[out, in]`. As a module it is what it holds, under no name of its own, so that a weight as it was trained has the path
/// that it would have alone.
#[derive(Debug, Clone)]
pub enum Weight {
    Dense(Param<Tensor<2>>),
    Quantised(Quantised),
}

/// The matrices of all experts of a layer, which have one shape; as a module, like [`Weight`].
#[derive(Debug, Clone)]
pub enum Stack {
    /// `[experts, out, in]`.
    Dense(Param<Tensor<3>>),
    /// One matrix after the other.
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
    /// How many matrices of as many rows lie one after the other.
    matrices: usize,
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
            matrices: 1,
        }
    }

    /// The same rows as `matrices` matrices, one after the other.
    ///
    /// # Panics
    /// When the rows cannot be divided so.
    #[must_use]
    pub fn stacked(self, matrices: usize) -> Self {
        let rows = self.rows();
        assert!(rows.is_multiple_of(matrices.max(1)), "{rows} rows are not {matrices} matrices");
        Self { matrices, ..self }
    }

    /// Rows of all matrices.
    fn rows(&self) -> usize {
        self.codes.lazy_shape()[0]
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
            Self::Quantised(weight) => [weight.rows(), weight.inputs],
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
                let codes = weight.codes.val().select(0, ids.clone());
                weight.expand(codes, weight.scales.val().select(0, ids))
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

impl Stack {
    /// `[experts, out, in]`; nothing is allocated.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Quantised(weight) => {
                let matrices = weight.matrices;
                [matrices, weight.rows() / matrices.max(1), weight.inputs]
            }
        }
    }

    /// How it is rounded, if it is.
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self {
            Self::Dense(_) => None,
            Self::Quantised(weight) => Some(weight.scheme),
        }
    }

    /// The numbers themselves, `[experts, out, in]`; rounded ones are expanded to f32.
    pub fn values(&self) -> Tensor<3> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Quantised(weight) => {
                let values = weight.expand(weight.codes.val(), weight.scales.val());
                values.reshape(self.shape())
            }
        }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`: each share of rows times the matrix of its expert.
    pub fn product(&self, x: Tensor<2>, shares: Vec<Share>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => ops::linear_of_experts(x, weight.val(), shares),
            Self::Quantised(weight) => {
                let [experts, rows, _] = self.shape();
                let (codes, scales) = (weight.codes.val(), weight.scales.val());
                let of_experts = |width| [experts, rows, width];
                let codes_shape = of_experts(codes.dims()[1]);
                let scales_shape = of_experts(scales.dims()[1]);
                let stack = (codes.reshape(codes_shape), scales.reshape(scales_shape));
                ops::linear_of_rounded_experts(x, stack, weight.scheme, shares)
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

/// Makes a module of a type that holds one of two modules, which is what that one is. The derived code for an enum would put
/// the variant's name into every path.
macro_rules! module_of_either {
    ($name:ident) => {
        impl Module for $name {
            fn collect_devices(&self, devices: Devices) -> Devices {
                match self {
                    Self::Dense(held) => Module::collect_devices(held, devices),
                    Self::Quantised(held) => Module::collect_devices(held, devices),
                }
            }

            fn fork(self, device: &Device) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::fork(held, device)),
                    Self::Quantised(held) => Self::Quantised(Module::fork(held, device)),
                }
            }

            fn to_device(self, device: &Device) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::to_device(held, device)),
                    Self::Quantised(held) => Self::Quantised(Module::to_device(held, device)),
                }
            }

            fn train(self) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::train(held)),
                    Self::Quantised(held) => Self::Quantised(Module::train(held)),
                }
            }

            fn valid(&self) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::valid(held)),
                    Self::Quantised(held) => Self::Quantised(Module::valid(held)),
                }
            }

            fn materialize(self) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::materialize(held)),
                    Self::Quantised(held) => Self::Quantised(Module::materialize(held)),
                }
            }

            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                match self {
                    Self::Dense(held) => Module::visit(held, visitor),
                    Self::Quantised(held) => Module::visit(held, visitor),
                }
            }

            fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
                match self {
                    Self::Dense(held) => Self::Dense(Module::map(held, mapper)),
                    Self::Quantised(held) => Self::Quantised(Module::map(held, mapper)),
                }
            }
        }

        impl ModuleDisplayDefault for $name {
            fn content(&self, content: Content) -> Option<Content> {
                match self {
                    Self::Dense(held) => ModuleDisplayDefault::content(held, content),
                    Self::Quantised(held) => ModuleDisplayDefault::content(held, content),
                }
            }
        }

        impl ModuleDisplay for $name {}
    };
}

module_of_either!(Weight);
module_of_either!(Stack);
