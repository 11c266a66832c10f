//! Movie fragments (`moof`): samples that are listed beside their data instead of in one index.

use super::boxes::{Children, Tops, decode, find, read_index};
use super::table::{Sample, Table};
use crate::VideoError;
use crate::source::{Media, Stream};
use mp4_atom::{Tfdt, Tfhd, Trex, Trun};

/// What samples of a fragment have unless they say otherwise.
struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

/// Where the next sample starts in the file and in time.
struct Cursor {
    offset: u64,
    dts: i64,
}

/// Adds the samples of all fragments of one track.
pub(crate) fn append(
    media: &Media,
    stream: &mut dyn Stream,
    moov: &[u8],
    track: u32,
    table: &mut Table,
) -> Result<(), VideoError> {
    let trex = find(moov, &[b"mvex"])
        .and_then(|mvex| {
            Children(mvex)
                .filter(|c| &c.0 == b"trex")
                .filter_map(|c| decode::<Trex>(Some(c.1)))
                .find(|t| t.track_id == track)
        })
        .unwrap_or_default();
    let mut cursor = Cursor { offset: 0, dts: 0 };
    let mut at = 0;
    loop {
        let len = media.len();
        let next = Tops { stream: &mut *stream, at, len }.find(|top| &top.kind == b"moof");
        let Some(top) = next else { return Ok(()) };
        if top.end > len {
            table.claimed += 1;
            return Ok(());
        }
        let moof = read_index(media, stream, top)?;
        for (_, traf) in Children(&moof).filter(|c| &c.0 == b"traf") {
            let header: Option<Tfhd> = decode(find(traf, &[b"tfhd"]));
            if let Some(header) = header.filter(|h| h.track_id == track) {
                let defaults = Defaults {
                    duration: header
                        .default_sample_duration
                        .unwrap_or(trex.default_sample_duration),
                    size: header.default_sample_size.unwrap_or(trex.default_sample_size),
                    flags: header.default_sample_flags.unwrap_or(trex.default_sample_flags),
                };
                let base = header.base_data_offset.unwrap_or(top.start);
                add_track(table, traf, &defaults, base, (&mut cursor, len));
            }
        }
        at = top.end;
    }
}

fn add_track(
    table: &mut Table,
    traf: &[u8],
    defaults: &Defaults,
    base: u64,
    (cursor, len): (&mut Cursor, u64),
) {
    if let Some(start) = decode::<Tfdt>(find(traf, &[b"tfdt"])) {
        cursor.dts = i64::try_from(start.base_media_decode_time).unwrap_or(i64::MAX);
    }
    cursor.offset = base;
    for (_, body) in Children(traf).filter(|c| &c.0 == b"trun") {
        let Some(run) = decode::<Trun>(Some(body)) else { continue };
        if let Some(offset) = run.data_offset {
            cursor.offset = base.saturating_add_signed(i64::from(offset));
        }
        table.claimed = table.claimed.saturating_add(run.samples.len() as u64);
        for entry in run.samples.iter() {
            let duration = entry.duration.unwrap_or(defaults.duration);
            let size = entry.size.unwrap_or(defaults.size);
            let flags = entry.flags.unwrap_or(defaults.flags);
            let pts = cursor.dts.saturating_add(entry.cts.unwrap_or(0));
            // Bit 16 is `sample_is_non_sync_sample`.
            let sample = Sample { offset: cursor.offset, size, pts, sync: flags & 0x1_0000 == 0 };
            if size == 0 || !table.push(sample, duration, len) {
                break;
            }
            table.mean.count += 1;
            table.mean.ticks = table.mean.ticks.saturating_add(u64::from(duration));
            cursor.offset += u64::from(size);
            cursor.dts = cursor.dts.saturating_add(i64::from(duration));
        }
    }
}
