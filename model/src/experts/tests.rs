use super::*;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, Weak};
use std::thread::{self, ThreadId};
use std::time::Instant;

use burn::tensor::TensorData;
use qwen3_vl_backends::device;

/// Bytes of one of [`Numbers`].
const ONE: u64 = 16;

/// Experts of two by two, each filled with its number. It counts what is announced, and looks at the cache in every upload.
#[derive(Debug, Default)]
struct Numbers {
    announced: Mutex<Vec<usize>>,
    uploaded: Mutex<Vec<(usize, ThreadId)>>,
    cache: OnceLock<Weak<ExpertCache>>,
    /// Which one cannot be uploaded.
    broken: Mutex<Option<usize>>,
}

impl HostStack for Numbers {
    fn shape(&self) -> [usize; 3] {
        [5, 2, 2]
    }

    fn scheme(&self) -> Option<QuantScheme> {
        None
    }

    fn matrix_bytes(&self) -> u64 {
        ONE
    }

    fn device(&self) -> Device {
        static DEVICE: OnceLock<Device> = OnceLock::new();
        DEVICE.get_or_init(|| device::select(None).unwrap().device).clone()
    }

    fn upload(&self, expert: usize) -> ExpertMatrix {
        if let Some(cache) = self.cache.get().and_then(Weak::upgrade) {
            let usage = cache.usage();
            assert!(usage.held <= usage.budget, "{usage:?}");
        }
        if *self.broken.lock().unwrap() == Some(expert) {
            resume_unwind(Box::new("broken"));
        }
        self.uploaded.lock().unwrap().push((expert, thread::current().id()));
        let values = TensorData::new(vec![expert as f32; 4], [2, 2]);
        ExpertMatrix::Dense(Tensor::from_data(values, &self.device()))
    }

    fn announce(&self, expert: usize) {
        self.announced.lock().unwrap().push(expert);
    }
}

impl Numbers {
    /// Experts uploaded so far, in order.
    fn brought(&self) -> Vec<usize> {
        self.uploaded.lock().unwrap().iter().map(|(expert, _)| *expert).collect()
    }
}

/// A cache with room for so many matrices, and a stack of it.
fn streamed(matrices: u64) -> (Arc<Numbers>, Arc<ExpertCache>, Streamed) {
    let (host, cache) = (Arc::new(Numbers::default()), ExpertCache::new(matrices * ONE + 5));
    let cache = Arc::new(cache);
    host.cache.set(Arc::downgrade(&cache)).unwrap();
    (host.clone(), cache.clone(), Streamed::new(host, cache, 0))
}

fn shares(experts: &[usize]) -> Vec<Share> {
    experts.iter().map(|expert| Share { expert: *expert, rows: 1, steps: None }).collect()
}

fn product(streamed: &Streamed, experts: &[usize]) -> Vec<f32> {
    let x = TensorData::new(vec![1.0f32; experts.len() * 2], [experts.len(), 2]);
    let (x, shares) = (Tensor::from_data(x, &streamed.host.device()), shares(experts));
    let stack = Stack::Streamed(streamed.clone());
    let _wanted = prepare(&[&stack], &shares);
    let y = streamed.product(x, &shares);
    y.into_data().try_to_vec::<f32>().unwrap()
}

fn expected(experts: &[usize]) -> Vec<f32> {
    experts.iter().flat_map(|expert| [2.0 * *expert as f32; 2]).collect()
}

