//! Safetensors files, written with one tensor in memory at a time.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::ExportError;
use crate::load::Progress;
use crate::partial;

type Read<'a> = dyn FnOnce() -> Result<TensorData, ExportError> + 'a;

/// A tensor whose values are fetched when it is written, and dropped then.
pub struct LazyTensor<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    dtype: Result<Dtype, DType>,
    read: Box<Read<'a>>,
}

impl<'a> LazyTensor<'a> {
    /// A tensor of `shape`, whose values `read` fetches; they are converted to `dtype`.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: &[usize],
        read: impl FnOnce() -> TensorData + 'a,
    ) -> Self {
        let read = move || Ok(read().convert_dtype(dtype));
        Self::fallible(name.into(), dtype, shape.to_vec(), Box::new(read))
    }

    /// A tensor on a device, in its own dtype.
    pub fn of<const D: usize>(name: impl Into<String>, tensor: Tensor<D>) -> Self {
        let (dtype, shape) = (tensor.dtype(), tensor.dims());
        Self::new(name, dtype, &shape, move || tensor.into_data())
    }

    /// A tensor whose values can fail to be read.
    pub(crate) fn fallible(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        read: Box<Read<'a>>,
    ) -> Self {
        Self { name, shape, dtype: file_dtype(dtype).ok_or(dtype), read }
    }

    /// Bytes of another safetensors file, as they are.
    pub(crate) fn raw(name: String, dtype: Dtype, shape: Vec<usize>, read: Box<Read<'a>>) -> Self {
        Self { name, shape, dtype: Ok(dtype), read }
    }

    /// The same tensor, which tells `state` of its bytes once they were fetched.
    pub(super) fn reported(self, state: &'a RefCell<(&mut dyn Progress, u64)>, total: u64) -> Self {
        let (name, bytes, read) = (self.name.clone(), self.bytes(), self.read);
        let read = move || {
            let data = read()?;
            let (progress, done) = &mut *state.borrow_mut();
            *done += bytes;
            progress.tensor(&name, *done, total);
            Ok(data)
        };
        Self { read: Box::new(read), ..self }
    }

    /// Bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        let bits = self.dtype.map_or(0, |dtype| dtype.bitsize() as u64);
        self.shape.iter().map(|side| *side as u64).product::<u64>() * bits / 8
    }
}

impl From<(String, TensorData)> for LazyTensor<'_> {
    fn from((name, data): (String, TensorData)) -> Self {
        let (dtype, shape) = (data.dtype(), data.shape().to_vec());
        Self::new(name, dtype, &shape, move || data)
    }
}

fn file_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        _ => return None,
    })
}

/// Writes a safetensors file whose metadata is `{"format": "pt"}`, as transformers and peft do, and returns the bytes
/// of its tensors. Values are fetched one tensor at a time.
///
/// The file appears under its name when it is complete and on disk; an older file of that name stays until then.
///
/// # Errors
/// When a name occurs twice, a dtype cannot be stored, or the file cannot be written.
pub fn save_tensors<'a, T: Into<LazyTensor<'a>>>(
    path: &Path,
    tensors: impl IntoIterator<Item = T>,
) -> Result<u64, ExportError> {
    let io = || ExportError::io(path);
    let partial = partial::beside(path).map_err(io())?;
    let tensors = tensors.into_iter().map(Into::into).collect();
    let bytes = write_tensors(partial.as_file(), path, tensors)?;
    partial.persist(path).map_err(|error| io()(error.error))?;
    sync_folder(partial::folder_of(path)).map_err(io())?;
    Ok(bytes)
}

