use super::*;
use burn::tensor::TensorData;
use qwen3_vl_backends::device;

fn cache(storage: KvDtype, head_dim: usize) -> KvCache {
    KvCache {
        blocks: Blocks::default(),
        own: vec![LayerRows::default()],
        first: 0,
        shared: 0,
        length: 0,
        most: usize::MAX,
        in_buffer: usize::MAX,
        shape: RowShape { head_dim, compute: DType::F32, storage },
        token_bytes: 8,
    }
}

fn tensor(values: &[f32], shape: [usize; 4]) -> Tensor<4> {
    let device = device::select(None).unwrap().device;
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F32))
}

/// Appends `values` as keys and returns all keys.
fn push(cache: &mut KvCache, values: &[f32]) -> Vec<f32> {
    let width = cache.shape.head_dim;
    let new = tensor(values, [1, 1, values.len() / width, width]);
    let (keys, _) = cache.append(0, new.clone(), new);
    cache.advance(values.len() / width);
    values_of(keys, width)
}

fn values_of(rows: Rows, width: usize) -> Vec<f32> {
    let rows = rows.into_iter().map(|rows| expand_kv(rows, width, DType::F32));
    Tensor::cat(rows.collect(), 2).to_data().try_to_vec().unwrap()
}

/// Whether a push brought `right`, to the rounding of bytes.
fn assert_holds(found: &[f32], right: &[f32]) {
    assert_eq!(found.len(), right.len());
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    assert!(found.iter().zip(right).all(near), "{found:?} is not {right:?}");
}

fn ids(cache: &KvCache) -> Vec<BlockId> {
    cache.blocks().map(|(id, _)| id).collect()
}

#[test]
fn tokens_survive_growth() {
    let mut cache = cache(KvDtype::Auto, 1);
    let first: Vec<f32> = (0..BLOCK).map(|i| i as f32).collect();
    push(&mut cache, &first);
    let all = push(&mut cache, &[-1.0, -2.0]);
    assert_eq!(all[..BLOCK], first);
    assert_eq!(all[BLOCK..], [-1.0, -2.0]);
}

#[test]
fn memory_is_taken_ahead_only_for_what_may_come() {
    let first = vec![0.0; 4 * BLOCK];
    let capacity = |most: usize| {
        let mut cache = cache(KvDtype::Auto, 1).up_to(most);
        push(&mut cache, &first);
        push(&mut cache, &[1.0]);
        cache.own_capacity()
    };
    assert_eq!([usize::MAX, 4 * BLOCK + 9].map(capacity), [6 * BLOCK, 5 * BLOCK]);
}

#[test]
fn truncation_forgets_within_blocks_and_behind_them() {
    let mut cache = cache(KvDtype::Auto, 1);
    push(&mut cache, &[1.0, 2.0, 3.0]);
    cache.truncate(2);
    assert_eq!(push(&mut cache, &[9.0]), [1.0, 2.0, 9.0]);
    let mut other = cache.share(3);
    cache.truncate(1);
    assert_eq!(push(&mut cache, &[7.0]), [1.0, 7.0]);
    assert_eq!(push(&mut other, &[4.0]), [1.0, 2.0, 9.0, 4.0]);
}

#[test]
fn shared_tokens_are_the_same_memory_and_are_not_written_again() {
    for storage in [KvDtype::Auto, KvDtype::Int8] {
        let mut first = cache(storage, 1);
        push(&mut first, &[127.0, 2.0, 3.0]);
        let mut second = first.share(2);
        assert_eq!((first.len(), second.len(), first.own_capacity()), (3, 2, 0));
        assert_eq!(ids(&first), ids(&second), "one block, held twice");
        let mut third = second.share(1);
        assert_holds(&push(&mut first, &[4.0]), &[127.0, 2.0, 3.0, 4.0]);
        assert_holds(&push(&mut second, &[5.0]), &[127.0, 2.0, 5.0]);
        assert_holds(&push(&mut third, &[6.0]), &[127.0, 6.0]);
        // A cache that has written more shares that too.
        let mut fourth = second.share(3);
        assert_eq!(ids(&fourth).len(), 2);
        assert_eq!(ids(&fourth)[0], ids(&first)[0]);
        assert_holds(&push(&mut fourth, &[8.0]), &[127.0, 2.0, 5.0, 8.0]);
        assert_holds(&push(&mut first, &[4.0]), &[127.0, 2.0, 3.0, 4.0, 4.0]);
    }
}

