//! Damaged and absurd files give an error that says what is wrong, and never a panic or a large allocation.

mod common;

use common::*;
use qwen3_vl_video::{DecoderChoice, OpenOptions, VideoError, VideoInput, open};

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn built_in(bytes: &[u8]) -> Result<Box<dyn qwen3_vl_video::FrameSource>, VideoError> {
    open_bytes(bytes, &with(DecoderChoice::BuiltIn))
}

fn refusal(bytes: &[u8]) -> String {
    match built_in(bytes) {
        Ok(source) => panic!("taken by {}", source.info().decoder),
        Err(error) => error.to_string(),
    }
}

/// Where the contents of the first box of a kind start.
fn inside(bytes: &[u8], kind: &[u8; 4]) -> usize {
    bytes.windows(4).position(|w| w == kind).unwrap() + 4
}

#[test]
fn things_that_are_no_videos() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"#EXTM3U\nhttp://example.org/a.ts\n").contains("it is a text"));
    assert!(refusal(&[7, 0, 255, 1, 2, 3, 200, 9]).contains("not a video"));
    let absent = VideoInput::Path("no/such/file.mp4".into());
    let error = open(absent, &OpenOptions::default()).err().unwrap();
    assert!(matches!(error, VideoError::Read { .. }), "{error}");
    let auto = open_bytes(&[7, 0, 255, 1, 2, 3, 200, 9], &OpenOptions::default());
    assert!(matches!(auto, Err(VideoError::NotAVideo { .. })));
}

