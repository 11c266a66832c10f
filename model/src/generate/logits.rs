//! Logits on their way to the host: all of them, or, from a card, the largest where those decide.

use std::borrow::Cow;

use burn::tensor::Tensor;
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::ops;
use qwen3_vl_backends::threads::is_processor;

use super::read_rows;
use crate::pack::index_tensor;
use crate::sample::Candidate;

/// Most of a row that another machine looks for: it has no kernel for that, and takes a pass over all logits for each.
const MOST_FAR_AWAY: usize = 4;

/// Logits after one row.
#[derive(Debug, Clone)]
pub(crate) enum Logits {
    All(Vec<f32>),
    Largest(Box<Largest>),
}

/// The largest logits of a row.
#[derive(Debug, Clone)]
pub(crate) struct Largest {
    /// Best first, of equal ones the first.
    best: Vec<Candidate>,
    /// All logits of all rows, on the device, and which row it is.
    of: (Tensor<2>, usize),
}

impl Logits {
    /// Those of the rows of `logits [n, vocabulary]` in f32. How many of a row's largest are needed say `needs`
    /// ([`super::Answer::deciding`]); nothing where all are. What lies in the memory of the host is read as it is.
    pub(crate) fn read(logits: Tensor<2>, needs: &[Option<usize>]) -> Vec<Self> {
        let (most, device) = (needs.iter().flatten().max(), logits.device());
        let most = most.filter(|_| ops::kernels_on() && !is_processor(&device));
        match most.filter(|most| **most <= MOST_FAR_AWAY || !lost::is_remote(&device)) {
            Some(most) => Self::largest(logits, needs, *most),
            None => read_rows(logits).into_iter().map(Self::All).collect(),
        }
    }

    /// Those of a row whose largest were read already, as [`ops::largest_of_rows`] gives them.
    pub(crate) fn found(largest: &[f32], of: (Tensor<2>, usize)) -> Self {
        Self::Largest(Box::new(Largest { best: pairs(largest), of }))
    }

    /// As [`Self::read`], where no row needs more than the `most` largest.
    fn largest(logits: Tensor<2>, needs: &[Option<usize>], most: usize) -> Vec<Self> {
        // A power of two, so that few numbers of them have a kernel.
        let k = most.next_power_of_two().min(logits.dims()[1]);
        let found = read_rows(ops::largest_of_rows(logits.clone(), k));
        let whole = needs.iter().enumerate().filter(|(_, need)| need.is_none());
        let whole: Vec<i64> = whole.map(|(row, _)| row as i64).collect();
        let mut all = Vec::new();
        if !whole.is_empty() {
            let rows = index_tensor(whole, &logits.device());
            all = read_rows(logits.clone().select(0, rows));
        }
        let mut all = all.into_iter();
        let row = |(row, (found, need)): (usize, (Vec<f32>, &Option<usize>))| match need {
            Some(_) => {
                let of = (logits.clone(), row);
                Self::Largest(Box::new(Largest { best: pairs(&found), of }))
            }
            None => Self::All(all.next().expect("a row of logits for each that needs all")),
        };
        found.into_iter().zip(needs).enumerate().map(row).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Cow<'_, [f32]> {
        match self {
            Self::All(logits) => Cow::Borrowed(logits),
            Self::Largest(largest) => {
                let (logits, row) = &largest.of;
                Cow::Owned(read_rows(logits.clone().narrow(0, *row, 1)).swap_remove(0))
            }
        }
    }

    /// The largest, where these alone were read.
    pub(crate) fn best(&self) -> Option<&[Candidate]> {
        match self {
            Self::All(_) => None,
            Self::Largest(largest) => Some(&largest.best),
        }
    }
}

