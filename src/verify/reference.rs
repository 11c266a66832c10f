//! Reading a reference file.

use std::path::{Path, PathBuf};

use qwen3_vl_backends::memmap::MappedFile;
use qwen3_vl_model::inputs::{MediaItem, Pixels};
use qwen3_vl_model::processor::image::Grid;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// What is wrong with a reference file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a complete safetensors file: {source}")]
    Header { path: PathBuf, source: SafeTensorError },
    #[error("{path} has no `{key}`; a reference file needs it")]
    Missing { path: PathBuf, key: &'static str },
    #[error("{path}: `{key}` is {found}; expected {expected}")]
    Shape { path: PathBuf, key: String, found: String, expected: String },
}

/// A reference file in memory.
pub struct Reference {
    path: PathBuf,
    map: MappedFile,
}

/// A float tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Floats {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// An integer tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Integers {
    pub shape: Vec<usize>,
    pub values: Vec<i64>,
}

impl Reference {
    /// Maps the file and checks its header.
    pub fn open(path: &Path) -> Result<Self, ReferenceError> {
        let map = MappedFile::open(path)
            .map_err(|source| ReferenceError::Io { path: path.to_owned(), source })?;
        let reference = Self { path: path.to_owned(), map };
        reference.tensors()?;
        Ok(reference)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, ReferenceError> {
        SafeTensors::deserialize(self.map.as_slice())
            .map_err(|source| ReferenceError::Header { path: self.path.clone(), source })
    }

    /// Names of all tensors, sorted.
    pub fn keys(&self) -> Result<Vec<String>, ReferenceError> {
        let mut keys: Vec<String> =
            self.tensors()?.names().into_iter().map(str::to_owned).collect();
        keys.sort();
        Ok(keys)
    }

    /// A float tensor; bytes stand for pixel values `(v / 255 - 0.5) / 0.5`.
    pub fn floats(&self, key: &str) -> Result<Option<Floats>, ReferenceError> {
        let tensors = self.tensors()?;
        let Ok(view) = tensors.tensor(key) else { return Ok(None) };
        let values = match view.dtype() {
            Dtype::F32 => numbers(view.data(), f32::from_le_bytes),
            Dtype::I64 => numbers(view.data(), |b| i64::from_le_bytes(b) as f32),
            Dtype::U8 => view.data().iter().map(|v| (*v as f32 / 255.0 - 0.5) / 0.5).collect(),
            other => return Err(self.shape_error(key, format!("{other:?}"), "F32 or U8".into())),
        };
        Ok(Some(Floats { shape: view.shape().to_vec(), values }))
    }

    /// An integer tensor.
    pub fn integers(&self, key: &str) -> Result<Option<Integers>, ReferenceError> {
        let tensors = self.tensors()?;
        let Ok(view) = tensors.tensor(key) else { return Ok(None) };
        match view.dtype() {
            Dtype::I64 => Ok(Some(Integers {
                shape: view.shape().to_vec(),
                values: numbers(view.data(), i64::from_le_bytes),
            })),
            other => Err(self.shape_error(key, format!("{other:?}"), "I64".into())),
        }
    }

    /// An integer tensor that must be there, as rows.
    pub fn rows(&self, key: &'static str) -> Result<Vec<Vec<i64>>, ReferenceError> {
        let found = self.integers(key)?;
        let tensor =
            found.ok_or_else(|| ReferenceError::Missing { path: self.path.clone(), key })?;
        match tensor.shape[..] {
            [_, width] if width > 0 => {
                Ok(tensor.values.chunks(width).map(<[i64]>::to_vec).collect())
            }
            _ => Err(self.shape_error(key, format!("{:?}", tensor.shape), "two axes".into())),
        }
    }

    /// Pixels of `patch_len` values per patch and grids (`pixels`, `grids` name the keys); none where they are absent.
    pub fn pixels(
        &self,
        pixels: &'static str,
        grids: &'static str,
        patch_len: usize,
    ) -> Result<Pixels, ReferenceError> {
        let Some(values) = self.floats(pixels)? else { return Ok(Pixels::default()) };
        let grid = |row: Vec<i64>| match row[..] {
            [t, h, w] if [t, h, w].iter().all(|side| (1..=1 << 16).contains(side)) => {
                Ok(Grid { t: t as usize, h: h as usize, w: w as usize })
            }
            _ => Err(self.shape_error(grids, format!("{row:?}"), "positive [t, h, w]".into())),
        };
        let grids: Vec<Grid> = self.rows(grids)?.into_iter().map(grid).collect::<Result<_, _>>()?;
        let patches: usize = grids.iter().map(Grid::patches).sum();
        if values.shape != [patches, patch_len] {
            let expected =
                format!("{:?}, as the grids and the checkpoint say", [patches, patch_len]);
            return Err(self.shape_error(pixels, format!("{:?}", values.shape), expected));
        }
        let mut rows = values.values.as_slice();
        let items = grids.into_iter().map(|grid| {
            let (item, rest) = rows.split_at(grid.patches() * patch_len);
            rows = rest;
            MediaItem::from_patches(grid, item.to_vec())
        });
        Ok(Pixels { items: items.collect() })
    }

    fn shape_error(&self, key: &str, found: String, expected: String) -> ReferenceError {
        ReferenceError::Shape { path: self.path.clone(), key: key.to_owned(), found, expected }
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| from(*chunk)).collect()
}
