//! The cache directory of the Hugging Face tools, `models--owner--name/{blobs,snapshots,refs}`, shared with them.
//!
//! Files come to rest in three steps, so that nothing half-written ever bears a final name: hf-hub downloads into
//! `models--owner--name/.incomplete` (a cache directory of its own), the finished and measured file is renamed into
//! `blobs/`, and a link to it is renamed into `snapshots/<commit>/`. `refs/<revision>` is written last.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{HubError, io_error};
use super::files::{self, Listed};
use super::id::is_commit;

/// The cached state of one repository.
pub(super) struct RepoCache {
    cache: PathBuf,
    folder: String,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &str) -> Self {
        Self { cache: cache.into(), folder: hf_hub::Repo::model(repo.to_string()).folder_name() }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    /// Where the files of `commit` are (or will be).
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    /// Where unfinished downloads live between two runs.
    pub fn staging(&self) -> PathBuf {
        self.root().join(".incomplete")
    }

    /// The commit that `revision` meant when it was last looked up.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_string());
        }
        let text = fs::read_to_string(self.root().join("refs").join(revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// The directory of `revision` if it holds a whole model, else what is missing.
    pub fn complete(&self, revision: &str) -> Result<PathBuf, String> {
        let commit = self.commit_of(revision).ok_or("nothing of it was ever downloaded")?;
        let dir = self.snapshot(&commit);
        match files::missing_in(&dir) {
            None => Ok(dir),
            Some(missing) => Err(missing),
        }
    }

    /// Whether `file` of `commit` is there with the listed size.
    pub fn has(&self, commit: &str, file: &str, listed: &Listed) -> bool {
        has_size(&self.snapshot(commit).join(file), listed.size)
    }

    /// Links a blob that another commit brought already. False if there is none.
    pub fn adopt(&self, commit: &str, file: &str, listed: &Listed) -> Result<bool, HubError> {
        let Some(blob) = &listed.blob else {
            return Ok(false);
        };
        let known =
            listed.size.is_some() && has_size(&self.root().join("blobs").join(blob), listed.size);
        if known {
            self.link(commit, file, blob)?;
        }
        Ok(known)
    }

    /// Moves a finished download (what hf-hub returned, a link or a file) to its final place.
    pub fn promote(&self, staged: &Path, commit: &str, file: &str) -> Result<(), HubError> {
        let data = fs::canonicalize(staged).map_err(io_error("read", staged))?;
        let name = data.file_name().unwrap_or(file.as_ref()).to_string_lossy().into_owned();
        let blobs = self.root().join("blobs");
        fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
        fs::rename(&data, blobs.join(&name))
            .map_err(io_error("move a download to", blobs.join(&name)))?;
        self.link(commit, file, &name)
    }

    fn link(&self, commit: &str, file: &str, blob: &str) -> Result<(), HubError> {
        let dir = self.snapshot(commit);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let (temporary, last) = (dir.join(format!(".{file}.new")), dir.join(file));
        let _ = fs::remove_file(&temporary);
        place(&self.root().join("blobs").join(blob), &temporary)
            .map_err(io_error("create", &temporary))?;
        fs::rename(&temporary, &last).map_err(io_error("create", &last))
    }

    /// Notes which commit `revision` means, unless it is noted already or is a commit itself.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root().join("refs").join(revision);
        let temporary = self.root().join(".ref.new");
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        }
        fs::write(&temporary, commit).map_err(io_error("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("write", &path))
    }

    /// Removes what is left of downloads, after all of them have been promoted.
    pub fn remove_staging(&self) {
        let _ = fs::remove_dir_all(self.staging());
    }

    /// Waits until no other process downloads this repository; the lock ends when the value is dropped.
    pub fn lock(&self, announce: bool) -> Result<File, HubError> {
        let dir = self.cache.join(".locks").join(&self.folder);
        let path = dir.join("qwen3-vl.lock");
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let file = File::create(&path).map_err(io_error("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                if announce {
                    let text = "waiting for another process that downloads the same model";
                    let _ = writeln!(io::stderr(), "{text}");
                }
                file.lock().map_err(io_error("lock", &path))?;
            }
            // Some network file systems have no locks: hf-hub's own per-file lock remains.
            Err(TryLockError::Error(error)) => {
                tracing::warn!("no lock on {}: {error}", path.display())
            }
        }
        Ok(file)
    }
}

fn has_size(path: &Path, size: Option<u64>) -> bool {
    match fs::metadata(path) {
        Ok(about) => about.is_file() && size.is_none_or(|s| s == about.len()),
        Err(_) => false,
    }
}

/// Makes `link` (in `snapshots/<commit>`) lead to `blob`, by a relative symbolic link as the Python tools make it.
#[cfg(unix)]
fn place(blob: &Path, link: &Path) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), link)
}

/// Where symbolic links need a privilege (Windows), the file itself moves into the snapshot, as with the Python tools.
#[cfg(not(unix))]
fn place(blob: &Path, link: &Path) -> io::Result<()> {
    fs::rename(blob, link)
}
