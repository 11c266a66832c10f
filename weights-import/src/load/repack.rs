//! Codes and scales of other programs in our order. All matrices are `[out, in]` in the end, rows one after the other.

use qwen3_vl_backends::quant::QuantScheme;
use rayon::prelude::*;

use crate::gguf::BlockType;

/// Output columns of the halves of a word of AutoAWQ, from the lowest on.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Codes and scales of rows of ggml's blocks.
pub(super) fn blocks(
    block: BlockType,
    bytes: &[u8],
    [rows, inputs]: [usize; 2],
) -> (Vec<u8>, Vec<f32>) {
    let scheme = block.scheme();
    let mut codes = vec![0; rows * scheme.row_bytes(inputs)];
    let mut scales = vec![0.0; rows * scheme.scale_columns(inputs)];
    let stored = (bytes.len() / rows.max(1)).max(1);
    let to = codes.par_chunks_mut(scheme.row_bytes(inputs).max(1));
    let to = to.zip(scales.par_chunks_mut(scheme.scale_columns(inputs).max(1)));
    to.zip(bytes.par_chunks(stored)).for_each(|((codes, scales), row)| {
        block.unpack(row, codes, scales);
    });
    (codes, scales)
}

/// Scales of E4M3 weights for each row and group of 128: from one for each block of 128 by 128, each row, or all, as their
/// shape says.
pub(super) fn block_scales(
    scales: &[f32],
    shape: &[usize],
    [rows, inputs]: [usize; 2],
) -> Vec<f32> {
    let groups = inputs.div_ceil(128);
    let blocks = shape == [rows.div_ceil(128), groups];
    let at = |row: usize, group: usize| match scales.len() {
        1 => scales[0],
        _ if blocks => scales[row / 128 * groups + group],
        _ => scales[row],
    };
    (0..rows).flat_map(|row| (0..groups).map(move |group| at(row, group))).collect()
}

/// `[.., columns]` with its axes swapped.
pub(super) fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// The words of AutoAWQ, `[in, out / 8]`, as our pairs of halves.
pub(super) fn awq_codes(words: &[u32], [rows, inputs]: [usize; 2]) -> Vec<u8> {
    let (columns, bytes) = (rows.div_ceil(8), inputs.div_ceil(2));
    let mut codes = vec![0u8; rows * bytes];
    codes.par_chunks_mut(8 * bytes.max(1)).enumerate().for_each(|(column, codes)| {
        for input in 0..inputs {
            let word = words[input * columns + column];
            for (half, row) in AWQ_ORDER.into_iter().enumerate() {
                let code = (word >> (4 * half) & 15) as u8;
                // The last word may hold more rows than there are.
                if let Some(pair) = codes.get_mut(row * bytes + input / 2) {
                    *pair |= code << (4 * (input % 2));
                }
            }
        }
    });
    codes
}

/// Scales `[groups, out]` and zero points `[groups, out / 8]` of AutoAWQ as scales and minimums.
pub(super) fn awq_scales(
    zeros: &[u32],
    scales: &[f32],
    [rows, inputs]: [usize; 2],
    scheme: QuantScheme,
) -> Vec<f32> {
    let (groups, columns) = (scheme.groups(inputs), rows.div_ceil(8));
    let mut half_of = [0; 8];
    AWQ_ORDER.into_iter().enumerate().for_each(|(half, row)| half_of[row] = half);
    let of_row = |row: usize| {
        let scale = move |group: usize| scales[group * rows + row];
        let zero = move |group: usize| {
            let word = zeros[group * columns + row / 8];
            (word >> (4 * half_of[row % 8]) & 15) as f32
        };
        let minimums = (0..groups).map(move |group| scale(group) * zero(group));
        (0..groups).map(scale).chain(minimums)
    };
    (0..rows).flat_map(of_row).collect()
}

/// Scales `[out, groups]`, or `[out, 1]` that hold for whole rows, for each group.
pub(super) fn per_group(
    scales: &[f32],
    [rows, inputs]: [usize; 2],
    scheme: QuantScheme,
) -> Vec<f32> {
    let groups = scheme.groups(inputs);
    match scales.len() == rows * groups {
        true => scales.to_vec(),
        false => scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, groups)).collect(),
    }
}

/// Zero points of compressed-tensors, `[out / 8, columns]` words, as `[out, groups]` numbers.
pub(super) fn zero_points(
    words: &[u32],
    [rows, inputs]: [usize; 2],
    scheme: QuantScheme,
) -> Vec<u8> {
    let groups = scheme.groups(inputs);
    let columns = words.len() / rows.div_ceil(8).max(1);
    let at = |row: usize, group: usize| {
        let word = words[row / 8 * columns + group.min(columns - 1)];
        (word >> (4 * (row % 8)) & 15) as u8
    };
    (0..rows).flat_map(|row| (0..groups).map(move |group| at(row, group))).collect()
}

/// Zero points of older files, `[out, columns]` signed bytes, as `[out, groups]` numbers from 0 to 15.
pub(super) fn signed_zero_points(bytes: &[u8], columns: usize, groups: usize) -> Vec<u8> {
    let at = |row: &[u8], group: usize| row[group.min(row.len() - 1)].wrapping_add(8) & 15;
    let rows = bytes.chunks(columns.max(1));
    rows.flat_map(|row| (0..groups).map(move |group| at(row, group))).collect()
}

