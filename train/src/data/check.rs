//! A whole set, looked at before the first step: every row parsed, every file found, every token counted.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::error::{Place, SampleError};
use super::pixels::BoxEvidence;
use super::prepare::{Measured, Note, Prepared, Preparer, SampleSizes};
use super::{Dataset, Sample};

/// Rows that are held in memory at once, and between two reports of progress.
const BLOCK: usize = 256;
/// The same where media are decoded.
const DECODED_BLOCK: usize = 16;

/// How much of what is found is listed. Everything is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Longest of the lists of problems, of duplicates and of long rows.
    pub most_listed: usize,
    /// Rows that are looked at of a set that is drawn, which has no mistakes of its author; a file is read to its end.
    pub most_drawn: usize,
    /// Decodes all pictures and the frames that are used, as a run does, so that damage behind the headers is found.
    pub decode: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { most_listed: 100, most_drawn: 1000, decode: false }
    }
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub place: Place,
    /// A short name, such as `missing_file`; the keys of [`CheckReport::problem_counts`].
    pub kind: &'static str,
    pub message: String,
}

/// A row whose text is that of an earlier row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    pub place: Place,
    pub first: Place,
}

/// A sample with more tokens than allowed, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Long {
    pub place: Place,
    /// Tokens as trained; of one that is left out, as it would have been.
    pub tokens: usize,
    pub dropped: bool,
    pub notes: Vec<Note>,
}

/// How a number is spread over the samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Histogram {
    pub count: usize,
    pub sum: u64,
    pub least: usize,
    pub most: usize,
    /// By upper bound, which belongs to it: 16, 32, 64 and so on; numbers of samples.
    pub buckets: BTreeMap<usize, usize>,
}

impl Histogram {
    fn add(&mut self, value: usize) {
        self.least = if self.count == 0 { value } else { self.least.min(value) };
        self.most = self.most.max(value);
        self.count += 1;
        self.sum += value as u64;
        *self.buckets.entry(value.next_power_of_two().max(16)).or_default() += 1;
    }

    /// The mean; 0 without samples.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

/// Sums of one channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChannelCounts {
    pub samples: usize,
    pub tokens: u64,
    pub targets: u64,
    pub vision_tokens: u64,
    pub patches: u64,
    pub boxes: BoxEvidence,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CheckReport {
    pub rows: usize,
    /// Rows of drawn sets that were not looked at, for [`CheckOptions::most_drawn`].
    pub not_drawn: usize,
    /// Rows without a problem, those that are left out for their length among them.
    pub good: usize,
    /// Samples that are trained on; a packed row holds several.
    pub samples: usize,
    /// Samples left out for their length.
    pub dropped: usize,
    pub shrunk: usize,
    pub trimmed: usize,
    /// The first problems, in the order of the rows.
    pub problems: Vec<Problem>,
    /// Rows with a problem, by its kind.
    pub problem_counts: BTreeMap<&'static str, usize>,
    /// The first samples with more tokens than allowed that are dropped, shrunk or trimmed.
    pub long: Vec<Long>,
    pub duplicates: Vec<Duplicate>,
    pub duplicate_count: usize,
    /// The first sentences on what was changed while reading, and their number.
    pub notes: Vec<Problem>,
    pub note_count: usize,
    pub tokens: Histogram,
    pub targets: Histogram,
    pub vision_tokens: Histogram,
    pub patches: Histogram,
    pub channels: BTreeMap<String, ChannelCounts>,
    /// The samples that need most memory.
    pub sizes: SampleSizes,
    /// Sentences on the whole set.
    pub warnings: Vec<String>,
}

impl CheckReport {
    /// Whether every row can be used.
    pub fn is_good(&self) -> bool {
        self.problem_counts.is_empty()
    }

