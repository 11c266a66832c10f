//! Names of tensors in files of llama.cpp, and what Hugging Face's checkpoints call them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::GgufError;
use super::header::Tensor;

/// (name in the file, name in a checkpoint); `{}` is an index, and what stands before the last dot is meant, with any
/// ending such as `weight`. The index of a DeepStack merger is that of the vision block that it reads.
const TABLE: &[(&str, &str)] = &[
    ("token_embd", "model.language_model.embed_tokens"),
    ("output_norm", "model.language_model.norm"),
    ("output", "lm_head"),
    ("blk.{}.attn_norm", "model.language_model.layers.{}.input_layernorm"),
    ("blk.{}.ffn_norm", "model.language_model.layers.{}.post_attention_layernorm"),
    ("blk.{}.attn_q", "model.language_model.layers.{}.self_attn.q_proj"),
    ("blk.{}.attn_k", "model.language_model.layers.{}.self_attn.k_proj"),
    ("blk.{}.attn_v", "model.language_model.layers.{}.self_attn.v_proj"),
    ("blk.{}.attn_output", "model.language_model.layers.{}.self_attn.o_proj"),
    ("blk.{}.attn_q_norm", "model.language_model.layers.{}.self_attn.q_norm"),
    ("blk.{}.attn_k_norm", "model.language_model.layers.{}.self_attn.k_norm"),
    ("blk.{}.ffn_gate", "model.language_model.layers.{}.mlp.gate_proj"),
    ("blk.{}.ffn_up", "model.language_model.layers.{}.mlp.up_proj"),
    ("blk.{}.ffn_down", "model.language_model.layers.{}.mlp.down_proj"),
    ("blk.{}.ffn_gate_inp", "model.language_model.layers.{}.mlp.gate"),
    ("v.position_embd", "model.visual.pos_embed"),
    ("v.post_ln", "model.visual.merger.norm"),
    ("mm.0", "model.visual.merger.linear_fc1"),
    ("mm.2", "model.visual.merger.linear_fc2"),
    ("v.blk.{}.ln1", "model.visual.blocks.{}.norm1"),
    ("v.blk.{}.ln2", "model.visual.blocks.{}.norm2"),
    ("v.blk.{}.attn_qkv", "model.visual.blocks.{}.attn.qkv"),
    ("v.blk.{}.attn_out", "model.visual.blocks.{}.attn.proj"),
    ("v.blk.{}.ffn_up", "model.visual.blocks.{}.mlp.linear_fc1"),
    ("v.blk.{}.ffn_down", "model.visual.blocks.{}.mlp.linear_fc2"),
    ("v.deepstack.{}.norm", "model.visual.deepstack_merger_list.{}.norm"),
    ("v.deepstack.{}.fc1", "model.visual.deepstack_merger_list.{}.linear_fc1"),
    ("v.deepstack.{}.fc2", "model.visual.deepstack_merger_list.{}.linear_fc2"),
];

/// Whole names whose ending says nothing.
const WHOLE: &[(&str, &str)] = &[
    ("v.patch_embd.bias", "model.visual.patch_embed.proj.bias"),
    ("blk.{}.ffn_down_exps.weight", "model.language_model.layers.{}.mlp.experts.down_proj"),
    ("blk.{}.ffn_gate_up_exps.weight", "model.language_model.layers.{}.mlp.experts.gate_up_proj"),
];

/// Tensors that are one weight of a checkpoint: names in the file, name in the checkpoint, and the axis along which they
/// follow each other; a new axis where the parts are [`Axis::New`].
const JOINED: &[(&[&str], &str, Axis)] = &[
    (
        &["v.patch_embd.weight", "v.patch_embd.weight.1"],
        "model.visual.patch_embed.proj.weight",
        Axis::New(2),
    ),
    (
        &["v.blk.{}.attn_q.weight", "v.blk.{}.attn_k.weight", "v.blk.{}.attn_v.weight"],
        "model.visual.blocks.{}.attn.qkv.weight",
        Axis::Old(0),
    ),
    (
        &["v.blk.{}.attn_q.bias", "v.blk.{}.attn_k.bias", "v.blk.{}.attn_v.bias"],
        "model.visual.blocks.{}.attn.qkv.bias",
        Axis::Old(0),
    ),
    (
        &["blk.{}.ffn_gate_exps.weight", "blk.{}.ffn_up_exps.weight"],
        "model.language_model.layers.{}.mlp.experts.gate_up_proj",
        Axis::Old(1),
    ),
];

