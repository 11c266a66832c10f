//! The resampling windows and integer weights of one axis (torchvision, bicubic, antialias, uint8).

/// Weights are scaled by a power of two, this one at most.
const MAX_PRECISION: u32 = 22;

/// For every output position of an axis: which source positions count, and how much.
pub(super) struct AxisFilter {
    /// First source position of every output position.
    starts: Vec<usize>,
    /// Where the weights of output position `i` lie: `offsets[i]..offsets[i + 1]`.
    offsets: Vec<usize>,
    /// Weights times `2^precision`, all positions one after the other.
    weights: Vec<i16>,
    /// Fractional bits of the weights.
    pub precision: u32,
}

impl AxisFilter {
    /// The filter that takes `input` samples to `output` samples.
    pub fn bicubic(input: usize, output: usize) -> Self {
        let windows: Vec<Window> = (0..output).map(|i| Window::new(i, input, output)).collect();
        let largest = windows.iter().flat_map(|w| &w.weights).copied().fold(0.0, f64::max);
        let precision = precision(largest);
        let mut offsets = vec![0];
        let mut weights = Vec::new();
        for window in &windows {
            weights.extend(window.weights.iter().map(|&w| fixed_point(w, precision)));
            offsets.push(weights.len());
        }
        Self { starts: windows.iter().map(|w| w.start).collect(), offsets, weights, precision }
    }

    /// Number of output positions.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The first source position and the weights of output position `i`.
    pub fn window(&self, i: usize) -> (usize, &[i16]) {
        (self.starts[i], &self.weights[self.offsets[i]..self.offsets[i + 1]])
    }
}

/// The source positions that one output position sees, with weights that sum to 1.
struct Window {
    start: usize,
    weights: Vec<f64>,
}

impl Window {
    fn new(i: usize, input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        let centre = scale * (i as f64 + 0.5);
        let start = ((centre - support + 0.5) as i64).max(0) as usize;
        let end = ((centre + support + 0.5) as i64).min(input as i64) as usize;
        let mut weights: Vec<f64> =
            (start..end).map(|j| cubic((j as f64 - centre + 0.5) * (1.0 / filter_scale))).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Self { start, weights }
    }
}

/// The cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// The largest precision at which the largest weight still fits 15 bits.
fn precision(largest: f64) -> u32 {
    let fits = |p: &u32| ((0.5 + largest * f64::from(1u32 << p)) as i64) < (1 << 15);
    (0..=MAX_PRECISION).rev().find(fits).unwrap_or(0)
}

/// Rounds half away from zero.
fn fixed_point(weight: f64, precision: u32) -> i16 {
    (weight * f64::from(1u32 << precision) + 0.5f64.copysign(weight)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (input, output) in [(7, 32), (100, 32), (33, 33), (1, 256), (4032, 3072)] {
            let filter = AxisFilter::bicubic(input, output);
            for i in 0..output {
                let (start, weights) = filter.window(i);
                let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
                let off = sum - (1 << filter.precision);
                assert!(
                    off.unsigned_abs() as usize <= weights.len(),
                    "{input}->{output} at {i}: {off}"
                );
                assert!(!weights.is_empty() && start + weights.len() <= input);
            }
        }
    }

    #[test]
    fn precision_follows_the_largest_weight() {
        assert_eq!(AxisFilter::bicubic(1, 8).precision, 14); // one weight of 1.0
        assert_eq!(AxisFilter::bicubic(1000, 10).precision, 21); // the largest is about 0.01
    }
}
