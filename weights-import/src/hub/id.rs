//! `owner/name` and `owner/name@revision`.

use super::HubError;

/// A repository of the hub and the revision that the user named with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubId {
    /// `owner/name`.
    pub repo: String,
    /// What stood behind `@`.
    pub revision: Option<String>,
}

impl HubId {
    /// Reads a hub id by the hub's own rules; nothing if `text` cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision.to_string())),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/')?;
        let valid = is_name(owner) && is_name(name) && repo.len() <= 96 && !name.ends_with(".git");
        valid.then(|| Self { repo: repo.to_string(), revision })
    }
}

fn is_name(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| matches!(c, '-' | '.');
    !text.is_empty()
        && text.chars().all(letters)
        && !text.starts_with(edge)
        && !text.ends_with(edge)
        && !text.contains("--")
        && !text.contains("..")
}

/// Refuses revisions that would leave `refs/` or change the URL.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.contains("..");
    match revision.chars().all(letters) && revision.split('/').all(part) {
        true => Ok(()),
        false => Err(HubError::BadRevision { revision: revision.to_string() }),
    }
}

/// Whether `revision` is a full commit, which can never come to mean other files.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_rules_of_the_hub() {
        let plain = HubId::parse("Qwen/Qwen3-VL-2B-Instruct").unwrap();
        assert_eq!((plain.repo.as_str(), plain.revision), ("Qwen/Qwen3-VL-2B-Instruct", None));
        let tagged = HubId::parse("a/b@refs/pr/3").unwrap();
        assert_eq!((tagged.repo.as_str(), tagged.revision.as_deref()), ("a/b", Some("refs/pr/3")));
        for bad in [
            "", "gpt2", "a/b/c", "./a", "../a", "/a/b", "a/", "/a", "a b/c", "a/b--c", "a/..",
            "~/m", "a/.b", "a/b.git", "a\\b", "C:\\m", "ä/b",
        ] {
            assert_eq!(HubId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn revisions_stay_inside_refs_and_urls() {
        for good in ["main", "v1.0", "refs/pr/1", "a+b", "5f0c"] {
            check_revision(good).unwrap();
        }
        for bad in
            ["", "..", "../x", "a/../b", "/a", "a//b", "a?b", "a#b", "a b", "a%2Fb", ".x", "a\\b"]
        {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
        assert!(is_commit(&"a1".repeat(20)));
        assert!(!is_commit("main"));
    }
}
