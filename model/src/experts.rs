//! Experts that stay in the memory of the host, and come to the device when tokens go to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Tensor;
use qwen3_vl_backends::ops::{self, Share};
use qwen3_vl_backends::quant::QuantScheme;

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
    /// Copies one of them to the device.
    fn upload(&self, expert: usize) -> ExpertMatrix;
    /// Tells the system that one of them is about to be uploaded, so that it reads what is not in memory yet.
    fn announce(&self, expert: usize);
}

/// What the cache of experts has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertUsage {
    /// Bytes that it may hold, and those that it holds.
    pub budget: u64,
    pub held: u64,
    /// Matrices that were on the device when tokens went to them.
    pub hits: u64,
    /// Those that had to be uploaded first, and their bytes.
    pub misses: u64,
    pub uploaded: u64,
}

/// The matrices on the device, for all layers together: when there is no room for the next one, those go that were not used
/// for longest.
#[derive(Debug)]
pub struct ExpertCache {
    state: Mutex<State>,
}

/// A stack and an expert in it.
type Key = (usize, usize);

#[derive(Debug, Default)]
struct State {
    held: HashMap<Key, Held>,
    /// When each was used last, the oldest first.
    order: BTreeMap<u64, Key>,
    clock: u64,
    usage: ExpertUsage,
}

#[derive(Debug)]
struct Held {
    matrix: ExpertMatrix,
    bytes: u64,
    used: u64,
}

impl ExpertCache {
    /// An empty cache that holds at most `budget` bytes, or the one matrix that is larger.
    pub fn new(budget: u64) -> Self {
        let usage = ExpertUsage { budget, ..ExpertUsage::default() };
        Self { state: Mutex::new(State { usage, ..State::default() }) }
    }

    /// What it has done so far.
    pub fn usage(&self) -> ExpertUsage {
        self.with(|state| state.usage)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn matrix(&self, key: Key, host: &dyn HostStack) -> ExpertMatrix {
        let bytes = host.matrix_bytes();
        let held = self.with(|state| {
            let held = state.hit(key);
            if held.is_none() {
                state.make_room(bytes);
            }
            held
        });
        // Not under the lock: a thread that waits for others in an upload may begin other work with the same model.
        held.unwrap_or_else(|| {
            let matrix = host.upload(key.1);
            self.with(|state| state.hold(key, matrix.clone(), bytes));
            matrix
        })
    }
}

impl State {
    fn hit(&mut self, key: Key) -> Option<ExpertMatrix> {
        let held = self.held.get_mut(&key)?;
        self.clock += 1;
        self.order.remove(&held.used);
        self.order.insert(self.clock, key);
        held.used = self.clock;
        self.usage.hits += 1;
        Some(held.matrix.clone())
    }

    /// Lets the oldest go until there is room for `bytes` more.
    fn make_room(&mut self, bytes: u64) {
        while self.usage.held + bytes > self.usage.budget {
            let Some((_, key)) = self.order.pop_first() else { break };
            let gone = self.held.remove(&key).map_or(0, |held| held.bytes);
            self.usage.held -= gone;
        }
    }

    fn hold(&mut self, key: Key, matrix: ExpertMatrix, bytes: u64) {
        self.usage.misses += 1;
        self.usage.uploaded += bytes;
        if self.held.contains_key(&key) {
            return;
        }
        self.make_room(bytes);
        self.clock += 1;
        self.order.insert(self.clock, key);
        self.held.insert(key, Held { matrix, bytes, used: self.clock });
        self.usage.held += bytes;
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

    /// Tells the system which matrices the next product reads that are not on the device.
    pub(crate) fn announce(&self, shares: &[Share]) {
        let absent = |share: &&Share| {
            let key = (self.index, share.expert);
            self.cache.with(|state| !state.held.contains_key(&key))
        };
        shares.iter().filter(absent).for_each(|share| self.host.announce(share.expert));
    }

    /// As [`Stack::product`].
    pub(crate) fn product(&self, x: Tensor<2>, shares: &[Share]) -> Tensor<2> {
        let mut first = 0;
        let parts = shares.iter().map(|share| {
            first += share.rows;
            let rows = x.clone().narrow(0, first - share.rows, share.rows);
            self.cache.matrix((self.index, share.expert), self.host.as_ref()).product(rows)
        });
        Tensor::cat(parts.collect(), 0)
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
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use qwen3_vl_backends::device;

    /// Experts of two by two, each filled with its number; it counts what is announced.
    #[derive(Debug, Default)]
    struct Numbers {
        announced: Mutex<Vec<usize>>,
    }

    impl HostStack for Numbers {
        fn shape(&self) -> [usize; 3] {
            [5, 2, 2]
        }

        fn scheme(&self) -> Option<QuantScheme> {
            None
        }

        fn matrix_bytes(&self) -> u64 {
            16
        }

        fn upload(&self, expert: usize) -> ExpertMatrix {
            let device = device::select(None).unwrap().device;
            let values = TensorData::new(vec![expert as f32; 4], [2, 2]);
            ExpertMatrix::Dense(Tensor::from_data(values, &device))
        }

        fn announce(&self, expert: usize) {
            self.announced.lock().unwrap().push(expert);
        }
    }

    fn product(streamed: &Streamed, experts: &[usize]) -> Vec<f32> {
        let device = device::select(None).unwrap().device;
        let x = TensorData::new(vec![1.0f32; experts.len() * 2], [experts.len(), 2]);
        let shares = experts.iter().map(|expert| Share { expert: *expert, rows: 1, steps: None });
        let shares: Vec<Share> = shares.collect();
        streamed.announce(&shares);
        let y = streamed.product(Tensor::from_data(x, &device), &shares);
        y.into_data().try_to_vec::<f32>().unwrap()
    }

    #[test]
    fn those_go_that_were_not_used_for_longest() {
        let host = Arc::new(Numbers::default());
        let cache = Arc::new(ExpertCache::new(3 * 16 + 5));
        let streamed = Streamed::new(host.clone(), cache.clone(), 0);
        let counts = || {
            let usage = cache.usage();
            assert!(usage.held <= usage.budget, "{usage:?}");
            (usage.hits, usage.misses, usage.held / 16)
        };
        assert_eq!(product(&streamed, &[1, 2, 3]), [2.0, 2.0, 4.0, 4.0, 6.0, 6.0]);
        assert_eq!(counts(), (0, 3, 3));
        product(&streamed, &[1]);
        assert_eq!(counts(), (1, 3, 3));
        // 2 is the oldest now.
        assert_eq!(product(&streamed, &[4]), [8.0, 8.0]);
        assert_eq!(counts(), (1, 4, 3));
        product(&streamed, &[1, 3, 4]);
        assert_eq!(counts(), (4, 4, 3));
        product(&streamed, &[2]);
        assert_eq!(counts(), (4, 5, 3));
        assert_eq!(cache.usage().uploaded, 5 * 16);
        assert_eq!(*host.announced.lock().unwrap(), [1, 2, 3, 4, 2]);
        // Another stack with the same experts is another matter.
        product(&Streamed::new(host, cache.clone(), 1), &[2]);
        assert_eq!(counts(), (4, 6, 3));
    }

    #[test]
    fn one_matrix_is_held_whatever_the_budget() {
        let cache = Arc::new(ExpertCache::new(3));
        let streamed = Streamed::new(Arc::new(Numbers::default()), cache.clone(), 0);
        product(&streamed, &[0, 1]);
        assert_eq!((cache.usage().misses, cache.usage().held), (2, 16));
    }
}
