//! The one names table: module path in this implementation, name in a Hugging Face checkpoint, layout.

/// How a stored tensor relates to its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Equal shapes.
    Same,
    /// Conv3d weight `[out, channels, frames, side, side]`, held as `[out, channels · frames · side · side]`.
    ConvAsMatrix,
    /// Fused experts `[experts, a, b]`; published files hold `[experts, b, a]`.
    Experts,
}

/// (module path, name in the file, layout). `{}` is an index, `*` any ending. The first match counts.
const TABLE: &[(&str, &str, Layout)] = &[
    ("lm_head.weight", "lm_head.weight", Layout::Same),
    (
        "language_model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        Layout::Same,
    ),
    ("language_model.norm.weight", "model.language_model.norm.weight", Layout::Same),
    (
        "language_model.layers.{}.moe.gate.weight",
        "model.language_model.layers.{}.mlp.gate.weight",
        Layout::Same,
    ),
    (
        "language_model.layers.{}.moe.experts.*",
        "model.language_model.layers.{}.mlp.experts.*",
        Layout::Experts,
    ),
    ("language_model.layers.{}.*", "model.language_model.layers.{}.*", Layout::Same),
    (
        "visual.patch_embed.proj.weight",
        "model.visual.patch_embed.proj.weight",
        Layout::ConvAsMatrix,
    ),
    ("visual.*", "model.visual.*", Layout::Same),
];

/// Name in the file and layout of the parameter at module path `path`; `None` for an unknown path.
pub fn stored_name(path: &str) -> Option<(String, Layout)> {
    TABLE.iter().find_map(|(ours, theirs, layout)| {
        let (index, rest) = matched(ours, path)?;
        Some((theirs.replacen("{}", index, 1).replacen('*', rest, 1), *layout))
    })
}

/// The module path of the parameter that a file calls `name`; `None` for an unknown name.
pub fn module_path(name: &str) -> Option<String> {
    TABLE.iter().find_map(|(ours, theirs, _)| {
        let (index, rest) = matched(theirs, name)?;
        Some(ours.replacen("{}", index, 1).replacen('*', rest, 1))
    })
}

/// What `{}` and `*` of `pattern` stand for in `path`.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<(&'p str, &'p str)> {
    let (path, index, pattern) = match pattern.split_once("{}") {
        None => (path, "", pattern),
        Some((before, after)) => {
            let path = path.strip_prefix(before)?;
            let digits = path.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
            (&path[digits..], &path[..digits], after)
        }
    };
    match pattern.strip_suffix('*') {
        Some(before) => Some((index, path.strip_prefix(before)?)),
        None => (path == pattern).then_some((index, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_parameter_has_its_published_name() {
        let cases = [
            ("lm_head.weight", "lm_head.weight", Layout::Same),
            (
                "language_model.layers.12.self_attn.q_norm.weight",
                "model.language_model.layers.12.self_attn.q_norm.weight",
                Layout::Same,
            ),
            (
                "language_model.layers.3.moe.experts.gate_up_proj",
                "model.language_model.layers.3.mlp.experts.gate_up_proj",
                Layout::Experts,
            ),
            (
                "language_model.layers.3.moe.gate.weight",
                "model.language_model.layers.3.mlp.gate.weight",
                Layout::Same,
            ),
            (
                "visual.deepstack_merger_list.2.linear_fc1.bias",
                "model.visual.deepstack_merger_list.2.linear_fc1.bias",
                Layout::Same,
            ),
            (
                "visual.patch_embed.proj.weight",
                "model.visual.patch_embed.proj.weight",
                Layout::ConvAsMatrix,
            ),
        ];
        for (ours, theirs, layout) in cases {
            assert_eq!(stored_name(ours), Some((theirs.to_owned(), layout)), "{ours}");
            assert_eq!(module_path(theirs).as_deref(), Some(ours));
        }
        assert_eq!(module_path("model.audio.blocks.0.weight"), None);
        assert_eq!(stored_name("audio.blocks.0.weight"), None);
        assert_eq!(stored_name("language_model.layers.x.mlp.up_proj.weight"), None);
    }
}
