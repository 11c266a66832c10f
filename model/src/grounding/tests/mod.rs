//! Answers as they are written, well-formed and broken; the expected values are written by hand.

mod boxes;
mod noise;
mod spans;
