//! Experts that stay in the memory of the host, and come to the device when tokens go to them.

mod cache;
mod state;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use qwen3_vl_backends::ops::{self, Share};
use qwen3_vl_backends::quant::QuantScheme;

pub use cache::ExpertCache;

use crate::model::Qwen3VlModel;
use crate::stack::Stack;
use crate::weight::Quantised;

/// The matrix of one expert on the device.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a few are made per step, and none is moved often")]
pub enum ExpertMatrix {
    /// `[out, in]`.
    Dense(Tensor<2>),
    Rounded(Box<Quantised>),
}

impl ExpertMatrix {
    fn product(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => ops::linear(x, weight),
            Self::Rounded(weight) => weight.product(x),
        }
    }
}

/// The matrices of all experts of a layer in the memory of the host.
pub trait HostStack: Debug + Send + Sync {
    /// `[experts, out, in]`.
    fn shape(&self) -> [usize; 3];
    /// How they are rounded, if they are.
    fn scheme(&self) -> Option<QuantScheme>;
    /// Bytes of one of them on the device.
    fn matrix_bytes(&self) -> u64;
    /// Where they are copied to.
    fn device(&self) -> Device;
    /// Copies one of them to the device, on whichever thread asks. It waits for no worker of the processor, all of which may be
    /// waiting for it.
    fn upload(&self, expert: usize) -> ExpertMatrix;
    /// Tells the system that one of them is about to be uploaded, so that it reads what is not in memory yet.
    fn announce(&self, expert: usize);
}

/// What the cache of experts has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertUsage {
    /// Bytes that it may hold, and those that it holds or has kept room for.
    pub budget: u64,
    pub held: u64,
    /// Matrices that were on the device when tokens went to them.
    pub hits: u64,
    /// Those that had to be uploaded first, and their bytes.
    pub misses: u64,
    pub uploaded: u64,
    /// While uploads were under way, up to their end on the device. Cards of which CubeCL has one queue alone, all but those of
    /// CUDA, count what they compute meanwhile too.
    pub uploading: Duration,
    /// While computing waited for them.
    pub waited: Duration,
}

impl ExpertUsage {
    /// What was done since `before`; `budget` and `held` are those of now.
    pub fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            uploaded: self.uploaded - before.uploaded,
            uploading: self.uploading.saturating_sub(before.uploading),
            waited: self.waited.saturating_sub(before.waited),
            ..self
        }
    }
}

/// The weights of the experts of a layer that stay on the host. They take no part in training.
#[derive(Module, Debug)]
pub struct Streamed {
    #[module(skip)]
    host: Arc<dyn HostStack>,
    #[module(skip)]
    cache: Arc<ExpertCache>,
    /// Which stack of the cache it is.
    index: usize,
}

impl Streamed {
    /// Stack `index` of those that share `cache`.
    pub fn new(host: Arc<dyn HostStack>, cache: Arc<ExpertCache>, index: usize) -> Self {
        Self { host, cache, index }
    }

    /// `[experts, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        self.host.shape()
    }

    /// How they are rounded, if they are.
    pub fn scheme(&self) -> Option<QuantScheme> {
        self.host.scheme()
    }

    /// Bytes of all matrices, were they on the device.
    pub fn bytes(&self) -> u64 {
        self.shape()[0] as u64 * self.host.matrix_bytes()
    }

    /// As [`Stack::product`]: first with what is there, while the rest is uploaded as far as there is room. What a row gets does
    /// not depend on that order.
    pub(crate) fn product(&self, x: Tensor<2>, shares: &[Share]) -> Tensor<2> {
        let ends = shares.iter().scan(0, |end, share| {
            *end += share.rows;
            Some(*end)
        });
        let rows =
            |(end, share): (usize, &Share)| x.clone().narrow(0, end - share.rows, share.rows);
        let mut left: Vec<(usize, Tensor<2>)> = ends.zip(shares).map(rows).enumerate().collect();
        let mut parts = Vec::with_capacity(shares.len());
        while !left.is_empty() {
            let experts: Vec<usize> = left.iter().map(|(at, _)| shares[*at].expert).collect();
            self.cache.fetch(self.index, &self.host, experts.iter().copied());
            let next = self.cache.next_of(self.index, &experts);
            let (at, rows) = left.remove(next);
            let key = (self.index, experts[next]);
            parts.push((at, self.cache.take(key, &self.host).product(rows)));
            self.cache.release(key);
        }
        parts.sort_unstable_by_key(|(at, _)| *at);
        Tensor::cat(parts.into_iter().map(|(_, part)| part).collect(), 0)
    }

    /// The numbers themselves, `[experts, out, in]`; none stays on the device.
    pub(crate) fn values(&self) -> Tensor<3> {
        let values = |expert| match self.host.upload(expert) {
            ExpertMatrix::Dense(weight) => weight.unsqueeze::<3>(),
            ExpertMatrix::Rounded(weight) => weight.values().unsqueeze::<3>(),
        };
        Tensor::cat((0..self.shape()[0]).map(values).collect(), 0)
    }
}

/// The router has chosen: tells the system which parts of the file come next, and begins to upload what the stacks of a layer lack
/// for `shares`, those of a stack only when the one before it will have all of its own. They are wanted as long as what is returned
/// lives.
#[must_use]
pub(crate) fn prepare<'s>(stacks: &[&'s Stack], shares: &[Share]) -> Wanted<'s> {
    let streamed = || {
        stacks.iter().copied().filter_map(|stack| match stack {
            Stack::Streamed(streamed) => Some(streamed),
            _ => None,
        })
    };
    let wanted = Wanted(streamed().map(|stack| &*stack.cache).collect());
    let experts: Vec<usize> = shares.iter().map(|share| share.expert).collect();
    for stack in streamed() {
        let absent = stack.cache.want(stack.index, &experts);
        absent.into_iter().for_each(|expert| stack.host.announce(expert));
    }
    let _ = streamed()
        .all(|stack| stack.cache.fetch(stack.index, &stack.host, experts.iter().copied()));
    wanted
}

/// What a layer wants of these caches: nothing any more when it is done, or was interrupted by a device that failed.
pub(crate) struct Wanted<'s>(Vec<&'s ExpertCache>);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|cache| cache.forget());
    }
}

impl Qwen3VlModel {
    /// The weights of experts that stay on the host.
    pub(crate) fn streamed(&self) -> impl Iterator<Item = &Streamed> {
        let blocks = self.language_model.layers.iter().filter_map(|layer| layer.moe.as_ref());
        let stacks =
            blocks.flat_map(|block| [&block.experts.gate_up_proj, &block.experts.down_proj]);
        stacks.filter_map(|stack| match stack {
            Stack::Streamed(streamed) => Some(streamed),
            _ => None,
        })
    }

    /// What the cache of experts has done so far; `None` where these are all on the device.
    pub fn expert_usage(&self) -> Option<ExpertUsage> {
        self.streamed().next().map(|streamed| streamed.cache.usage())
    }
}

#[cfg(test)]
mod tests;
