//! The small checkpoint that the program carries with it, so that it answers without a download.
//!
//! It was trained from random weights by `qwen3-vl train run examples/nano/train.toml` and knows drawn scenes, short printed
//! strings and short films of one object; `assets/nano/README.md` has its evaluation.

use std::io::Write;
use std::path::{Path, PathBuf};

use qwen3_vl_weights::hub::{HubOptions, cache_home, resolve_model};

use crate::Error;

/// What the embedded checkpoint is called where a folder or hub id is expected.
pub const NAME: &str = "nano";

/// Name and contents of every file of the checkpoint.
#[cfg(feature = "nano")]
const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../assets/nano/config.json")),
    ("generation_config.json", include_bytes!("../../assets/nano/generation_config.json")),
    ("preprocessor_config.json", include_bytes!("../../assets/nano/preprocessor_config.json")),
    (
        "video_preprocessor_config.json",
        include_bytes!("../../assets/nano/video_preprocessor_config.json"),
    ),
    ("tokenizer.json", include_bytes!("../../assets/nano/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../assets/nano/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../../assets/nano/chat_template.jinja")),
    ("model.safetensors", include_bytes!("../../assets/nano/model.safetensors")),
];
#[cfg(not(feature = "nano"))]
const FILES: &[(&str, &[u8])] = &[];

/// Why the embedded checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NanoError {
    #[error(
        "the embedded checkpoint cannot be unpacked to {path}: {source}; set XDG_CACHE_HOME to a writable folder"
    )]
    Unpack { path: PathBuf, source: std::io::Error },
}

/// The name of the model that is used where none is named; nothing where this build has none.
#[must_use]
pub fn default_model() -> Option<&'static str> {
    (!FILES.is_empty()).then_some(NAME)
}

/// The folder of `model`: that of the embedded checkpoint for `nano`, unless a folder has this name, else as
/// [`resolve_model`].
///
/// # Errors
/// When the embedded checkpoint cannot be unpacked, or as [`resolve_model`].
pub fn resolve(model: &str, options: &HubOptions) -> Result<PathBuf, Error> {
    match model == NAME && !FILES.is_empty() && !Path::new(NAME).is_dir() {
        true => Ok(unpacked(&cache())?),
        false => Ok(resolve_model(model, options)?),
    }
}

/// Where unpacked files are kept: `$XDG_CACHE_HOME/qwen3-vl`, `~/.cache/qwen3-vl`, or the folder of temporary files.
fn cache() -> PathBuf {
    let folder = cache_home().map(|cache| cache.join("qwen3-vl"));
    let usable = folder.filter(|folder| std::fs::create_dir_all(folder).is_ok());
    usable.unwrap_or_else(std::env::temp_dir)
}

/// The checkpoint as a folder below `cache`; written where it is not there yet, or not as it should be.
fn unpacked(cache: &Path) -> Result<PathBuf, NanoError> {
    let folder = cache.join(format!("nano-{}", env!("CARGO_PKG_VERSION")));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NanoError::Unpack { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if !holds(&path, bytes) {
            // A file that another process has mapped stays as that process sees it.
            write(&folder, &path, bytes).map_err(failed(&path))?;
        }
    }
    Ok(folder)
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    let long = std::fs::metadata(path).is_ok_and(|file| file.len() == bytes.len() as u64);
    long && std::fs::read(path).is_ok_and(|found| found == bytes)
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(all(test, feature = "nano"))]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_written_again() {
        let cache = tempfile::tempdir().expect("a folder");
        let folder = unpacked(cache.path()).expect("unpacked");
        let file = folder.join("config.json");
        std::fs::write(&file, "{}").expect("damaged");
        assert_eq!(unpacked(cache.path()).expect("again"), folder);
        assert_eq!(std::fs::read(&file).expect("a file"), FILES[0].1);
    }
}
