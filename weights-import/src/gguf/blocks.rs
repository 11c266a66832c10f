//! How tensors are stored: plainly, or in blocks of ggml, whose codes and scales are taken apart here.
//!
//! What comes out stands for the same numbers, bit by bit, as ggml's own expansion to f32 (`dequantize_row_*` of
//! `ggml-quants.c`): codes are copied, and the scales of K-blocks are the products of f32 that ggml makes of them too.

use std::fmt::{self, Display, Formatter};

use burn::tensor::{DType, f16};
use qwen3_vl_backends::quant::{Codes, QuantScheme};
use safetensors::Dtype;

/// What a tensor's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// One number after the other.
    Plain(Dtype),
    /// Blocks of codes with their scales.
    Blocks(BlockType),
}

/// The kinds of blocks that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Names of ggml's types by number; those without one no longer exist.
const NAMES: [&str; 42] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S",
    "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "",
    "", "", "MXFP4", "NVFP4", "Q1_0",
];

impl Storage {
    /// The storage that ggml numbers `kind`, or what that type is called.
    pub(super) fn of_ggml(kind: u32) -> Result<Self, String> {
        let name = NAMES.get(kind as usize).copied().unwrap_or("");
        match name {
            "F32" => Ok(Self::Plain(Dtype::F32)),
            "F16" => Ok(Self::Plain(Dtype::F16)),
            "BF16" => Ok(Self::Plain(Dtype::BF16)),
            "" => Err(kind.to_string()),
            _ => BlockType::ALL
                .into_iter()
                .find(|block| block.name() == name)
                .map(Self::Blocks)
                .ok_or_else(|| name.to_owned()),
        }
    }

    /// Values and bytes of a block; of a number where there are no blocks.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::Plain(Dtype::F32) => (1, 4),
            Self::Plain(_) => (1, 2),
            Self::Blocks(block) => (block.values(), block.bytes()),
        }
    }
}

impl Display for Storage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => write!(f, "{dtype:?}"),
            Self::Blocks(block) => f.write_str(block.name()),
        }
    }
}

