//! The H.264 decoder configuration of a track, and whether openh264 decodes such streams rightly.

use super::boxes::{Children, decode};
use super::order::in_decoding_order;
use crate::colour::Colour;
use h264_reader::Context;
use h264_reader::nal::pps::PicParameterSet;
use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, SeqParameterSet};
use h264_reader::nal::{Nal, RefNal};
use mp4_atom::{Atom, Avcc, Colr};

/// What is needed to decode the samples.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// How many bytes state the length of each NAL unit.
    pub length_size: usize,
    /// Parameter sets with start codes.
    pub headers: Vec<u8>,
    pub width: u32,
    pub height: u32,
    pub colour: Colour,
}

/// Why the built-in decoder leaves a stream to others: the codec and the reason.
pub(crate) type Unfit = (String, String);

/// Largest picture of openh264 in macroblocks (level 5.2).
const MAX_MACROBLOCKS: u64 = 36_864;

/// Reads the sample description box (`stsd`).
pub(crate) fn config(stsd: &[u8]) -> Result<Config, Unfit> {
    let entries: Vec<_> = Children(stsd.get(8..).unwrap_or_default()).collect();
    let [(kind, entry)] = entries[..] else {
        let reason = format!("the track has {} sample descriptions instead of one", entries.len());
        return Err(("an unknown codec".into(), reason));
    };
    let unfit = |reason: &str| ("h264".to_owned(), reason.to_owned());
    if &kind != b"avc1" && &kind != b"avc3" {
        return Err((codec_name(kind), "the built-in film decoder knows H.264 only".into()));
    }
    // A visual sample entry has 78 bytes before its boxes.
    let inside = entry.get(78..).unwrap_or_default();
    let boxed = |wanted: &[u8; 4]| Children(inside).find(|c| &c.0 == wanted).map(|c| c.1);
    let Some(mut body) = boxed(b"avcC") else { return Err(unfit("there is no avcC box")) };
    let avcc = Avcc::decode_body(&mut body)
        .map_err(|error| unfit(&format!("the avcC box is malformed ({error})")))?;
    read_avcc(&avcc, decode(boxed(b"colr")))
}

/// FFmpeg's names of codecs by sample entry.
fn codec_name(kind: [u8; 4]) -> String {
    match &kind {
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "hevc".into(),
        b"av01" => "av1".into(),
        b"vp08" => "vp8".into(),
        b"vp09" => "vp9".into(),
        b"mp4v" => "mpeg4".into(),
        b"jpeg" | b"mjpa" => "mjpeg".into(),
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "prores".into(),
        b"encv" => "encrypted video".into(),
        other => format!("the codec '{}'", String::from_utf8_lossy(other).escape_default()),
    }
}

fn read_avcc(avcc: &Avcc, colr: Option<Colr>) -> Result<Config, Unfit> {
    let unfit = |reason: String| ("h264".to_owned(), reason);
    let mut context = Context::new();
    let mut first = None;
    for nal in &avcc.sequence_parameter_sets {
        let sps = SeqParameterSet::from_bits(RefNal::new(nal, &[], true).rbsp_bits())
            .map_err(|error| unfit(format!("its SPS is malformed ({error:?})")))?;
        check_sps(&sps).map_err(unfit)?;
        first.get_or_insert_with(|| sps.clone());
        context.put_seq_param_set(sps);
    }
    for nal in &avcc.picture_parameter_sets {
        let pps = PicParameterSet::from_bits(&context, RefNal::new(nal, &[], true).rbsp_bits())
            .map_err(|error| unfit(format!("its PPS is malformed ({error:?})")))?;
        if pps.slice_groups.is_some() || pps.redundant_pic_cnt_present_flag {
            return Err(unfit("it uses slice groups or redundant pictures".into()));
        }
    }
    let Some(sps) = first else { return Err(unfit("the avcC box has no SPS".into())) };
    let (width, height) = sps
        .pixel_dimensions()
        .map_err(|error| unfit(format!("its SPS states an impossible size ({error:?})")))?;
    let sets: Option<Vec<_>> =
        avcc.sequence_parameter_sets.iter().map(|nal| in_decoding_order(nal)).collect();
    let Some(mut sets) = sets else { return Err(unfit("its SPS is malformed".into())) };
    sets.extend(avcc.picture_parameter_sets.iter().cloned());
    let headers = sets.iter().flat_map(|nal| [&[0, 0, 0, 1], &nal[..]].concat()).collect();
    let length_size = usize::from(avcc.length_size);
    Ok(Config { length_size, headers, width, height, colour: colour(&sps, colr) })
}

/// openh264 is right for progressive 4:2:0 streams with 8 bits of the baseline, main and high profiles.
fn check_sps(sps: &SeqParameterSet) -> Result<(), String> {
    let profile = sps.profile_idc.into();
    if ![66u8, 77, 100].contains(&profile) {
        return Err(format!("openh264 does not know profile {profile}"));
    }
    let chroma = &sps.chroma_info;
    if chroma.chroma_format != ChromaFormat::YUV420 {
        return Err(format!("openh264 does not know chroma {:?}", chroma.chroma_format));
    }
    if chroma.bit_depth_luma_minus8 != 0 || chroma.bit_depth_chroma_minus8 != 0 {
        return Err(format!("openh264 knows 8 bits, not {}", chroma.bit_depth_luma_minus8 + 8));
    }
    if sps.frame_mbs_flags != FrameMbsFlags::Frames {
        return Err("openh264 does not know interlaced pictures".into());
    }
    let blocks = (u64::from(sps.pic_width_in_mbs_minus1) + 1)
        * (u64::from(sps.pic_height_in_map_units_minus1) + 1);
    if blocks > MAX_MACROBLOCKS {
        return Err(format!(
            "openh264 decodes {MAX_MACROBLOCKS} macroblocks at most, not {blocks}"
        ));
    }
    Ok(())
}

/// The VUI's word counts first, then the container's, as in FFmpeg.
fn colour(sps: &SeqParameterSet, colr: Option<Colr>) -> Colour {
    let (code, full) = match colr {
        Some(Colr::Nclx { matrix_coefficients, full_range_flag, .. }) => {
            (Some(matrix_coefficients), full_range_flag)
        }
        Some(Colr::Nclc { matrix_coefficients, .. }) => (Some(matrix_coefficients), false),
        _ => (None, false),
    };
    let signal = sps.vui_parameters.as_ref().and_then(|vui| vui.video_signal_type.as_ref());
    let Some(signal) = signal else { return Colour::from_code(code, full) };
    let described = signal.colour_description.as_ref().map(|d| d.matrix_coefficients.into());
    Colour::from_code(described.or(code), signal.video_full_range_flag)
}
