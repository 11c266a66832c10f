//! Models of llama.cpp: one GGUF file with the language model, and one, the mmproj, with the vision tower.
//!
//! Configuration, tokenizer, chat template and preprocessing come out of the headers, as the files that a checkpoint folder
//! would have; tensors get the names that Hugging Face has for them, so that everything behind is the same as for a folder.

pub(crate) mod blocks;
mod error;
mod files;
mod header;
mod names;

use std::path::{Path, PathBuf};

use qwen3_vl_backends::memmap::MappedFile;

pub use blocks::{BlockType, Storage};
pub use error::GgufError;
pub use header::{Header, Tensor, Value};

use crate::checkpoint::{TensorEntry, WeightFile};
use crate::error::LoadError;

/// What `general.architecture` is for the models that can be read: dense, and with experts.
const ARCHITECTURES: [&str; 2] = ["qwen3vl", "qwen3vlmoe"];

/// An opened file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub path: PathBuf,
    pub map: MappedFile,
    pub header: Header,
}

impl GgufFile {
    fn open(path: &Path) -> Result<Self, LoadError> {
        let map = MappedFile::open(path).map_err(LoadError::io(path))?;
        let header = Header::read(map.as_slice()).map_err(LoadError::gguf(path))?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    fn architecture(&self) -> &str {
        self.header.text("general.architecture").unwrap_or("")
    }

    fn expect(&self, right: bool, expected: &'static str) -> Result<(), LoadError> {
        if right {
            return Ok(());
        }
        let found = self.architecture().to_owned();
        Err(LoadError::gguf(&self.path)(GgufError::Architecture { found, expected }))
    }
}

/// A file, and its tensors by name.
pub(crate) type FileWithTensors = (WeightFile, Vec<(String, TensorEntry)>);

/// Both files of a model; without the second it reads no pictures.
#[derive(Debug)]
pub(crate) struct GgufModel {
    pub text: GgufFile,
    pub vision: Option<GgufFile>,
}

impl GgufModel {
    /// Opens the files and checks that they are of this kind of model.
    ///
    /// # Errors
    /// When a file cannot be read or holds another architecture.
    pub fn open(model: &Path, mmproj: Option<&Path>) -> Result<Self, LoadError> {
        let text = GgufFile::open(model)?;
        let known = ARCHITECTURES.contains(&text.architecture());
        text.expect(known, "qwen3vl or qwen3vlmoe")?;
        let vision = mmproj.map(GgufFile::open).transpose()?;
        if let Some(vision) = &vision {
            vision.expect(vision.architecture() == "clip", "clip (an mmproj file)")?;
            files::check_projector(&vision.header).map_err(LoadError::gguf(&vision.path))?;
        }
        Ok(Self { text, vision })
    }

    /// The files for a checkpoint, with their tensors under the names of checkpoints.
    pub fn into_files(self) -> Result<Vec<FileWithTensors>, LoadError> {
        let taps = self.vision.as_ref().map(|vision| files::taps(&vision.header));
        let taps = taps.unwrap_or_default();
        let files = [Some(self.text), self.vision].into_iter().flatten().enumerate();
        files.map(|(index, file)| entries(index, file, &taps)).collect()
    }
}

fn entries(
    index: usize,
    GgufFile { path, map, header }: GgufFile,
    taps: &[usize],
) -> Result<FileWithTensors, LoadError> {
    let named = names::named(header.tensors, taps).map_err(LoadError::gguf(&path))?;
    let entry = |named: names::Named| {
        let Tensor { storage, shape, range, .. } = named.tensor;
        let rest = named.rest.into_iter().map(|range| (index, range)).collect();
        let turns = named.turns;
        (named.name, TensorEntry { file: index, storage, shape, range, rest, turns })
    };
    Ok((WeightFile { path, map }, named.into_iter().map(entry).collect()))
}

#[cfg(test)]
mod tests;
