//! CubeCL devices (wgpu, Vulkan, Metal, WebGPU, CUDA) take the reference bodies.

impl super::ModelOps for burn_cubecl::CubeBackend {}
impl super::gradients::ModelGradients for burn_cubecl::CubeBackend {}
impl super::update::UpdateOps for burn_cubecl::CubeBackend {}