    /// Rows with a problem of this kind.
    pub fn count(&self, kind: &str) -> usize {
        self.problem_counts.get(kind).copied().unwrap_or(0)
    }
}

/// One row, checked.
struct Checked {
    hash: u64,
    result: Result<Vec<(Sample, Measured)>, SampleError>,
}

/// Checks all rows of `sets` on several threads; the report is the same however many there are. `progress` is called with
/// the rows done and all rows.
pub fn check(
    sets: &[Dataset],
    preparer: &Preparer<'_>,
    options: CheckOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> CheckReport {
    let looked_at = |set: &Dataset| match set.is_drawn() {
        true => set.len().min(options.most_drawn),
        false => set.len(),
    };
    let total = sets.iter().map(looked_at).sum();
    let mut run = Run { sets, options, report: CheckReport::default(), seen: HashMap::new() };
    for (number, set) in sets.iter().enumerate() {
        let wanted = looked_at(set);
        run.report.not_drawn += set.len() - wanted;
        let block = if options.decode { DECODED_BLOCK } else { BLOCK };
        for start in (0..wanted).step_by(block) {
            let rows = start..wanted.min(start + block);
            let look = |row| look_at(set, row, preparer, options.decode);
            let checked: Vec<Checked> = rows.clone().into_par_iter().map(look).collect();
            for (row, checked) in rows.zip(checked) {
                run.add((number, row), checked);
            }
            progress(run.report.rows, total);
        }
    }
    run.report.warn_of_pixels();
    run.report
}

/// What a look at some rows tells, without a check of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Glance {
    pub sizes: SampleSizes,
    /// Sentences on the boxes of whole channels.
    pub warnings: Vec<String>,
}

/// Looks at up to `most` rows of each set, which lie evenly apart; rows with problems are passed over.
pub fn glance(sets: &[Dataset], preparer: &Preparer<'_>, most: usize) -> Glance {
    let mut sizes = SampleSizes::default();
    let mut boxes: BTreeMap<Arc<str>, BoxEvidence> = BTreeMap::new();
    for set in sets {
        let rows: Vec<usize> = (0..set.len()).step_by(set.len().div_ceil(most).max(1)).collect();
        let look = |row| {
            let samples = set.samples(row).unwrap_or_default().into_iter();
            let measured = samples.filter_map(|sample| {
                let measured = preparer.measure(&sample).ok()?;
                Some((sample, measured))
            });
            measured.collect::<Vec<_>>()
        };
        let measured: Vec<Vec<(Sample, Measured)>> = rows.into_par_iter().map(look).collect();
        for (sample, found) in measured.iter().flatten() {
            sizes.add(found);
            boxes.entry(sample.channel.clone()).or_default().add(sample, found);
        }
    }
    let warnings = boxes.iter().filter_map(|(channel, boxes)| boxes.warning(channel)).collect();
    Glance { sizes, warnings }
}

fn look_at(set: &Dataset, row: usize, preparer: &Preparer<'_>, decode: bool) -> Checked {
    let mut hasher = DefaultHasher::new();
    let result = set.bytes(row).and_then(|bytes| {
        hasher.write(&bytes);
        set.parse(row, &bytes)?
            .into_iter()
            .map(|mut sample| {
                let measured = preparer.measure(&sample)?;
                if decode && let Prepared::Row(row) = preparer.prepare(&sample)? {
                    sample.notes.extend(row.warnings);
                }
                Ok((sample, measured))
            })
            .collect()
    });
    Checked { hash: hasher.finish(), result }
}

/// A check under way.
struct Run<'s> {
    sets: &'s [Dataset],
    options: CheckOptions,
    report: CheckReport,
    /// Set and row by the hash of the row's bytes.
    seen: HashMap<u64, (usize, usize)>,
}

impl Run<'_> {
    fn add(&mut self, at: (usize, usize), checked: Checked) {
        self.report.rows += 1;
        self.look_for_duplicate(at, checked.hash);
        match checked.result {
            Ok(samples) => {
                self.report.good += 1;
                samples
                    .into_iter()
                    .for_each(|(sample, measured)| self.add_sample(&sample, measured));
            }
            Err(error) => {
                let kind = error.problem.kind();
                *self.report.problem_counts.entry(kind).or_default() += 1;
                let message = error.problem.to_string();
                let problem = Problem { place: error.place, kind, message };
                push(&mut self.report.problems, problem, self.options);
            }
        }
    }

    fn look_for_duplicate(&mut self, at: (usize, usize), hash: u64) {
        let first = *self.seen.entry(hash).or_insert(at);
        let bytes = |(set, row): (usize, usize)| self.sets[set].bytes(row).ok();
        if first == at || bytes(first).is_none_or(|found| Some(found) != bytes(at)) {
            return;
        }
        let place = |(set, row): (usize, usize)| self.sets[set].place(row);
        let duplicate = Duplicate { place: place(at), first: place(first) };
        self.report.duplicate_count += 1;
        push(&mut self.report.duplicates, duplicate, self.options);
    }

    fn add_sample(&mut self, sample: &Sample, measured: Measured) {
        let report = &mut self.report;
        for note in &sample.notes {
            report.note_count += 1;
            let (place, message) = (sample.place.clone(), note.clone());
            push(&mut report.notes, Problem { place, kind: "note", message }, self.options);
        }
        let has = |shrunk: bool| {
            usize::from(measured.notes.iter().any(|note| match note {
                Note::Shrunk { .. } => shrunk,
                Note::Trimmed { .. } => !shrunk,
                Note::Frames { .. } => false,
            }))
        };
        (report.shrunk, report.trimmed) = (report.shrunk + has(true), report.trimmed + has(false));
        report.dropped += usize::from(measured.dropped);
        if measured.dropped || has(true) + has(false) > 0 {
            let (tokens, dropped) = (measured.tokens, measured.dropped);
            let (place, notes) = (sample.place.clone(), measured.notes.clone());
            push(&mut report.long, Long { place, tokens, dropped, notes }, self.options);
        }
        if !measured.dropped {
            report.samples += 1;
            report.add_sizes(sample, &measured);
        }
    }
}

impl CheckReport {
    fn add_sizes(&mut self, sample: &Sample, measured: &Measured) {
        self.sizes.add(measured);
        self.tokens.add(measured.tokens);
        self.targets.add(measured.targets);
        self.vision_tokens.add(measured.vision_tokens);
        self.patches.add(measured.patches);
        let counts = self.channels.entry(sample.channel.to_string()).or_default();
        counts.samples += 1;
        counts.tokens += measured.tokens as u64;
        counts.targets += measured.targets as u64;
        counts.vision_tokens += measured.vision_tokens as u64;
        counts.patches += measured.patches as u64;
        counts.boxes.add(sample, measured);
    }

    /// Pixels of a small picture lie in 0 to 1000 too.
    fn warn_of_pixels(&mut self) {
        let warning = |(channel, counts): (&String, &ChannelCounts)| counts.boxes.warning(channel);
        self.warnings.extend(self.channels.iter().filter_map(warning));
    }
}

fn push<T>(list: &mut Vec<T>, item: T, options: CheckOptions) {
    if list.len() < options.most_listed {
        list.push(item);
    }
}
