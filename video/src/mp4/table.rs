//! The samples of a track: where each lies, when it is shown, and where decoding can start.

use super::boxes::{decode, find, require};
use crate::VideoError;
use crate::source::Media;
use crate::timeline::Mean;
use mp4_atom::{Co64, Ctts, Edts, Stco, Stsc, Stss, Stsz, StszSamples, Stts};
use std::iter::repeat_n;
use std::ops::Range;

/// More samples than this (a week of film) are refused.
const MAX_SAMPLES: u64 = 1 << 24;

/// One coded picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub offset: u64,
    pub size: u32,
    /// Presentation time in ticks of the track's clock.
    pub pts: i64,
    /// Whether the container says that decoding can start here.
    pub sync: bool,
}

/// The samples of a track in decoding order.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub samples: Vec<Sample>,
    /// How many samples the index claims; those beyond the file's end are not in `samples`.
    pub claimed: u64,
    /// All sample durations as the index states them.
    pub mean: Mean,
    /// Ticks for which the last shown sample is shown.
    pub last: i64,
    /// Presentation times that are shown.
    pub shown: Range<i64>,
}

impl Table {
    fn new(claimed: u64, mean: Mean) -> Self {
        Self { samples: Vec::new(), claimed, mean, last: 0, shown: i64::MIN..i64::MAX }
    }

    /// Adds a sample if the file holds it; says whether it does.
    pub fn push(&mut self, sample: Sample, duration: u32, len: u64) -> bool {
        let end = sample.offset.checked_add(u64::from(sample.size));
        if end.is_none_or(|end| end > len) || self.samples.len() as u64 >= MAX_SAMPLES {
            return false;
        }
        if self.samples.iter().rev().take(32).all(|s| s.pts <= sample.pts) {
            self.last = i64::from(duration);
        }
        self.samples.push(sample);
        true
    }

    /// Sample numbers in display order, those that the edit list hides left out.
    pub fn order(&self) -> Vec<usize> {
        let visible = |&i: &usize| self.shown.contains(&self.samples[i].pts);
        let mut order: Vec<usize> = (0..self.samples.len()).filter(visible).collect();
        order.sort_by_key(|&i| self.samples[i].pts);
        order
    }
}

/// Reads the sample table box of a track (`stbl`).
pub(crate) fn read(media: &Media, stbl: &[u8]) -> Result<Table, VideoError> {
    let sizes: Stsz = require(media, stbl)?;
    let times: Stts = require(media, stbl)?;
    let runs: Stsc = require(media, stbl)?;
    let chunks = chunk_offsets(stbl);
    let claimed = match &sizes.samples {
        StszSamples::Identical { count, .. } => u64::from(*count),
        StszSamples::Different { sizes } => sizes.len() as u64,
    };
    let mut table = Table::new(claimed, mean(&times));
    let sync: Option<Stss> = decode(find(stbl, &[b"stss"]));
    let shifts: Ctts = decode(find(stbl, &[b"ctts"])).unwrap_or_default();
    let mut shifts =
        shifts.entries.iter().flat_map(|e| repeat_n(e.sample_offset, e.sample_count as usize));
    let mut durations =
        times.entries.iter().flat_map(|e| repeat_n(e.sample_delta, e.sample_count as usize));
    let mut sync_at = sync.as_ref().map(|s| s.entries.iter().copied().peekable());
    let (mut number, mut dts) = (0, 0i64);
    for (chunk, &start) in (1..).zip(&chunks) {
        let mut offset = start;
        for _ in 0..per_chunk(&runs, chunk) {
            let Some(size) = size_at(&sizes, number) else { return Ok(table) };
            let Some(duration) = durations.next() else { return Ok(table) };
            number += 1;
            let is_sync = sync_at.as_mut().is_none_or(|s| {
                while s.next_if(|&n| (n as usize) < number).is_some() {}
                s.next_if(|&n| n as usize == number).is_some()
            });
            let pts = dts.saturating_add(shifts.next().unwrap_or(0));
            let sample = Sample { offset, size, pts, sync: is_sync };
            if !table.push(sample, duration, media.len()) && past_end(&sizes, &table) {
                return Ok(table);
            }
            offset = offset.saturating_add(u64::from(size));
            dts = dts.saturating_add(i64::from(duration));
        }
    }
    Ok(table)
}

/// Whether going on can only find samples that are not there, and might take for ever.
fn past_end(sizes: &Stsz, table: &Table) -> bool {
    let endless = matches!(sizes.samples, StszSamples::Identical { .. });
    endless || table.samples.len() as u64 >= MAX_SAMPLES
}

fn size_at(sizes: &Stsz, number: usize) -> Option<u32> {
    match &sizes.samples {
        StszSamples::Identical { count, size } => (number < *count as usize).then_some(*size),
        StszSamples::Different { sizes } => sizes.get(number).copied(),
    }
}

fn chunk_offsets(stbl: &[u8]) -> Vec<u64> {
    if let Some(short) = decode::<Stco>(find(stbl, &[b"stco"])) {
        return short.entries.into_iter().map(u64::from).collect();
    }
    decode::<Co64>(find(stbl, &[b"co64"])).map_or(Vec::new(), |long| long.entries)
}

/// How many samples the chunk with this number (from 1) has.
fn per_chunk(runs: &Stsc, chunk: u32) -> u32 {
    let after = runs.entries.partition_point(|run| run.first_chunk <= chunk);
    after.checked_sub(1).map_or(0, |i| runs.entries[i].samples_per_chunk)
}

fn mean(times: &Stts) -> Mean {
    let count = times.entries.iter().map(|e| u64::from(e.sample_count)).sum();
    let ticks = times.entries.iter().fold(0u64, |sum, e| {
        sum.saturating_add(u64::from(e.sample_count) * u64::from(e.sample_delta))
    });
    Mean { count, ticks }
}

/// Applies an edit list (`edts`): leading empty edits only delay, one edit shows a part. `false` when it plays
/// several parts, which only FFmpeg's decoders do.
pub(crate) fn apply_edits(table: &mut Table, trak: &[u8], clocks: (u64, u64)) -> bool {
    let Some(edits) = decode::<Edts>(find(trak, &[b"edts"])).and_then(|e| e.elst) else {
        return true;
    };
    let mut shown = edits.entries.iter().filter_map(|e| Some((e.media_time?, e.segment_duration)));
    let Some((start, duration)) = shown.next() else { return true };
    if shown.next().is_some() {
        return false;
    }
    let (movie, track) = clocks;
    let ticks = u128::from(duration) * u128::from(track) + u128::from(movie / 2);
    let length = i64::try_from(ticks / u128::from(movie.max(1))).unwrap_or(i64::MAX);
    let start = i64::try_from(start).unwrap_or(i64::MAX);
    let end = if duration == 0 { i64::MAX } else { start.saturating_add(length) };
    table.shown = start..end;
    true
}
