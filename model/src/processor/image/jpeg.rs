//! Finds truncated JPEG files. The decoder underneath paints what is missing grey and reports success,
//! so the structure of the file is walked here first, marker by marker.

const RST0: u8 = 0xD0;
const RST7: u8 = 0xD7;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const TEM: u8 = 0x01;

/// Whether the end-of-image marker of the first picture is there. Bytes after it (padding, a second picture of a
/// multi-picture file, a video of a "motion photo") are not looked at; thumbnails lie inside segments, which are skipped
/// by their length. PIL, too, refuses a file without the marker.
pub(super) fn reaches_end_of_image(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some((marker, next)) = next_marker(bytes, at) {
        match marker {
            EOI => return true,
            SOI | TEM | RST0..=RST7 => at = next,
            SOS => at = after_scan(bytes, after_segment(bytes, next)),
            _ => at = after_segment(bytes, next),
        }
    }
    false
}

/// The next `FF xx` at or after `at` that is neither stuffing nor fill, and the offset behind it.
fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let pairs = bytes.get(at..)?.windows(2);
    pairs
        .zip(at..)
        .find(|(pair, _)| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF))
        .map(|(pair, offset)| (pair[1], offset + 2))
}

/// The offset behind a segment whose two length bytes (which count themselves) stand at `at`.
fn after_segment(bytes: &[u8], at: usize) -> usize {
    let length = bytes.get(at..at + 2).map_or(2, |b| u16::from_be_bytes([b[0], b[1]]));
    at + usize::from(length.max(2))
}

/// The offset of the first marker behind entropy-coded data that is no restart marker.
fn after_scan(bytes: &[u8], mut at: usize) -> usize {
    while let Some((marker, next)) = next_marker(bytes, at) {
        if !(RST0..=RST7).contains(&marker) {
            return next - 2;
        }
        at = next;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI, an APP1 segment that contains a whole thumbnail, SOS with stuffing and a restart, a second SOS, EOI.
    const FILE: &[u8] = &[
        0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9, 0xFF, 0xDA, 0, 3, 9, 1, 2, 0xFF, 0,
        3, 0xFF, 0xD0, 4, 0xFF, 0xC4, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2, 7, 7, 0xFF, 0xFF, 0xD9,
    ];

    #[test]
    fn every_proper_prefix_is_truncated() {
        assert!(reaches_end_of_image(FILE));
        for cut in 0..FILE.len() {
            assert!(!reaches_end_of_image(&FILE[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn trailing_bytes_do_not_matter() {
        let padded: Vec<u8> = FILE.iter().copied().chain([0, 0xFF, 0xE1, 0xFF, 3]).collect();
        assert!(reaches_end_of_image(&padded));
    }
}
