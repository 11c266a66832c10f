//! Images: encoded bytes -> upright 8-bit RGB -> resized RGB -> patches for the vision tower.
//!
//! | step | file | source |
//! |---|---|---|
//! | limits, decoding, orientation, colour | `decode` `jpeg` `orientation` `colour` | transformers `load_image`, `convert_to_rgb` |
//! | target size | `smart_resize` | transformers `smart_resize` |
//! | resize | `filter` `resize` | torchvision bicubic, antialiased, on uint8 tensors |
//! | normalise and pack | `normalize` `patchify` | transformers `Qwen2VLImageProcessor` |
//! | `preprocessor_config.json` | `config` | the published Qwen3-VL values |
//!
//! Nothing here opens files or sockets: the input is bytes, plus a name that errors can mention.

mod colour;
mod config;
mod decode;
mod error;
mod filter;
mod frames;
mod jpeg;
mod normalize;
mod orientation;
mod patchify;
mod process;
mod resize;
mod rgb;
mod smart_resize;

pub use config::ImageProcessorConfig;
pub use decode::{DecodeLimits, decode_image, image_size};
pub use error::ImageError;
pub use frames::PackedFrames;
pub use normalize::{MeanStd, Normalization, NormalizationTable};
pub use patchify::{Grid, ImagePatches, PatchLayout, patchify};
pub use process::{ImageProcessor, PlannedImage};
pub use resize::resize_bicubic;
pub use rgb::RgbImage;
pub use smart_resize::smart_resize;
