//! The largest values of rows.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, Shape};

use super::cast;

/// Body of [`super::super::ModelOps::largest_of_rows`]: `k` times the largest that is left, of equal ones the first.
pub fn largest_of_rows<B: Backend>(x: FloatTensor<B>, k: usize) -> FloatTensor<B> {
    let (shape, device) = (x.shape(), x.device());
    let [rows, width] = shape.dims();
    let settings = get_or_init_device_settings::<B>(&device);
    let x = cast::<B>(x, DType::F32);
    let nan = B::float_is_nan(x.clone(), settings.bool_dtype);
    let mut left = B::float_mask_fill(x, nan, f64::INFINITY.into());
    let places = B::int_arange(0..width as i64, &device, settings.int_dtype);
    let places = B::int_into_float(places, FloatDType::F32);
    let places = B::float_expand(B::float_reshape(places, Shape::new([1, width])), shape.clone());
    let mut open = places.clone();
    let (mut values, mut found) = (Vec::with_capacity(k), Vec::with_capacity(k));
    for _ in 0..k {
        let top = B::float_max_dim(left.clone(), 1);
        let equal = B::float_equal(
            left.clone(),
            B::float_expand(top.clone(), shape.clone()),
            settings.bool_dtype,
        );
        let other = B::bool_not(equal);
        let first = B::float_mask_fill(open.clone(), other, (width as f64).into());
        let first = B::float_reshape(B::float_min_dim(first, 1), Shape::new([rows, 1]));
        let spread = B::float_expand(first.clone(), shape.clone());
        let taken = B::float_equal(places.clone(), spread, settings.bool_dtype);
        left = B::float_mask_fill(left, taken.clone(), f64::NEG_INFINITY.into());
        open = B::float_mask_fill(open, taken, (width as f64).into());
        values.push(top);
        found.push(first);
    }
    values.append(&mut found);
    B::float_cat(values, 1)
}
