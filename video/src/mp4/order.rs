//! Asks openh264 for pictures in decoding order.
//!
//! openh264 puts pictures of the main and high profiles into display order by rules that fail for some streams
//! (issue 3478 and others of its repository), and its safe interface does not say which picture is which. It hands
//! out pictures of the scalable baseline profile (83) at once, in decoding order, and reads their parameter sets
//! like those of the high profile. So the profile in the SPS is replaced; nothing else of the decoding depends on it.

use h264_reader::rbsp::{ByteWriter, decode_nal};
use std::io::Write;

const BASELINE: u8 = 66;
const MAIN: u8 = 77;
const HIGH: u8 = 100;
const SCALABLE_BASELINE: u8 = 83;

/// `chroma_format_idc` 1, bit depths 8, no lossless bypass, no scaling matrix: what the main profile implies.
const CHROMA_FIELDS: [bool; 7] = [false, true, false, true, true, false, false];

/// The SPS with a profile that is handed out at once; `None` when it is malformed or of another profile.
pub(crate) fn in_decoding_order(nal: &[u8]) -> Option<Vec<u8>> {
    match *nal.get(1)? {
        BASELINE | SCALABLE_BASELINE => Some(nal.to_vec()),
        HIGH => {
            let mut nal = nal.to_vec();
            nal[1] = SCALABLE_BASELINE;
            Some(nal)
        }
        MAIN => with_chroma_fields(nal),
        _ => None,
    }
}

fn with_chroma_fields(nal: &[u8]) -> Option<Vec<u8>> {
    let rbsp = decode_nal(nal).ok()?;
    let bit = |i: usize| rbsp[i / 8] >> (7 - i % 8) & 1 == 1;
    let mut bits: Vec<bool> = (0..rbsp.len() * 8).map(bit).collect();
    let stop = bits.iter().rposition(|&set| set)?;
    bits.truncate(stop + 1);
    // Profile, constraints and level take 24 bits, then comes `seq_parameter_set_id` as an Exp-Golomb number.
    let zeros = bits.get(24..)?.iter().position(|&set| set)?;
    let after_id = 24 + 2 * zeros + 1;
    if after_id > bits.len() {
        return None;
    }
    bits.splice(after_id..after_id, CHROMA_FIELDS);
    let byte = |bits: &[bool]| {
        bits.iter().enumerate().fold(0u8, |byte, (i, &set)| byte | u8::from(set) << (7 - i))
    };
    let mut rbsp: Vec<u8> = bits.chunks(8).map(byte).collect();
    *rbsp.first_mut()? = SCALABLE_BASELINE;
    let mut out = vec![nal[0]];
    ByteWriter::new(&mut out).write_all(&rbsp).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use h264_reader::nal::sps::SeqParameterSet;
    use h264_reader::nal::{Nal, RefNal};

    #[test]
    fn a_main_profile_sps_keeps_everything_else() {
        // libx264, main profile, 128x96, with VUI.
        let main = [
            0x67, 0x4d, 0x40, 0x0a, 0xec, 0xa1, 0x06, 0xd8, 0x08, 0x80, 0x00, 0x00, 0x03, 0x00,
            0x80, 0x00, 0x00, 0x19, 0x07, 0x89, 0x12, 0xcb,
        ];
        let read = |nal: &[u8]| {
            SeqParameterSet::from_bits(RefNal::new(nal, &[], true).rbsp_bits()).unwrap()
        };
        let (before, after) = (read(&main), read(&in_decoding_order(&main).unwrap()));
        assert_eq!(u8::from(after.profile_idc), SCALABLE_BASELINE);
        assert_eq!(after.pixel_dimensions().unwrap(), before.pixel_dimensions().unwrap());
        assert_eq!(after.vui_parameters, before.vui_parameters);
        assert_eq!(after.pic_order_cnt, before.pic_order_cnt);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(in_decoding_order(&[0x67]), None);
        assert_eq!(in_decoding_order(&[0x67, MAIN, 0, 0, 0, 0]), None);
        assert_eq!(in_decoding_order(&[0x67, 110, 0, 10]), None);
    }
}
