//! What an answer points at, as types: places in pictures ([`parse_grounding`]) and times in videos
//! ([`parse_spans`]).
//!
//! Both read plain text, as the model has no special tokens for it, and both return beside what they found the
//! [`problems`](Grounded::problems) they met, each with its place in the text: nothing is dropped silently, and no
//! number is repaired.
//!
//! ```
//! # use qwen3_vl_model::grounding::{PixelBox, PixelShape, parse_grounding, parse_spans};
//! let answer = "```json\n[{\"bbox_2d\": [100, 200, 300, 400], \"label\": \"dog\"}]\n```";
//! let found = parse_grounding(answer);
//! let pixels = found.items[0].shape.to_pixels(2000, 1000);
//! assert_eq!(pixels, PixelShape::Box(PixelBox { x1: 200.0, y1: 200.0, x2: 600.0, y2: 400.0 }));
//!
//! let spans = parse_spans("The dog jumps from 00:12 to 00:15.5.").spans;
//! assert_eq!((spans[0].start, spans[0].end), (12.0, 15.5));
//! ```

mod boxes;
mod clock;
mod json;
mod pixels;
mod prose;
mod quoted;
mod scan;
mod shape;
mod spans;
mod time_json;

#[cfg(test)]
mod tests;

pub use boxes::{
    Grounded, Grounding, GroundingProblem, GroundingReason, parse_grounding, parse_grounding_of,
};
pub use pixels::{PixelBox, PixelPoint, PixelShape};
pub use shape::{SCALE, Shape};
pub use spans::{SpanProblem, SpanReason, Spans, TimeSpan, parse_spans};