/// Makes new names in a folder last; systems that cannot open folders need no such call.
pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Writes `tensors` to an empty file and makes it last. `path` is for messages.
pub(crate) fn write_tensors(
    file: &File,
    path: &Path,
    mut tensors: Vec<LazyTensor<'_>>,
) -> Result<u64, ExportError> {
    // Wide numbers first, so that all of them are aligned.
    tensors.sort_by(|a, b| (b.dtype.ok(), &a.name).cmp(&(a.dtype.ok(), &b.name)));
    let header = header(path, &tensors)?;
    let io = || ExportError::io(path);
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io())?;
    out.write_all(&header).map_err(io())?;
    let mut total = 0;
    for tensor in tensors {
        let (name, expected) = (tensor.name.clone(), tensor.bytes());
        let data = (tensor.read)()?;
        let bytes = data.as_bytes();
        assert_eq!(bytes.len() as u64, expected, "bytes of tensor {name}");
        out.write_all(bytes).map_err(io())?;
        total += expected;
    }
    out.flush().map_err(io())?;
    drop(out);
    file.sync_all().map_err(io())?;
    Ok(total)
}

fn header(path: &Path, tensors: &[LazyTensor<'_>]) -> Result<Vec<u8>, ExportError> {
    let (mut infos, mut names, mut end) = (Vec::new(), HashSet::new(), 0);
    for tensor in tensors {
        let name = tensor.name.clone();
        if !names.insert(name.clone()) {
            return Err(ExportError::Duplicate { path: path.to_owned(), name });
        }
        let dtype = match tensor.dtype {
            Ok(dtype) => dtype,
            Err(dtype) => return Err(ExportError::Dtype { name, dtype: format!("{dtype:?}") }),
        };
        let start = end;
        end += tensor.bytes() as usize;
        let shape = tensor.shape.clone();
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
    }
    let failed = |source| ExportError::Header { path: path.to_owned(), source };
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(format), infos).map_err(failed)?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| failed(error.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn data(values: &[f32]) -> TensorData {
        TensorData::new(values.to_vec(), [values.len()])
    }

    #[test]
    fn a_file_is_what_safetensors_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let half = data(&[1.0, 2.5, -3.0]).convert_dtype(DType::BF16);
        let count = TensorData::new(vec![7i64, 8], [1, 2]);
        let tensors =
            [("half".into(), half), ("wide".into(), data(&[0.5])), ("count".into(), count)];
        assert_eq!(save_tensors(&path, tensors).unwrap(), 6 + 4 + 16);
        let bytes = std::fs::read(&path).unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("half").unwrap().data(), [0x80, 0x3f, 0x20, 0x40, 0x40, 0xc0]);
        assert_eq!(file.tensor("wide").unwrap().data(), 0.5f32.to_le_bytes());
        assert_eq!(file.tensor("count").unwrap().shape(), [1, 2]);
    }

    #[test]
    fn values_are_fetched_one_after_the_other_and_aligned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let order = std::cell::RefCell::new(Vec::new());
        let lazy = |name: &'static str, dtype| {
            let order = &order;
            LazyTensor::new(name, dtype, &[3], move || {
                order.borrow_mut().push(name);
                data(&[1.0, 2.0, 3.0])
            })
        };
        save_tensors(&path, [lazy("b", DType::BF16), lazy("c", DType::F32), lazy("a", DType::F32)])
            .unwrap();
        assert_eq!(*order.borrow(), ["a", "c", "b"]);
    }

    #[test]
    fn what_fails_leaves_the_older_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_tensors(&path, [("old".to_owned(), data(&[1.0]))]).unwrap();
        let before = std::fs::read(&path).unwrap();
        let twice = [("x".to_owned(), data(&[1.0])), ("x".to_owned(), data(&[2.0]))];
        let error = save_tensors(&path, twice).unwrap_err().to_string();
        assert!(error.contains("`x` was given twice"), "{error}");
        let failing = LazyTensor::fallible(
            "late".into(),
            DType::F32,
            vec![1],
            Box::new(|| Err(ExportError::NotFinite { name: "late".into(), dtype: "f32" })),
        );
        assert!(save_tensors(&path, [("first".to_owned(), data(&[1.0])).into(), failing]).is_err());
        let flags = ("flags".to_owned(), TensorData::new(vec![true], [1]));
        let error = save_tensors(&path, [flags]).unwrap_err().to_string();
        assert!(error.contains("`flags` has dtype"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("no/a.safetensors");
        let error = save_tensors(&nowhere, [("x".to_owned(), data(&[1.0]))]).unwrap_err();
        assert!(error.to_string().contains("a.safetensors"), "{error}");
    }
}
