//! Which matrices of experts are on the device, and the thread that brings the others there.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qwen3_vl_backends::device::lost;

use super::state::{Key, Payload, Room, State};
use super::{ExpertMatrix, ExpertUsage, HostStack};

/// The matrices on the device, for all layers together: when there is no room for the next one, those go that were not used
/// for longest. Copies are made by a thread of its own, so that computing goes on meanwhile, and those on a card lie in a
/// stream of their own; but for devices of other machines, which get them from the thread that computes.
#[derive(Debug)]
pub struct ExpertCache {
    shared: Arc<Shared>,
    /// Of what is to be copied, in this order; until the cache goes.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A copy is there, or has failed.
    arrived: Condvar,
}

/// A matrix that is to be copied; it has its room already.
#[derive(Debug)]
struct Job {
    key: Key,
    host: Arc<dyn HostStack>,
    /// Who waits for it; nobody where it is brought before it is needed.
    reply: Option<Sender<Result<ExpertMatrix, Payload>>>,
}

impl ExpertCache {
    /// An empty cache that holds at most `budget` bytes, or the one matrix that is larger.
    pub fn new(budget: u64) -> Self {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::new(budget)), arrived: Condvar::new() });
        let (jobs, queue) = mpsc::channel();
        let worker = shared.clone();
        let thread = thread::Builder::new().name("experts".to_owned());
        // Where the system starts none, who needs a matrix copies it.
        let thread = thread.spawn(move || worker.work(&queue)).ok();
        Self { shared, jobs: Some(jobs), thread }
    }

    /// What it has done so far.
    pub fn usage(&self) -> ExpertUsage {
        self.shared.lock().usage
    }

    /// This thread is done with a layer: what it has wanted and not used is not wanted any more.
    pub(super) fn forget(&self) {
        self.shared.lock().forget(thread::current().id());
    }

    /// This thread is going to use `experts` of a stack, which do not give way to what is brought before it is needed. Returns
    /// those that are neither there nor coming.
    pub(super) fn want(&self, stack: usize, experts: &[usize]) -> Vec<usize> {
        let mut state = self.shared.lock();
        let absent = |expert: &&usize| !state.has((stack, **expert));
        let absent = experts.iter().filter(absent).copied().collect();
        let wanted = experts.iter().map(|expert| (stack, *expert));
        state.want(thread::current().id(), wanted);
        absent
    }

    /// Begins to copy `experts`, one after the other, as long as there is room that nobody wants. Returns whether all of them are
    /// there or coming.
    pub(super) fn fetch(
        &self,
        stack: usize,
        host: &Arc<dyn HostStack>,
        experts: impl IntoIterator<Item = usize>,
    ) -> bool {
        if lost::is_remote(&host.device()) {
            return false;
        }
        let (bytes, mut jobs) = (host.matrix_bytes(), Vec::new());
        let mut state = self.shared.lock();
        let all = experts.into_iter().all(|expert| {
            let key = (stack, expert);
            let absent = !state.has(key);
            let begins = absent && state.reserve(key, bytes, Room::Unwanted);
            jobs.extend(begins.then(|| Job { key, host: host.clone(), reply: None }));
            begins || !absent
        });
        drop(state);
        jobs.into_iter().for_each(|job| self.send(job));
        all
    }

    /// Which of `experts`, one at least, to compute with next: one that is there, else one that is coming, else the first.
    pub(super) fn next_of(&self, stack: usize, experts: &[usize]) -> usize {
        let state = self.shared.lock();
        let first =
            |found: &dyn Fn(Key) -> bool| experts.iter().position(|expert| found((stack, *expert)));
        first(&|key| state.holds(key)).or_else(|| first(&|key| state.has(key))).unwrap_or(0)
    }

    /// The matrix of an expert, as soon as it is there.
    ///
    /// # Panics
    /// As the copy did, where it failed.
    pub(super) fn take(&self, key: Key, host: &Arc<dyn HostStack>) -> ExpertMatrix {
        let begun = Instant::now();
        let mut state = self.shared.lock();
        let mut waited = false;
        loop {
            if let Some(matrix) = state.hit(key) {
                state.usage.waited += if waited { begun.elapsed() } else { Duration::ZERO };
                return matrix;
            }
            if let Some(payload) = state.failed.remove(&key) {
                drop(state);
                resume_unwind(payload);
            }
            if !state.has(key) && state.reserve(key, host.matrix_bytes(), Room::Any) {
                break;
            }
            // It is coming, or what is coming takes all the room.
            waited = true;
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let matrix = self.copied_now(key, host);
        self.shared.lock().usage.waited += begun.elapsed();
        matrix
    }

    /// A matrix that nobody has brought before it was needed, and that has its room. It is handed over, whoever needs that room
    /// next.
    fn copied_now(&self, key: Key, host: &Arc<dyn HostStack>) -> ExpertMatrix {
        let (reply, answer) = mpsc::channel();
        let job = Job { key, host: host.clone(), reply: Some(reply) };
        match lost::is_remote(&host.device()) {
            true => self.shared.copy(job),
            false => self.send(job),
        }
        let matrix = answer.recv().expect("every job is answered");
        matrix.unwrap_or_else(|payload| resume_unwind(payload))
    }

    /// This thread has computed with a matrix that it wanted.
    pub(super) fn release(&self, key: Key) {
        self.shared.lock().release(thread::current().id(), key);
    }

    fn send(&self, job: Job) {
        let left = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        left.into_iter().for_each(|job| self.shared.copy(job));
    }
}

impl Drop for ExpertCache {
    /// Waits for the thread, so that the device is at rest.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies until the cache goes. Where nothing else is to be copied, it waits for the device, and counts that.
    fn work(&self, queue: &Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| queue.recv().ok()) {
            let device = job.host.device();
            self.copy(job);
            next = queue.try_recv().ok();
            if next.as_ref().is_none_or(|next: &Job| next.host.device() != device) {
                let begun = Instant::now();
                // Who reads afterwards is told what went wrong.
                let _ = catch_unwind(AssertUnwindSafe(|| lost::settle(&device)));
                self.lock().usage.uploading += begun.elapsed();
            }
        }
    }

    fn copy(&self, job: Job) {
        let Job { key, host, reply } = job;
        let begun = Instant::now();
        let copied = catch_unwind(AssertUnwindSafe(|| host.upload(key.1)));
        let mut state = self.lock();
        state.usage.uploading += begun.elapsed();
        state.arrive(key, host.matrix_bytes(), copied.as_ref().ok(), reply.is_none());
        match (reply, copied) {
            // Nobody listens where that thread has gone.
            (Some(reply), copied) => drop(reply.send(copied)),
            (None, Err(payload)) => drop(state.failed.insert(key, payload)),
            (None, Ok(_)) => {}
        }
        drop(state);
        self.arrived.notify_all();
    }
}
