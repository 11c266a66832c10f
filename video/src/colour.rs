//! YUV to RGB as FFmpeg's swscale does it, and turning pictures upright.

use crate::Frame;
use std::fmt;

/// The matrix between YUV and RGB, by the codes of ITU-T H.273 `MatrixCoefficients`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Matrix {
    /// ITU-R BT.601 (codes 5 and 6), also used where the stream names none.
    Bt601,
    /// ITU-R BT.709 (code 1).
    Bt709,
    /// FCC 47 CFR 73.682 (code 4).
    Fcc,
    /// SMPTE 240M (code 7).
    Smpte240,
    /// ITU-R BT.2020 (codes 9 and 10).
    Bt2020,
    /// The pictures are stored as RGB.
    Rgb,
}

/// How the colours of a stream are converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    /// The matrix that is used.
    pub matrix: Matrix,
    /// Whether luma uses 0 to 255 instead of 16 to 235.
    pub full_range: bool,
    /// Whether the stream names the matrix; when not, it is BT.601 as in swscale.
    pub tagged: bool,
}

impl Colour {
    /// From the code in the stream; code 2, an absent one and unknown ones mean BT.601.
    pub(crate) fn from_code(code: Option<u16>, full_range: bool) -> Self {
        let matrix = match code {
            Some(1) => Matrix::Bt709,
            Some(4) => Matrix::Fcc,
            Some(5 | 6) => Matrix::Bt601,
            Some(7) => Matrix::Smpte240,
            Some(9 | 10) => Matrix::Bt2020,
            _ => return Self { matrix: Matrix::Bt601, full_range, tagged: false },
        };
        Self { matrix, full_range, tagged: true }
    }

    /// Of pictures that are stored as RGB.
    pub(crate) const RGB: Self = Self { matrix: Matrix::Rgb, full_range: true, tagged: true };

    /// From FFmpeg's names (`color_space`, `color_range`, `pix_fmt`).
    pub(crate) fn from_names(space: Option<&str>, range: Option<&str>, format: &str) -> Self {
        if format.starts_with("rgb") || format.starts_with("bgr") || format.starts_with("gbr") {
            return Self::RGB;
        }
        let code = match space {
            Some("bt709") => Some(1),
            Some("fcc") => Some(4),
            Some("bt470bg") => Some(5),
            Some("smpte170m") => Some(6),
            Some("smpte240m") => Some(7),
            Some("bt2020nc" | "bt2020c") => Some(9),
            _ => None,
        };
        Self::from_code(code, range == Some("pc") || format.starts_with("yuvj"))
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.matrix {
            Matrix::Bt601 => "BT.601",
            Matrix::Bt709 => "BT.709",
            Matrix::Fcc => "FCC",
            Matrix::Smpte240 => "SMPTE 240M",
            Matrix::Bt2020 => "BT.2020",
            Matrix::Rgb => return out.write_str("RGB"),
        };
        let range = if self.full_range { "full" } else { "limited" };
        let tag = if self.tagged { "" } else { " (assumed, the stream names none)" };
        write!(out, "{name}, {range} range{tag}")
    }
}

/// Three planes of one picture, 4:2:0, as a decoder hands them over.
pub(crate) struct Planes<'a> {
    pub y: &'a [u8],
    pub u: &'a [u8],
    pub v: &'a [u8],
    /// Bytes from one row to the next of the luma and of the chroma planes.
    pub strides: (usize, usize),
    pub width: usize,
    pub height: usize,
}