#[test]
fn a_codec_without_a_decoder_says_what_to_install() {
    for (name, codec) in [("hevc.mp4", "hevc"), ("film.mkv", "Matroska")] {
        let nowhere = tempfile::tempdir().unwrap();
        let ffmpeg_dir = Some(nowhere.path().to_owned());
        let options = OpenOptions { ffmpeg_dir, ..with(DecoderChoice::BuiltIn) };
        let error = open_bytes(&bytes_of(name), &options).err().unwrap();
        assert!(matches!(error, VideoError::NoDecoder { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(codec) && text.contains("Install ffmpeg"), "{text}");
    }
}

#[test]
fn without_ffmpeg_reordered_films_are_decoded_with_a_warning() {
    let nowhere = tempfile::tempdir().unwrap();
    let ffmpeg_dir = Some(nowhere.path().to_owned());
    let options = OpenOptions { ffmpeg_dir, ..OpenOptions::default() };
    let source = open_bytes(&bytes_of("reordered.mp4"), &options).unwrap();
    if !cfg!(feature = "libav") {
        assert_eq!(source.info().decoder, "openh264");
        assert_eq!(source.info().warnings.len(), 1);
    }
}

#[test]
fn sound_only_and_empty_tracks() {
    assert!(refusal(&bytes_of("sound_only.m4a")).contains("sound only"));
    let mut empty = bytes_of("constant25.mp4");
    let count = inside(&empty, b"stsz") + 8;
    empty[count..count + 4].fill(0);
    assert!(refusal(&empty).contains("empty"), "{}", refusal(&empty));
}

#[test]
fn a_cut_film_shows_what_is_there() {
    let whole = bytes_of("faststart.mp4");
    let data = inside(&whole, b"mdat");
    let cut = &whole[..data + (whole.len() - data) * 3 / 4];
    let mut source = built_in(cut).unwrap();
    let warning = source.info().warnings.join(" ");
    let count = source.info().frame_count();
    assert!((1..12).contains(&count));
    assert!(warning.contains(&format!("{count} of 12 frames")), "{warning}");
    assert_eq!(all(&mut *source).unwrap().len(), count);
    let no_index = bytes_of("constant25.mp4");
    let no_index = &no_index[..inside(&no_index, b"moov") - 20];
    assert!(refusal(no_index).contains("no index"), "{}", refusal(no_index));
    let in_index = &whole[..inside(&whole, b"moov") + 100];
    assert!(refusal(in_index).contains("ends at byte"), "{}", refusal(in_index));
    assert!(refusal(&whole[..data]).contains("none of them"), "{}", refusal(&whole[..data]));
    let fragments = bytes_of("fragmented.mp4");
    let cut = &fragments[..fragments.len() * 3 / 4];
    let source = built_in(cut).unwrap();
    assert!(source.info().warnings[0].contains("ends too early"));
}

#[test]
fn cut_animations_show_what_is_there() {
    for name in ["animation.gif", "animation.apng", "animation.webp"] {
        let whole = bytes_of(name);
        let mut source = built_in(&whole[..whole.len() * 4 / 5]).unwrap();
        let (count, warnings) = (source.info().frame_count(), source.info().warnings.clone());
        assert!((1..6).contains(&count), "{name}: {count}");
        assert!(warnings[0].contains("ends too early"), "{name}: {warnings:?}");
        assert_eq!(all(&mut *source).unwrap().len(), count, "{name}");
    }
}

/// The film with one picture's data overwritten.
fn corrupted(picture: usize) -> Vec<u8> {
    let mut film = bytes_of("constant25.mp4");
    let table = inside(&film, b"stsz") + 12;
    let number =
        |film: &[u8], at: usize| u32::from_be_bytes(film[at..at + 4].try_into().unwrap()) as usize;
    let sizes: Vec<usize> = (0..=picture).map(|i| number(&film, table + 4 * i)).collect();
    let offset = number(&film, inside(&film, b"stco") + 8);
    let start = offset + sizes[..picture].iter().sum::<usize>();
    let end = start + sizes[picture];
    // The length of the slice is kept, its contents are not.
    film[start + 5..end].fill(0xff);
    film
}

#[test]
fn a_corrupt_picture_is_named() {
    let film = corrupted(8);
    let mut source = built_in(&film).unwrap();
    let wanted: Vec<usize> = (0..12).collect();
    let error = collect(&mut *source, &wanted).unwrap_err().to_string();
    assert!(error.contains("frame 8") || error.contains("frames 8"), "{error}");
    let options = OpenOptions { skip_damaged: true, ..with(DecoderChoice::BuiltIn) };
    let mut source = open_bytes(&film, &options).unwrap();
    let (frames, done) = collect(&mut *source, &wanted).unwrap();
    assert_eq!(done.missing, [8, 9, 10, 11]);
    assert_eq!(frames.iter().map(|f| f.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert!(!done.warnings.is_empty());
    // A damaged picture in a run that nobody needs does no harm.
    assert!(collect(&mut *source, &[2, 5]).unwrap().1.missing.is_empty());
}

#[test]
fn absurd_numbers_take_no_memory() {
    let film = bytes_of("constant25.mp4");
    let huge = |kind: &[u8; 4], skip: usize| {
        let mut film = film.clone();
        let at = inside(&film, kind) + skip;
        film[at..at + 4].fill(0xff);
        film
    };
    // Four billion samples, in the size table, the time table and the chunk table.
    for (kind, skip) in [(b"stsz", 8), (b"stsz", 4), (b"stts", 4), (b"stts", 8), (b"stco", 4)] {
        for film in [huge(kind, skip)] {
            if let Ok(mut source) = built_in(&film) {
                let _ = all(&mut *source);
            }
        }
    }
    let mut identical = huge(b"stsz", 8);
    let size = inside(&identical, b"stsz") + 4;
    identical[size..size + 4].copy_from_slice(&[0, 0, 0, 1]);
    let _ = built_in(&identical).map(|mut source| all(&mut *source));
    let mut gif = bytes_of("animation.gif");
    gif[6..10].fill(0xff);
    let error = refusal(&gif);
    assert!(error.contains("65535x65535"), "{error}");
    let small = OpenOptions { max_pixels: 1000, ..with(DecoderChoice::BuiltIn) };
    let error = open_bytes(&film, &small).err().unwrap();
    assert!(matches!(error, VideoError::TooLarge { width: 48, height: 32, limit: 1000, .. }));
    let mut clock = film.clone();
    let at = inside(&clock, b"mdhd") + 12;
    clock[at..at + 4].fill(0);
    assert!(refusal(&clock).contains("0 ticks"), "{}", refusal(&clock));
}

/// Opens and decodes; the result does not matter, that it comes back does.
fn survive(bytes: &[u8]) {
    let options = OpenOptions {
        skip_damaged: true,
        max_pixels: 1 << 20,
        threads: 1,
        ..with(DecoderChoice::BuiltIn)
    };
    if let Ok(mut source) = open_bytes(bytes, &options) {
        let count = source.info().frame_count().min(64);
        let _ = collect(&mut *source, &(0..count).collect::<Vec<_>>());
    }
}

#[test]
fn flipped_and_missing_bytes_never_panic() {
    let names =
        ["single.mp4", "fragmented.mp4", "animation.gif", "animation.apng", "animation.webp"];
    for name in names {
        let whole = bytes_of(name);
        for at in (0..whole.len()).step_by(3) {
            for flip in [0xff, 0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                survive(&bytes);
            }
        }
        for at in (0..whole.len()).step_by(7) {
            survive(&whole[..at]);
        }
    }
}
