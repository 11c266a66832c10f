//! The header of a GGUF file: keys with their values, and where tensors lie (ggml `docs/gguf.md`).
//!
//! Nothing is allocated because the file says that it is large: lists grow as their values are read, and the header ends
//! at [`LONGEST_HEADER`] at the latest.

use std::collections::BTreeMap;
use std::ops::Range;

use super::GgufError;
use super::blocks::Storage;

/// Bytes of the longest header that is believed; those of published models have about 10 MB.
const LONGEST_HEADER: usize = 128 << 20;
/// Most keys, tensors and values of a list that are believed.
const MOST: u64 = 1 << 24;

/// A value of the header. Numbers of all types are f64, which holds every size that occurs.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Bool(bool),
    Text(String),
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub storage: Storage,
    /// Slowest axis first, as in torch; the file has it the other way round.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub range: Range<usize>,
}

/// What a header says.
#[derive(Debug, Default, PartialEq)]
pub struct Header {
    pub values: BTreeMap<String, Value>,
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// When it is none, of an unknown version, damaged, or a tensor does not lie inside the file.
    pub fn read(file: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor { bytes: &file[..file.len().min(LONGEST_HEADER)], at: 0 };
        if cursor.take(4, || "the magic".into())? != b"GGUF" {
            return Err(GgufError::Magic);
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { version });
        }
        let tensors = believed("tensors", cursor.u64("the number of tensors")?)?;
        let keys = believed("keys", cursor.u64("the number of keys")?)?;
        let mut header = Self::default();
        for _ in 0..keys {
            let key = cursor.text("a key")?;
            let value = cursor.value(&key)?;
            header.values.insert(key, value);
        }
        header.refuse_part()?;
        let mut found = Vec::new();
        for _ in 0..tensors {
            found.push(cursor.tensor()?);
        }
        header.place(found, cursor.at, file.len())?;
        Ok(header)
    }

    /// A number of the header.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.values.get(key) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A text of the header.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A list of numbers; of truth values as 0 and 1.
    pub fn numbers(&self, key: &str) -> Option<&[f64]> {
        match self.values.get(key) {
            Some(Value::Numbers(numbers)) => Some(numbers),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.values.get(key) {
            Some(Value::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    fn refuse_part(&self) -> Result<(), GgufError> {
        let parts = self.number("split.count").unwrap_or(0.0) as u64;
        let part = self.number("split.no").unwrap_or(0.0) as u64 + 1;
        if parts > 1 { Err(GgufError::Split { part, parts }) } else { Ok(()) }
    }

    /// Turns offsets into places in the file; tensors begin behind the header, which ends at `end`.
    fn place(&mut self, found: Vec<Claim>, end: usize, length: usize) -> Result<(), GgufError> {
        let claimed = self.number("general.alignment").unwrap_or(32.0);
        let alignment = claimed as u64;
        if !(8..=1 << 20).contains(&alignment) || !alignment.is_power_of_two() {
            return Err(GgufError::BadAlignment { found: claimed });
        }
        let start = (end as u64).next_multiple_of(alignment);
        for claim in found {
            let tensor = claim.placed(start, alignment, length)?;
            self.tensors.push(tensor);
        }
        Ok(())
    }
}

/// A number of things that may be read one by one.
fn believed(what: &'static str, count: u64) -> Result<u64, GgufError> {
    if count > MOST { Err(GgufError::Absurd { what, count }) } else { Ok(count) }
}

/// What the header says about a tensor.
struct Claim {
    name: String,
    kind: u32,
    shape: Vec<u64>,
    offset: u64,
}

impl Claim {
    fn placed(self, start: u64, alignment: u64, length: usize) -> Result<Tensor, GgufError> {
        let Self { name, kind, shape, offset } = self;
        let storage = Storage::of_ggml(kind)
            .map_err(|found| GgufError::TensorType { tensor: name.clone(), found })?;
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Alignment { tensor: name, offset, alignment });
        }
        let absurd = || GgufError::Absurd {
            what: "values of one tensor",
            count: shape.iter().fold(1, |product, side| product.saturating_mul(*side)),
        };
        let values = shape.iter().try_fold(1u64, |all, side| all.checked_mul(*side));
        let values = values.filter(|values| *values <= 1 << 48).ok_or_else(absurd)?;
        let (block, bytes) = storage.block();
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(block as u64) {
            return Err(GgufError::Row { tensor: name, row: row as usize, block });
        }
        let bytes = values / block as u64 * bytes as u64;
        let from = start.checked_add(offset).ok_or_else(absurd)?;
        match from.checked_add(bytes) {
            Some(to) if to <= length as u64 => Ok(Tensor {
                name,
                storage,
                shape: shape.into_iter().map(|side| side as usize).collect(),
                range: from as usize..to as usize,
            }),
            _ => Err(GgufError::Truncated { what: format!("tensor `{name}`"), end: length }),
        }
    }
}

struct Cursor<'f> {
    bytes: &'f [u8],
    at: usize,
}

impl<'f> Cursor<'f> {
    fn take(&mut self, count: usize, what: impl FnOnce() -> String) -> Result<&'f [u8], GgufError> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let end = self.bytes.len();
        let bytes = bytes.ok_or_else(|| GgufError::Truncated { what: what(), end })?;
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N, || what.to_owned())?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let length = usize::try_from(self.u64(what)?).unwrap_or(usize::MAX);
        let bytes = self.take(length, || what.to_owned())?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32(key)?;
        match kind {
            7 => Ok(Value::Bool(self.array::<1>(key)?[0] != 0)),
            8 => Ok(Value::Text(self.text(key)?)),
            9 => self.list(key),
            _ => Ok(Value::Number(self.number(key, kind)?)),
        }
    }

    fn list(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32(key)?;
        let count = believed("values of one list", self.u64(key)?)?;
        if kind == 8 {
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(self.text(key)?);
            }
            return Ok(Value::Texts(texts));
        }
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(self.number(key, kind)?);
        }
        Ok(Value::Numbers(numbers))
    }

    fn number(&mut self, key: &str, kind: u32) -> Result<f64, GgufError> {
        Ok(match kind {
            0 | 7 => f64::from(self.array::<1>(key)?[0]),
            1 => f64::from(self.array::<1>(key)?[0] as i8),
            2 => f64::from(u16::from_le_bytes(self.array(key)?)),
            3 => f64::from(i16::from_le_bytes(self.array(key)?)),
            4 => f64::from(u32::from_le_bytes(self.array(key)?)),
            5 => f64::from(i32::from_le_bytes(self.array(key)?)),
            6 => f64::from(f32::from_le_bytes(self.array(key)?)),
            10 => u64::from_le_bytes(self.array(key)?) as f64,
            11 => i64::from_le_bytes(self.array(key)?) as f64,
            12 => f64::from_le_bytes(self.array(key)?),
            found => return Err(GgufError::ValueType { key: key.to_owned(), found }),
        })
    }

    fn tensor(&mut self) -> Result<Claim, GgufError> {
        let name = self.text("the name of a tensor")?;
        let rank = self.u32(&name)?;
        if rank > 4 {
            return Err(GgufError::Absurd { what: "axes of one tensor", count: rank.into() });
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(self.u64(&name)?);
        }
        shape.reverse();
        Ok(Claim { kind: self.u32(&name)?, offset: self.u64(&name)?, name, shape })
    }
}
