//! Matrices that a device has no buffer for, in blocks of rows.

use std::ops::Range;

use burn::module::Param;
use burn::tensor::TensorData;
use qwen3_vl_backends::device::lost;
use qwen3_vl_model::weight::Weight;

use super::foreign::Packed;
use super::{Item, Loader, Stored};
use crate::checkpoint::TensorEntry;
use crate::error::LoadError;

/// Rows that kernels take together at most; blocks have whole ones where they can.
const TILE: usize = 64;

/// Rows of each block but the last of a matrix of `rows` rows and `bytes` bytes, in buffers of `limit` bytes: blocks are few, and
/// about equal. `None` where the matrix has room in one buffer, or not even a row has.
pub(crate) fn block_rows(rows: usize, bytes: u64, limit: u64) -> Option<usize> {
    let row = bytes.div_ceil(rows.max(1) as u64).max(1);
    let most = usize::try_from(limit / row).unwrap_or(usize::MAX);
    if bytes <= limit || most == 0 {
        return None;
    }
    let even = rows.div_ceil(rows.div_ceil(most));
    let tiled = even.next_multiple_of(TILE);
    Some(if tiled <= most { tiled } else { even })
}

/// The rows of each block of a matrix of `rows` rows.
pub(crate) fn ranges(rows: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(block.max(1)).map(move |first| first..(first + block).min(rows))
}

/// The rows `range` of the `rows` rows that `data` has, as a matrix.
pub(crate) fn rows_of(data: &TensorData, rows: usize, range: Range<usize>) -> TensorData {
    let (bytes, dtype) = (data.as_bytes(), data.dtype());
    let row = bytes.len() / rows.max(1);
    let part = bytes[range.start * row..range.end * row].to_vec();
    TensorData::from_bytes_vec(part, vec![range.len(), row / dtype.size()], dtype)
}

impl<'c> Loader<'_, 'c> {
    /// The blocks of a weight of this size, each of `block` rows but the last.
    pub(super) fn blocks(
        &self,
        item: &Item<'c>,
        [rows, inputs]: [usize; 2],
        block: usize,
    ) -> Result<Vec<Weight>, LoadError> {
        if !self.has_codes(item) {
            return self.dense_blocks(item, [rows, inputs], block);
        }
        let Packed { codes, scales, scheme } = self.codes_of(item, [rows, inputs])?;
        let part = |range: Range<usize>| {
            let codes = rows_of(&codes, rows, range.clone());
            let scales = rows_of(&scales, rows, range);
            Weight::Quantised(self.weight_of(Packed { codes, scales, scheme }, inputs))
        };
        Ok(ranges(rows, block).map(part).collect())
    }

    fn dense_blocks(
        &self,
        item: &Item<'c>,
        [rows, inputs]: [usize; 2],
        block: usize,
    ) -> Result<Vec<Weight>, LoadError> {
        let one_by_one = matches!(item.stored, Stored::Plain) && item.entry.rest.is_empty();
        let whole = (!one_by_one).then(|| self.data(item, &[rows, inputs])).transpose()?;
        let part = |range: Range<usize>| {
            let data = match &whole {
                Some(whole) => rows_of(whole, rows, range),
                None => self.stored_rows(item, [rows, inputs], range)?,
            };
            let dtype = self.precision.of_rank(2);
            let tensor = lost::upload(data, &self.device.device, dtype);
            Ok(Weight::Dense(Param::from_tensor(tensor)))
        };
        ranges(rows, block).map(part).collect()
    }

    /// Some rows of a matrix that lies in its file as a whole; the others are not read.
    fn stored_rows(
        &self,
        item: &Item<'c>,
        [rows, inputs]: [usize; 2],
        range: Range<usize>,
    ) -> Result<TensorData, LoadError> {
        let (shape, stored) = ([range.len(), inputs], &item.entry.range);
        let row = stored.len() / rows.max(1);
        let entry = TensorEntry {
            shape: shape.to_vec(),
            range: stored.start + range.start * row..stored.start + range.end * row,
            ..item.entry.clone()
        };
        let item = Item {
            path: item.path.clone(),
            name: item.name.clone(),
            shape: shape.to_vec(),
            entry: &entry,
            transposed: false,
            dtype: item.dtype,
            stored: Stored::Plain,
            block: None,
        };
        self.data(&item, &shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_few_and_about_equal() {
        let sizes = |rows, block| -> Vec<usize> { ranges(rows, block).map(|r| r.len()).collect() };
        assert_eq!(block_rows(512, 512 * 8, 512 * 8), None);
        assert_eq!(block_rows(512, 512 * 8, 512 * 8 - 1), Some(256));
        // Three blocks: of 192 rows, which are whole tiles, where there is room for them, and of 171 otherwise.
        assert_eq!(block_rows(512, 512 * 8, 200 * 8), Some(192));
        assert_eq!(sizes(512, 192), [192, 192, 128]);
        assert_eq!(block_rows(512, 512 * 8, 180 * 8 + 7), Some(171));
        assert_eq!(sizes(512, 171), [171, 171, 170]);
        assert_eq!(block_rows(5, 40, 8), Some(1));
        assert_eq!(block_rows(5, 40, 7), None);
        assert_eq!(block_rows(0, 0, 0), None);
        // The table of the 2B model in f32, by buffers of 128 MiB.
        let (rows, row) = (151_936, 2048 * 4);
        let block = block_rows(rows, (rows * row) as u64, 128 << 20).unwrap();
        assert_eq!((block, sizes(rows, block).len()), (15_232, 10));
    }

    #[test]
    fn rows_are_cut_out_of_matrices_of_any_dtype() {
        let data = TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]);
        let part = rows_of(&data, 3, 1..3);
        assert_eq!(part, TensorData::new(vec![3.0f32, 4.0, 5.0, 6.0], [2, 2]));
        let bytes = rows_of(&TensorData::new(vec![1u8, 2, 3], [3, 1]), 3, 2..3);
        assert_eq!(bytes, TensorData::new(vec![3u8], [1, 1]));
    }
}
