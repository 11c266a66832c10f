//! Devices of other machines take every reference body, whose ordinary operations Burn sends there.

impl super::ModelOps for burn::backend::Remote {}
impl super::gradients::ModelGradients for burn::backend::Remote {}
impl super::update::UpdateOps for burn::backend::Remote {}
impl super::fixed::FixedOps for burn::backend::Remote {}
