//! Which weights of a checkpoint are rounded to a few bits.

use std::collections::BTreeSet;
use std::fmt;

use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::Qwen3VlModel;

use crate::error::LoadError;
use crate::names::stored_name;

/// What is rounded by default: the linear layers of the language model and its experts. The vision tower and the mergers are
/// small beside them and run once per picture; embedding and head stay as they are too, unless `include` says otherwise, and
/// so does the router.
const DEFAULT: &str = "model.language_model.layers.*";

/// Whether a module, or its weight, by path or by name, has a row for each token: the embedding or the head. Their numbers decide which
/// token comes, and rounding them to four bits shows.
pub(crate) fn is_table(name: &str) -> bool {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    matches!(name.rsplit('.').next(), Some("embed_tokens" | "lm_head"))
}

/// How a table is rounded beside layers that are rounded by `scheme`: to eight bits.
pub(crate) fn of_table(scheme: QuantScheme) -> QuantScheme {
    QuantScheme::new(8, scheme.group() as u64).unwrap_or(scheme)
}

/// Which weights are rounded, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounding {
    pub scheme: QuantScheme,
    /// Patterns of what is rounded besides the linear layers and the experts of the language model: names of modules as in the checkpoint,
    /// whole or their ends, where `*` stands for anything. `visual.*` is the vision tower, `embed_tokens` the embedding (and
    /// the head that is tied to it), `lm_head` a head of its own; these tables get eight bits whatever the scheme.
    pub include: Vec<String>,
    /// Patterns of what is not rounded after all.
    pub exclude: Vec<String>,
}

impl Rounding {
    /// The linear layers and the experts of the language model.
    pub fn new(scheme: QuantScheme) -> Self {
        Self { scheme, include: Vec::new(), exclude: Vec::new() }
    }

    /// How the module of this path or name, or its weight, is rounded, if it is.
    pub fn scheme_of(&self, path: &str) -> QuantScheme {
        if is_table(path) { of_table(self.scheme) } else { self.scheme }
    }

    /// The paths of the parameters of `model` that are rounded.
    ///
    /// # Errors
    /// When a pattern names none, or none is left.
    pub fn choose(&self, model: &mut Qwen3VlModel) -> Result<BTreeSet<String>, LoadError> {
        let weights: Vec<(String, String)> =
            model.roundable_mut().into_iter().map(|(path, _)| named(path)).collect();
        let unused = |pattern: &&String| !weights.iter().any(|(_, name)| names(pattern, name));
        if let Some(pattern) = self.include.iter().chain(&self.exclude).find(unused) {
            let example = weights.iter().map(|(_, name)| name).find(|name| names(DEFAULT, name));
            let example = example.map_or(String::new(), |name| format!("`{name}`"));
            return Err(LoadError::Pattern { pattern: pattern.clone(), example });
        }
        let any = |patterns: &[String], name: &str| patterns.iter().any(|p| names(p, name));
        let chosen = weights.into_iter().filter(|(_, name)| {
            (names(DEFAULT, name) || any(&self.include, name)) && !any(&self.exclude, name)
        });
        let chosen: BTreeSet<String> = chosen.map(|(path, _)| path).collect();
        if chosen.is_empty() { Err(LoadError::NothingToRound) } else { Ok(chosen) }
    }
}

impl fmt::Display for Rounding {
    /// The scheme, and the patterns where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scheme)?;
        for (word, patterns) in [("with", &self.include), ("without", &self.exclude)] {
            if !patterns.is_empty() {
                write!(f, " {word} {}", patterns.join(", "))?;
            }
        }
        Ok(())
    }
}

/// The path of a parameter with the name of its module in a checkpoint; weights of experts are modules by their own names.
fn named(path: String) -> (String, String) {
    let name = stored_name(&path).map_or_else(|| path.clone(), |(name, _)| name);
    let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
    (path, module)
}

/// Whether `pattern` is the name of a module, or its end from a dot on.
fn names(pattern: &str, name: &str) -> bool {
    let mut ends = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    matches(pattern, name) || ends.any(|end| matches(pattern, end))
}

/// Whether the whole of `text` is as `pattern` says.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            text.char_indices().map(|(i, _)| &text[i..]).chain([""]).any(|t| matches(rest, t))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_whole_names_or_their_ends() {
        let name = "model.language_model.layers.10.mlp.up_proj";
        for pattern in [name, "up_proj", "mlp.up_proj", "layers.10.*", "model.*", "*", "mlp.*_proj"]
        {
            assert!(names(pattern, name), "{pattern}");
        }
        for pattern in ["_proj", "layers.1.*", "up_pro", "visual.*", "", "model.*.down_proj"] {
            assert!(!names(pattern, name), "{pattern}");
        }
    }
}
