//! The ndarray backend is the CPU reference that tests trust: it takes every reference body.

impl super::ModelOps for burn::backend::NdArray {}
impl super::gradients::ModelGradients for burn::backend::NdArray {}
impl super::update::UpdateOps for burn::backend::NdArray {}
impl super::fixed::FixedOps for burn::backend::NdArray {}
