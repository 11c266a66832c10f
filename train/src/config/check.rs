//! Which values a run can have.

use std::path::Path;

use super::{ConfigError, TrainConfig};

pub(super) const POSITIVE: &str = "it must be a number above 0";
const AT_LEAST_ONE: &str = "it must be at least 1";

/// A field, its value, and what it must be.
type Refused = (String, String, &'static str);

/// The numbers that a field may have.
#[derive(Clone, Copy)]
enum Range {
    /// Above 0.
    Positive,
    /// 0 and above.
    NotNegative,
    /// From 0 up to 1, without 1.
    BelowOne,
    /// From 0 to 1.
    Share,
    /// A share of all steps, or a number of steps.
    Steps,
    /// Above 0, of a group.
    Rate,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Positive | Self::Rate => value > 0.0,
                Self::NotNegative | Self::Steps => value >= 0.0,
                Self::BelowOne => (0.0..1.0).contains(&value),
                Self::Share => (0.0..=1.0).contains(&value),
            }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Positive => POSITIVE,
            Self::NotNegative => "it must be 0 or a number above 0",
            Self::BelowOne => "it must be at least 0 and below 1",
            Self::Share => "it must lie in 0 to 1",
            Self::Steps => "it must be a share of all steps below 1, or a number of steps",
            Self::Rate => {
                "it must be a number above 0; a group is frozen by `train`, such as `train = { llm = false }`"
            }
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// When a value is out of range, or two do not fit together.
    pub(super) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refused = self
            .refused_number()
            .or_else(|| self.refused_count())
            .or_else(|| self.refused_length())
            .or_else(|| {
                let (field, value, expected) = self.refused_method()?;
                Some((field.to_owned(), value, expected))
            })
            .or_else(|| self.refused_source());
        let path = path.to_owned();
        match refused {
            Some((field, value, expected)) => {
                Err(ConfigError::Value { path, field, value, expected })
            }
            None => Ok(()),
        }
    }

    fn refused_number(&self) -> Option<Refused> {
        let mut numbers = self.numbers().into_iter();
        let (field, value, range) = numbers.find(|(_, value, range)| !range.holds(*value))?;
        Some((field.to_owned(), value.to_string(), range.expected()))
    }

    /// Every number that is no count.
    fn numbers(&self) -> Vec<(&'static str, f64, Range)> {
        let (lr, optimizer) = (&self.lr, &self.optimizer);
        let mut numbers = vec![
            ("lr.base", lr.base, Range::Positive),
            ("lr.warmup", lr.warmup, Range::Steps),
            ("lr.decay", lr.decay, Range::Steps),
            ("lr.floor", lr.floor, Range::Share),
            ("optimizer.weight_decay", optimizer.weight_decay, Range::NotNegative),
            ("optimizer.beta1", optimizer.beta1, Range::BelowOne),
            ("optimizer.beta2", optimizer.beta2, Range::BelowOne),
            ("optimizer.epsilon", optimizer.epsilon, Range::Positive),
            ("optimizer.clip", optimizer.clip, Range::NotNegative),
            ("optimizer.momentum", optimizer.momentum, Range::BelowOne),
            ("router_aux", self.router_aux, Range::NotNegative),
            ("epochs", self.epochs, Range::Positive),
        ];
        let rates = [
            ("lr.vision", lr.vision),
            ("lr.merger", lr.merger),
            ("lr.llm", lr.llm),
            ("lr.embed", lr.embed),
            ("lr.head", lr.head),
        ];
        let given = rates.into_iter().filter_map(|(field, rate)| Some((field, rate?, Range::Rate)));
        numbers.extend(given);
        numbers.extend(self.limits.fps.map(|fps| ("limits.fps", fps, Range::Positive)));
        numbers
    }

    /// The first count that is 0 and must not be.
    fn refused_count(&self) -> Option<Refused> {
        let (limits, eval) = (&self.limits, &self.eval);
        let counts = [
            ("limits.sequence", Some(limits.sequence)),
            ("limits.image_tokens", limits.image_tokens),
            ("limits.video_tokens", limits.video_tokens),
            ("limits.frames", limits.frames),
            ("batch.tokens", Some(self.batch.tokens)),
            ("batch.accumulate", Some(self.batch.accumulate)),
            ("eval.rows", eval.rows),
            ("eval.answer_tokens", Some(eval.answer_tokens)),
            ("save.every", usize::try_from(self.save.every).ok()),
            ("save.keep", Some(self.save.keep)),
            ("steps", self.steps.and_then(|steps| usize::try_from(steps).ok())),
        ];
        let zero = counts.into_iter().find(|(_, count)| *count == Some(0));
        zero.map(|(field, _)| (field.to_owned(), "0".to_owned(), AT_LEAST_ONE))
    }

    /// What makes a run of no known length, or of nothing.
    fn refused_length(&self) -> Option<Refused> {
        let refused = |field: &str, value: &str, expected| {
            Some((field.to_owned(), value.to_owned(), expected))
        };
        if self.data.is_empty() {
            return refused("data", "empty", "name at least one source");
        }
        if self.steps.is_none() && self.data.iter().any(|source| source.synth.is_some()) {
            let expected = "drawn rows are too many to be counted first; say how many steps";
            return refused("steps", "missing", expected);
        }
        if self.eval.every > 0 && self.eval.data.is_empty() {
            return refused("eval.data", "empty", "name rows that are not trained on");
        }
        None
    }

    fn refused_source(&self) -> Option<Refused> {
        for (list, sources) in [("data", &self.data), ("eval.data", &self.eval.data)] {
            for (index, source) in sources.iter().enumerate() {
                if let Some((field, value, expected)) = source.refused() {
                    return Some((format!("{list}[{index}]{field}"), value, expected));
                }
            }
        }
        None
    }
}
