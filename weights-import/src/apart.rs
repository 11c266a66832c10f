//! Experts that are stored one by one, each in matrices of its own, as most programs that round them do.

use std::collections::BTreeMap;

use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, TensorEntry, burn_dtype};
use crate::error::LoadError;

/// (matrices of an expert, the parameter that those of all experts are, one expert after the other).
const JOINED: [(&[&str], &str); 2] =
    [(&["gate_proj", "up_proj"], "gate_up_proj"), (&["down_proj"], "down_proj")];

const EXPERTS: &str = ".mlp.experts.";

/// How many matrices of each expert the parameter `name` is stored in one by one, and the names of those of all experts: of the
/// first, then of the next. `None` where it is no parameter of experts.
pub(crate) fn names(name: &str, experts: usize) -> Option<(usize, impl Iterator<Item = String>)> {
    let (layer, parameter) = name.split_once(EXPERTS)?;
    let (matrices, _) = JOINED.iter().find(|(_, joined)| *joined == parameter)?;
    let of_expert = move |expert| {
        matrices.iter().map(move |matrix| format!("{layer}{EXPERTS}{expert}.{matrix}.weight"))
    };
    Some((matrices.len(), (0..experts).flat_map(of_expert)))
}

/// Makes one tensor `[experts, out, in]` of the matrices of all experts of a layer, where they are floats and alike. Others stay
/// as they are.
pub(crate) fn join(tensors: &mut BTreeMap<String, TensorEntry>) {
    for (matrices, joined) in JOINED {
        let first = format!("{EXPERTS}0.{}.weight", matrices[0]);
        let layers = tensors.keys().filter_map(|name| name.strip_suffix(&first));
        for layer in layers.map(str::to_owned).collect::<Vec<_>>() {
            let name = format!("{layer}{EXPERTS}{joined}");
            let matrix = |expert: usize| format!("{layer}{EXPERTS}{expert}.{}.weight", matrices[0]);
            let experts = (0..).take_while(|expert| tensors.contains_key(&matrix(*expert))).count();
            let (_, parts) = names(&name, experts).expect("the name of a parameter of experts");
            let parts: Vec<String> = parts.collect();
            let Some(entry) = joined_entry(tensors, &parts, experts) else { continue };
            if tensors.contains_key(&name) {
                continue;
            }
            parts.iter().for_each(|part| drop(tensors.remove(part)));
            tensors.insert(name, entry);
        }
    }
}

/// Refuses experts whose matrices are all there, but of several dtypes, so that they are no parameter `name` of `shape`.
///
/// # Errors
/// As it says.
pub(crate) fn differing(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[usize],
) -> Result<(), LoadError> {
    let Some((_, names)) = shape.first().and_then(|experts| names(name, *experts)) else {
        return Ok(());
    };
    let tensors = checkpoint.tensors();
    let parts: Option<Vec<_>> =
        names.map(|name| tensors.get(&name).map(|entry| (name, entry))).collect();
    let Some([(first, one), others @ ..]) = parts.as_deref() else { return Ok(()) };
    let other = others.iter().find(|(_, entry)| entry.storage != one.storage);
    other.map_or(Ok(()), |(tensor, entry)| {
        Err(LoadError::Layout {
            path: checkpoint.file(entry).path.clone(),
            tensor: tensor.clone(),
            found: entry.storage.to_string(),
            expected: format!(
                "`{first}` is {}, and experts of a layer have one dtype",
                one.storage
            ),
        })
    })
}

/// The tensor that `parts` make up.
fn joined_entry(
    tensors: &BTreeMap<String, TensorEntry>,
    parts: &[String],
    experts: usize,
) -> Option<TensorEntry> {
    let entries: Vec<&TensorEntry> =
        parts.iter().map(|name| tensors.get(name)).collect::<Option<_>>()?;
    let (first, others) = entries.split_first()?;
    let floats = |dtype: Dtype| burn_dtype(dtype).is_some();
    let alike = others.iter().all(|e| e.storage == first.storage && e.shape == first.shape);
    let &[rows, inputs] = &first.shape[..] else { return None };
    if !alike || !first.dtype().is_some_and(floats) {
        return None;
    }
    Some(TensorEntry {
        shape: vec![experts, parts.len() / experts * rows, inputs],
        rest: others.iter().map(|entry| (entry.file, entry.range.clone())).collect(),
        ..(*first).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Storage;

    fn entry(dtype: Dtype, file: usize, start: usize) -> TensorEntry {
        let (storage, range) = (Storage::Plain(dtype), start..start + 48);
        TensorEntry { file, storage, shape: vec![3, 4], range, rest: Vec::new(), turns: 1 }
    }

    #[test]
    fn matrices_of_experts_become_one_tensor_across_files() {
        let (each, names) = names("a.layers.7.mlp.experts.gate_up_proj", 2).unwrap();
        let names: Vec<String> = names.collect();
        assert_eq!((each, names.len()), (2, 4));
        assert_eq!(
            [&names[0], &names[3]],
            [
                "a.layers.7.mlp.experts.0.gate_proj.weight",
                "a.layers.7.mlp.experts.1.up_proj.weight"
            ]
        );
        let entries = [(0, 0), (0, 100), (1, 8), (1, 56)];
        let mut tensors: BTreeMap<String, TensorEntry> = names
            .iter()
            .zip(entries)
            .map(|(name, (file, start))| (name.clone(), entry(Dtype::F32, file, start)))
            .collect();
        let mut other = tensors.clone();
        join(&mut tensors);
        let whole = &tensors["a.layers.7.mlp.experts.gate_up_proj"];
        assert_eq!((tensors.len(), &whole.shape[..], whole.bytes()), (1, &[2, 6, 4][..], 192));
        assert_eq!(whole.rest, [(0, 100..148), (1, 8..56), (1, 56..104)]);
        // Of several dtypes, or rounded: left to whoever reads them.
        other.insert(names[3].clone(), entry(Dtype::BF16, 0, 0));
        let before = other.clone();
        join(&mut other);
        assert_eq!(other, before);
        assert!(super::names("a.layers.7.mlp.down_proj.weight", 2).is_none());
    }
}
