//! The delays of animated pictures, read by hopping over their chunks without decoding a pixel.

use crate::source::Stream;
use std::io::{self, SeekFrom};

/// What a walk over an animation found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Delays {
    /// Seconds for which each complete frame is shown.
    pub seconds: Vec<f64>,
    /// How many frames the header promises, where the format says so.
    pub promised: Option<usize>,
    /// Whether the walk reached the end mark.
    pub complete: bool,
}

/// Browsers and FFmpeg show frames with no or hardly any delay for a tenth of a second.
fn shown_for(seconds: f64) -> f64 {
    if seconds > 0.0101 { seconds } else { 0.1 }
}

/// Ends a walk at the end of the data without an error.
fn until_end(walk: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    match walk() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn take<const N: usize>(stream: &mut dyn Stream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The delays of a GIF (GIF89a: graphic control extensions before images).
pub(crate) fn gif(stream: &mut dyn Stream) -> io::Result<Delays> {
    let mut found = Delays::default();
    found.complete = until_end(|| walk_gif(stream, &mut found.seconds))?;
    Ok(found)
}

fn walk_gif(stream: &mut dyn Stream, seconds: &mut Vec<f64>) -> io::Result<()> {
    let head: [u8; 13] = take(stream)?;
    skip_table(stream, head[10])?;
    let mut delay = 0;
    loop {
        match take::<1>(stream)?[0] {
            0x21 => {
                let label = take::<1>(stream)?[0];
                let first = skip_blocks(stream)?;
                if label == 0xf9 {
                    delay = u16::from_le_bytes([first[1], first[2]]);
                }
            }
            0x2c => {
                let image: [u8; 9] = take(stream)?;
                skip_table(stream, image[8])?;
                take::<1>(stream)?;
                skip_blocks(stream)?;
                seconds.push(shown_for(f64::from(delay) / 100.0));
                delay = 0;
            }
            0x3b => return Ok(()),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn skip_table(stream: &mut dyn Stream, flags: u8) -> io::Result<()> {
    if flags & 0x80 != 0 {
        let mut table = [0; 768];
        stream.read_exact(&mut table[..3 << ((flags & 7) + 1)])?;
    }
    Ok(())
}

/// Skips data blocks up to the empty one and returns the start of the first.
fn skip_blocks(stream: &mut dyn Stream) -> io::Result<[u8; 4]> {
    let mut first = None;
    loop {
        let len = usize::from(take::<1>(stream)?[0]);
        let mut block = [0; 256];
        stream.read_exact(&mut block[..len])?;
        first.get_or_insert([block[0], block[1], block[2], block[3]]);
        if len == 0 {
            return Ok(first.unwrap_or_default());
        }
    }
}

/// The delays of an APNG (`acTL` and `fcTL` chunks); empty for a plain PNG.
pub(crate) fn png(stream: &mut dyn Stream, len: u64) -> io::Result<Delays> {
    let mut found = Delays::default();
    let complete = until_end(|| walk_png(stream, len, &mut found))?;
    found.complete = complete;
    if !complete {
        found.seconds.pop();
    }
    Ok(found)
}

fn walk_png(stream: &mut dyn Stream, len: u64, found: &mut Delays) -> io::Result<()> {
    let mut at = 8;
    loop {
        stream.seek(SeekFrom::Start(at))?;
        let head: [u8; 8] = take(stream)?;
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        at += size + 12;
        if at > len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &head[4..] {
            b"acTL" => {
                let body: [u8; 4] = take(stream)?;
                found.promised = Some(u32::from_be_bytes(body) as usize);
            }
            b"fcTL" if found.promised.is_some() => {
                let body: [u8; 24] = take(stream)?;
                let part = |i: usize| f64::from(u16::from_be_bytes([body[i], body[i + 1]]));
                let unit = if part(22) == 0.0 { 100.0 } else { part(22) };
                found.seconds.push(shown_for(part(20) / unit));
            }
            b"IEND" => return Ok(()),
            _ => {}
        }
    }
}

/// The delays of an animated WebP (`ANMF` chunks); empty for a plain WebP.
pub(crate) fn webp(stream: &mut dyn Stream, len: u64) -> io::Result<Delays> {
    let mut found = Delays::default();
    let end = len.min(riff_end(stream)?);
    let mut at = 12;
    while at + 8 <= end {
        stream.seek(SeekFrom::Start(at))?;
        let head: [u8; 8] = take(stream)?;
        let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        at += 8 + size + (size & 1);
        if at > end {
            return Ok(found);
        }
        if &head[..4] == b"ANMF" && size >= 16 {
            let body: [u8; 16] = take(stream)?;
            let delay = u32::from_le_bytes([body[12], body[13], body[14], 0]);
            found.seconds.push(shown_for(f64::from(delay) / 1000.0));
        }
    }
    found.complete = riff_end(stream)? <= len;
    Ok(found)
}

fn riff_end(stream: &mut dyn Stream) -> io::Result<u64> {
    stream.seek(SeekFrom::Start(4))?;
    Ok(u64::from(u32::from_le_bytes(take(stream)?)) + 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_cut_gif_keeps_its_complete_frames() {
        let mut gif_bytes = b"GIF89a\x02\0\x02\0\0\0\0".to_vec();
        let frame = b"\x21\xf9\x04\0\x07\0\0\0\x2c\0\0\0\0\x02\0\x02\0\0\x02\x02\x44\x01\0";
        gif_bytes.extend_from_slice(frame);
        gif_bytes.extend_from_slice(frame);
        let cut = gif(&mut Cursor::new(&gif_bytes[..gif_bytes.len() - 1])).unwrap();
        assert_eq!((cut.seconds, cut.complete), (vec![0.07], false));
        gif_bytes.push(0x3b);
        let whole = gif(&mut Cursor::new(&gif_bytes[..])).unwrap();
        assert_eq!((whole.seconds, whole.complete), (vec![0.07, 0.07], true));
    }
}
