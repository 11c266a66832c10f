//! H.264 pictures of an mp4 through openh264, only those that the wanted ones need, on all cores.
//!
//! openh264 is made to hand out every picture at once, in decoding order (see [`crate::mp4::order`]), so that a
//! picture is known by the sample it came from; the container's times give the display order. A sample that gives
//! no picture is therefore known too, and nothing can shift.

use crate::colour::{Orientation, Planes, to_rgb};
use crate::error::Loss;
use crate::mp4::avc::Config;
use crate::mp4::nal::{IDR, first_slice, with_start_codes};
use crate::mp4::table::{Sample, Table};
use crate::schedule::{Run, runs};
use crate::source::{Media, OpenOptions, Stream, read_at};
use crate::{Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted};
use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes of finished pictures that may wait to be taken.
const WAITING: usize = 96 << 20;

/// An H.264 track of an mp4.
pub(crate) struct Film {
    media: Media,
    table: Table,
    config: Config,
    turn: Orientation,
    info: VideoInfo,
    skip_damaged: bool,
    threads: usize,
    /// Sample numbers in display order.
    order: Vec<usize>,
    /// Samples that the container calls key pictures, in decoding order.
    keys: Vec<usize>,
}

/// What a worker hands over for one wanted picture.
enum Item {
    Frame(usize, Frame),
    Lost(usize, String),
}

/// What workers and the caller share during one call.
struct Shared {
    queue: Mutex<VecDeque<(Run, SyncSender<Item>)>>,
    stop: AtomicBool,
    passed: AtomicUsize,
    decoded: AtomicUsize,
}

impl Film {
    pub fn new(
        media: Media,
        (table, config, turn): (Table, Config, Orientation),
        info: VideoInfo,
        options: &OpenOptions,
    ) -> Self {
        let order = table.order();
        let keys = (0..table.samples.len()).filter(|&i| table.samples[i].sync).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { cores } else { options.threads };
        let skip_damaged = options.skip_damaged;
        Self { media, table, config, turn, info, skip_damaged, threads, order, keys }
    }

    /// Decodes the first picture, to find out at once when openh264 cannot decode the stream.
    pub fn probe(&self) -> Result<(), String> {
        let plan = self.plan(&[0]).map_err(|error| error.to_string())?;
        let Some(run) = plan.into_iter().next() else { return Err("there is none".into()) };
        let (sender, receiver) = sync_channel(1);
        let shared = Shared::new(VecDeque::new());
        let mut worker = Worker::new(self, &shared).map_err(|error| error.to_string())?;
        worker.run(&run, &sender);
        match receiver.recv() {
            Ok(Item::Frame(..)) => Ok(()),
            Ok(Item::Lost(_, reason)) => Err(reason),
            Err(_) => Err("there is none".into()),
        }
    }

    fn plan(&self, wanted: &[usize]) -> Result<Vec<Run>, VideoError> {
        let mut stream = self.media.stream()?;
        let mut seen = BTreeMap::new();
        let samples = wanted.iter().map(|&index| (self.order[index], index));
        runs(samples, |sample| self.start_of(sample, &mut *stream, &mut seen))
    }

    /// The last IDR picture that comes before a sample in decoding order and not after it in display order.
    ///
    /// Key pictures that are no IDR pictures (open GOPs) are passed over: openh264 cannot start there.
    fn start_of(
        &self,
        sample: usize,
        stream: &mut dyn Stream,
        seen: &mut BTreeMap<usize, bool>,
    ) -> Result<usize, VideoError> {
        let pts = self.table.samples[sample].pts;
        let before = self.keys.partition_point(|&key| key <= sample);
        for &key in self.keys[..before].iter().rev() {
            let is_idr = *seen.entry(key).or_insert_with(|| {
                let found = first_slice(stream, &self.table.samples[key], &self.config);
                found.is_some_and(|(kind, _)| kind == IDR)
            });
            if is_idr && self.table.samples[key].pts <= pts {
                return Ok(key);
            }
        }
        Ok(0)
    }