/// Fixed-point factors with 16 fractional bits.
#[derive(Clone, Copy)]
struct Factors {
    black: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl Factors {
    /// swscale's `ff_yuv2rgb_coeffs`, which hold the limited range's chroma stretch of 255/224.
    fn new(colour: Colour) -> Self {
        let [red_v, blue_u, green_u, green_v] = match colour.matrix {
            Matrix::Bt709 => [117_489, 138_438, 13_975, 34_925],
            Matrix::Fcc => [104_448, 132_798, 24_759, 53_109],
            Matrix::Smpte240 => [117_579, 136_230, 16_907, 35_559],
            Matrix::Bt2020 => [110_013, 140_363, 12_277, 42_626],
            Matrix::Bt601 | Matrix::Rgb => [104_597, 132_201, 25_675, 53_279],
        };
        if colour.full_range {
            let full = |limited: i32| (limited * 224 + 127) / 255;
            let (red_v, blue_u) = (full(red_v), full(blue_u));
            let (green_u, green_v) = (full(green_u), full(green_v));
            return Self { black: 0, luma: 1 << 16, red_v, green_u, green_v, blue_u };
        }
        let luma = ((255 << 16) + 109) / 219;
        Self { black: 16, luma, red_v, green_u, green_v, blue_u }
    }
}

/// Converts planes to packed RGB; every chroma sample serves its four pixels.
///
/// Returns `None` when a plane is shorter than its strides and the size demand.
pub(crate) fn to_rgb(planes: &Planes<'_>, colour: Colour) -> Option<Frame> {
    let (width, height) = (planes.width, planes.height);
    let factors = Factors::new(colour);
    let half = width.div_ceil(2);
    let mut data = vec![0; width.checked_mul(height)?.checked_mul(3)?];
    for (row, out) in data.chunks_exact_mut((width * 3).max(1)).enumerate() {
        let (luma, chroma) = (row * planes.strides.0, row / 2 * planes.strides.1);
        let y = planes.y.get(luma..luma + width)?;
        let u = planes.u.get(chroma..chroma + half)?;
        let v = planes.v.get(chroma..chroma + half)?;
        convert_row(y, u, v, out, factors);
    }
    Some(Frame { width: width as u32, height: height as u32, data })
}

fn convert_row(y: &[u8], u: &[u8], v: &[u8], out: &mut [u8], f: Factors) {
    let pairs = y.chunks(2).zip(out.chunks_mut(6));
    for ((luma, pixels), (&u, &v)) in pairs.zip(u.iter().zip(v)) {
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let half = 1 << 15;
        let red = f.red_v * v + half;
        let green = half - f.green_u * u - f.green_v * v;
        let blue = f.blue_u * u + half;
        for (&y, pixel) in luma.iter().zip(pixels.chunks_exact_mut(3)) {
            let y = (i32::from(y) - f.black) * f.luma;
            pixel[0] = clip(y + red);
            pixel[1] = clip(y + green);
            pixel[2] = clip(y + blue);
        }
    }
}

fn clip(value: i32) -> u8 {
    (value >> 16).clamp(0, 255) as u8
}

/// How stored pictures become upright: the signs of the 2x2 part of a track's matrix
/// (`x' = a x + c y`, `y' = b x + d y`), which must be one of the eight turns and mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orientation {
    a: i8,
    b: i8,
    c: i8,
    d: i8,
}

impl Orientation {
    pub const UPRIGHT: Self = Self { a: 1, b: 0, c: 0, d: 1 };

    /// From 16.16 numbers; `None` when it is a skew or another angle. Scaling is ignored, as FFmpeg does.
    pub fn from_matrix(a: i32, b: i32, c: i32, d: i32) -> Option<Self> {
        let sign = |v: i32| v.signum() as i8;
        let found = Self { a: sign(a), b: sign(b), c: sign(c), d: sign(d) };
        let straight = a != 0 && d != 0 && b == 0 && c == 0;
        let turned = a == 0 && d == 0 && b != 0 && c != 0;
        (straight || turned).then_some(found)
    }

    /// This one first, then `next`.
    pub fn then(self, next: Self) -> Self {
        Self {
            a: self.a * next.a + self.b * next.c,
            b: self.a * next.b + self.b * next.d,
            c: self.c * next.a + self.d * next.c,
            d: self.c * next.b + self.d * next.d,
        }
    }

    /// Whether width and height change places.
    pub fn swaps(self) -> bool {
        self.a == 0
    }

    /// Degrees clockwise; a mirrored picture gives the turn that remains.
    pub fn degrees(self) -> u16 {
        match (self.a, self.b) {
            (1, _) => 0,
            (0, 1) => 90,
            (-1, _) => 180,
            _ => 270,
        }
    }

