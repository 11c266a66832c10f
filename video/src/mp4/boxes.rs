//! Hopping over the boxes of an ISO base media file (ISO/IEC 14496-12), so that one odd box of another track
//! never spoils the video track. What a single box holds is decoded by `mp4-atom`.

use crate::VideoError;
use crate::source::{Media, Stream, read_at};
use mp4_atom::Atom;
use std::io::SeekFrom;

/// Largest `moov` or `moof` box that is read into memory; a day of film needs a tenth.
const MAX_INDEX: u64 = 256 << 20;

/// One box at the top of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Top {
    pub kind: [u8; 4],
    /// Where its header starts.
    pub start: u64,
    /// Where its contents start.
    pub body: u64,
    /// Where it should end.
    pub end: u64,
}

/// The boxes at the top of the file up to the first that makes no sense.
pub(crate) struct Tops<'a> {
    pub stream: &'a mut dyn Stream,
    pub at: u64,
    pub len: u64,
}

impl Iterator for Tops<'_> {
    type Item = Top;

    fn next(&mut self) -> Option<Top> {
        let start = self.at;
        if start + 8 > self.len {
            return None;
        }
        let mut head = [0; 16];
        self.stream.seek(SeekFrom::Start(start)).ok()?;
        self.stream.read_exact(&mut head[..8]).ok()?;
        let (size, kind) = head[..8].split_at(4);
        let kind = kind.try_into().ok()?;
        let (size, header) = match u32::from_be_bytes(size.try_into().ok()?) {
            0 => (self.len - start, 8),
            1 => {
                self.stream.read_exact(&mut head[8..]).ok()?;
                (u64::from_be_bytes(head[8..].try_into().ok()?), 16)
            }
            size => (u64::from(size), 8),
        };
        let end = start.checked_add(size).filter(|_| size >= header)?;
        self.at = end;
        Some(Top { kind, start, body: start + header, end })
    }
}

/// Reads the contents of an index box (`moov`, `moof`).
pub(crate) fn read_index(
    media: &Media,
    stream: &mut dyn Stream,
    top: Top,
) -> Result<Vec<u8>, VideoError> {
    let kind = String::from_utf8_lossy(&top.kind).into_owned();
    let len = top.end - top.body;
    if top.end > media.len() {
        return Err(media.malformed(format!(
            "its index (the {kind} box) claims to end at byte {}, but the file ends at byte {}",
            top.end,
            media.len()
        )));
    }
    if len > MAX_INDEX {
        return Err(media.malformed(format!(
            "its index (the {kind} box) has {len} bytes; at most {MAX_INDEX} are read"
        )));
    }
    let mut body = Vec::new();
    read_at(stream, top.body, len, &mut body).map_err(|source| media.failed(source))?;
    Ok(body)
}

/// The boxes inside a box, up to the first that makes no sense.
pub(crate) struct Children<'a>(pub &'a [u8]);

impl<'a> Iterator for Children<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = [head[4], head[5], head[6], head[7]];
        let len = if size == 0 { rest.len() } else { size.checked_sub(8)? };
        let body = rest.get(..len)?;
        self.0 = &rest[len..];
        Some((kind, body))
    }
}

/// The first box inside `body` at the end of a path of kinds.
pub(crate) fn find<'a>(body: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(body, |body, kind| Some(Children(body).find(|c| c.0 == **kind)?.1))
}

/// Decodes a box's contents; `None` when the box is absent or malformed.
pub(crate) fn decode<T: Atom>(body: Option<&[u8]>) -> Option<T> {
    T::decode_body(&mut body?).ok()
}

/// Decodes the first box of a kind inside `body`; a box that must be there and be in order.
pub(crate) fn require<T: Atom>(media: &Media, body: &[u8]) -> Result<T, VideoError> {
    let kind: [u8; 4] = T::KIND.into();
    let name = String::from_utf8_lossy(&kind).into_owned();
    let Some(mut found) = find(body, &[&kind]) else {
        return Err(media.malformed(format!("the video track has no {name} box")));
    };
    T::decode_body(&mut found).map_err(|error| {
        media.malformed(format!("the {name} box of the video track is malformed ({error})"))
    })
}
