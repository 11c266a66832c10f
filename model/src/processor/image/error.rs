//! Everything that can go wrong between encoded bytes and patches.

/// Why an image, or the configuration of the image processor, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The input has no bytes.
    #[error("{name} is empty (0 bytes): it is not an image.")]
    Empty { name: String },
    /// The encoded file exceeds [`DecodeLimits::max_encoded_bytes`](super::DecodeLimits).
    #[error("{name} has {bytes} bytes; the limit for one encoded image is {limit} bytes.")]
    TooManyBytes { name: String, bytes: u64, limit: u64 },
    /// No known signature at the start of the file.
    #[error(
        "{name} is not an image that can be read here: it starts with the bytes {start}, \
         and none of png, jpeg, webp, gif, bmp or tiff starts so."
    )]
    UnknownFormat { name: String, start: String },
    /// An image of a kind that is not read here.
    #[error(
        "{name} is a {format} image with a feature that is not supported: {detail}. \
         Readable are png, jpeg, webp, gif, bmp and tiff with up to 16 bits per sample."
    )]
    Unsupported { name: String, format: String, detail: String },
    /// The header announces more than [`DecodeLimits::max_pixels`](super::DecodeLimits).
    #[error(
        "{name} is {width}x{height} = {pixels} pixels; the limit is {limit} pixels. Scale it down first."
    )]
    TooManyPixels { name: String, width: u32, height: u32, pixels: u64, limit: u64 },
    /// The decoded samples exceed [`DecodeLimits::max_decoded_bytes`](super::DecodeLimits).
    #[error(
        "{name} needs {bytes} bytes of memory to decode ({width}x{height} pixels); the limit is {limit} bytes."
    )]
    TooMuchMemory { name: String, width: u32, height: u32, bytes: u64, limit: u64 },
    /// The file ends before its picture does.
    #[error(
        "{name} is a truncated {format} file: it ends after {bytes} bytes, before its end-of-image marker."
    )]
    Truncated { name: String, format: &'static str, bytes: usize },
    /// The decoder refused the file.
    #[error("{name} is a damaged or truncated {format} file: {source}.")]
    Decode { name: String, format: String, source: image::ImageError },
    /// A picture without pixels.
    #[error(
        "A picture of {width}x{height} pixels has nothing to look at; both sides must be at least 1."
    )]
    ZeroSize { width: u32, height: u32 },
    /// [`RgbImage`](super::RgbImage) whose data does not fit its size.
    #[error(
        "A picture of {width}x{height} pixels needs {expected} bytes of RGB data, but {actual} were given."
    )]
    DataLength { width: u32, height: u32, expected: u64, actual: usize },
    /// One side is more than 200 times the other.
    #[error(
        "A picture of {width}x{height} pixels is too narrow: the longer side may be at most 200 times the shorter one. \
         Crop or pad it."
    )]
    AspectRatio { width: usize, height: usize },
    /// `do_resize` is off and the picture does not divide into merged patches.
    #[error(
        "A picture of {width}x{height} pixels cannot be cut into patches without resizing: \
         both sides must be multiples of {factor} (patch_size * merge_size)."
    )]
    NotDivisible { width: usize, height: usize, factor: usize },
    /// [`patchify`](super::patchify) without frames.
    #[error("There are no frames to cut into patches.")]
    NoFrames,
    /// Frames of one clip differ in size.
    #[error(
        "Frame {index} is {width}x{height} pixels, but frame 0 is {first_width}x{first_height}: all frames must agree."
    )]
    FrameSize { index: usize, width: u32, height: u32, first_width: u32, first_height: u32 },
    /// `preprocessor_config.json` is not JSON of the expected types.
    #[error("preprocessor_config.json cannot be read: {0}.")]
    ConfigJson(#[from] serde_json::Error),
    /// A value of `preprocessor_config.json` that cannot be used.
    #[error("preprocessor_config.json: `{field}` is {value}, but it must be {expected}.")]
    ConfigValue { field: &'static str, value: String, expected: &'static str },
    /// The pixel bounds contradict each other.
    #[error(
        "The smallest area of an image (min_pixels, {min}) must be at least 1 and at most the largest (max_pixels, {max}), which may be 4294967296 pixels at most."
    )]
    PixelBounds { min: usize, max: usize },
}