    /// How many threads may run, and how many pictures each may have waiting.
    fn limits(&self, runs: usize) -> (usize, usize) {
        let bytes = (self.info.width as usize * self.info.height as usize * 3).max(1);
        let threads = self.threads.min(runs).min(WAITING * 3 / bytes).max(1);
        (threads, (WAITING / bytes / threads).clamp(1, 8))
    }

    fn collect(
        &self,
        receivers: Vec<Receiver<Item>>,
        shared: &Shared,
        total: usize,
        (sink, progress): (&mut Sink<'_>, &mut Progress<'_>),
    ) -> Result<Delivered, VideoError> {
        let mut done = Delivered::default();
        let mut lost: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        'runs: for receiver in receivers {
            loop {
                let passed = shared.passed.load(Ordering::Relaxed);
                let flow = match receiver.recv_timeout(Duration::from_millis(50)) {
                    Ok(Item::Frame(index, frame)) => {
                        done.frames += 1;
                        sink(index, frame)
                    }
                    Ok(Item::Lost(index, reason)) => {
                        lost.entry(reason).or_default().push(index);
                        ControlFlow::Continue(())
                    }
                    Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                let share = passed as f64 / total.max(1) as f64;
                if flow.is_break() || progress(share.min(1.0)).is_break() {
                    done.stopped = true;
                    break 'runs;
                }
                if !lost.is_empty() && !self.skip_damaged {
                    break;
                }
            }
            if !lost.is_empty() && !self.skip_damaged {
                break;
            }
        }
        shared.stop.store(true, Ordering::Relaxed);
        done.decoded = shared.decoded.load(Ordering::Relaxed);
        self.report(lost, done)
    }

    fn report(
        &self,
        lost: BTreeMap<String, Vec<usize>>,
        mut done: Delivered,
    ) -> Result<Delivered, VideoError> {
        for (reason, frames) in lost {
            done.lose(Loss { name: self.media.name(), frames, reason }, self.skip_damaged)?;
        }
        done.missing.sort_unstable();
        Ok(done)
    }
}

impl FrameSource for Film {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frames(
        &mut self,
        wanted: &[usize],
        sink: &mut Sink<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Delivered, VideoError> {
        check_wanted(wanted, self.info.frame_count())?;
        let plan = self.plan(wanted)?;
        let total = plan.iter().map(|run| run.end - run.start + 1).sum();
        let (threads, waiting) = self.limits(plan.len());
        let (queue, receivers): (VecDeque<_>, Vec<_>) = plan
            .into_iter()
            .map(|run| {
                let (sender, receiver) = sync_channel(waiting);
                ((run, sender), receiver)
            })
            .unzip();
        let shared = Shared::new(queue);
        let film = &*self;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| film.work(&shared));
            }
            film.collect(receivers, &shared, total, (sink, progress))
        })
    }
}

impl Film {
    /// Takes runs from the queue in order until it is empty. A worker that cannot start reports every picture.
    fn work(&self, shared: &Shared) {
        let mut worker = Worker::new(self, shared);
        while let Some((run, sender)) = shared.next() {
            match &mut worker {
                Ok(worker) => worker.run(&run, &sender),
                Err(error) => {
                    let reason = error.to_string();
                    for &(_, index) in &run.wanted {
                        if sender.send(Item::Lost(index, reason.clone())).is_err() {
                            break;
                        }
                    }
                }
            }
        }
    }
}

impl Shared {
    fn new(queue: VecDeque<(Run, SyncSender<Item>)>) -> Self {
        Self {
            queue: Mutex::new(queue),
            stop: AtomicBool::new(false),
            passed: AtomicUsize::new(0),
            decoded: AtomicUsize::new(0),
        }
    }

    fn next(&self) -> Option<(Run, SyncSender<Item>)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// One thread's decoder.
struct Worker<'a> {
    film: &'a Film,
    shared: &'a Shared,
    stream: Box<dyn Stream>,
    decoder: Decoder,
    sample: Vec<u8>,
    unit: Vec<u8>,
}

