//! Which files make a model, and what the hub or the cache says about them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::error::{HubError, io_error};

/// Without these there is no model.
pub(super) const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// These are taken where they exist.
pub(super) const OPTIONAL: [&str; 7] = [
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
];
/// Weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The table of shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// An index larger than this is none (the largest Qwen3-VL has about 0.2 MB).
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// One file as the hub lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Bytes, where the server says.
    pub size: Option<u64>,
    /// Name of its blob in the cache: the SHA-256 of a large file, the git id of a small one.
    pub blob: Option<String>,
}

/// All files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeMap<String, Listed>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the answer of `/api/models/{repo}/revision/{revision}?blobs=true`.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let raw: RawListing = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if !super::id::is_commit(&raw.sha) {
            return Err(format!(
                "its `sha` is `{}`, not a commit of 40 hexadecimal digits",
                raw.sha
            ));
        }
        Ok(Self {
            commit: raw.sha,
            files: raw.siblings.into_iter().map(|f| (f.rfilename.clone(), f.into())).collect(),
        })
    }

    /// The files to have before the weights are looked at, in order: small ones first.
    pub fn small_files(&self) -> Vec<&'static str> {
        let all = REQUIRED.into_iter().chain(OPTIONAL);
        all.filter(|name| self.files.contains_key(*name)).collect()
    }

    /// The first file without which there is no model, if it is not listed.
    pub fn missing(&self) -> Option<&'static str> {
        let has = |name: &str| self.files.contains_key(name);
        let weights = (!has(SINGLE) && !has(INDEX)).then_some(SINGLE);
        REQUIRED.into_iter().find(|name| !has(name)).or(weights)
    }

    /// Whether the weights are sharded. A repository that has both forms is read as transformers reads it: one file.
    pub fn is_sharded(&self) -> bool {
        !self.files.contains_key(SINGLE)
    }
}

impl From<RawFile> for Listed {
    fn from(file: RawFile) -> Self {
        let (sha256, lfs_size) = file.lfs.map_or((None, None), |l| (l.sha256, l.size));
        let hex =
            |s: &String| matches!(s.len(), 40 | 64) && s.bytes().all(|b| b.is_ascii_hexdigit());
        Self { size: lfs_size.or(file.size), blob: sha256.or(file.blob_id).filter(hex) }
    }
}

/// The shards that `model.safetensors.index.json` at `path` names, each once, in order.
///
/// # Errors
/// [`HubError::BadIndex`] if it is no index, or if a shard's name is not a plain file name ending in `.safetensors`.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |reason: String| HubError::BadIndex { path: path.into(), reason };
    let mut json = Vec::new();
    let file = std::fs::File::open(path).map_err(io_error("open", path))?;
    file.take(MAX_INDEX_BYTES).read_to_end(&mut json).map_err(io_error("read", path))?;
    let index: Index = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| !is_plain_shard(name)) {
        Some(name) => Err(bad(format!(
            "its weight_map names the shard `{name}`, which is not a plain file name ending in .safetensors"
        ))),
        None if names.is_empty() => Err(bad("its weight_map is empty".into())),
        None => Ok(names),
    }
}

fn is_plain_shard(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(letters)
}

/// What is missing in the snapshot directory `dir`, as a sentence part; nothing if it holds a whole model.
pub(super) fn missing_in(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if let Some(name) = REQUIRED.into_iter().find(|name| !has(name)) {
        return Some(format!("{name} is missing"));
    }
    if has(SINGLE) {
        return None;
    }
    if !has(INDEX) {
        return Some(format!("neither {SINGLE} nor {INDEX} is there"));
    }
    match shards(&dir.join(INDEX)) {
        Ok(names) => names.iter().find(|n| !has(n)).map(|n| format!("the shard {n} is missing")),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        Listing {
            commit: "0".repeat(40),
            files: names.iter().map(|n| (n.to_string(), Listed::default())).collect(),
        }
    }

    #[test]
    fn only_files_of_the_model_are_chosen() {
        let all = listing(&[
            "README.md",
            "config.json",
            "model.gguf",
            "tokenizer.json",
            "pytorch_model.bin",
            "model.safetensors",
        ]);
        assert_eq!(all.small_files(), ["config.json", "tokenizer.json"]);
        assert_eq!(all.missing(), None);
        assert!(!all.is_sharded());
    }

    #[test]
    fn the_first_missing_file_is_named() {
        assert_eq!(listing(&["tokenizer.json", INDEX]).missing(), Some("config.json"));
        assert_eq!(listing(&["config.json", INDEX]).missing(), Some("tokenizer.json"));
        assert_eq!(listing(&["config.json", "tokenizer.json"]).missing(), Some(SINGLE));
        assert!(listing(&[INDEX]).is_sharded());
    }

    #[test]
    fn blob_names_that_are_not_hashes_are_ignored() {
        let sha = "ab".repeat(32);
        let json = format!(
            r#"{{"sha":"{0}","siblings":[{{"rfilename":"a","size":3,"blobId":"../../x"}},
               {{"rfilename":"b","size":1,"blobId":"{0}","lfs":{{"sha256":"{sha}","size":9}}}}]}}"#,
            "c0".repeat(20)
        );
        let listing = Listing::parse(json.as_bytes()).unwrap();
        assert_eq!(listing.files["a"], Listed { size: Some(3), blob: None });
        assert_eq!(listing.files["b"], Listed { size: Some(9), blob: Some(sha) });
        assert!(Listing::parse(br#"{"sha":"../x","siblings":[]}"#).unwrap_err().contains("../x"));
    }

    #[test]
    fn shard_names_are_plain() {
        for good in ["model-00001-of-00002.safetensors", "a.safetensors"] {
            assert!(is_plain_shard(good), "{good}");
        }
        for bad in [
            "../a.safetensors",
            "/a.safetensors",
            "d/a.safetensors",
            "a.bin",
            ".safetensors",
            "a\\b.safetensors",
            "C:a.safetensors",
        ] {
            assert!(!is_plain_shard(bad), "{bad}");
        }
    }
}
