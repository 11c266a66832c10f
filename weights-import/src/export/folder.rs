//! A folder that appears when it is complete.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::ExportError;
use super::tensors::sync_folder;

/// A folder beside its target, which goes when it is dropped before [`NewFolder::finish`].
pub(crate) struct NewFolder {
    partial: TempDir,
    parent: PathBuf,
    target: PathBuf,
}

impl NewFolder {
    /// Begins a folder that is to be `target`, which must not exist or be an empty folder.
    pub fn begin(target: &Path) -> Result<Self, ExportError> {
        let target = std::path::absolute(target).map_err(ExportError::io(target))?;
        let (Some(parent), Some(_)) = (target.parent(), target.file_name()) else {
            return Err(ExportError::Nameless { path: target });
        };
        let parent = parent.to_owned();
        refuse_occupied(&target)?;
        std::fs::create_dir_all(&parent).map_err(ExportError::io(&parent))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".partial-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let partial = builder.tempdir_in(&parent).map_err(ExportError::io(&parent))?;
        Ok(Self { partial, parent, target })
    }

    /// Where a file is written before the folder has its name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.path().join(name)
    }

    /// Creates a file.
    pub fn create(&self, name: &str) -> Result<File, ExportError> {
        let path = self.path(name);
        File::create(&path).map_err(ExportError::io(path))
    }

    /// Writes a small file.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<(), ExportError> {
        use std::io::Write;
        let mut file = self.create(name)?;
        file.write_all(text)
            .and_then(|()| file.sync_all())
            .map_err(ExportError::io(self.path(name)))
    }

    /// Copies the contents of a file.
    pub fn copy(&self, from: &Path, name: &str) -> Result<(), ExportError> {
        let mut source = File::open(from).map_err(ExportError::io(from))?;
        let mut file = self.create(name)?;
        std::io::copy(&mut source, &mut file)
            .and_then(|_| file.sync_all())
            .map_err(ExportError::io(self.path(name)))
    }

    /// Gives the folder its name.
    pub fn finish(self) -> Result<PathBuf, ExportError> {
        let Self { partial, parent, target } = self;
        let io = || ExportError::io(&target);
        refuse_occupied(&target)?;
        sync_folder(partial.path()).map_err(io())?;
        if target.exists() {
            std::fs::remove_dir(&target).map_err(io())?;
        }
        std::fs::rename(partial.path(), &target).map_err(io())?;
        // It has moved, so that there is nothing to remove.
        let _ = partial.keep();
        sync_folder(&parent).map_err(io())?;
        Ok(target)
    }
}

fn refuse_occupied(target: &Path) -> Result<(), ExportError> {
    let occupied = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    match occupied {
        true => Err(ExportError::Occupied { path: target.to_owned() }),
        false => Ok(()),
    }
}
