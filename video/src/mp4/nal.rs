//! NAL units of a sample: looking at the first slice, and turning lengths into start codes.

use super::avc::Config;
use super::order::in_decoding_order;
use super::table::Sample;
use crate::source::{Stream, read_at};

/// NAL unit types that matter: slices and parameter sets.
const SLICE: u8 = 1;
const PARTITIONS: std::ops::RangeInclusive<u8> = 2..=4;
pub(crate) const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;

/// The type of a sample's first slice and whether other pictures may refer to it (`nal_ref_idc`), by hopping over
/// the NAL units before it.
pub(crate) fn first_slice(
    stream: &mut dyn Stream,
    sample: &Sample,
    config: &Config,
) -> Option<(u8, bool)> {
    let mut head = Vec::new();
    let (mut at, end) = (sample.offset, sample.offset + u64::from(sample.size));
    for _ in 0..64 {
        if at >= end {
            return None;
        }
        read_at(stream, at, config.length_size as u64 + 1, &mut head).ok()?;
        let (kind, len) = head.split_last()?;
        if matches!(kind & 31, SLICE..=IDR) {
            return Some((kind & 31, kind & 0x60 != 0));
        }
        let len = len.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        at += config.length_size as u64 + len;
    }
    None
}

/// Turns the length-prefixed NAL units of a sample into start codes; all but slices and parameter sets are left
/// out, since they would make openh264 end the picture early.
pub(crate) fn with_start_codes(
    sample: &[u8],
    length_size: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut rest = sample;
    let mut slices = 0;
    while !rest.is_empty() {
        let Some((len, body)) = rest.split_at_checked(length_size) else {
            return Err("a NAL unit has no length".into());
        };
        let len = len.iter().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
        let Some((nal, after)) = body.split_at_checked(len) else {
            return Err(format!("a NAL unit claims {len} bytes, but {} are left", body.len()));
        };
        rest = after;
        let kind = nal.first().map_or(0, |byte| byte & 31);
        if PARTITIONS.contains(&kind) {
            return Err("openh264 does not know data partitioning".into());
        }
        if matches!(kind, SLICE | IDR | SPS | PPS) {
            slices += usize::from(kind == SLICE || kind == IDR);
            out.extend_from_slice(&[0, 0, 0, 1]);
            match kind {
                SPS => out.extend(in_decoding_order(nal).ok_or("its SPS is of another kind")?),
                _ => out.extend_from_slice(nal),
            }
        }
    }
    if slices == 0 { Err("it has no slice".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slices_and_parameter_sets_are_fed() {
        let sample = [0, 0, 0, 2, 6, 9, 0, 0, 0, 2, 0x65, 8, 0, 0, 0, 1, 12];
        let mut out = Vec::new();
        with_start_codes(&sample, 4, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 1, 0x65, 8]);
    }

    #[test]
    fn lengths_beyond_the_sample_are_errors() {
        assert!(with_start_codes(&[0, 0, 0, 9, 0x65], 4, &mut Vec::new()).is_err());
        assert!(with_start_codes(&[0, 0], 4, &mut Vec::new()).is_err());
        assert!(with_start_codes(&[], 4, &mut Vec::new()).is_err());
    }
}