fn new_decoder() -> Result<Decoder, openh264::Error> {
    // Flushing would only touch the queue of pictures that are put into order, which stays empty.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config)
}

impl<'a> Worker<'a> {
    fn new(film: &'a Film, shared: &'a Shared) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self {
            film,
            shared,
            stream: film.media.stream()?,
            decoder: new_decoder()?,
            sample: Vec::new(),
            unit: Vec::new(),
        })
    }

    /// Decodes a run and sends its wanted pictures in display order.
    fn run(&mut self, run: &Run, out: &SyncSender<Item>) {
        let indices: BTreeMap<usize, usize> = run.wanted.iter().copied().collect();
        let mut order = run.wanted.iter().map(|w| w.1).peekable();
        let mut ready: BTreeMap<usize, Item> = BTreeMap::new();
        let mut broken: Option<String> = None;
        for number in run.start..=run.end {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let wanted = indices.get(&number).copied();
            let item = self.step(number, wanted, number == run.start, &mut broken);
            self.shared.passed.fetch_add(1, Ordering::Relaxed);
            if let (Some(index), Some(item)) = (wanted, item) {
                ready.insert(index, item);
            }
            while let Some(item) = order.peek().and_then(|next| ready.remove(next)) {
                order.next();
                if out.send(item).is_err() {
                    return;
                }
            }
        }
    }

    /// Takes one sample: skips it, decodes it for others, or turns it into a frame when it is wanted.
    fn step(
        &mut self,
        number: usize,
        wanted: Option<usize>,
        first: bool,
        broken: &mut Option<String>,
    ) -> Option<Item> {
        let sample = self.film.table.samples[number];
        let head = first_slice(&mut *self.stream, &sample, &self.film.config);
        if head.is_some_and(|(kind, _)| kind == IDR) {
            *broken = None;
        }
        let reference = head.is_none_or(|(_, reference)| reference);
        if wanted.is_none() && (!reference || broken.is_some()) {
            return None;
        }
        if let Some(reason) = broken {
            return Some(Item::Lost(wanted?, reason.clone()));
        }
        match self.decode(&sample, first, wanted.is_some()) {
            Ok(frame) => Some(Item::Frame(wanted?, frame?)),
            Err(reason) => {
                // The decoder's state after an error is not to be trusted before the next IDR picture.
                *broken = Some(format!("they need picture {number} of the stream: {reason}"));
                if let Ok(fresh) = new_decoder() {
                    self.decoder = fresh;
                }
                Some(Item::Lost(wanted?, reason))
            }
        }
    }

    fn decode(
        &mut self,
        sample: &Sample,
        first: bool,
        wanted: bool,
    ) -> Result<Option<Frame>, String> {
        let (film, shared) = (self.film, self.shared);
        read_at(&mut *self.stream, sample.offset, sample.size.into(), &mut self.sample)
            .map_err(|error| format!("the data cannot be read ({error})"))?;
        self.unit.clear();
        if sample.sync || first {
            self.unit.extend_from_slice(&film.config.headers);
        }
        with_start_codes(&self.sample, film.config.length_size, &mut self.unit)?;
        let picture = self.decoder.decode(&self.unit).map_err(|error| error.to_string())?;
        let Some(picture) = picture else {
            return Err("the decoder gives no picture for its data".into());
        };
        shared.decoded.fetch_add(1, Ordering::Relaxed);
        let (width, height) = picture.dimensions();
        if (width, height) != (film.config.width as usize, film.config.height as usize) {
            return Err(format!(
                "its size is {width}x{height} instead of {}x{}",
                film.config.width, film.config.height
            ));
        }
        if !wanted {
            return Ok(None);
        }
        let (luma, chroma, _) = picture.strides();
        let (y, u, v) = (picture.y(), picture.u(), picture.v());
        let planes = Planes { y, u, v, strides: (luma, chroma), width, height };
        let frame = to_rgb(&planes, film.config.colour).ok_or("its planes are too short")?;
        Ok(Some(film.turn.apply(frame)))
    }
}
