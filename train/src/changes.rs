//! What differs between the run that a checkpoint is of and the one that is to go on from it.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::checkpoint::RunState;
use crate::config::TrainConfig;

/// Every setting and data file that differs and decides on results, each with what it was and what it is; empty where the run
/// can go on. More steps, other logs, evaluations and checkpoints are no difference.
pub(crate) fn changes(before: &RunState, now: &RunState) -> String {
    let mut found = Vec::new();
    compare("", &comparable(&before.config), &comparable(&now.config), &mut found);
    for (index, pair) in before.data.iter().zip(&now.data).enumerate() {
        if let (Some(was), Some(is)) = pair
            && was != is
        {
            let path = now.config.data.get(index).and_then(|source| source.path.clone());
            found.push(format!(
                "the file of `data[{index}]`, {}, had {} bytes with the hash {} and has {} with {}",
                path.unwrap_or_default().display(),
                was.bytes,
                was.hash,
                is.bytes,
                is.hash
            ));
        }
    }
    found.join("; ")
}

fn comparable(config: &TrainConfig) -> Json {
    let mut config = config.clone();
    config.steps = None;
    config.epochs = 1.0;
    config.save = Default::default();
    config.eval = Default::default();
    config.memory.recompute = Default::default();
    config.output = PathBuf::new();
    serde_json::to_value(&config).unwrap_or_default()
}

/// The values below `at` that differ, one by one; a list of another length as a whole.
fn compare(at: &str, before: &Json, now: &Json, found: &mut Vec<String>) {
    match (before, now) {
        (Json::Object(was), Json::Object(is)) => {
            let new = is.keys().filter(|key| !was.contains_key(*key));
            for key in was.keys().chain(new) {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let [was, is] = [was, is].map(|map| map.get(key).unwrap_or(&Json::Null));
                compare(&at, was, is, found);
            }
        }
        (Json::Array(was), Json::Array(is)) if was.len() == is.len() => {
            for (index, (was, is)) in was.iter().zip(is).enumerate() {
                compare(&format!("{at}[{index}]"), was, is, found);
            }
        }
        _ if before == now => {}
        _ => found.push(format!("`{at}` was {} and is {}", shown(before), shown(now))),
    }
}

fn shown(value: &Json) -> String {
    match value {
        Json::Null => "not set".to_owned(),
        Json::Array(items) if items.iter().any(Json::is_object) => {
            format!("a list of {}", items.len())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Fingerprint;

    fn state(data: &str, more: &str, hash: &str) -> RunState {
        let text = format!("model = \"m\"\ndata = [{data}]\n{more}");
        let config: TrainConfig = toml::from_str(&text).unwrap();
        RunState::new(&config, vec![Some(Fingerprint { bytes: 9, hash: hash.to_owned() }), None])
    }

    #[test]
    fn settings_are_compared_one_by_one() {
        let data = "{ path = \"a.jsonl\" }, { path = \"b.jsonl\" }";
        let rates = "lr = { base = 1e-4 }";
        let before = state(data, rates, "x");
        let changed = |data: &str, more: &str| changes(&before, &state(data, more, "x"));
        assert_eq!(changed(data, rates), "");
        let allowed =
            "steps = 9\nepochs = 3\nsave = { keep = 1 }\nmemory = { recompute = \"block\" }";
        assert_eq!(changed(data, &format!("{rates}\n{allowed}")), "");
        assert_eq!(
            changed(data, "lr = { base = 1e-4, llm = 2e-4 }\nseed = 3"),
            "`lr.llm` was not set and is 0.0002; `seed` was 0 and is 3"
        );
        let weight = data.replace("b.jsonl\"", "b.jsonl\", weight = 2.0");
        assert_eq!(changed(&weight, rates), "`data[1].weight` was 1.0 and is 2.0");
        assert_eq!(
            changed("{ path = \"a.jsonl\" }", rates),
            "`data` was a list of 2 and is a list of 1"
        );
    }

    #[test]
    fn data_files_are_compared_by_what_they_hold() {
        let data = "{ path = \"a.jsonl\" }";
        let [mut before, now] = ["x", "y"].map(|hash| state(data, "lr = { base = 1e-4 }", hash));
        assert_eq!(
            changes(&before, &now),
            "the file of `data[0]`, a.jsonl, had 9 bytes with the hash x and has 9 with y"
        );
        // A checkpoint of an older version knows nothing of it.
        before.data.clear();
        assert_eq!(changes(&before, &now), "");
    }
}
