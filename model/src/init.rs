//! Where and how parameters come into being.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Distribution, Shape, Tensor};
use qwen3_vl_backends::{Placement, Precision};

/// Device, precision and spread of fresh parameters.
///
/// Parameters are lazy: nothing is allocated before a value is loaded or first used.
#[derive(Debug, Clone)]
pub struct Init {
    pub device: Device,
    pub precision: Precision,
    /// Standard deviation of fresh matrices (HF `initializer_range`).
    pub std: f64,
}

impl Init {
    /// Fresh parameters on `device` in `precision`.
    pub fn new(device: &Device, precision: Precision) -> Self {
        Self { device: device.clone(), precision, std: 0.02 }
    }

    /// Normally distributed values.
    pub fn normal<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let std = self.std;
        self.lazy(shape, move |shape, device| {
            Tensor::random(shape, Distribution::Normal(0.0, std), device)
        })
    }

    /// Ones, for the scale of a norm.
    pub fn ones<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.lazy(shape, |shape, device| Tensor::ones(shape, device))
    }

    /// Zeros, for biases.
    pub fn zeros<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.lazy(shape, |shape, device| Tensor::zeros(shape, device))
    }

    fn lazy<const D: usize>(
        &self,
        shape: [usize; D],
        value: impl FnOnce([usize; D], &Device) -> Tensor<D> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let dtype = self.precision.of_rank(D);
        let init = move |device: &Device, require_grad: bool| {
            value(shape, device).cast(dtype).set_require_grad(require_grad)
        };
        Param::uninitialized(
            ParamId::new(),
            init,
            self.device.clone(),
            false,
            Shape::from(shape.to_vec()),
        )
    }
}

/// Where the parameters of each part come into being: all on one device, or in their places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedInit<'p> {
    init: &'p Init,
    placement: Option<&'p Placement>,
}

impl<'p> PlacedInit<'p> {
    pub(crate) fn new(init: &'p Init, placement: Option<&'p Placement>) -> Self {
        Self { init, placement }
    }

    pub(crate) fn precision(&self) -> Precision {
        self.init.precision
    }

    pub(crate) fn vision(&self) -> Init {
        self.at(self.placement.map(|placement| &placement.vision.device))
    }

    pub(crate) fn embed(&self) -> Init {
        self.at(self.placement.map(|placement| &placement.embed.device))
    }

    /// Of layer `index` of the language model.
    pub(crate) fn layer(&self, index: usize) -> Init {
        self.at(self.placement.map(|placement| &placement.layer(index).device))
    }

    /// Of the final norm and the head.
    pub(crate) fn head(&self) -> Init {
        self.at(self.placement.map(|placement| &placement.head.device))
    }

    fn at(&self, device: Option<&Device>) -> Init {
        Init { device: device.unwrap_or(&self.init.device).clone(), ..self.init.clone() }
    }
}
