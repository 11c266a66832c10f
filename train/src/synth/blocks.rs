//! What JPEG does to a picture, without its file: 8 x 8 cosine transforms whose coefficients are rounded to multiples.

/// Luminance steps of quality 50 (ITU-T T.81, table K.1).
const LUMA: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];

/// Chrominance steps of quality 50 (table K.2): these in the upper left corner, 99 elsewhere.
const CHROMA: [[u8; 4]; 4] =
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]];

/// `cos(k pi / 16)` for k = 0..=8.
const COSINES: [f32; 9] = [
    1.0,
    0.980_785_25,
    0.923_879_5,
    0.831_469_6,
    0.707_106_77,
    0.555_570_2,
    0.382_683_43,
    0.195_090_32,
    0.0,
];

/// `cos(k pi / 16)` for any k.
fn cosine(k: usize) -> f32 {
    match k % 32 {
        k @ 0..=8 => COSINES[k],
        k @ 9..=16 => -COSINES[16 - k],
        k @ 17..=24 => -COSINES[k - 16],
        k => COSINES[32 - k],
    }
}

/// The orthonormal cosine transform of eight values, row by row.
fn basis() -> [[f32; 8]; 8] {
    std::array::from_fn(|u| {
        let scale = if u == 0 { COSINES[4] / 2.0 } else { 0.5 };
        std::array::from_fn(|x| scale * cosine((2 * x + 1) * u))
    })
}

/// The steps of `quality` (1..=99).
fn steps(quality: u8, chroma: bool) -> [f32; 64] {
    let quality = u32::from(quality.clamp(1, 99));
    let scale = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    std::array::from_fn(|place| {
        let (y, x) = (place / 8, place % 8);
        let base = match chroma {
            false => LUMA[place],
            true if y < 4 && x < 4 => CHROMA[y][x],
            true => 99,
        };
        ((u32::from(base) * scale + 50) / 100).clamp(1, 255) as f32
    })
}

/// One channel of a picture.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Plane {
    fn rounded(&mut self, basis: &[[f32; 8]; 8], steps: &[f32; 64]) {
        for y in (0..self.height).step_by(8) {
            for x in (0..self.width).step_by(8) {
                let mut block: [f32; 64] = std::array::from_fn(|place| self.at(x, y, place));
                round_block(&mut block, basis, steps);
                for (place, value) in block.into_iter().enumerate() {
                    let (px, py) = (x + place % 8, y + place / 8);
                    if px < self.width && py < self.height {
                        self.values[py * self.width + px] = value;
                    }
                }
            }
        }
    }

    /// A value of the block at (x, y); the border repeats.
    fn at(&self, x: usize, y: usize, place: usize) -> f32 {
        let x = (x + place % 8).min(self.width - 1);
        let y = (y + place / 8).min(self.height - 1);
        self.values[y * self.width + x]
    }

    /// Half the size; means of 2 x 2 values.
    fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mean = |place: usize| {
            let (x, y) = (place % width * 2, place / width * 2);
            let (x2, y2) = ((x + 1).min(self.width - 1), (y + 1).min(self.height - 1));
            let value = |x: usize, y: usize| self.values[y * self.width + x];
            (value(x, y) + value(x2, y) + value(x, y2) + value(x2, y2)) / 4.0
        };
        Self { width, height, values: (0..width * height).map(mean).collect() }
    }
}

fn round_block(block: &mut [f32; 64], basis: &[[f32; 8]; 8], steps: &[f32; 64]) {
    let mut half = [0.0; 64];
    for (place, value) in half.iter_mut().enumerate() {
        let (y, u) = (place / 8, place % 8);
        *value = (0..8).map(|x| block[y * 8 + x] * basis[u][x]).sum();
    }
    let mut coefficients = [0.0; 64];
    for (place, value) in coefficients.iter_mut().enumerate() {
        let (v, u) = (place / 8, place % 8);
        let sum: f32 = (0..8).map(|y| half[y * 8 + u] * basis[v][y]).sum();
        *value = (sum / steps[place]).round() * steps[place];
    }
    for (place, value) in half.iter_mut().enumerate() {
        let (v, x) = (place / 8, place % 8);
        *value = (0..8).map(|u| coefficients[v * 8 + u] * basis[u][x]).sum();
    }
    for (place, value) in block.iter_mut().enumerate() {
        let (y, x) = (place / 8, place % 8);
        *value = (0..8).map(|v| half[v * 8 + x] * basis[v][y]).sum();
    }
}

/// Rounds an RGB picture as JPEG of `quality` (1..=99) would, colours at half resolution where `halve` says so.
pub(super) fn artefacts(rgb: &mut [u8], width: usize, quality: u8, halve: bool) {
    let height = rgb.len() / 3 / width.max(1);
    if height == 0 {
        return;
    }
    let basis = basis();
    let mut planes = planes(rgb, width, height);
    for (channel, plane) in planes.iter_mut().enumerate() {
        let steps = steps(quality, channel > 0);
        match halve && channel > 0 {
            false => plane.rounded(&basis, &steps),
            true => {
                let mut small = plane.halved();
                small.rounded(&basis, &steps);
                for (place, value) in plane.values.iter_mut().enumerate() {
                    let (x, y) = (place % width / 2, place / width / 2);
                    *value = small.values[y * small.width + x];
                }
            }
        }
    }
    for (place, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        let [y, cb, cr] = [0, 1, 2].map(|channel| planes[channel].values[place]);
        let y = y + 128.0;
        let values = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
        pixel.iter_mut().zip(values).for_each(|(byte, value)| *byte = value.round() as u8);
    }
}

fn planes(rgb: &[u8], width: usize, height: usize) -> [Plane; 3] {
    const ROWS: [[f32; 3]; 3] =
        [[0.299, 0.587, 0.114], [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]];
    std::array::from_fn(|channel| {
        let [r, g, b] = ROWS[channel];
        let level = if channel == 0 { 128.0 } else { 0.0 };
        let value = |pixel: &[u8]| {
            r * f32::from(pixel[0]) + g * f32::from(pixel[1]) + b * f32::from(pixel[2]) - level
        };
        Plane { width, height, values: rgb.chunks_exact(3).map(value).collect() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(quality: u8, halve: bool) -> u8 {
        let picture: Vec<u8> = (0..30 * 21)
            .flat_map(|place| {
                let (x, y) = (place % 30, place / 30);
                [(x * 7) as u8, (y * 11) as u8, if x > 12 { 200 } else { 40 }]
            })
            .collect();
        let mut copy = picture.clone();
        artefacts(&mut copy, 30, quality, halve);
        picture.iter().zip(&copy).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
    }

    #[test]
    fn high_quality_changes_little_and_low_quality_much() {
        assert!((1..=6).contains(&worst(99, false)), "{}", worst(99, false));
        assert!(worst(30, true) > 20);
    }

    #[test]
    fn a_plain_picture_stays_plain() {
        let mut picture = [200; 3 * 17 * 9];
        artefacts(&mut picture, 17, 40, true);
        assert!(picture.iter().all(|byte| byte.abs_diff(200) <= 3));
        artefacts(&mut [], 5, 40, true);
    }

    #[test]
    fn cosines() {
        for k in 0..64 {
            let exact = (k as f32 * std::f32::consts::PI / 16.0).cos();
            assert!((cosine(k) - exact).abs() < 1e-5, "{k}");
        }
    }
}
