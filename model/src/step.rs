//! What the sequences of a forward pass bring.

use std::ops::Range;

use crate::cache::KvCache;
use crate::prompt::Prompt;

/// What one sequence brings to a forward pass.
#[derive(Debug)]
pub enum Work<'a> {
    /// Tokens `rows` of a prompt; the cache holds exactly the tokens before.
    Prompt { prompt: &'a mut Prompt, rows: Range<usize> },
    /// Generated tokens, the first of them at `position` on all axes.
    Tokens { ids: &'a [u32], position: u32 },
}

impl Work<'_> {
    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Prompt { rows, .. } => rows.len(),
            Self::Tokens { ids, .. } => ids.len(),
        }
    }

    /// Some of them.
    pub(crate) fn part(&mut self, part: Range<usize>) -> Work<'_> {
        match self {
            Self::Prompt { prompt, rows } => {
                Work::Prompt { prompt, rows: rows.start + part.start..rows.start + part.end }
            }
            Self::Tokens { ids, position } => {
                Work::Tokens { ids: &ids[part.clone()], position: *position + part.start as u32 }
            }
        }
    }
}

/// The work of one sequence, and the cache that it extends.
#[derive(Debug)]
pub struct Step<'a> {
    pub work: Work<'a>,
    pub cache: &'a mut KvCache,
}
