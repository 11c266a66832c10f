//! Attention and experts on tensor cores; where the adapter has none, with the plain body of their products.

use super::*;
use crate::ops::Share;
use crate::ops::cube::cores::plain;

/// What tensor cores take of what the device computes in.
fn halves(dtypes: Vec<DType>) -> impl Iterator<Item = DType> {
    dtypes.into_iter().filter(|dtype| *dtype != DType::F32)
}

/// Batches, query and key heads, rows and values of a head, lengths of parts, and whether there is a mask. Rows see few keys
/// or none of a part, parts end inside blocks, and of 32 KiB of shared memory every form of the kernel is had.
fn cases() -> Vec<([usize; 5], Vec<usize>, bool)> {
    vec![
        ([1, 2, 2, 17, 64], vec![17], true),
        ([2, 4, 2, 70, 64], vec![99], true),
        ([1, 4, 1, 65, 72], vec![31, 15, 60], true),
        ([1, 2, 1, 31, 72], vec![33], false),
        ([1, 1, 1, 130, 128], vec![257], true),
        ([1, 2, 1, 50, 80], vec![1, 70], true),
        ([1, 2, 1, 129, 16], vec![200], false),
        ([2, 2, 1, 67, 32], vec![130], true),
        ([1, 3, 1, 20, 8], vec![64], true),
        ([1, 1, 1, 40, 256], vec![45], true),
        // One tile over a long past, which cubes share.
        ([1, 1, 1, 17, 64], vec![1200], true),
    ]
}

/// Small scores, and such that keys of later blocks outweigh those before them.
#[test]
fn attention_of_many_rows_agrees_by_planes() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in halves(dtypes) {
        for (shape, lengths, causal) in cases() {
            let shares = lengths.iter().map(|length| length.div_ceil(512)).sum();
            for steep in [1.0, 12.0] {
                let mut attended = Attended::new(shape, &lengths, dtype);
                attended.q = attended.q * steep;
                plain::with(shares, || attended.check(&lengths, causal, &device, dtype));
            }
        }
    }
}

#[test]
fn attention_inside_sequences_agrees_by_planes() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in halves(dtypes) {
        for (h, g, d, lengths, causal) in [
            (2, 2, 64, vec![1, 15, 17, 70], false),
            (4, 2, 64, vec![31, 1, 64], true),
            (2, 1, 72, vec![5, 129], true),
            (4, 1, 128, vec![2, 100], true),
        ] {
            let n = lengths.iter().sum();
            let q = values([n, h, d], 0.1, dtype);
            let [k, v] = [5.0, 8.0].map(|seed| values([n, g, d], seed, dtype));
            let on = |t: &Tensor<3>| upload(t, &device, dtype);
            let inputs = [flex(&q), flex(&k), flex(&v)];
            plain::with(1, || {
                let found = ops::packed_attention(on(&q), on(&k), on(&v), lengths.clone(), causal);
                let expected = reference::packed_attention::<Flex>(inputs, &lengths, causal);
                let difference = far(found, expected);
                assert!(difference < bound(dtype), "{dtype:?} {h}/{g} {lengths:?}: {difference}");
            });
        }
    }
}

#[test]
fn rotary_attention_agrees_by_planes() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in halves(dtypes) {
        for (heads, d, lengths) in [(2, 64, vec![20, 20, 7]), (3, 72, vec![1, 66])] {
            let n = lengths.iter().sum();
            let qkv = values([n, 3 * heads * d], 0.1, dtype);
            let [cos, sin] = [1.0, 9.0].map(|seed| values([n, 1, d / 2], seed, dtype) * 0.6);
            let [cos, sin] = [cos, sin].map(|table| table.cast(dtype).cast(DType::F32));
            let on = |t: &Tensor<3>| upload(t, &device, dtype);
            let x = upload(&qkv, &device, dtype);
            plain::with(1, || {
                let found = ops::rotary_attention(x, on(&cos), on(&sin), lengths.clone());
                let angles = [flex(&cos), flex(&sin)];
                let expected = reference::rotary_attention::<Flex>(flex(&qkv), angles, &lengths);
                let difference = far(found, expected);
                // Rotated queries and keys are rounded once more.
                assert!(difference < 2.0 * bound(dtype), "{dtype:?} {heads}x{d}: {difference}");
            });
        }
    }
}

/// Shares that fill no tile, one tile and more, and outputs that fill none. Rows have whole 512 bytes, as CUDA puts room behind
/// others, and such matrices go the other way.
#[test]
fn experts_agree_in_shares_by_tiles() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in halves(dtypes) {
        for (rows, n, k) in
            [([1, 40, 64, 3], 17, 256), ([129, 150, 65, 2], 68, 256), ([20, 1, 2, 1], 64, 512)]
        {
            let experts = [4, 0, 1, 5].into_iter().zip(rows);
            let shares: Vec<_> =
                experts.map(|(expert, rows)| Share { expert, rows, steps: None }).collect();
            let x = values([rows.iter().sum(), k], 0.3, dtype);
            let stack = values([6, n, k], 9.1, dtype);
            let (x_on, stack_on) = (upload(&x, &device, dtype), upload(&stack, &device, dtype));
            plain::with(1, || {
                let found = ops::linear_of_experts(x_on, stack_on, shares.clone());
                let expected = reference::linear_in_shares::<Flex>(flex(&x), flex(&stack), &shares);
                let difference = far(found, expected);
                assert!(difference < bound(dtype), "{dtype:?} {rows:?}: {difference}");
            });
        }
    }
}