impl BlockType {
    const ALL: [Self; 8] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        let (last, rest) = Self::ALL.split_last().expect("there are several");
        let rest: Vec<_> = rest.iter().map(|block| block.name()).collect();
        format!("{} and {}", rest.join(", "), last.name())
    }

    fn values(self) -> usize {
        if matches!(self, Self::Q4K | Self::Q5K | Self::Q6K) { 256 } else { 32 }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The layout that such blocks become.
    pub fn scheme(self) -> QuantScheme {
        let known = "a known size of group";
        match self {
            Self::Q4_0 => QuantScheme::new(4, 32).expect(known),
            Self::Q5_0 | Self::Q8_0 => QuantScheme::new(8, 32).expect(known),
            Self::Q4_1 | Self::Q4K => QuantScheme::with_minimums(4, 32).expect(known),
            Self::Q5_1 | Self::Q5K => QuantScheme::with_minimums(8, 32).expect(known),
            Self::Q6K => QuantScheme::INT8_G16,
        }
    }

    /// The dtype that holds the scales and minimums of the layout exactly.
    pub(crate) fn scale_dtype(self) -> DType {
        if self.values() == 256 { DType::F32 } else { DType::F16 }
    }

    /// Takes a row of blocks apart: codes as [`Self::scheme`] has them, its scales, and behind these its minimums.
    pub(crate) fn unpack(self, row: &[u8], codes: &mut [u8], scales: &mut [f32]) {
        let scheme = self.scheme();
        let groups = self.values() / scheme.group();
        let all = row.len() / self.bytes() * groups;
        let (scales, minimums) = scales.split_at_mut(all);
        let per_block = scheme.row_bytes(self.values());
        let blocks = row.chunks_exact(self.bytes()).zip(codes.chunks_exact_mut(per_block));
        for (index, (block, codes)) in blocks.enumerate() {
            let here = index * groups..(index + 1) * groups;
            let scales = &mut scales[here.clone()];
            let mut values = [0u8; 256];
            let values = &mut values[..self.values()];
            match (self, minimums.get_mut(here)) {
                (Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K, Some(minimums)) => {
                    self.open_with_minimums(block, values, scales, minimums);
                }
                _ => self.open(block, values, scales),
            }
            match scheme.codes() {
                Codes::Int4 => {
                    let pairs = values.as_chunks::<2>().0;
                    codes.iter_mut().zip(pairs).for_each(|(to, [a, b])| *to = a | b << 4);
                }
                _ => codes.copy_from_slice(values),
            }
        }
    }

    /// One byte per code, and the scales of the groups.
    fn open(self, block: &[u8], values: &mut [u8], scales: &mut [f32]) {
        match self {
            Self::Q8_0 => {
                scales[0] = half(block, 0);
                values.copy_from_slice(&block[2..34]);
            }
            Self::Q5_0 => {
                scales[0] = half(block, 0);
                fives(&block[2..22], values);
                values.iter_mut().for_each(|value| *value = value.wrapping_sub(16));
            }
            Self::Q6K => six_bits(block, values, scales),
            _ => {
                scales[0] = half(block, 0);
                halves(&block[2..18], values);
            }
        }
    }

    fn open_with_minimums(
        self,
        block: &[u8],
        values: &mut [u8],
        scales: &mut [f32],
        minimums: &mut [f32],
    ) {
        if self == Self::Q4_1 {
            (scales[0], minimums[0]) = (half(block, 0), -half(block, 2));
            return halves(&block[4..20], values);
        }
        if self == Self::Q5_1 {
            (scales[0], minimums[0]) = (half(block, 0), -half(block, 2));
            return fives(&block[4..24], values);
        }
        let (scale, minimum) = (half(block, 0), half(block, 2));
        for (i, (to, least)) in scales.iter_mut().zip(minimums).enumerate() {
            let (s, m) = six_bit_pair(&block[4..16], i);
            (*to, *least) = (scale * f32::from(s), minimum * f32::from(m));
        }
        let low = if self == Self::Q4K { &block[16..144] } else { &block[48..176] };
        for (values, low) in values.chunks_exact_mut(64).zip(low.chunks_exact(32)) {
            halves(low, values);
        }
        if self == Self::Q5K {
            let high = &block[16..48];
            for (i, value) in values.iter_mut().enumerate() {
                *value |= (high[i % 32] >> (i / 32) & 1) * 16;
            }
        }
    }
}

/// The f16 at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low halves of bytes, then the high ones.
fn halves(bytes: &[u8], values: &mut [u8]) {
    let (low, high) = values.split_at_mut(bytes.len());
    low.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte & 15);
    high.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte >> 4);
}

/// Numbers of five bits: the fifth of all in four bytes, and then the others.
fn fives(bytes: &[u8], values: &mut [u8]) {
    let (high, low) = bytes.split_at(4);
    halves(low, values);
    for (i, value) in values.iter_mut().enumerate() {
        *value |= (high[i / 8] >> (i % 8) & 1) * 16;
    }
}

/// Scale and minimum of group `i` of a K-block: eight pairs of six bits in twelve bytes (ggml `get_scale_min_k4`).
fn six_bit_pair(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        return (packed[i] & 63, packed[i + 4] & 63);
    }
    let (low, high) = (packed[i + 4], i - 4);
    ((low & 15) | (packed[high] >> 6) << 4, (low >> 4) | (packed[high + 4] >> 6) << 4)
}

/// A Q6_K block: low four bits, high two bits, scales of 16 groups, and the scale of these.
fn six_bits(block: &[u8], values: &mut [u8], scales: &mut [f32]) {
    let (low, high, parts) = (&block[..128], &block[128..192], &block[192..208]);
    let whole = half(block, 208);
    for (to, part) in scales.iter_mut().zip(parts) {
        *to = whole * f32::from(*part as i8);
    }
    for (i, value) in values.iter_mut().enumerate() {
        let (part, quarter, place) = (i / 128, i % 128 / 32, i % 32);
        let low = low[part * 64 + quarter % 2 * 32 + place] >> (quarter / 2 * 4) & 15;
        let high = high[part * 32 + place] >> (quarter * 2) & 3;
        *value = (low | high << 4).wrapping_sub(32);
    }
}
