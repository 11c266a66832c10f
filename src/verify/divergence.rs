//! How far the probabilities that two models give to tokens lie apart.

/// Over rows of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    pub rows: usize,
    /// Mean and largest Kullback-Leibler divergence `Σ p · ln(p / q)` of a row, `p` being the reference, in nats.
    pub mean_kl: f64,
    pub max_kl: f64,
    /// Share of rows whose most probable token is the same.
    pub top1: f64,
}

impl Divergence {
    /// Compares rows of `vocabulary` logits; `None` where there are none, or not as many of both.
    pub fn new(expected: &[f32], found: &[f32], vocabulary: usize) -> Option<Self> {
        let rows = expected.len() / vocabulary.max(1);
        if rows == 0 || expected.len() != found.len() {
            return None;
        }
        let (mut sum, mut max_kl, mut same) = (0.0, 0.0f64, 0);
        for (a, b) in expected.chunks(vocabulary).zip(found.chunks(vocabulary)) {
            let kl = divergence(&log_softmax(a), &log_softmax(b));
            sum += kl;
            // NaN is the largest of all.
            max_kl = if kl > max_kl || kl.is_nan() { kl } else { max_kl };
            same += usize::from(best(a) == best(b));
        }
        let count = rows as f64;
        Some(Self { rows, mean_kl: sum / count, max_kl, top1: same as f64 / count })
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - top).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - top - sum.ln()).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_probabilities() {
        let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.5, 0.25]);
        let logits = |p: [f32; 3], shift: f32| p.map(|p| p.ln() + shift);
        let (a, b) =
            ([logits(p, 3.0), logits(p, 0.0)].concat(), [logits(p, -1.0), logits(q, 7.0)].concat());
        let found = Divergence::new(&a, &b, 3).unwrap();
        let kl = 0.25 * std::f64::consts::LN_2;
        assert!(
            (found.max_kl - kl).abs() < 1e-6 && (found.mean_kl - kl / 2.0).abs() < 1e-6,
            "{found:?}"
        );
        assert_eq!((found.rows, found.top1), (2, 0.5));
        assert_eq!(Divergence::new(&a, &b[..3], 3), None);
        assert!(Divergence::new(&[f32::NAN, 0.0], &[0.0, 0.0], 2).unwrap().max_kl.is_nan());
    }
}
