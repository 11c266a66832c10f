//! Losses summed by channel (ms-swift's channel loss).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::TrainRow;

/// Mean cross-entropy over the targets of one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelLoss {
    pub loss: f64,
    pub targets: u64,
}

/// Sums over many rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LossSums {
    sum: f64,
    targets: u64,
    /// Sum and targets by channel.
    channels: BTreeMap<String, (f64, u64)>,
}

impl LossSums {
    /// Adds the cross-entropy of every target of `rows`, in order.
    pub fn add(&mut self, rows: &[TrainRow], losses: &[f32]) {
        let mut rest = losses;
        for row in rows {
            let (own, others) = rest.split_at(row.predicted().min(rest.len()));
            rest = others;
            let sum: f64 = own.iter().map(|loss| f64::from(*loss)).sum();
            let channel = self.channels.entry(row.channel.to_string()).or_default();
            *channel = (channel.0 + sum, channel.1 + own.len() as u64);
            (self.sum, self.targets) = (self.sum + sum, self.targets + own.len() as u64);
        }
    }

    /// The mean over all targets; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        (self.targets > 0).then(|| self.sum / self.targets as f64)
    }

    /// The means by channel.
    pub fn by_channel(&self) -> BTreeMap<String, ChannelLoss> {
        let channels = self.channels.iter().filter(|(_, (_, targets))| *targets > 0);
        let mean = |(sum, targets): (f64, u64)| ChannelLoss { loss: sum / targets as f64, targets };
        channels.map(|(name, sums)| (name.clone(), mean(*sums))).collect()
    }
}
