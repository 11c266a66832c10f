//! How keys and values are stored.

use burn::tensor::DType;
use qwen3_vl_backends::dtype;

/// How keys and values are stored (vLLM `--kv-cache-dtype`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// As the model computes; the engine stores bf16 where operands of products are rounded to it.
    #[default]
    Auto,
    /// In a float dtype, converted as they are read.
    Float(DType),
    /// One signed byte per value and an f32 scale per token and head (`max |x| / 127`).
    Int8,
}

impl KvDtype {
    /// Bytes that one head of one token takes in one of keys or values.
    pub(super) fn row_bytes(self, head_dim: usize, compute: DType) -> u64 {
        match self {
            Self::Auto => (head_dim * compute.size()) as u64,
            Self::Float(dtype) => (head_dim * dtype.size()) as u64,
            Self::Int8 => (head_dim.next_multiple_of(4) + 4) as u64,
        }
    }

    /// Whether keys and values are kept as they are computed with.
    pub(crate) fn is_plain(self, compute: DType) -> bool {
        match self {
            Self::Auto => true,
            Self::Float(dtype) => dtype == compute,
            Self::Int8 => false,
        }
    }
}

/// As it is parsed.
impl std::fmt::Display for KvDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Float(dtype) => dtype::name(*dtype),
            Self::Int8 => "int8",
        })
    }
}

impl std::str::FromStr for KvDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::Float(DType::F32)),
            "bf16" | "bfloat16" => Ok(Self::Float(DType::BF16)),
            "f16" | "float16" => Ok(Self::Float(DType::F16)),
            "int8" | "q8_0" => Ok(Self::Int8),
            other => Err(format!("`{other}` is no cache dtype; use auto, f32, bf16, f16 or int8")),
        }
    }
}
