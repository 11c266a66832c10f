//! A folder that appears when it is complete.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use super::ExportError;
use super::tensors::sync_folder;

/// Folders of this process that are not complete.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what has been written of folders that are not complete, for a program that ends in the middle of that.
pub fn remove_unfinished() {
    remove(unfinished().drain(..));
}

fn remove(folders: impl Iterator<Item = PathBuf>) {
    for folder in folders {
        // A file that is created meanwhile would keep the folder; once more, then.
        let _ = std::fs::remove_dir_all(&folder).or_else(|_| std::fs::remove_dir_all(&folder));
    }
}

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
        unfinished().push(partial.path().to_owned());
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
    pub fn finish(mut self) -> Result<PathBuf, ExportError> {
        let (parent, target) = (std::mem::take(&mut self.parent), std::mem::take(&mut self.target));
        let partial = &mut self.partial;
        let io = || ExportError::io(&target);
        refuse_occupied(&target)?;
        sync_folder(partial.path()).map_err(io())?;
        if target.exists() {
            std::fs::remove_dir(&target).map_err(io())?;
        }
        std::fs::rename(partial.path(), &target).map_err(io())?;
        // It has moved, so that there is nothing to remove.
        partial.disable_cleanup(true);
        sync_folder(&parent).map_err(io())?;
        Ok(target)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        unfinished().retain(|folder| folder != self.partial.path());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_complete_goes_when_the_program_is_ended() {
        let parent = tempfile::tempdir().unwrap();
        let begin = |name: &str| {
            let folder = NewFolder::begin(&parent.path().join(name)).unwrap();
            folder.write("half", b"of it").unwrap();
            folder
        };
        let whole = begin("whole").finish().unwrap();
        let half = begin("half");
        // Other tests have folders of their own.
        let known = unfinished().clone().into_iter();
        remove(known.filter(|folder| folder.parent() == Some(parent.path())));
        let left = std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(left.collect::<Vec<_>>(), [whole]);
        assert!(half.finish().is_err());
    }
}