#[derive(Clone, Copy)]
enum Axis {
    /// Parts follow each other along an axis that they have.
    Old(usize),
    /// Parts lie side by side along an axis that they lack.
    New(usize),
}

/// A tensor under the name that checkpoints have for it.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    pub name: String,
    /// The first part, with the shape of the whole.
    pub tensor: Tensor,
    /// The other parts.
    pub rest: Vec<Range<usize>>,
    /// How often the parts take turns.
    pub turns: usize,
}

/// All tensors of a file under the names of checkpoints; those without one keep their own. `taps` are the vision blocks
/// that DeepStack mergers read.
///
/// # Errors
/// When a tensor occurs twice, or parts of one weight differ.
pub(super) fn named(tensors: Vec<Tensor>, taps: &[usize]) -> Result<Vec<Named>, GgufError> {
    let mut by_name = BTreeMap::new();
    for tensor in tensors {
        let name = tensor.name.clone();
        if by_name.insert(name.clone(), tensor).is_some() {
            return Err(GgufError::Twice { tensor: name });
        }
    }
    let mut found = joined(&mut by_name)?;
    let order: HashMap<usize, usize> = taps.iter().enumerate().map(|(j, tap)| (*tap, j)).collect();
    found.extend(by_name.into_values().map(|tensor| {
        let name = checkpoint_name(&tensor.name, &order).unwrap_or_else(|| tensor.name.clone());
        Named { name, tensor, rest: Vec::new(), turns: 1 }
    }));
    Ok(found)
}

fn checkpoint_name(name: &str, order: &HashMap<usize, usize>) -> Option<String> {
    let (module, ending) = name.rsplit_once('.')?;
    let whole = WHOLE.iter().find_map(|(theirs, ours)| replaced(theirs, ours, name, None));
    whole.or_else(|| {
        let order = module.starts_with("v.deepstack.").then_some(order);
        let module = TABLE.iter().find_map(|(theirs, ours)| replaced(theirs, ours, module, order));
        module.map(|module| format!("{module}.{ending}"))
    })
}

/// `ours` with the index that `name` has where `theirs` has `{}`.
fn replaced(
    theirs: &str,
    ours: &str,
    name: &str,
    order: Option<&HashMap<usize, usize>>,
) -> Option<String> {
    let Some((before, after)) = theirs.split_once("{}") else {
        return (theirs == name).then(|| ours.to_owned());
    };
    let index = name.strip_prefix(before)?.strip_suffix(after)?;
    let index: usize = index.parse().ok().filter(|found: &usize| found.to_string() == index)?;
    let index = match order {
        Some(order) => *order.get(&index)?,
        None => index,
    };
    Some(ours.replacen("{}", &index.to_string(), 1))
}

/// Takes the parts of weights that files have in pieces out of `tensors`.
fn joined(tensors: &mut BTreeMap<String, Tensor>) -> Result<Vec<Named>, GgufError> {
    let mut found = Vec::new();
    for (parts, ours, axis) in JOINED {
        let names: Vec<String> = tensors.keys().cloned().collect();
        for first in names {
            let index = match parts[0].split_once("{}") {
                None if parts[0] == first => String::new(),
                None => continue,
                Some((before, after)) => {
                    let rest = first.strip_prefix(before).and_then(|r| r.strip_suffix(after));
                    let Some(index) = rest.filter(|i| i.parse::<usize>().is_ok()) else { continue };
                    index.to_owned()
                }
            };
            let parts = parts.iter().map(|part| part.replacen("{}", &index, 1));
            let parts: Option<Vec<Tensor>> =
                parts.map(|name| tensors.get(&name).cloned()).collect();
            let Some(parts) = parts else { continue };
            parts.iter().for_each(|part| drop(tensors.remove(&part.name)));
            found.push(join(parts, ours.replacen("{}", &index, 1), *axis)?);
        }
    }
    Ok(found)
}