#[test]
fn many_blocks_become_one() {
    for storage in [KvDtype::Auto, KvDtype::Int8] {
        let mut cache = cache(storage, 1);
        let mut all = Vec::new();
        for turn in 0..MANY + 1 {
            all.push(turn as f32);
            push(&mut cache, &[turn as f32]);
            cache.put_away();
            assert_eq!(ids(&cache).len(), (turn + 1) % (MANY + 1) + (turn / MANY));
        }
        assert_eq!(cache.blocks().map(|(_, bytes)| bytes).sum::<u64>(), 8 * all.len() as u64);
        all.push(0.5);
        assert_holds(&push(&mut cache, &[0.5]), &all);
    }
}

#[test]
fn bytes_hold_keys_to_half_a_step() {
    let mut cache = cache(KvDtype::Int8, 6);
    let rows: Vec<f32> = (0..6 * 300).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
    let mut found = Vec::new();
    for part in rows.chunks(6 * 100) {
        found = push(&mut cache, part);
    }
    assert_eq!(found.len(), rows.len());
    for (row, found) in rows.chunks(6).zip(found.chunks(6)) {
        let step = row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= step * 0.501;
        assert!(row.iter().zip(found).all(near), "{row:?} became {found:?}");
    }
}

fn of_three_layers() -> KvCache {
    KvCache { own: vec![LayerRows::default(); 3], ..cache(KvDtype::Auto, 1) }
}

/// Writes a token into some layers, and moves on: what these hold then.
fn write(cache: &mut KvCache, layers: Range<usize>, value: f32) -> Vec<Vec<f32>> {
    let mut found = Vec::new();
    for layer in layers {
        let new = tensor(&[value + layer as f32], [1, 1, 1, 1]);
        let (keys, _) = cache.append(layer, new.clone(), new);
        found.push(values_of(keys, 1));
    }
    cache.advance(1);
    found
}

#[test]
fn layers_that_were_taken_out_come_back_and_keep_their_blocks() {
    let mut cache = of_three_layers();
    write(&mut cache, 0..3, 0.0);
    let shared = cache.share(1);
    write(&mut cache, 0..3, 10.0);
    let runs = [0..1, 1..3];
    let mut parts = cache.split(&runs);
    for (part, run) in parts.iter_mut().zip(runs) {
        write(part, run, 20.0);
    }
    cache.join(parts);
    assert_eq!((cache.len(), ids(&cache)), (3, ids(&shared)));
    let found = write(&mut cache, 0..3, 30.0);
    let row = |layer: f32| [layer, 10.0 + layer, 20.0 + layer, 30.0 + layer];
    assert_eq!(found, [row(0.0), row(1.0), row(2.0)]);
}

/// A stage that broke has not written what the one before has: the cache is what it was, and goes on.
#[test]
fn layers_that_lack_tokens_end_a_split() {
    let mut cache = of_three_layers();
    write(&mut cache, 0..3, 10.0);
    let runs = [0..1, 1..3];
    let mut parts = cache.split(&runs);
    write(&mut parts[0], 0..1, 20.0);
    cache.join(parts);
    assert_eq!(cache.len(), 1);
    let row = |layer: f32| vec![layer + 10.0, layer + 30.0];
    assert_eq!(write(&mut cache, 0..3, 30.0), [row(0.0), row(1.0), row(2.0)]);
}
