//! 8-bit samples -> floats. A sample has 256 values, so the whole step is one table per channel.

use super::ImageError;

/// Per-channel mean and standard deviation, of samples in 0..1 where rescaling is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanStd {
    /// `image_mean`, in R G B order.
    pub mean: [f64; 3],
    /// `image_std`, in R G B order; no entry may be zero.
    pub std: [f64; 3],
}

/// Which of the two steps of `rescale_and_normalize` are done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Samples are multiplied by this (`rescale_factor`, where `do_rescale`).
    pub rescale: Option<f64>,
    /// Then the mean is subtracted and the difference divided by the deviation (where `do_normalize`).
    pub mean_std: Option<MeanStd>,
}

/// The float of every channel and sample: `table.0[channel][sample]`.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalizationTable(pub [[f32; 256]; 3]);

impl Normalization {
    /// Computes in f32 what transformers' `rescale_and_normalize` computes: with both steps on, they are fused to
    /// `(v - mean * (1 / factor)) / (std * (1 / factor))`, for the published values `(v - 127.5) / 127.5`.
    #[must_use]
    pub fn table(&self) -> NormalizationTable {
        let mut table = [[0.0; 256]; 3];
        for (channel, row) in table.iter_mut().enumerate() {
            let step = self.step(channel);
            for (value, out) in (0u8..=255).zip(row) {
                *out = step(f32::from(value));
            }
        }
        NormalizationTable(table)
    }

    fn step(&self, channel: usize) -> impl Fn(f32) -> f32 {
        let inverse = self.rescale.map_or(1.0, |factor| (1.0 / factor) as f32);
        let factor = self.rescale.map(|factor| factor as f32);
        let fused = self.mean_std.map(|MeanStd { mean, std }| {
            (mean[channel] as f32 * inverse, std[channel] as f32 * inverse)
        });
        move |v| match (fused, factor) {
            (Some((mean, std)), _) => (v - mean) / std,
            (None, Some(factor)) => v * factor,
            (None, None) => v,
        }
    }

    /// Refuses divisions by zero and values that are not numbers.
    pub(super) fn check(&self) -> Result<(), ImageError> {
        let usable = |v: &f64| v.is_finite() && *v != 0.0;
        let refuse =
            |field, value: String, expected| ImageError::ConfigValue { field, value, expected };
        if let Some(factor) = self.rescale.filter(|f| !usable(f)) {
            return Err(refuse("rescale_factor", factor.to_string(), "a number other than 0"));
        }
        let Some(MeanStd { mean, std }) = self.mean_std else {
            return Ok(());
        };
        if !mean.iter().all(|v| v.is_finite()) {
            return Err(refuse("image_mean", format!("{mean:?}"), "three finite numbers"));
        }
        if !std.iter().all(usable) {
            return Err(refuse("image_std", format!("{std:?}"), "three numbers other than 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: MeanStd = MeanStd { mean: [0.5; 3], std: [0.5; 3] };

    #[test]
    fn published_values_are_one_step() {
        let table = Normalization { rescale: Some(1.0 / 255.0), mean_std: Some(HALF) }.table();
        for v in 0..256 {
            assert_eq!(table.0[1][v], (v as f32 - 127.5) / 127.5);
        }
    }

    #[test]
    fn steps_can_be_left_out() {
        let only = |rescale, mean_std| Normalization { rescale, mean_std }.table().0[2][200];
        assert_eq!(only(None, None), 200.0);
        assert_eq!(only(Some(0.25), None), 50.0);
        assert_eq!(only(None, Some(HALF)), 399.0);
    }
}