fn join(parts: Vec<Tensor>, name: String, axis: Axis) -> Result<Named, GgufError> {
    let (first, at, least) = match axis {
        Axis::Old(at) => (&parts[0], at, at + 1),
        Axis::New(at) => (&parts[0], at, at),
    };
    let without = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        if let (Axis::Old(at), true) = (axis, shape.len() > at) {
            shape[at] = 0;
        }
        shape
    };
    let same = |part: &&Tensor| {
        part.storage == first.storage
            && part.shape.len() >= least
            && without(&part.shape) == without(&first.shape)
    };
    if let Some(other) = parts.iter().find(|part| !same(part)) {
        let (first, second) = (first.name.clone(), other.name.clone());
        return Err(GgufError::Join { first, second });
    }
    let mut shape = first.shape.clone();
    match axis {
        Axis::Old(at) => shape[at] = parts.iter().map(|part| part.shape[at]).sum(),
        Axis::New(at) => shape.insert(at, parts.len()),
    }
    let turns = first.shape[..at].iter().product::<usize>().max(1);
    let mut parts = parts.into_iter();
    let first = parts.next().expect("a weight has parts");
    let rest = parts.map(|part| part.range).collect();
    Ok(Named { name, tensor: Tensor { shape, ..first }, rest, turns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::blocks::Storage;
    use safetensors::Dtype;

    fn tensor(name: &str, shape: &[usize], range: Range<usize>) -> Tensor {
        let storage = Storage::Plain(Dtype::F32);
        Tensor { name: name.to_owned(), storage, shape: shape.to_vec(), range }
    }

    #[test]
    fn every_kind_of_tensor_has_its_name_in_a_checkpoint() {
        let order = HashMap::from([(5, 0), (11, 1)]);
        for (theirs, ours) in [
            ("token_embd.weight", "model.language_model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.12.attn_q.weight", "model.language_model.layers.12.self_attn.q_proj.weight"),
            ("blk.0.attn_q_norm.weight", "model.language_model.layers.0.self_attn.q_norm.weight"),
            ("blk.3.ffn_down_exps.weight", "model.language_model.layers.3.mlp.experts.down_proj"),
            ("v.blk.2.attn_out.bias", "model.visual.blocks.2.attn.proj.bias"),
            ("v.deepstack.11.fc2.bias", "model.visual.deepstack_merger_list.1.linear_fc2.bias"),
            ("mm.2.weight", "model.visual.merger.linear_fc2.weight"),
            ("v.patch_embd.bias", "model.visual.patch_embed.proj.bias"),
        ] {
            assert_eq!(checkpoint_name(theirs, &order).as_deref(), Some(ours), "{theirs}");
        }
        for other in ["v.deepstack.4.fc1.weight", "rope_freqs.weight", "blk.x.attn_q.weight", "a"] {
            assert_eq!(checkpoint_name(other, &order), None, "{other}");
        }
    }

    #[test]
    fn parts_become_one_weight() {
        let tensors = vec![
            tensor("v.patch_embd.weight", &[8, 3, 4, 4], 0..1536),
            tensor("v.patch_embd.weight.1", &[8, 3, 4, 4], 1536..3072),
            tensor("blk.1.ffn_gate_exps.weight", &[2, 5, 6], 0..240),
            tensor("blk.1.ffn_up_exps.weight", &[2, 5, 6], 240..480),
        ];
        let found = named(tensors, &[]).unwrap();
        assert_eq!((&found[0].tensor.shape[..], found[0].turns), (&[8, 3, 2, 4, 4][..], 24));
        assert_eq!(found[1].name, "model.language_model.layers.1.mlp.experts.gate_up_proj");
        assert_eq!((&found[1].tensor.shape[..], found[1].turns), (&[2, 10, 6][..], 2));
        let unlike = vec![
            tensor("v.patch_embd.weight", &[8, 3, 4, 4], 0..1536),
            tensor("v.patch_embd.weight.1", &[8, 3, 4, 5], 1536..3456),
        ];
        assert!(matches!(named(unlike, &[]), Err(GgufError::Join { .. })));
        let twice = vec![tensor("a.b", &[1], 0..4), tensor("a.b", &[1], 0..4)];
        assert!(matches!(named(twice, &[]), Err(GgufError::Twice { .. })));
    }
}
