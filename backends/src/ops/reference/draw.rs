//! A draw from the largest values of rows.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, Shape, Slice};

/// Above all ids.
const NO_ID: f64 = 1e9;

type Comparison<B> = fn(FloatTensor<B>, FloatTensor<B>, BoolDType) -> BoolTensor<B>;

/// Rows of candidates.
struct Rows {
    rows: usize,
    k: usize,
    dtype: BoolDType,
}

impl Rows {
    /// A column of `x`, next to every candidate.
    fn column<B: Backend>(&self, x: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
        self.wide::<B>(columns::<B>(x, index, 1))
    }

    fn wide<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_expand(x, Shape::new([self.rows, self.k]))
    }

    /// The sum of each row, next to every candidate.
    fn sum<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        self.wide::<B>(B::float_sum_dim(x.clone(), 1))
    }

    /// How `x` of candidate `j` compares with that of candidate `i`, `[rows, i, j]`.
    fn pairs<B: Backend>(&self, x: &FloatTensor<B>, compare: Comparison<B>) -> BoolTensor<B> {
        let Self { rows, k, .. } = *self;
        let along = |shape: [usize; 3]| {
            let x = B::float_reshape(x.clone(), Shape::new(shape));
            B::float_expand(x, Shape::new([rows, k, k]))
        };
        compare(along([rows, 1, k]), along([rows, k, 1]), self.dtype)
    }

    /// Sums of the weights of those `j` that count for candidate `i`.
    fn sums_of<B: Backend>(&self, x: &FloatTensor<B>, counts: BoolTensor<B>) -> FloatTensor<B> {
        let Self { rows, k, .. } = *self;
        let x = B::float_reshape(x.clone(), Shape::new([rows, 1, k]));
        let x = B::float_expand(x, Shape::new([rows, k, k]));
        let x = B::float_mask_fill(x, B::bool_not(counts), 0.0.into());
        B::float_reshape(B::float_sum_dim(x, 2), Shape::new([rows, k]))
    }
}

fn columns<B: Backend>(x: &FloatTensor<B>, first: usize, count: usize) -> FloatTensor<B> {
    let rows = x.shape()[0] as isize;
    let (first, end) = (first as isize, (first + count) as isize);
    B::float_slice(x.clone(), &[Slice::from(0..rows), Slice::from(first..end)])
}

/// Body of [`crate::ops::fixed::FixedOps::rows_drawn`]: sums over all pairs of candidates.
pub fn draw_of_rows<B: Backend>(
    found: FloatTensor<B>,
    terms: FloatTensor<B>,
    chances: FloatTensor<B>,
) -> FloatTensor<B> {
    let [rows, width] = found.shape().dims();
    let dtype = get_or_init_device_settings::<B>(&found.device()).bool_dtype;
    let all = Rows { rows, k: width / 2, dtype };
    let (values, ids) = (columns::<B>(&found, 0, all.k), columns::<B>(&found, all.k, all.k));
    let greedy = B::float_lower_equal_elem(all.column::<B>(&terms, 0), 0.0.into(), dtype);
    let heat = B::float_mask_fill(all.column::<B>(&terms, 0), greedy.clone(), 1.0.into());
    let scores = B::float_div(values, heat);
    let weights = weights::<B>(&all, &scores, &ids, &terms);
    let upto = all.sums_of::<B>(&weights, all.pairs::<B>(&ids, B::float_lower_equal));
    let chances = all.wide::<B>(B::float_reshape(chances, Shape::new([rows, 1])));
    let share = B::float_mul(chances, all.sum::<B>(&weights));
    let none = B::float_lower_equal_elem(weights, 0.0.into(), dtype);
    let before = B::bool_or(none.clone(), B::float_greater_equal(share, upto, dtype));
    let first = B::float_min_dim(B::float_mask_fill(ids.clone(), before, NO_ID.into()), 1);
    // Rounding may leave the last one short of the sum of all.
    let last = B::float_max_dim(B::float_mask_fill(ids.clone(), none, (-1.0).into()), 1);
    let best = columns::<B>(&ids, 0, 1);
    let last = larger::<B>(last, &best, dtype);
    let beyond = B::float_greater_equal_elem(first.clone(), NO_ID.into(), dtype);
    let chosen = B::float_mask_where(first, beyond, last);
    let greedy = B::float_lower_equal_elem(columns::<B>(&terms, 0, 1), 0.0.into(), dtype);
    B::float_reshape(B::float_mask_where(chosen, greedy, best), Shape::new([rows]))
}

/// The larger one of each two, and the second where the first is no number.
fn larger<B: Backend>(
    x: FloatTensor<B>,
    than: &FloatTensor<B>,
    dtype: BoolDType,
) -> FloatTensor<B> {
    let more = B::float_greater(x.clone(), than.clone(), dtype);
    B::float_mask_where(than.clone(), more, x)
}

/// `exp(score - largest)`; 0 of candidates that are ruled out.
fn weights<B: Backend>(
    all: &Rows,
    scores: &FloatTensor<B>,
    ids: &FloatTensor<B>,
    terms: &FloatTensor<B>,
) -> FloatTensor<B> {
    let weights = B::float_exp(B::float_sub(scores.clone(), all.column::<B>(scores, 0)));
    let higher = all.pairs::<B>(scores, B::float_greater);
    let ones = B::float_ones(scores.shape(), &scores.device(), FloatDType::F32);
    let above = all.sums_of::<B>(&ones, higher.clone());
    let out = B::float_greater_equal(above, all.column::<B>(terms, 1), all.dtype);
    let weights = B::float_mask_fill(weights, out, 0.0.into());

    let equal = all.pairs::<B>(scores, B::float_equal);
    let equal = B::bool_and(equal, all.pairs::<B>(ids, B::float_greater));
    let better = all.sums_of::<B>(&weights, B::bool_or(higher, equal));
    let weights = most_probable::<B>(all, weights, better, all.column::<B>(terms, 2));

    let sum = all.sum::<B>(&weights);
    let least = B::float_mul(all.column::<B>(terms, 3), B::float_recip(sum.clone()));
    let out = B::float_lower(B::float_div(weights.clone(), sum), least, all.dtype);
    B::float_mask_fill(weights, out, 0.0.into())
}

/// Without those who, with all that are not `better`, have a share of at most `rest`.
fn most_probable<B: Backend>(
    all: &Rows,
    weights: FloatTensor<B>,
    better: FloatTensor<B>,
    rest: FloatTensor<B>,
) -> FloatTensor<B> {
    let sum = all.sum::<B>(&weights);
    let share = B::float_div(B::float_sub(sum.clone(), better.clone()), sum);
    let few = B::float_lower_equal(share, rest, all.dtype);
    let behind = B::float_greater_elem(better, 0.0.into(), all.dtype);
    B::float_mask_fill(weights, B::bool_and(behind, few), 0.0.into())
}
