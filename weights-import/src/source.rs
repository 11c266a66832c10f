//! Where a model comes from: a checkpoint folder, or the GGUF files of llama.cpp.

use std::path::{Path, PathBuf};

use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::processor::{ProcessError, Processor, ProcessorFiles};
use qwen3_vl_model::sample::GenerationDefaults;

use crate::checkpoint::{Checkpoint, read_config};
use crate::error::LoadError;
use crate::gguf::GgufModel;
use crate::processor::{ProcessorError, load_generation_defaults, load_processor};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with `config.json`, tokenizer and safetensors.
    Folder(PathBuf),
    /// A GGUF file of the language model, and the one of the vision tower where there is one.
    Gguf { model: PathBuf, mmproj: Option<PathBuf> },
}

impl ModelSource {
    /// The source at `path`: a GGUF file, a folder with one, or a checkpoint folder. `mmproj` names the vision tower of a
    /// GGUF file; without it, it is the file beside it whose name begins with `mmproj`.
    ///
    /// # Errors
    /// When a folder has several files to choose from, or `mmproj` is given for what is no GGUF file.
    pub fn find(path: &Path, mmproj: Option<&Path>) -> Result<Self, LoadError> {
        let model = match is_gguf(path) {
            true => Some(path.to_owned()),
            false if path.join("config.json").exists() => None,
            false => one_of(path, false)?,
        };
        let Some(model) = model else {
            return match mmproj {
                None => Ok(Self::Folder(path.to_owned())),
                Some(_) => Err(LoadError::NeedlessMmproj { path: path.to_owned() }),
            };
        };
        let mmproj = match mmproj {
            Some(mmproj) => Some(mmproj.to_owned()),
            None => one_of(model.parent().unwrap_or(Path::new("")), true)?,
        };
        Ok(Self::Gguf { model, mmproj })
    }

    /// The folder, or the file of the language model.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Gguf { model, .. } => model,
        }
    }

    /// Whether there are weights for pictures.
    pub fn sees(&self) -> bool {
        !matches!(self, Self::Gguf { mmproj: None, .. })
    }

    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// When a file cannot be read, or is none of Qwen3-VL.
    pub fn config(&self) -> Result<Qwen3VlConfig, LoadError> {
        match self {
            Self::Folder(folder) => read_config(folder),
            Self::Gguf { .. } => self.open_gguf()?.validated(),
        }
    }

    /// Opens the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self) -> Result<Checkpoint, LoadError> {
        match self {
            Self::Folder(folder) => Checkpoint::open(folder),
            Self::Gguf { .. } => Checkpoint::of_gguf(self.open_gguf()?),
        }
    }

    /// The weights, `None` where there are none yet.
    ///
    /// # Errors
    /// When there are weight files and they cannot be opened.
    pub fn weights(&self) -> Result<Option<Checkpoint>, LoadError> {
        match self.open() {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(LoadError::NoWeights { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tokenizer, chat template, image and video settings.
    ///
    /// # Errors
    /// As [`load_processor`].
    pub fn processor(&self, config: &Qwen3VlConfig) -> Result<Processor, ProcessorError> {
        match self {
            Self::Folder(folder) => load_processor(folder, config),
            Self::Gguf { model, .. } => gguf_processor(&self.open_gguf()?, model, config),
        }
    }

    /// What the checkpoint says about how answers are generated.
    ///
    /// # Errors
    /// As [`load_generation_defaults`].
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, ProcessorError> {
        match self {
            Self::Folder(folder) => load_generation_defaults(folder),
            Self::Gguf { model, .. } => {
                let text = self.open_gguf()?.generation().to_string();
                let path = model.clone();
                GenerationDefaults::from_json(&text)
                    .map_err(|source| ProcessorError::Generation { path, source })
            }
        }
    }

    fn open_gguf(&self) -> Result<GgufModel, LoadError> {
        let Self::Gguf { model, mmproj } = self else { unreachable!("only for GGUF files") };
        GgufModel::open(model, mmproj.as_deref())
    }
}

impl GgufModel {
    /// The configuration that the headers describe.
    pub(crate) fn validated(&self) -> Result<Qwen3VlConfig, LoadError> {
        let path = &self.text.path;
        let json = self.config().map_err(LoadError::gguf(path))?;
        Qwen3VlConfig::from_json(&json.to_string())
            .map_err(|source| LoadError::Config { path: path.clone(), source })
    }
}

fn gguf_processor(
    gguf: &GgufModel,
    model: &Path,
    config: &Qwen3VlConfig,
) -> Result<Processor, ProcessorError> {
    let wrong = LoadError::gguf(model);
    let made = || {
        let tokenizer = gguf.tokenizer()?.to_string();
        let pictures = gguf.preprocessor(false)?.to_string();
        Ok((tokenizer, pictures, gguf.preprocessor(true)?.to_string()))
    };
    let (tokenizer, pictures, videos) = made().map_err(wrong)?;
    let tokenizer_config = gguf.tokenizer_config().to_string();
    let files = ProcessorFiles {
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: Some(&tokenizer_config),
        chat_template_jinja: None,
        chat_template_json: None,
        preprocessor_config: Some(&pictures),
        video_preprocessor_config: Some(&videos),
        processor_config: None,
    };
    Processor::new(config, files).map_err(|source: ProcessError| ProcessorError::Process {
        folder: model.to_owned(),
        source: Box::new(source),
    })
}

/// Whether a path names a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) && path.is_file()
}

/// The GGUF file of a folder that is an mmproj file, or that is none.
fn one_of(folder: &Path, mmproj: bool) -> Result<Option<PathBuf>, LoadError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let right = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        is_gguf(path) && name.to_ascii_lowercase().starts_with("mmproj") == mmproj
    };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(right).collect();
    found.sort();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(LoadError::SeveralGguf {
            folder: folder.to_owned(),
            files: found
                .iter()
                .flat_map(|path| path.file_name())
                .map(|n| n.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
            option: if mmproj { "by --mmproj" } else { "as the model" },
        }),
    }
}
