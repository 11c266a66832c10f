//! The progress of one file: a bar on stderr, the bytes so far, and a brake.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

const TEMPLATE: &str = "{msg:40!} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";

/// What the waiting thread sees of a transfer.
#[derive(Debug)]
pub(super) struct Gauge {
    start: Instant,
    expected: Option<u64>,
    total: AtomicU64,
    received: AtomicU64,
    /// Milliseconds after `start` at which something last happened.
    last: AtomicU64,
    refused: AtomicBool,
}

impl Gauge {
    /// `expected`: bytes of the whole file, where the listing says.
    pub fn new(expected: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            expected,
            total: AtomicU64::new(0),
            received: AtomicU64::new(0),
            last: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// Bytes of the file that are on disk, those of earlier runs included.
    pub fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }

    /// Bytes of the whole file by the listing, else by the server's `Content-Range`.
    pub fn expected(&self) -> Option<u64> {
        let total = Some(self.total.load(SeqCst)).filter(|t| *t > 0);
        self.expected.or(total)
    }

    /// Bytes by the server's `Content-Range` where they contradict the listing, else those received.
    pub fn claimed(&self) -> u64 {
        let total = self.total.load(SeqCst);
        if self.contradicts(total) { total } else { self.received() }
    }

    /// Time since something last happened.
    pub fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(SeqCst)))
    }

    /// Whether the transfer must not go on, because more comes than the file has, or because nobody waits any more.
    pub fn is_refused(&self) -> bool {
        self.refused.load(SeqCst)
    }

    /// Puts the brake on: the transfer writes no further byte.
    pub fn refuse(&self) {
        self.refused.store(true, SeqCst);
    }

    fn contradicts(&self, total: u64) -> bool {
        total > 0 && self.expected.is_some_and(|e| e != total)
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, SeqCst);
    }

    fn begin(&self, total: u64) {
        self.touch();
        self.total.store(total, SeqCst);
        self.received.store(0, SeqCst);
        if self.contradicts(total) {
            self.refuse();
        }
    }

    fn add(&self, bytes: u64) -> u64 {
        self.touch();
        let received = self.received.fetch_add(bytes, SeqCst) + bytes;
        if self.expected().is_some_and(|e| received > e) {
            self.refuse();
        }
        received
    }
}

/// Reports hf-hub's progress to a [`Gauge`] and to the user.
///
/// hf-hub has no way to stop a transfer. It reports every chunk here before writing it, so a transfer that must not
/// go on is stopped by never returning from the report: its thread sleeps until the process ends.
pub(super) struct Meter {
    gauge: Arc<Gauge>,
    bar: Option<ProgressBar>,
    announced: bool,
    resumed: bool,
}

impl Meter {
    pub fn new(gauge: &Arc<Gauge>, show: bool) -> Self {
        let bar = (show && io::stderr().is_terminal()).then(bar);
        Self { gauge: gauge.clone(), announced: !show || bar.is_some(), bar, resumed: false }
    }

    /// One plain line per file, where no bar can be drawn.
    fn announce(&mut self, file: &str, size: u64) {
        if !std::mem::replace(&mut self.announced, true) {
            let _ = writeln!(io::stderr(), "downloading {file} ({})", HumanBytes(size));
        }
    }

    fn brake(&self) {
        while self.gauge.is_refused() {
            std::thread::park();
        }
    }
}

impl hf_hub::api::Progress for Meter {
    fn init(&mut self, size: usize, filename: &str) {
        self.gauge.begin(size as u64);
        self.brake();
        self.announce(filename, size as u64);
        self.resumed = false;
        if let Some(bar) = &self.bar {
            bar.set_length(size as u64);
            bar.set_message(filename.to_string());
        }
    }

    fn update(&mut self, size: usize) {
        let received = self.gauge.add(size as u64);
        self.brake();
        if let Some(bar) = &self.bar {
            bar.set_position(received);
            // The first report is what an earlier run left: it says nothing about this run's speed.
            if !std::mem::replace(&mut self.resumed, true) {
                bar.reset_eta();
            }
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_finish(ProgressFinish::Abandon)
}