/// Behind the scales of each row, their products with the zero points.
pub(super) fn with_minimums(scales: &[f32], zeros: &[u8], groups: usize) -> Vec<f32> {
    let rows = scales.chunks(groups.max(1)).zip(zeros.chunks(groups.max(1)));
    let of_row = |(scales, zeros): (&[f32], &[u8])| {
        let minimums = scales.iter().zip(zeros).map(|(scale, zero)| scale * f32::from(*zero));
        scales.iter().copied().chain(minimums).collect::<Vec<_>>()
    };
    rows.flat_map(of_row).collect()
}

/// Codes of four bits less the zero points of their groups, a signed byte each.
pub(super) fn differences(
    codes: &[u8],
    zeros: &[u8],
    [rows, inputs]: [usize; 2],
    scheme: QuantScheme,
) -> Vec<u8> {
    let (bytes, groups) = (scheme.row_bytes(inputs), scheme.groups(inputs));
    let at = |row: usize, input: usize| {
        let code = codes[row * bytes + input / 2] >> (4 * (input % 2)) & 15;
        code.wrapping_sub(zeros[row * groups + input / scheme.group()])
    };
    (0..rows).flat_map(|row| (0..inputs).map(move |input| at(row, input))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_blocks_rows_and_tensors_are_spread() {
        let size = [130, 200];
        let blocks = block_scales(&[1.0, 2.0, 3.0, 4.0], &[2, 2], size);
        assert_eq!(
            (blocks.len(), &blocks[..2], &blocks[258..]),
            (260, &[1.0, 2.0][..], &[3.0, 4.0][..])
        );
        assert_eq!(block_scales(&[5.0], &[], size), vec![5.0; 260]);
        let rows: Vec<f32> = (0..130).map(|row| row as f32).collect();
        assert_eq!(block_scales(&rows, &[130, 1], size)[258..], [129.0, 129.0]);
        // As many blocks as rows: the shape alone tells them apart.
        assert_eq!(block_scales(&[1.0, 2.0], &[2, 1], [2, 256]), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(block_scales(&[1.0, 2.0], &[2], [2, 256]), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(block_scales(&[1.0, 2.0], &[1, 2], [2, 256]), [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn halves_of_words_go_to_their_rows() {
        // Row 0 of the output has code 1, row 1 code 2, and so on, for the first input; the second has zeros.
        let word =
            AWQ_ORDER.iter().enumerate().map(|(half, row)| (*row as u32 + 1) << (4 * half)).sum();
        assert_eq!(awq_codes(&[word, 0], [8, 2]), [1, 2, 3, 4, 5, 6, 7, 8]);
        let scheme = QuantScheme::with_minimums(4, 32).unwrap();
        let scales: Vec<f32> = (0..8).map(|row| 0.5 + row as f32).collect();
        let found = awq_scales(&[word], &scales, [8, 2], scheme);
        assert_eq!(found[..4], [0.5, 0.5, 1.5, 3.0]);
    }

    /// Ten rows are a word and a quarter, three inputs a byte and a half.
    #[test]
    fn words_that_are_not_full_hold_no_more_rows() {
        let code = |row: usize, input: usize| (row * 3 + input * 5) as u32 % 16;
        let word = |input: usize, first: usize| -> u32 {
            let halves = AWQ_ORDER.iter().enumerate().filter(|(_, row)| first + **row < 10);
            halves.map(|(half, row)| code(first + row, input) << (4 * half)).sum()
        };
        let words: Vec<u32> =
            (0..3).flat_map(|input| [0, 8].map(|first| word(input, first))).collect();
        let codes = awq_codes(&words, [10, 3]);
        assert_eq!(codes.len(), 20);
        for (row, bytes) in codes.chunks(2).enumerate() {
            let low = code(row, 0) | code(row, 1) << 4;
            assert_eq!([u32::from(bytes[0]), u32::from(bytes[1])], [low, code(row, 2)], "{row}");
        }
        let scheme = QuantScheme::with_minimums(4, 32).unwrap();
        let scales: Vec<f32> = (0..10).map(|row| 1.0 + row as f32).collect();
        let zeros = [word(0, 0), word(0, 8)];
        let found = awq_scales(&zeros, &scales, [10, 3], scheme);
        let expected = (0..10).flat_map(|row| [scales[row], scales[row] * code(row, 0) as f32]);
        assert_eq!(found, expected.collect::<Vec<f32>>());
        let packed: Vec<u32> = [0..8, 8..10]
            .map(|rows| rows.map(|row| code(row, 0) << (4 * (row % 8))).sum())
            .to_vec();
        let expected: Vec<u8> = (0..10).map(|row| code(row, 0) as u8).collect();
        assert_eq!(zero_points(&packed, [10, 3], scheme), expected);
    }

    #[test]
    fn zero_points_become_minimums_or_differences() {
        let scheme = QuantScheme::with_minimums(4, 32).unwrap();
        let zeros = zero_points(&[0x21, 0x43], [2, 64], scheme);
        assert_eq!(zeros, [1, 3, 2, 4]);
        assert_eq!(signed_zero_points(&[0xf9, 0xfb, 0xfa, 0xfc], 2, 2), zeros);
        assert_eq!(signed_zero_points(&[0xf8, 7], 1, 2), [0, 0, 15, 15]);
        let scales = with_minimums(&[0.5, 1.0, 2.0, 3.0], &zeros, 2);
        assert_eq!(scales, [0.5, 1.0, 0.5, 3.0, 2.0, 3.0, 4.0, 12.0]);
        assert_eq!(differences(&[0xf0], &[3], [1, 2], scheme), [253, 12]);
        assert_eq!(per_group(&[1.0, 2.0], [2, 64], scheme), [1.0, 1.0, 2.0, 2.0]);
    }
}