/// Waits until `there` holds; what is brought before it is needed comes on its own.
fn wait_until(there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing came");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn those_go_that_were_not_used_for_longest() {
    let (host, cache, streamed) = streamed(3);
    let counts = || {
        let usage = cache.usage();
        assert!(usage.held <= usage.budget, "{usage:?}");
        (usage.hits, usage.misses, usage.held / ONE)
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
    let before = cache.usage();
    product(&streamed, &[2]);
    assert_eq!(counts(), (4, 5, 3));
    assert_eq!(cache.usage().uploaded, 5 * ONE);
    let since = cache.usage().since(before);
    assert_eq!((since.hits, since.misses, since.uploaded), (0, 1, ONE));
    assert_eq!(*host.announced.lock().unwrap(), [1, 2, 3, 4, 2]);
    // Another stack with the same experts is another matter.
    product(&Streamed::new(host, cache.clone(), 1), &[2]);
    assert_eq!(counts(), (4, 6, 3));
}

#[test]
fn one_matrix_is_held_whatever_the_budget() {
    let cache = Arc::new(ExpertCache::new(3));
    let streamed = Streamed::new(Arc::new(Numbers::default()), cache.clone(), 0);
    assert_eq!(product(&streamed, &[0, 1]), [0.0, 0.0, 2.0, 2.0]);
    assert_eq!((cache.usage().misses, cache.usage().held), (2, ONE));
}

#[test]
fn uploads_begin_when_the_router_has_chosen_and_on_a_thread_of_their_own() {
    let (host, cache, first) = streamed(5);
    let below = Arc::new(Numbers::default());
    let second = Streamed::new(below.clone(), cache.clone(), 1);
    let [first, second] = [first, second].map(Stack::Streamed);
    // Three of the first stack and two of the second have room, and nothing has been computed.
    let _wanted = prepare(&[&first, &second], &shares(&[0, 2, 4]));
    wait_until(|| cache.usage().misses == 5);
    assert_eq!((host.brought(), below.brought()), (vec![0, 2, 4], vec![0, 2]));
    let here = thread::current().id();
    assert!(host.uploaded.lock().unwrap().iter().all(|(_, thread)| *thread != here));
    assert_eq!(*below.announced.lock().unwrap(), [0, 2, 4]);
    // What was brought is no hit when it is used first; what is wanted has not given way.
    let x = || Tensor::from_data([[1.0f32, 1.0]; 3], &host.device());
    let values = |y: Tensor<2>| y.into_data().try_to_vec::<f32>().unwrap();
    for _ in 0..2 {
        assert_eq!(values(first.product(x(), shares(&[0, 2, 4]))), expected(&[0, 2, 4]));
    }
    assert_eq!((cache.usage().hits, cache.usage().misses), (3, 5));
    assert_eq!(values(second.product(x(), shares(&[0, 2, 4]))), expected(&[0, 2, 4]));
    assert_eq!((cache.usage().misses, below.brought()), (6, vec![0, 2, 4]));
}

#[test]
fn the_second_stack_waits_where_the_first_has_no_room() {
    let (host, cache, first) = streamed(2);
    let below = Arc::new(Numbers::default());
    let second = Stack::Streamed(Streamed::new(below.clone(), cache.clone(), 1));
    let first = Stack::Streamed(first);
    let _wanted = prepare(&[&first, &second], &shares(&[1, 2, 3]));
    wait_until(|| cache.usage().misses == 2);
    assert_eq!((host.brought(), below.brought()), (vec![1, 2], Vec::new()));
}

#[test]
fn what_is_there_is_used_before_it_could_give_way() {
    let (host, cache, streamed) = streamed(3);
    product(&streamed, &[2, 3, 4]);
    // By age 2 and 3 would go for 0 and 1, before they are used.
    assert_eq!(product(&streamed, &[0, 1, 2, 3]), expected(&[0, 1, 2, 3]));
    assert_eq!((cache.usage().hits, host.brought()), (2, vec![2, 3, 4, 0, 1]));
}

#[test]
fn threads_share_a_cache_that_has_room_for_two() {
    let (_, cache, streamed) = streamed(2);
    thread::scope(|scope| {
        for first in 0..4 {
            let streamed = &streamed;
            scope.spawn(move || {
                for step in 0..60 {
                    let mut experts: Vec<usize> =
                        (0..3).map(|i| (first + step * (i + 1) + i) % 5).collect();
                    experts.sort_unstable();
                    experts.dedup();
                    assert_eq!(product(streamed, &experts), expected(&experts));
                }
            });
        }
    });
    let usage = cache.usage();
    assert!(usage.held <= usage.budget && usage.misses > 60, "{usage:?}");
}

#[test]
fn an_upload_that_fails_stops_who_needs_it_and_keeps_no_room() {
    let (host, cache, streamed) = streamed(3);
    *host.broken.lock().unwrap() = Some(3);
    for experts in [&[3][..], &[0, 1, 2, 3]] {
        let failed = catch_unwind(AssertUnwindSafe(|| product(&streamed, experts)));
        assert_eq!(failed.unwrap_err().downcast_ref::<&str>(), Some(&"broken"));
    }
    // One of the others has given way.
    assert_eq!((cache.usage().held, cache.usage().misses), (2 * ONE, 3));
    *host.broken.lock().unwrap() = None;
    assert_eq!(product(&streamed, &[0, 1, 2, 3]), expected(&[0, 1, 2, 3]));
    assert_eq!(cache.usage().held, 3 * ONE);
}
