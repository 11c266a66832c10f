//! How fast this device multiplies matrices, as a bound on what passes of many rows can reach.

use std::time::Instant;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::device::{BackendKind, SelectedDevice};
use crate::ops::{self, Products};
use crate::{Precision, dtype};

/// The fastest product of two square matrices that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct PeakProduct {
    /// Which kernel it was: dtypes of rows and weights, and whether they are rounded first.
    pub kernel: String,
    /// Rows and columns of both matrices.
    pub side: usize,
    /// Floating-point operations per second; a product has `2 · side³`.
    pub flops: f64,
}

/// The fastest of the kernels that a pass of a model can take on `device`: [`ops::linear`] with weights in each dtype that it
/// holds and, on Flex, with operands rounded to bf16 first. Of each, the best of `passes` products of `side` rows and columns
/// counts, after one that makes the pages present. `None` where the device holds no dtype.
///
/// ```
/// use qwen3_vl_backends::{device, peak::peak_product};
///
/// let device = device::select(Some("cpu"))?;
/// let peak = peak_product(&device, 64, 2).expect("every processor has f32");
/// assert!(peak.flops > 0.0);
/// # Ok::<(), qwen3_vl_backends::DeviceError>(())
/// ```
pub fn peak_product(device: &SelectedDevice, side: usize, passes: usize) -> Option<PeakProduct> {
    let measured = Kernel::all(device).into_iter().map(|kernel| PeakProduct {
        kernel: kernel.name(),
        side,
        flops: 2.0 * (side as f64).powi(3) / kernel.seconds(&device.device, side, passes),
    });
    measured.max_by(|a, b| a.flops.total_cmp(&b.flops))
}

/// A way to multiply.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    rows: DType,
    weights: DType,
    how: Products,
}

impl Kernel {
    fn all(device: &SelectedDevice) -> Vec<Self> {
        let ways: &[Products] = match device.kind {
            BackendKind::Flex => &[Products::Exact, Products::Split, Products::Rounded],
            _ => &[Products::Exact],
        };
        let rows = |weights| if device.kind.is_cpu() { Precision::F32.compute } else { weights };
        let of = |weights| {
            let kernel = move |how: &Products| Self { rows: rows(weights), weights, how: *how };
            ways.iter().map(kernel)
        };
        device.dtypes().into_iter().flat_map(of).collect()
    }

    fn name(self) -> String {
        let (rows, weights) = (dtype::name(self.rows), dtype::name(self.weights));
        let how = match self.how {
            Products::Exact => "",
            Products::Split => ", split into two numbers of bf16 where there are tiles",
            Products::Rounded => ", rounded to bf16 as they are multiplied",
        };
        format!("{rows} rows by {weights} weights{how}")
    }

    /// Of the fastest of `passes` products.
    fn seconds(self, device: &Device, side: usize, passes: usize) -> f64 {
        let _chosen = ops::choose_products(Some(self.how));
        let (x, weight) = (matrix(side, self.rows, device), matrix(side, self.weights, device));
        fastest(device, passes, || ops::linear(x.clone(), weight.clone()))
    }
}

/// Seconds of the fastest of `passes` calls on `device`, behind one that compiles kernels and makes pages present.
pub(crate) fn fastest(device: &Device, passes: usize, call: impl Fn() -> Tensor<2>) -> f64 {
    let pass = || {
        let _ = device.sync();
        let start = Instant::now();
        let made = call();
        let _ = device.sync();
        let seconds = start.elapsed().as_secs_f64();
        drop(made);
        seconds
    };
    pass();
    (0..passes.max(1)).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Values between -1 and 1.
fn matrix(side: usize, dtype: DType, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..side * side).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let data = TensorData::new(values, [side, side]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;

    #[test]
    fn the_fastest_kernel_is_named_and_the_switch_is_put_back() {
        let device = device::select(Some("cpu")).unwrap();
        let peak = peak_product(&device, 96, 2).unwrap();
        assert!(peak.flops > 0.0 && peak.flops.is_finite());
        assert!(peak.kernel.contains("f32 rows"), "{}", peak.kernel);
        assert_eq!(ops::products(), Products::Exact);
    }
}
