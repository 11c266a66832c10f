//! Which tensors of a checkpoint fit the model, and which do not.

use std::fmt;

/// The outcome of comparing a checkpoint with the model that its configuration describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors that were found.
    pub loaded: usize,
    /// In the model, not in the file; with the nearest unexpected name.
    pub missing: Vec<(String, Option<String>)>,
    /// In the file, not in the model.
    pub unexpected: Vec<String>,
    pub misshapen: Vec<Misshapen>,
    /// An `lm_head.weight` that a tied model does not use.
    pub ignored_head: bool,
}

/// A tensor of another shape than the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    pub name: String,
    pub found: Vec<usize>,
    pub expected: Vec<usize>,
}

impl LoadReport {
    /// Whether every parameter of the model has its tensor.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.misshapen.is_empty()
    }

    /// Finds for each missing name the unexpected one that is spelled most like it.
    pub(crate) fn add_hints(&mut self) {
        for (name, hint) in &mut self.missing {
            let likeness = |other: &&String| strsim::normalized_levenshtein(name, other);
            let nearest = self.unexpected.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            *hint = nearest.filter(|other| likeness(other) > 0.6).cloned();
        }
    }
}

/// Lines of each kind that are printed before the rest is counted.
const SHOWN: usize = 8;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing.iter().map(|(name, hint)| match hint {
            Some(hint) => format!("{name} (the file has `{hint}`)"),
            None => name.clone(),
        });
        let misshapen = self
            .misshapen
            .iter()
            .map(|m| format!("{} is {:?}, config.json makes it {:?}", m.name, m.found, m.expected));
        section(f, "missing", missing.collect())?;
        section(f, "of another shape", misshapen.collect())?;
        section(f, "unexpected", self.unexpected.clone())?;
        write!(f, "{} tensors fit", self.loaded)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: Vec<String>) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "{} {title}:", lines.len())?;
    for line in lines.iter().take(SHOWN) {
        writeln!(f, "  {line}")?;
    }
    if lines.len() > SHOWN {
        writeln!(f, "  ... and {} more", lines.len() - SHOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_is_explained_by_its_nearest_neighbour() {
        let mut report = LoadReport {
            missing: vec![("model.visual.merger.norm.weight".into(), None), ("zzz".into(), None)],
            unexpected: vec!["visual.merger.norm.weight".into(), "lm_head.bias".into()],
            ..Default::default()
        };
        report.add_hints();
        assert_eq!(report.missing[0].1.as_deref(), Some("visual.merger.norm.weight"));
        assert_eq!(report.missing[1].1, None);
        assert!(report.to_string().contains("2 missing"));
    }
}
