//! From data files to rows of token ids, pixels and targets.
//!
//! | step | file |
//! |---|---|
//! | JSON list or JSONL, row by row | `file` |
//! | one row of any dialect to turns | `json` `row` `llava` `messages` `columns` |
//! | placeholders, paths of pictures and videos | `media` |
//! | `objects` and boxes of answers | `grounding` |
//! | turns to one [`Sample`] | `draft` |
//! | tokens, targets and budgets of a sample | `prepare` `budget` `fit` |
//! | a whole set, before training | `check` `pixels` |
//! | what is learned, for people | `show` |

mod budget;
pub mod check;
mod columns;
mod draft;
mod error;
mod file;
mod fit;
mod grounding;
mod json;
mod keys;
mod llava;
mod media;
mod messages;
pub mod pixels;
pub mod prepare;
mod row;
mod sample;
pub mod show;

use std::sync::Arc;

use base64::Engine;
use image::ImageEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

pub use check::{CheckOptions, CheckReport, Glance, Problem, check, glance};
pub use error::{DataError, Place, RowProblem, SampleError};
pub use file::Fingerprint;
pub use prepare::{
    Dropped, Limits, Measured, Note, Prepared, Preparer, SampleSizes, TooLong, TrainRow,
};
pub use qwen3_vl_model::processor::Think;
pub use sample::{ColumnMap, Sample, SampleBox, SourceOptions, TrainOn};
pub use show::Piece;

use crate::synth::{Drawn, SynthOptions};
use file::RowFile;
use row::RowReader;

/// A data file, of which only the places of its rows are held in memory, or rows that are drawn when they are read.
#[derive(Debug)]
pub struct Dataset {
    rows: Rows,
    name: Arc<std::path::Path>,
    reader: RowReader,
}

/// Where the bytes of rows come from.
#[derive(Debug)]
enum Rows {
    File(RowFile),
    Drawn(SynthOptions),
}

/// A set that is drawn row by row, as [`crate::synth::write_dataset`] would write it; pictures travel as data URIs.
pub fn drawn(options: SynthOptions) -> Dataset {
    let name = format!("synth seed {}", options.seed);
    let reader = RowReader::new(SourceOptions { root: None, ..SourceOptions::new(&name) });
    Dataset { rows: Rows::Drawn(options), name: Arc::from(std::path::Path::new(&name)), reader }
}

/// Opens a data file and finds its rows; none is parsed yet.
///
/// # Errors
/// [`DataError`] for files that cannot be read, are neither a JSON list nor JSONL, or have no rows.
pub fn read(options: SourceOptions) -> Result<Dataset, DataError> {
    let file = RowFile::open(&options.path)?;
    let name = Arc::from(options.path.as_path());
    Ok(Dataset { rows: Rows::File(file), name, reader: RowReader::new(options) })
}

impl Dataset {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::File(file) => file.rows().len(),
            Rows::Drawn(options) => options.rows as usize,
        }
    }

    /// Whether its rows are drawn when they are read.
    pub fn is_drawn(&self) -> bool {
        matches!(self.rows, Rows::Drawn(_))
    }

    /// Whether there is no row (which [`read`] refuses).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length and hash of all bytes of its file; `None` for rows that are drawn.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn fingerprint(&self) -> Result<Option<Fingerprint>, DataError> {
        match &self.rows {
            Rows::File(file) => file.fingerprint().map(Some),
            Rows::Drawn(_) => Ok(None),
        }
    }

    /// Where row `index` stands.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn place(&self, index: usize) -> Place {
        let line = match &self.rows {
            Rows::File(file) => file.rows()[index].line,
            Rows::Drawn(_) => index + 1,
        };
        Place { file: self.name.clone(), line }
    }

    /// The index of the row that begins in `line`, or the last one before it.
    pub fn row_at_line(&self, line: usize) -> Option<usize> {
        match &self.rows {
            Rows::File(file) => file.rows().partition_point(|row| row.line <= line).checked_sub(1),
            Rows::Drawn(_) => line.min(self.len()).checked_sub(1),
        }
    }

    /// Name under which losses of this file are summed, where rows do not say it.
    pub fn channel(&self) -> &Arc<str> {
        self.reader.channel()
    }

    /// The conversations of row `index`: one, or those of a packed row (a list of rows), in order.
    ///
    /// # Errors
    /// [`SampleError`] with place and field.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn samples(&self, index: usize) -> Result<Vec<Sample>, SampleError> {
        self.parse(index, &self.bytes(index)?)
    }

    /// The conversations of row `index`, whose bytes are at hand.
    pub(crate) fn parse(&self, index: usize, bytes: &[u8]) -> Result<Vec<Sample>, SampleError> {
        let place = self.place(index);
        self.reader.samples(bytes, &place).map_err(|problem| problem.at(&place))
    }

    /// The bytes of row `index`, as they stand in the file.
    pub(crate) fn bytes(&self, index: usize) -> Result<Vec<u8>, SampleError> {
        match &self.rows {
            Rows::File(file) => {
                file.read(file.rows()[index]).map_err(|problem| problem.at(&self.place(index)))
            }
            Rows::Drawn(options) => {
                let row = options.row(index as u64).to_json(&mut data_uri);
                row.map(|row| row.to_string().into_bytes()).map_err(|error| {
                    RowProblem::Drawing { reason: error.to_string() }.at(&self.place(index))
                })
            }
        }
    }
}

/// A drawn picture as the URI of a PNG file.
fn data_uri(drawn: &Drawn) -> Result<String, image::ImageError> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Sub);
    encoder.write_image(&drawn.rgb, drawn.width, drawn.height, image::ExtendedColorType::Rgb8)?;
    Ok(format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png)))
}

#[cfg(test)]
mod tests;
