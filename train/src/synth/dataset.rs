//! A folder of drawn pictures and the file that tells about them.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use qwen3_vl_weights::partial;

use super::tokenizer::{self, TrainTokenizerError};
use super::{Channel, Drawn, Mixture, SynthMedia, SynthRow, channel_row, row};

/// Why a data set cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A folder or a file cannot be written.
    #[error("{path} cannot be written: {source}.", path = path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A picture cannot be written.
    #[error("The picture {path} cannot be written: {source}.", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the encoder says.
        source: image::ImageError,
    },
    /// The tokenizer cannot be learnt.
    #[error(transparent)]
    Tokenizer(#[from] TrainTokenizerError),
}

impl SynthError {
    fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Write { path, source }
    }
}

/// What the rows of a data set ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Questions {
    /// Several questions on one subject.
    #[default]
    Conversations,
    /// Questions of one channel per row, of these channels in turn.
    Of {
        /// At least one.
        channels: Vec<Channel>,
        /// Questions per row.
        each: usize,
    },
}

impl Questions {
    /// One question per row, of these channels in turn.
    #[must_use]
    pub fn one_of(channels: &[Channel]) -> Self {
        Self::Of { channels: channels.to_vec(), each: 1 }
    }
}

/// What to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    /// Number of rows.
    pub rows: u64,
    /// Rows of different seeds have nothing in common.
    pub seed: u64,
    /// Which subjects, in conversations.
    pub mixture: Mixture,
    /// What is asked in a row.
    pub questions: Questions,
}

impl SynthOptions {
    /// Row `index` of this data set.
    #[must_use]
    pub fn row(&self, index: u64) -> SynthRow {
        match &self.questions {
            Questions::Of { channels, each } if !channels.is_empty() => {
                let channel = channels[(index % channels.len() as u64) as usize];
                channel_row(self.seed, index, channel, *each, &self.mixture.bounds)
            }
            _ => row(self.seed, index, &self.mixture),
        }
    }
}

/// Writes `data.jsonl`, pictures to `images/` and the frames of videos to `videos/NUMBER/`, all below `folder`.
///
/// `data.jsonl` appears only when everything is written. `progress` is told how many rows are written and how many there will be.
///
/// # Errors
/// [`SynthError`] for a folder or file that cannot be written.
pub fn write_dataset(
    folder: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), SynthError> {
    fs::create_dir_all(folder).map_err(SynthError::write(folder))?;
    let target = folder.join("data.jsonl");
    let file = partial::beside(&target).map_err(SynthError::write(&target))?;
    let mut lines = BufWriter::new(file);
    for index in 0..options.rows {
        let line = write_row(folder, index, &options.row(index))?;
        writeln!(lines, "{line}").map_err(SynthError::write(&target))?;
        progress(index + 1, options.rows);
    }
    let file =
        lines.into_inner().map_err(|error| SynthError::write(&target)(error.into_error()))?;
    file.as_file().sync_all().map_err(SynthError::write(&target))?;
    file.persist(&target).map_err(|error| SynthError::write(&target)(error.error))?;
    Ok(())
}

/// Learns a tokenizer from `seed` ([`tokenizer::train`]) and writes it to `tokenizer.json` in `folder`.
///
/// # Errors
/// [`SynthError`] when it cannot be learnt or written.
pub fn write_tokenizer(folder: &Path, seed: u64) -> Result<(), SynthError> {
    let text = tokenizer::train(seed)?;
    let target = folder.join("tokenizer.json");
    let written = partial::beside(&target).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file.persist(&target)?)
    });
    written.map(drop).map_err(SynthError::write(&target))
}

/// Writes the pictures of a row; its line.
fn write_row(folder: &Path, index: u64, row: &SynthRow) -> Result<String, SynthError> {
    let film = matches!(row.media.first(), Some(SynthMedia::Film { .. }));
    let mut count = 0;
    let mut save = |drawn: &Drawn| {
        let name = match film {
            true => format!("videos/{index:06}/{count:02}.png"),
            false => format!("images/{index:06}-{count}.png"),
        };
        count += 1;
        write_picture(&folder.join(&name), drawn)?;
        Ok::<_, SynthError>(name)
    };
    Ok(row.to_json(&mut save)?.to_string())
}

fn write_picture(path: &Path, drawn: &Drawn) -> Result<(), SynthError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(SynthError::write(parent))?;
    }
    let colour = image::ColorType::Rgb8;
    image::save_buffer(path, &drawn.rgb, drawn.width, drawn.height, colour)
        .map_err(|source| SynthError::Picture { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(options: &SynthOptions) -> (tempfile::TempDir, Vec<serde_json::Value>) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut last = (0, 0);
        write_dataset(folder.path(), options, &mut |done, all| last = (done, all))
            .expect("written");
        assert_eq!(last, (options.rows, options.rows));
        let text = fs::read_to_string(folder.path().join("data.jsonl")).expect("data.jsonl");
        (folder, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    }

    #[test]
    fn every_named_file_is_there_and_has_its_pixels() {
        let mixture =
            Mixture { scenes: 1.0, strings: 1.0, pairs: 1.0, films: 1.0, ..Mixture::default() };
        let options = SynthOptions { rows: 8, seed: 11, mixture, questions: Questions::default() };
        let (folder, rows) = written(&options);
        assert_eq!(rows.len(), 8);
        let mut names = 0;
        for (index, row) in rows.iter().enumerate() {
            let parts = row["messages"][0]["content"].as_array().expect("parts");
            let drawn = options.row(index as u64);
            if let (Some(name), SynthMedia::Picture(picture)) =
                (parts[0]["image"].as_str(), &drawn.media[0])
            {
                let read = image::open(folder.path().join(name)).expect("a picture").to_rgb8();
                assert_eq!(read.into_raw(), picture.rgb, "{name}");
                names += 1;
            }
            for name in parts[0]["video"].as_array().into_iter().flatten() {
                assert!(folder.path().join(name.as_str().expect("a name")).is_file());
                names += 1;
            }
        }
        assert!(names > 8, "{names}");
    }

    #[test]
    fn one_question_per_row_of_a_channel() {
        let questions = Questions::one_of(&[Channel::Count]);
        let options = SynthOptions { rows: 3, seed: 1, mixture: Mixture::default(), questions };
        for row in written(&options).1 {
            assert_eq!(row["channel"], "count");
            assert_eq!(row["messages"].as_array().map(Vec::len), Some(2));
            assert_eq!(row["messages"][1]["role"], "assistant");
        }
    }

    /// nano's was learnt from seed 1 too, before letters of strings had other widths; strings come from the same draws as texts.
    #[test]
    fn a_written_tokenizer_has_the_size_of_the_committed_one() {
        let folder = tempfile::tempdir().expect("a folder");
        write_tokenizer(folder.path(), 1).expect("written");
        let size = |path: &Path| {
            let tokenizer = tokenizers::Tokenizer::from_file(path).expect("a tokenizer");
            tokenizer.get_vocab_size(true)
        };
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/nano/model");
        assert_eq!(
            size(&folder.path().join("tokenizer.json")),
            size(&committed.join("tokenizer.json"))
        );
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("images"), "x").expect("a file");
        let mixture = Mixture { films: 0.0, ..Mixture::default() };
        let options = SynthOptions { rows: 1, seed: 1, mixture, questions: Questions::default() };
        let error = write_dataset(folder.path(), &options, &mut |_, _| {}).expect_err("an error");
        assert!(error.to_string().contains("images cannot be written"), "{error}");
        assert!(!folder.path().join("data.jsonl").exists());
    }
}
