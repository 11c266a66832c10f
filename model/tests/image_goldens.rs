//! The image processor against PIL, torchvision and transformers: numbers made by `tests/generate/images.py` and by the
//! generator of `golden.json` and `preproc.safetensors`.

use qwen3_vl_model::processor::image::*;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

fn fixture(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    std::fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&fixture(path)).unwrap()
}

fn image_file(name: &str) -> Vec<u8> {
    fixture(&format!("images/{name}"))
}

fn decode(name: &str) -> Result<RgbImage, ImageError> {
    decode_image(&image_file(name), name, &DecodeLimits::default())
}

fn processor(config: &str) -> ImageProcessor {
    ImageProcessor::new(ImageProcessorConfig::from_json(config).unwrap())
}

/// A `[h, w, 3]` byte tensor.
fn picture(tensors: &SafeTensors, name: &str) -> RgbImage {
    let view = tensors.tensor(name).unwrap();
    let &[height, width, 3] = view.shape() else { panic!("{name}: {:?}", view.shape()) };
    RgbImage::new(width as u32, height as u32, view.data().to_vec()).unwrap()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn grid(tensors: &SafeTensors, name: &str) -> Grid {
    let view = tensors.tensor(name).unwrap();
    let sizes: Vec<usize> =
        view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as usize).collect();
    Grid { t: sizes[0], h: sizes[1], w: sizes[2] }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Largest and mean absolute difference of the bytes.
fn byte_difference(a: &RgbImage, b: &RgbImage) -> (u8, f64) {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let differences = || a.data.iter().zip(&b.data).map(|(&a, &b)| a.abs_diff(b));
    let sum: u64 = differences().map(u64::from).sum();
    (differences().max().unwrap(), sum as f64 / a.data.len() as f64)
}

#[test]
fn smart_resize_agrees_in_every_row() {
    let golden = json("golden.json");
    let rows = golden["smart_resize_image"].as_array().unwrap();
    assert_eq!(rows.len(), 60);
    for row in rows {
        let number = |i: usize| row[i].as_u64().unwrap() as usize;
        let got = smart_resize(number(0), number(1), 32, number(2), number(3)).ok();
        // a row that the reference refuses holds its message instead of a size
        let expected: Option<(usize, usize)> = serde_json::from_value(row[4].clone()).ok();
        assert_eq!(expected.is_none(), row[4].is_string(), "{row}");
        assert_eq!(got, expected, "{row}");
    }
}

#[test]
fn resized_bytes_are_exact() {
    let bytes = fixture("preproc.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..4 {
        let source = picture(&tensors, &format!("img{i}.rgb"));
        let expected = picture(&tensors, &format!("img{i}.resized"));
        let got = resize_bicubic(&source, expected.height as usize, expected.width as usize);
        assert_eq!(byte_difference(&got, &expected).0, 0, "img{i}");
    }
}

#[test]
fn pixel_values_and_grids_of_images() {
    let bytes = fixture("preproc.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let keep_size = processor(r#"{"do_resize": false}"#);
    for i in 0..4 {
        let resized = picture(&tensors, &format!("img{i}.resized"));
        let patches = keep_size.process(&resized).unwrap();
        assert_eq!(patches.grid, grid(&tensors, &format!("img{i}.grid")), "img{i}");
        let name = format!("img{i}.pixel_values");
        if tensors.tensor(&name).is_ok() {
            let difference = largest_difference(&patches.pixel_values, &floats(&tensors, &name));
            assert!(difference <= 1e-7, "img{i}: {difference}");
        }
    }
}

#[test]
fn pixel_values_of_a_clip_with_an_odd_number_of_frames() {
    let bytes = fixture("preproc.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let clip = tensors.tensor("video.rgb").unwrap();
    let &[count, height, width, 3] = clip.shape() else { panic!("{:?}", clip.shape()) };
    let grid = grid(&tensors, "video.grid");
    let frames: Vec<RgbImage> = clip
        .data()
        .chunks_exact(height * width * 3)
        .map(|data| RgbImage::new(width as u32, height as u32, data.to_vec()).unwrap())
        .map(|frame| resize_bicubic(&frame, grid.h * 16, grid.w * 16))
        .collect();
    assert_eq!((frames.len(), count), (5, 5));
    let config = ImageProcessorConfig::qwen3_vl();
    let patches = patchify(&frames, &config.layout, &config.normalization.table()).unwrap();
    assert_eq!(patches.grid, grid);
    let expected = floats(&tensors, "video.pixel_values");
    assert!(largest_difference(&patches.pixel_values, &expected) <= 1e-7);
}

/// The pixels of `noise` in `tests/generate/images.py`.
fn noise(width: u32, height: u32, kind: &str) -> RgbImage {
    let hash = |i: u32| {
        let mut h = i.wrapping_mul(0x9E37_79B1);
        h ^= h >> 15;
        h = h.wrapping_mul(0x85EB_CA77);
        (h ^ (h >> 13)) as u8
    };
    let blocks = |i: u32| {
        let (x, y) = (i / 3 % width, i / 3 / width);
        match (x / 7 + y / 5) % 2 {
            0 => (255 * ((x / 7) % 2)) as u8,
            _ => (x * 3 + y * 2 + i % 3 * 40) as u8,
        }
    };
    let pixels = 0..width * height * 3;
    let data = match kind {
        "hash" => pixels.map(hash).collect(),
        _ => pixels.map(blocks).collect(),
    };
    RgbImage::new(width, height, data).unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc: u32, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn resizes_equal_torchvision_for_many_sizes() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    let rows = json("images/resize.json");
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 50);
    for row in rows {
        let number = |i: usize| row[i].as_u64().unwrap();
        let source = noise(number(0) as u32, number(1) as u32, row[4].as_str().unwrap());
        let got = resize_bicubic(&source, number(3) as usize, number(2) as usize);
        assert_eq!(u64::from(crc32(&got.data)), number(5), "{row}");
    }
}

#[test]
fn normalisation_equals_transformers() {
    let clip = r#""image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]"#;
    let cases = [
        ("published", "{}".to_string()),
        ("clip", format!("{{{clip}}}")),
        ("clip_127", format!("{{{clip}, \"rescale_factor\": 0.00784313725490196}}")),
        ("rescale_only", r#"{"do_normalize": false}"#.to_string()),
        ("normalize_only", format!("{{{clip}, \"do_rescale\": false}}")),
    ];
    let bytes = image_file("expected.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, config) in cases {
        let table = processor(&config).config.normalization.table();
        let expected = floats(&tensors, &format!("normalize.{name}"));
        assert_eq!(table.0.as_flattened(), expected, "{name}");
    }
}

/// Largest and mean difference from PIL that a file may show. Only JPEG inside TIFF leaves room for any: its decoder rounds
/// the cosine transform and the upsampling of colour differently.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        "jpeg.tiff" => (2, 0.05),
        _ => (0, 0.0),
    }
}

#[test]
fn every_kind_of_file_decodes_as_in_pil() {
    let bytes = image_file("expected.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names().into_iter().filter(|name| !name.starts_with("normalize."));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    assert_eq!(names.len(), 62);
    let mut wrong = Vec::new();
    for name in names {
        let expected = picture(&tensors, name);
        let size = image_size(&image_file(name), name, &DecodeLimits::default()).unwrap();
        assert_eq!(size, (expected.width, expected.height), "{name}");
        match decode(name) {
            Ok(got) => {
                let (largest, mean) = byte_difference(&got, &expected);
                let allowed = tolerance(name);
                if largest > allowed.0 || mean > allowed.1 {
                    wrong.push(format!("{name}: {largest} {mean:.3}"));
                }
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn jpegs_of_all_kinds_decode_to_the_same_bytes_as_in_pil() {
    let rows = json("images/jpeg.json");
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 49);
    let mut wrong = Vec::new();
    for row in rows {
        let name = row[0].as_str().unwrap();
        let bytes = row[1].as_str().map_or_else(|| image_file(name), from_hex);
        let size = (row[2].as_u64().unwrap() as u32, row[3].as_u64().unwrap() as u32);
        let limits = DecodeLimits::default();
        assert_eq!(image_size(&bytes, name, &limits).unwrap(), size, "{name}");
        match decode_image(&bytes, name, &limits) {
            Ok(got) => {
                assert_eq!((got.width, got.height), size, "{name}");
                let hash: Vec<u8> = Sha256::digest(&got.data).to_vec();
                if hash != from_hex(row[4].as_str().unwrap()) {
                    wrong.push(name.to_string());
                }
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn refuse(bytes: &[u8], name: &str) -> ImageError {
    decode_image(bytes, name, &DecodeLimits::default()).unwrap_err()
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let bytes = image_file("bomb_20000x20000.png");
    for cut in [bytes.len(), 100] {
        let error = refuse(&bytes[..cut], "bomb.png");
        assert!(matches!(error, ImageError::TooManyPixels { width: 20_000, height: 20_000, .. }));
        let text = error.to_string();
        assert!(text.contains("bomb.png is 20000x20000 = 400000000 pixels"), "{text}");
        assert!(text.contains("the limit is 200000000 pixels"), "{text}");
    }
    assert!(image_size(&bytes, "bomb.png", &DecodeLimits::default()).is_err());
}

#[test]
fn limits_can_be_set() {
    let bytes = image_file("rgba16.png");
    let decode = |limits| decode_image(&bytes, "a.png", &limits);
    let pixels = DecodeLimits { max_pixels: 37 * 29, ..DecodeLimits::default() };
    assert!(decode(pixels).is_ok());
    assert!(decode(DecodeLimits { max_pixels: 37 * 29 - 1, ..pixels }).is_err());
    let memory = DecodeLimits { max_decoded_bytes: 37 * 29 * 8 - 1, ..pixels };
    let text = decode(memory).unwrap_err().to_string();
    assert!(text.contains("a.png needs 8584 bytes of memory to decode (37x29 pixels)"), "{text}");
}

#[test]
fn a_truncated_jpeg_is_an_error_wherever_it_is_cut() {
    for name in
        ["baseline420.jpg", "progressive.jpg", "restart.jpg", "orientation6.jpg", "photo.jpg"]
    {
        let bytes = image_file(name);
        let step = if bytes.len() > 10_000 { 997 } else { 1 };
        for cut in (1..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let text = refuse(&bytes[..cut], name).to_string();
            assert!(text.starts_with(name), "{text}");
        }
        let half = refuse(&bytes[..bytes.len() * 3 / 4], name);
        assert!(matches!(half, ImageError::Truncated { format: "JPEG", .. }), "{half}");
    }
}

/// 61x43 pixels in three components, the colour at half the size; coefficients take two bytes and fill whole units of 16x16.
#[test]
fn the_coefficients_of_a_progressive_jpeg_count_as_memory() {
    let samples = 61 * 43 * 3;
    let coefficients = (64 * 48 + 2 * 32 * 24) * 2;
    for (name, bytes) in [("baseline420.jpg", samples), ("progressive.jpg", samples + coefficients)]
    {
        let file = image_file(name);
        let limits = |max_decoded_bytes| DecodeLimits { max_decoded_bytes, ..Default::default() };
        assert!(decode_image(&file, name, &limits(bytes)).is_ok(), "{name}");
        let error = decode_image(&file, name, &limits(bytes - 1)).unwrap_err();
        assert!(
            matches!(error, ImageError::TooMuchMemory { bytes: b, .. } if b == bytes),
            "{error}"
        );
    }
}

/// The last scan of a progressive file, many times: every repetition would cost time for the whole picture.
#[test]
fn a_jpeg_of_very_many_scans_is_refused() {
    let file = image_file("progressive.jpg");
    let scan = file.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
    let (start, scan) = (&file[..scan], &file[scan..file.len() - 2]);
    let bytes = [start, &scan.repeat(200), &[0xFF, 0xD9]].concat();
    let text = refuse(&bytes, "many.jpg").to_string();
    assert!(text.contains("scans (at most 100)"), "{text}");
}

#[test]
fn damage_in_a_jpeg_is_named() {
    let file = image_file("baseline420.jpg");
    let frame = file.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let with = |offset: usize, value: u8| {
        let mut bytes = file.clone();
        bytes[frame + offset] = value;
        refuse(&bytes, "a.jpg")
    };
    let length = with(3, 2);
    assert!(matches!(length, ImageError::Decode { .. }), "{length}");
    assert!(
        length.to_string().starts_with("a.jpg is a damaged or truncated JPEG file"),
        "{length}"
    );
    assert!(length.to_string().contains("Bogus marker length"), "{length}");
    let arithmetic = with(1, 0xCB);
    assert!(matches!(arithmetic, ImageError::Unsupported { .. }), "{arithmetic}");
    let two_components = with(9, 2);
    assert!(two_components.to_string().starts_with("a.jpg is a"), "{two_components}");
}

#[test]
fn bytes_behind_a_jpeg_do_not_matter() {
    for name in ["baseline420.jpg", "progressive.jpg", "photo.jpg"] {
        let mut bytes = image_file(name);
        bytes.extend_from_slice(b"\0\0trailing \xFF\xD8\xFF\xE1 garbage \xFF");
        let padded = decode_image(&bytes, name, &DecodeLimits::default()).unwrap();
        assert_eq!(padded, decode(name).unwrap(), "{name}");
    }
}

#[test]
fn other_formats_notice_truncation_too() {
    let names = ["rgb.png", "interlaced.png", "palette_trns.png", "plain.gif", "lossy.webp"];
    let more =
        ["lossless.webp", "lossy_alpha.webp", "rgb.bmp", "palette.bmp", "lzw.tiff", "raw.tiff"];
    for name in names.into_iter().chain(more) {
        let bytes = image_file(name);
        for percent in [5, 30, 50, 70, 90] {
            let text = refuse(&bytes[..bytes.len() * percent / 100], name).to_string();
            assert!(text.starts_with(name), "{percent}%: {text}");
        }
    }
}

#[test]
fn unsupported_kinds_are_named() {
    let error = decode("palette.tiff").unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    assert!(error.to_string().starts_with("palette.tiff is a TIFF image"), "{error}");
}

/// PIL paints what the first frame leaves free in the background colour; here it is transparent, so white.
#[test]
fn a_gif_frame_that_does_not_fill_the_screen() {
    let image = decode("offset_frame.gif").unwrap();
    assert_eq!((image.width, image.height), (30, 15));
    let pixel = |x: usize, y: usize| &image.data[(y * 30 + x) * 3..][..3];
    assert_eq!(pixel(0, 0), [255; 3]);
    assert_eq!(pixel(25, 13), [255; 3]);
    assert_ne!(pixel(24, 12), [255; 3]);
}

#[test]
fn from_file_to_patches() {
    let image = decode("photo.jpg").unwrap();
    let processor = processor("{}");
    let planned = processor.plan(640, 480).unwrap();
    assert_eq!((planned.grid, planned.tokens), (Grid { t: 1, h: 30, w: 40 }, 300));
    let patches = processor.process(&image).unwrap();
    assert_eq!(patches.grid, planned.grid);
    assert!(patches.pixel_values.iter().all(|v| (-1.0..=1.0).contains(v)));
    let one = decode("one_pixel.png").unwrap();
    assert_eq!(one.data, [200, 100, 50]);
    assert_eq!(processor.process(&one).unwrap().grid, Grid { t: 1, h: 16, w: 16 });
    let strip = decode("strip_1x500.png").unwrap();
    assert!(matches!(processor.process(&strip), Err(ImageError::AspectRatio { .. })));
}
