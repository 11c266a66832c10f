//! The times that stand in the prompt.

/// One time per temporal patch: the mean of its first and its last frame, in seconds. The last frame is repeated where a patch
/// lacks frames (transformers `Qwen3VLProcessor._calculate_timestamps`).
///
/// `seconds` holds the time of every frame; `temporal` is `temporal_patch_size`, and 0 counts as 1.
#[must_use]
pub fn group_times(seconds: &[f64], temporal: usize) -> Vec<f64> {
    let mean = |group: &[f64]| (group[0] + group[group.len() - 1]) / 2.0;
    seconds.chunks(temporal.max(1)).map(mean).collect()
}
