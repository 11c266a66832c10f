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
    map: Arc<memmap2::Mmap>,
}

/// Bytes in the memory of the host: a part of a mapped file, or of what was made. Clones and parts share them.
#[derive(Debug, Clone)]
pub struct HostBytes {
    bytes: bytes::Bytes,
    /// The mapping, and where in it the bytes are.
    map: Option<(Arc<memmap2::Mmap>, usize)>,
}

impl HostBytes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes themselves; those of a file are read when they are looked at.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes `range` among these.
    ///
    /// # Panics
    /// When the range lies outside.
    pub fn part(&self, range: Range<usize>) -> Self {
        let map = self.map.as_ref().map(|(map, start)| (map.clone(), start + range.start));
        Self { bytes: self.bytes.slice(range), map }
    }

    /// As the data of a tensor, without a copy where they are aligned for `dtype`.
    ///
    /// # Panics
    /// When their length differs from `shape` and `dtype`.
    pub fn tensor_data(&self, shape: &[usize], dtype: DType) -> TensorData {
        tensor_data(self.bytes.clone(), shape, dtype)
    }

    /// Lets the system read in the background what of a file is not in memory yet, where it can.
    pub fn announce(&self) {
        #[cfg(unix)]
        if let Some((map, start)) = &self.map {
            // Advice that is not taken changes nothing but time.
            let _ = map.advise_range(memmap2::Advice::WillNeed, *start, self.len());
        }
    }
}

impl From<Vec<u8>> for HostBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), map: None }
    }
}

/// What a slice of a mapping keeps alive.
struct Owner(Arc<memmap2::Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn tensor_data(bytes: bytes::Bytes, shape: &[usize], dtype: DType) -> TensorData {
    assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size(), "length of a tensor");
    let aligned = bytes.as_ptr().addr().is_multiple_of(dtype.size());
    let bytes = if aligned {
        Bytes::from_shared(bytes, AllocationProperty::File)
    } else {
        Bytes::from_bytes_vec(bytes.to_vec())
    };
    TensorData::from_bytes(bytes, shape.to_vec(), dtype)
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
        let map = Arc::new(unsafe { memmap2::Mmap::map(&file)? });
        // What is not in memory yet is read in the largest pages that the file system has: looking up small ones takes a sixth of
        // the time of reading weights. Advice that is not taken changes nothing but time.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let bytes = bytes::Bytes::from_owner(Owner(map.clone()));
        Ok(Self { bytes, file: Arc::new(file), map })
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
        tensor_data(self.bytes.slice(range), shape, dtype)
    }

    /// The bytes `range` of the file; nothing is read.
    ///
    /// # Panics
    /// When the range lies outside the file.
    pub fn part(&self, range: Range<usize>) -> HostBytes {
        let map = Some((self.map.clone(), range.start));
        HostBytes { bytes: self.bytes.slice(range), map }
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
            let part = file(&bytes).part(start..start + 12);
            part.announce();
            let last = part.part(8..12);
            last.announce();
            for part in [last, HostBytes::from(bytes[start + 8..start + 12].to_vec())] {
                let data = part.tensor_data(&[1], DType::F32);
                assert_eq!(data.try_to_vec::<f32>().unwrap(), values[2..]);
            }
        }
    }
}
