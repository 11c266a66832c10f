//! Weight files mapped into memory, and tensors made of their bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};

/// A whole file mapped read-only. Clones and slices share the mapping.
#[derive(Debug, Clone)]
pub struct MappedFile {
    bytes: bytes::Bytes,
    file: Arc<File>,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only. Another process that truncates or rewrites the file while it is
        // mapped could change the bytes or raise SIGBUS, as with every memory-mapped weight loader; the
        // bytes are only ever read as plain numbers, so no value of them is invalid.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { bytes: bytes::Bytes::from_owner(map), file: Arc::new(file) })
    }

    /// The file's bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// A copy of the bytes `range`, read past the mapping so that its pages do not become resident.
    ///
    /// # Errors
    /// When the file has become shorter or cannot be read.
    pub fn read(&self, range: Range<usize>) -> std::io::Result<Vec<u8>> {
        let mut file = &*self.file;
        let mut bytes = vec![0; range.len()];
        file.seek(SeekFrom::Start(range.start as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes `range` of the file as the data of a tensor, without a copy where they are aligned for `dtype`.
    ///
    /// # Panics
    /// When the range lies outside the file or its length differs from `shape` and `dtype`.
    pub fn tensor_data(&self, range: Range<usize>, shape: &[usize], dtype: DType) -> TensorData {
        let part = self.bytes.slice(range);
        assert_eq!(
            part.len(),
            shape.iter().product::<usize>() * dtype.size(),
            "length of a tensor"
        );
        let aligned = part.as_ptr().addr().is_multiple_of(dtype.size());
        let bytes = if aligned {
            Bytes::from_shared(part, AllocationProperty::File)
        } else {
            Bytes::from_bytes_vec(part.to_vec())
        };
        TensorData::from_bytes(bytes, shape.to_vec(), dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> MappedFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        MappedFile::open(file.path()).unwrap()
    }

    #[test]
    fn aligned_and_unaligned_ranges_give_the_same_numbers() {
        let values = [1.5f32, -2.0, 3.25];
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shifted: Vec<u8> = [vec![0u8], raw.clone()].concat();
        for (bytes, start) in [(raw, 0), (shifted, 1)] {
            let data = file(&bytes).tensor_data(start..start + 12, &[3], DType::F32);
            assert_eq!(data.try_to_vec::<f32>().unwrap(), values);
            assert_eq!(file(&bytes).read(start..start + 12).unwrap(), bytes[start..start + 12]);
        }
    }
}
