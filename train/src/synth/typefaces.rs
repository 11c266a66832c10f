//! Typefaces that strings are written in, from font files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ab_glyph::FontVec;
use tiny_skia::PathSegment;

use super::letters::{CHARACTERS, outline};

/// Font files of more bytes are not read.
const MOST_BYTES: u64 = 64 << 20;

/// Heights that a capital or a digit may have, where an `H` is 6 high: digits that stand below the line are other digits.
const HEIGHTS: std::ops::Range<f32> = 5.2..8.3;

/// A zero without a mark is at most so many times as wide as the `O`, or nobody can tell the two.
const ZERO: f32 = 0.9;

/// Why no typefaces can be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypefaceError {
    #[error("typefaces: cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "typefaces: {path} has no font file (.ttf, .otf) with A-Z and 0-9 that can be told apart; {files} files were looked at",
        path = path.display()
    )]
    None { path: PathBuf, files: usize },
}

/// One font file.
pub(super) struct Typeface {
    pub font: FontVec,
    path: PathBuf,
}

impl PartialEq for Typeface {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Typeface {}

impl std::fmt::Debug for Typeface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Typefaces that strings may be written in, beside those that are built in; none by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Typefaces(&'static [Typeface]);

impl Typefaces {
    /// Those of font files and of folders with all that is below them, in the order of their paths. They are read once, and
    /// kept as long as the program runs. Files without all capitals and digits, or whose `O` and `0` look alike, are left out,
    /// which the log tells.
    ///
    /// # Errors
    /// [`TypefaceError`] for what cannot be read, and for a folder without one that can be used.
    pub fn of(paths: &[PathBuf]) -> Result<Self, TypefaceError> {
        static READ: Mutex<BTreeMap<Vec<PathBuf>, &'static [Typeface]>> =
            Mutex::new(BTreeMap::new());
        let mut read = READ.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = read.get(paths) {
            return Ok(Self(known));
        }
        let mut found = Vec::new();
        for path in paths {
            found.extend(usable(path)?);
        }
        let found: &'static [Typeface] = Box::leak(found.into_boxed_slice());
        read.insert(paths.to_vec(), found);
        Ok(Self(found))
    }

    pub(super) fn all(self) -> &'static [Typeface] {
        self.0
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Those of a file or a folder.
fn usable(path: &Path) -> Result<Vec<Typeface>, TypefaceError> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    let count = files.len();
    let mut found = Vec::new();
    for path in files {
        let font = read(&path)?.filter(can_be_read);
        match font {
            Some(font) => found.push(Typeface { font, path }),
            None => {
                tracing::debug!(path = %path.display(), "left out: letters are missing or look alike")
            }
        }
    }
    if found.is_empty() {
        return Err(TypefaceError::None { path: path.to_owned(), files: count });
    }
    if found.len() < count {
        let (used, left_out) = (found.len(), count - found.len());
        tracing::warn!(path = %path.display(), used, left_out, "font files without all letters, or with ones that look alike, are left out");
    }
    Ok(found)
}

/// Font files at and below `path`.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), TypefaceError> {
    let failed = |source| TypefaceError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Links may lead in circles; what they lead to is found where it lies.
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() || kind.is_file() && is_font(&entry.path()) {
                collect(&entry.path(), files)?;
            }
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

fn is_font(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    ["ttf", "otf"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The font of a file; nothing where it is none.
fn read(path: &Path) -> Result<Option<FontVec>, TypefaceError> {
    let failed = |source| TypefaceError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
        return Ok(None);
    }
    Ok(FontVec::try_from_vec(fs::read(path).map_err(failed)?).ok())
}

/// Whether capitals and digits are there, are as high as each other, and `O` and `0` can be told apart.
fn can_be_read(font: &FontVec) -> bool {
    let all = CHARACTERS.iter().all(|character| {
        let drawn = outline(font, char::from(*character));
        drawn.is_some_and(|(path, _)| HEIGHTS.contains(&path.bounds().height()))
    });
    let width = |character| outline(font, character).map_or(0.0, |(path, _)| path.bounds().width());
    all && (width('0') <= ZERO * width('O') || contours(font, '0') > contours(font, 'O'))
}

/// Closed lines of a letter; a zero with a dot or a stroke has more than an `O`.
fn contours(font: &FontVec, character: char) -> usize {
    let moves = |path: &tiny_skia::Path| {
        path.segments().filter(|part| matches!(part, PathSegment::MoveTo(_))).count()
    };
    outline(font, character).map_or(0, |(path, _)| moves(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("below");
        fs::create_dir(&below).expect("a folder");
        fs::write(below.join("hack.ttf"), epaint_default_fonts::HACK_REGULAR).expect("written");
        fs::write(folder.path().join("ubuntu.TTF"), epaint_default_fonts::UBUNTU_LIGHT)
            .expect("written");
        fs::write(folder.path().join("broken.otf"), "no font").expect("written");
        fs::write(folder.path().join("README"), "read me").expect("written");
        folder
    }

    #[test]
    fn fonts_with_letters_are_found_in_order_and_once() {
        let folder = folder();
        let paths = [folder.path().to_owned()];
        let found = Typefaces::of(&paths).expect("typefaces");
        let names: Vec<_> = found.all().iter().map(|face| face.path.file_name().unwrap()).collect();
        assert_eq!(names, ["hack.ttf", "ubuntu.TTF"]);
        assert_eq!((found.len(), found.is_empty()), (2, false));
        let again = Typefaces::of(&paths).expect("typefaces");
        assert!(std::ptr::eq(found.all(), again.all()));
        assert!(Typefaces::default().is_empty());
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let folder = folder();
        let error = |path: PathBuf| Typefaces::of(&[path]).expect_err("an error").to_string();
        assert!(error(folder.path().join("nothing")).contains("cannot read"));
        let alone = error(folder.path().join("broken.otf"));
        assert!(
            alone.contains("broken.otf has no font file") && alone.contains("1 files"),
            "{alone}"
        );
    }
}