/// Values and behind them their places, as [`ops::largest_of_rows`] gives them.
fn pairs(found: &[f32]) -> Vec<Candidate> {
    let (values, places) = found.split_at(found.len() / 2);
    let pairs = values.iter().zip(places);
    pairs.map(|(score, place)| Candidate { id: *place as u32, score: *score }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{SampleError, Sampler, SamplingParams};
    use burn::tensor::{DType, Device, TensorData};
    use qwen3_vl_backends::device;
    use qwen3_vl_backends::ops::fixed::draw_of_rows;

    const ROWS: usize = 6;
    const WIDTH: usize = 5003;

    /// Steps of a quarter: many logits are equal, also the largest.
    fn logits() -> Vec<f32> {
        let value = |i: usize| {
            let noise = (i as u32).wrapping_mul(2_654_435_761) >> 8;
            ((noise % 997) as f32 / 997.0 * 24.0).round() / 4.0 - 2.0
        };
        (0..ROWS * WIDTH).map(value).collect()
    }

    /// No two are equal.
    fn fine() -> Vec<f32> {
        (0..ROWS * WIDTH).map(|i| (i * 7919 % 100_003) as f32 / 5000.0).collect()
    }

    fn params() -> Vec<SamplingParams> {
        let sampled = |top_k, temperature, top_p, min_p| SamplingParams {
            do_sample: true,
            seed: Some(7),
            top_k,
            temperature,
            top_p,
            min_p,
            ..SamplingParams::default()
        };
        vec![
            SamplingParams::greedy(),
            sampled(1, 1.0, 1.0, 0.0),
            sampled(20, 0.7, 0.8, 0.0),
            sampled(20, 1.3, 0.95, 0.05),
            sampled(50, 1e-3, 1.0, 0.0),
            sampled(63, 40.0, 0.5, 0.0),
        ]
    }

    /// What a sampler takes of rows that were read in both ways; how often the largest did not decide.
    fn compare(values: &[f32], params: &SamplingParams, device: &burn::tensor::Device) -> usize {
        let need = params.deciding().expect("few logits decide");
        let data = TensorData::new(values.to_vec(), [ROWS, WIDTH]);
        let rows = Logits::largest(Tensor::from_data(data, device), &[Some(need); ROWS], need);
        let sampler = || Sampler::new(params.clone()).unwrap();
        let (mut of_all, mut of_largest, mut undecided) = (sampler(), sampler(), 0);
        for (row, values) in rows.iter().zip(values.chunks(WIDTH)) {
            assert_eq!(row.all().as_ref(), values);
            let expected = of_all.sample(values, &[], &[]).unwrap();
            let found = of_largest.sample_largest(row.best().unwrap()).unwrap_or_else(|| {
                undecided += 1;
                of_largest.sample(values, &[], &[]).unwrap()
            });
            assert_eq!(found, expected, "{params:?}");
        }
        undecided
    }

    #[test]
    fn the_largest_give_the_tokens_that_all_give_on_every_device() {
        for found in device::present() {
            println!("on {}", found.name);
            for params in params() {
                assert_eq!(compare(&fine(), &params, &found.device), 0, "{params:?}");
                compare(&logits(), &params, &found.device);
            }
        }
    }

    /// The draws of a sampler from the rows, and those of the device with the same numbers; nothing where more logits are wanted.
    fn drawn(values: &[f32], params: &SamplingParams, device: &Device) -> Vec<(Option<u32>, u32)> {
        let k = params.deciding().expect("few logits decide").next_power_of_two();
        let on = (device, DType::F32);
        let rows = Tensor::from_data(TensorData::new(values.to_vec(), [ROWS, WIDTH]), on);
        let found = ops::largest_of_rows(rows, k);
        let (mut sampler, mut chances) = (Sampler::new(params.clone()).unwrap(), Vec::new());
        let mut sampled = |row: &Vec<f32>| {
            chances.push(sampler.peek()[0]);
            sampler.sample_largest(&pairs(row))
        };
        let sampled: Vec<_> = read_rows(found.clone()).iter().map(&mut sampled).collect();
        let terms = TensorData::new([params.terms(); ROWS].concat(), [ROWS, 4]);
        let chances = Tensor::from_data(TensorData::new(chances, [ROWS]), on);
        let guessed = draw_of_rows(found, Tensor::from_data(terms, on), chances);
        let guessed = read_rows(guessed.unsqueeze()).swap_remove(0);
        sampled.into_iter().zip(guessed.into_iter().map(|id| id as u32)).collect()
    }

    #[test]
    fn devices_draw_what_samplers_draw() {
        for found in device::present() {
            for params in params() {
                for values in [fine(), logits()] {
                    let pairs = drawn(&values, &params, &found.device);
                    let decided =
                        pairs.iter().filter_map(|(id, guess)| Some((id.as_ref()?, guess)));
                    assert!(
                        decided.clone().all(|(id, guess)| id == guess),
                        "{params:?}: {pairs:?}"
                    );
                    assert!(values != fine() || decided.count() == ROWS, "{params:?}");
                }
            }
        }
    }

    #[test]
    fn rows_that_need_all_get_all_beside_others() {
        for found in device::present() {
            let data = TensorData::new(fine(), [ROWS, WIDTH]);
            let needs = [Some(1), None, Some(21), None, None, Some(1)];
            let rows = Logits::largest(Tensor::from_data(data, &found.device), &needs, 21);
            for ((row, values), need) in rows.iter().zip(fine().chunks(WIDTH)).zip(needs) {
                assert_eq!(row.best().is_some(), need.is_some());
                assert_eq!(row.all().as_ref(), values);
            }
        }
    }

    /// Then nothing is decided, and all logits tell what is wrong.
    #[test]
    fn logits_that_are_no_numbers_are_left_to_those_who_see_all() {
        let cases = [(f32::NAN, true), (f32::INFINITY, true), (f32::NEG_INFINITY, false)];
        for found in device::present() {
            for (value, wrong) in cases {
                let mut values = fine();
                values[4000] = value;
                let data = TensorData::new(values.clone(), [ROWS, WIDTH]);
                let logits = Tensor::from_data(data, &found.device);
                let row = Logits::largest(logits, &[Some(1); ROWS], 1).swap_remove(0);
                let mut sampler = Sampler::new(SamplingParams::greedy()).unwrap();
                assert_eq!(sampler.sample_largest(row.best().unwrap()).is_none(), wrong);
                let said = sampler.sample(&row.all(), &[], &[]);
                let named = matches!(said, Err(SampleError::Logit { id: 4000, .. }));
                assert_eq!(named, wrong, "{value} on {}", found.name);
            }
        }
    }
}
