//! The weight of a linear layer or of an embedding: as it was trained, or rounded to a few bits, in one buffer or in several.

use burn::backend::Dispatch;
use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::tensor::{Device, Int, Tensor};
use qwen3_vl_backends::ops::{self, RoundedStack, Share};
use qwen3_vl_backends::quant::QuantScheme;

use crate::blocks::Blocks;

/// `[out, in]`. As a module it is what it holds, under no name of its own, so that a weight as it was trained has the path
/// that it would have alone.
#[derive(Debug, Clone)]
pub enum Weight {
    Dense(Param<Tensor<2>>),
    Quantised(Quantised),
    /// Its rows, where a device has no buffer for all of them.
    Blocks(Blocks),
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

    /// `[matrices, out, in]`.
    pub(crate) fn shape_of_matrices(&self) -> [usize; 3] {
        [self.matrices, self.rows() / self.matrices.max(1), self.inputs]
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
    /// The rows of `blocks`, one after the other.
    ///
    /// # Panics
    /// When there is none, or they have different numbers of columns.
    pub fn of_blocks(blocks: Vec<Self>) -> Self {
        Self::Blocks(Blocks::new(blocks))
    }

    /// What lies in one buffer each, in the order of the rows: all of it, or its blocks.
    pub fn blocks(&self) -> &[Self] {
        match self {
            Self::Blocks(weight) => weight.parts(),
            whole => std::slice::from_ref(whole),
        }
    }

    /// `[out, in]`; nothing is allocated.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Quantised(weight) => [weight.rows(), weight.inputs],
            Self::Blocks(weight) => weight.shape(),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.lazy_device(),
            Self::Quantised(weight) => weight.codes.lazy_device(),
            Self::Blocks(weight) => weight.parts()[0].device(),
        }
    }

    /// How it is rounded, if it is.
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self {
            Self::Dense(_) => None,
            Self::Quantised(weight) => Some(weight.scheme),
            Self::Blocks(weight) => weight.parts()[0].scheme(),
        }
    }

    /// Codes and scales, where it is rounded and lies in one buffer.
    pub(crate) fn rounded(&self) -> Option<RoundedStack<Dispatch>> {
        let Self::Quantised(weight) = self else { return None };
        Some(RoundedStack::new(weight.codes.val(), weight.scales.val(), weight.scheme))
    }

    /// The numbers themselves; rounded ones are expanded to f32. Blocks are joined, for which the device may have no buffer.
    pub fn values(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Quantised(weight) => weight.values(),
            Self::Blocks(weight) => {
                Tensor::cat(weight.parts().iter().map(Self::values).collect(), 0)
            }
        }
    }

    /// The same with the numbers themselves in the place of rounded ones, each block by itself.
    pub(crate) fn expanded(&self) -> Self {
        match self {
            Self::Blocks(weight) => {
                Self::of_blocks(weight.parts().iter().map(Self::expanded).collect())
            }
            whole => Self::Dense(Param::from_tensor(whole.values())),
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
            Self::Blocks(weight) => weight.rows(&ids),
        }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`.
    pub fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match (self, bias) {
            (Self::Dense(weight), Some(bias)) => ops::affine(x, weight.val(), bias),
            (Self::Dense(weight), None) => ops::linear(x, weight.val()),
            (Self::Blocks(weight), bias) => weight.product(&x, bias.as_ref()),
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
    /// Each share of rows times the matrix of its expert.
    pub(crate) fn product_in_shares(&self, x: Tensor<2>, shares: Vec<Share>) -> Tensor<2> {
        ops::linear_of_rounded_experts(x, self.matrices(), self.scheme, shares)
    }

    /// Codes and scales, `[matrices, out, ..]`.
    pub(crate) fn matrices(&self) -> (Tensor<3, Int>, Tensor<3>) {
        let [matrices, rows, _] = self.shape_of_matrices();
        let (codes, scales) = (self.codes.val(), self.scales.val());
        let (bytes, columns) = (codes.dims()[1], scales.dims()[1]);
        (codes.reshape([matrices, rows, bytes]), scales.reshape([matrices, rows, columns]))
    }

    /// The numbers of all matrices in f32.
    pub(crate) fn values(&self) -> Tensor<2> {
        self.expand(self.codes.val(), self.scales.val())
    }

    pub(crate) fn product(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear_quantised(x, self.codes.val(), self.scales.val(), self.scheme)
    }

    fn expand(&self, codes: Tensor<2, Int>, scales: Tensor<2>) -> Tensor<2> {
        ops::expand_quantised(codes, scales, self.scheme, self.inputs)
    }
}

/// Makes a module of an enum whose variants hold one module each: it is what that one is. The derived code would put the
/// variant's name into every path.
macro_rules! module_of_either {
    ($name:ident: $($variant:ident),+) => {
        impl Module for $name {
            fn collect_devices(&self, devices: Devices) -> Devices {
                match self {
                    $(Self::$variant(held) => Module::collect_devices(held, devices)),+
                }
            }

            fn fork(self, device: &Device) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::fork(held, device))),+
                }
            }

            fn to_device(self, device: &Device) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::to_device(held, device))),+
                }
            }

            fn train(self) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::train(held))),+
                }
            }

            fn valid(&self) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::valid(held))),+
                }
            }

            fn materialize(self) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::materialize(held))),+
                }
            }

            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                match self {
                    $(Self::$variant(held) => Module::visit(held, visitor)),+
                }
            }

            fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
                match self {
                    $(Self::$variant(held) => Self::$variant(Module::map(held, mapper))),+
                }
            }
        }

        impl ModuleDisplayDefault for $name {
            fn content(&self, content: Content) -> Option<Content> {
                match self {
                    $(Self::$variant(held) => ModuleDisplayDefault::content(held, content)),+
                }
            }
        }

        impl ModuleDisplay for $name {}
    };
}

pub(crate) use module_of_either;

module_of_either!(Weight: Dense, Quantised, Blocks);