    /// Turns a picture.
    pub fn apply(self, frame: Frame) -> Frame {
        if self == Self::UPRIGHT {
            return frame;
        }
        let (w, h) = (frame.width as usize, frame.height as usize);
        let (width, height) = if self.swaps() { (h, w) } else { (w, h) };
        let mut data = vec![0; frame.data.len()];
        for (place, pixel) in data.chunks_exact_mut(3).enumerate() {
            let (x, y) = self.origin(place % width, place / width, (width, height));
            pixel.copy_from_slice(&frame.data[(y * w + x) * 3..][..3]);
        }
        Frame { width: width as u32, height: height as u32, data }
    }

    /// Where the pixel that is shown at `(x, y)` is stored; the inverse of a signed permutation is its transpose.
    fn origin(self, x: usize, y: usize, shown: (usize, usize)) -> (usize, usize) {
        let pick = |from_x: i8, from_y: i8| match (from_x, from_y) {
            (1, _) => x,
            (-1, _) => shown.0 - 1 - x,
            (_, 1) => y,
            _ => shown.1 - 1 - y,
        };
        (pick(self.a, self.b), pick(self.c, self.d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(y: u8, u: u8, v: u8, colour: Colour) -> [u8; 3] {
        let (ys, us, vs) = ([y; 4], [u], [v]);
        let planes = Planes { y: &ys, u: &us, v: &vs, strides: (2, 1), width: 2, height: 2 };
        let frame = to_rgb(&planes, colour).unwrap();
        [frame.data[0], frame.data[1], frame.data[2]]
    }

    #[test]
    fn black_white_and_primaries() {
        let limited = Colour::from_code(Some(6), false);
        assert_eq!(pixel(16, 128, 128, limited), [0, 0, 0]);
        assert_eq!(pixel(235, 128, 128, limited), [255, 255, 255]);
        assert_eq!(pixel(81, 90, 240, limited), [254, 0, 0]);
        let full = Colour::from_code(Some(1), true);
        assert_eq!(pixel(0, 128, 128, full), [0, 0, 0]);
        assert_eq!(pixel(255, 128, 128, full), [255, 255, 255]);
        assert_eq!(pixel(128, 128, 128, full), [128, 128, 128]);
    }

    #[test]
    fn unnamed_is_601_and_says_so() {
        let colour = Colour::from_code(Some(2), false);
        assert_eq!((colour.matrix, colour.tagged), (Matrix::Bt601, false));
        assert!(colour.to_string().contains("assumed"));
    }

    #[test]
    fn short_planes_are_refused() {
        let planes = Planes { y: &[0; 3], u: &[0], v: &[0], strides: (2, 1), width: 2, height: 2 };
        assert!(to_rgb(&planes, Colour::from_code(None, false)).is_none());
    }

    fn letters(frame: &Frame) -> Vec<u8> {
        frame.data.iter().step_by(3).copied().collect()
    }

    #[test]
    fn quarter_turns() {
        // a b c
        // d e f
        let data = b"abcdef".iter().flat_map(|&l| [l, l, l]).collect();
        let frame = Frame { width: 3, height: 2, data };
        let one = 1 << 16;
        let quarter = Orientation::from_matrix(0, one, -one, 0).unwrap();
        let turned = quarter.apply(frame.clone());
        assert_eq!((turned.width, turned.height, quarter.degrees()), (2, 3, 90));
        assert_eq!(letters(&turned), b"daebfc");
        let half = quarter.then(quarter);
        assert_eq!(
            (letters(&half.apply(frame.clone())), half.degrees()),
            (b"fedcba".to_vec(), 180)
        );
        let three = half.then(quarter);
        assert_eq!(
            (letters(&three.apply(frame.clone())), three.degrees()),
            (b"cfbead".to_vec(), 270)
        );
        assert_eq!(three.then(quarter), Orientation::UPRIGHT);
        let mirror = Orientation::from_matrix(-one, 0, 0, one).unwrap();
        assert_eq!(letters(&mirror.apply(frame)), b"cbafed");
        assert!(Orientation::from_matrix(one, one, -one, one).is_none());
    }
}
