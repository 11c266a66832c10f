//! From the model's coordinates to the picture's.

use super::shape::{SCALE, Shape};

/// A box in pixels: `x` to the right, `y` down, corners in order, within the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelBox {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

/// A point in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelPoint {
    pub x: f32,
    pub y: f32,
}

/// A [`Shape`] in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelShape {
    Box(PixelBox),
    Point(PixelPoint),
}

impl Shape {
    /// The shape in a picture of `width` x `height` pixels: `v / 1000 * side`, as the model's cookbook
    /// (`2d_grounding.ipynb`) has it, but not rounded; limited to the picture.
    ///
    /// Give the size of the picture as it is seen, that is after its EXIF orientation was applied and before
    /// `smart_resize`: the coordinates are relative, so the size that the model looked at does not matter.
    pub fn to_pixels(self, width: u32, height: u32) -> PixelShape {
        match self {
            Self::Box { x1, y1, x2, y2 } => PixelShape::Box(PixelBox {
                x1: scaled(x1, width),
                y1: scaled(y1, height),
                x2: scaled(x2, width),
                y2: scaled(y2, height),
            }),
            Self::Point { x, y } => {
                PixelShape::Point(PixelPoint { x: scaled(x, width), y: scaled(y, height) })
            }
        }
    }
}

fn scaled(value: f64, side: u32) -> f32 {
    let side = f64::from(side);
    (value / SCALE * side).clamp(0.0, side) as f32
}
