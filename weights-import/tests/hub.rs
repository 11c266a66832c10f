//! `resolve_model` against a stand-in of the hub: what is asked, what is kept, what is refused.

mod stand_in;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen3_vl_weights::hub::{HubError, HubOptions, resolve_model};
use stand_in::hub::{COMMIT, Fault, Hub, REPO, blob_name};
use tempfile::TempDir;

const OTHER_COMMIT: &str = "3333333333333333333333333333333333333333";
const CONFIG: (&str, &[u8]) = ("config.json", b"{\"model_type\": \"qwen3_vl\"}");
const TOKENIZER: (&str, &[u8]) = ("tokenizer.json", b"{\"version\": \"1.0\"}");
const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

/// A checkpoint of one file, with much beside it that is not wanted.
fn single() -> Hub {
    Hub::start(&[
        CONFIG,
        TOKENIZER,
        ("README.md", b"read me"),
        ("chat_template.jinja", b"{{ messages }}"),
        ("generation_config.json", b"{}"),
        ("model.gguf", b"no"),
        ("model.safetensors", &weights()),
        ("pytorch_model.bin", b"no"),
        ("tf/model.safetensors", b"no"),
    ])
}

fn sharded(index: &str) -> Hub {
    let (first, second) = (weights(), weights()[..1000].to_vec());
    Hub::start(&[
        CONFIG,
        TOKENIZER,
        (INDEX, index.as_bytes()),
        (SHARDS[0], &first),
        (SHARDS[1], &second),
        ("model-00003-of-00003.safetensors", b"of another export"),
    ])
}

fn good_index() -> String {
    let map = serde_json::json!({ "a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[0] });
    serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string()
}

/// A fresh cache and options that point to it and to `hub`.
fn setup(hub: &Hub) -> (TempDir, HubOptions) {
    let dir = tempfile::tempdir().unwrap();
    let options = HubOptions {
        endpoint: hub.server.url.clone(),
        cache_dir: Some(dir.path().join("hub")),
        progress: false,
        retries: 0,
        ..HubOptions::default()
    };
    (dir, options)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn repo_dir(options: &HubOptions) -> PathBuf {
    options.cache_dir.as_ref().unwrap().join("models--tests--tiny")
}

fn blobs(options: &HubOptions) -> Vec<String> {
    match repo_dir(options).join("blobs") {
        dir if dir.is_dir() => names(&dir),
        _ => Vec::new(),
    }
}

fn error_of(options: &HubOptions) -> (HubError, String) {
    let error = resolve_model(REPO, options).unwrap_err();
    let text = error.to_string();
    (error, text)
}

// --- what a model is

#[test]
fn a_directory_is_returned_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().to_str().unwrap();
    assert_eq!(resolve_model(text, &HubOptions::default()).unwrap(), dir.path());
    let options = HubOptions { revision: Some("v1".into()), ..HubOptions::default() };
    let error = resolve_model(text, &options).unwrap_err();
    assert!(matches!(error, HubError::RevisionOfDirectory { .. }), "{error}");
}

#[test]
fn what_is_neither_directory_nor_id_is_refused() {
    for model in ["./missing", "/no/such/dir", "missing", "a/b/c", "", "~/models/x", "a/b--c"] {
        let error = resolve_model(model, &HubOptions::default()).unwrap_err();
        assert!(matches!(error, HubError::NotAModel { .. }), "{model}: {error}");
        let text = "is neither a directory nor a hub id such as Qwen/Qwen3-VL-2B-Instruct";
        assert!(error.to_string().contains(text), "{error}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = resolve_model(file.path().to_str().unwrap(), &HubOptions::default()).unwrap_err();
    assert!(matches!(error, HubError::NotADirectory { .. }), "{error}");
}

#[test]
fn without_a_home_there_is_no_cache() {
    let error = resolve_model(REPO, &HubOptions::default()).unwrap_err();
    assert!(matches!(error, HubError::NoCacheDir), "{error}");
}

// --- downloads

#[test]
fn a_single_file_checkpoint_is_downloaded_without_the_rest() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    let wanted = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(names(&dir), wanted);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), CONFIG.1);
    let asked: Vec<_> = hub.server.take_paths();
    for unwanted in ["README.md", "model.gguf", "pytorch_model.bin", "tf/"] {
        assert!(!asked.iter().any(|p| p.contains(unwanted)), "{unwanted} was asked for: {asked:?}");
    }
}

#[test]
fn the_cache_has_the_layout_of_the_python_tools() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    let root = repo_dir(&options);
    assert_eq!(names(&root), ["blobs", "refs", "snapshots"]);
    assert_eq!(dir, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let blob = blob_name("model.safetensors", &weights());
    assert!(blobs(&options).contains(&blob));
    if cfg!(unix) {
        let link = fs::read_link(dir.join("model.safetensors")).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(blob));
    }
}

#[test]
fn a_sharded_checkpoint_brings_the_shards_of_its_index() {
    let hub = sharded(&good_index());
    let (_dir, options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(names(&dir), ["config.json", SHARDS[0], SHARDS[1], INDEX, "tokenizer.json"]);
    assert_eq!(fs::read(dir.join(SHARDS[1])).unwrap(), weights()[..1000]);
    hub.server.take_paths();
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    assert_eq!(hub.server.take_paths().len(), 1);
}

#[test]
fn a_complete_cache_costs_one_request_and_a_commit_none() {
    let hub = single();
    let (_dir, mut options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    hub.server.take_paths();
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    assert_eq!(hub.server.take_paths(), [format!("/api/models/{REPO}/revision/main?blobs=true")]);
    options.revision = Some(COMMIT.into());
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    assert!(hub.server.take_paths().is_empty());
    assert_eq!(names(&repo_dir(&options).join("refs")), ["main"]);
}

#[test]
fn a_new_commit_downloads_only_what_changed() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    resolve_model(REPO, &options).unwrap();
    hub.server.take_paths();
    hub.change(|state| {
        state.refs.insert("main".into(), OTHER_COMMIT.into());
        state.files.insert("config.json".into(), b"{\"changed\": true}".to_vec());
    });
    let dir = resolve_model(REPO, &options).unwrap();
    assert!(dir.ends_with(OTHER_COMMIT));
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), b"{\"changed\": true}");
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    let asked = hub.server.take_paths();
    assert!(asked[1..].iter().all(|p| p.ends_with("/config.json")), "{asked:?}");
    assert_eq!(fs::read_to_string(repo_dir(&options).join("refs/main")).unwrap(), OTHER_COMMIT);
}

#[test]
fn a_file_that_was_damaged_in_the_cache_is_replaced() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    let blob = fs::canonicalize(dir.join("model.safetensors")).unwrap();
    fs::write(&blob, b"cut").unwrap();
    resolve_model(REPO, &options).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn mirrors_without_sizes_work() {
    let hub = sharded(&good_index());
    hub.change(|state| state.bare_listing = true);
    let (_dir, options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(fs::read(dir.join(SHARDS[0])).unwrap(), weights());
    fs::remove_file(dir.join("tokenizer.json")).unwrap();
    hub.server.take_paths();
    resolve_model(REPO, &options).unwrap();
    let asked = hub.server.take_paths();
    assert!(
        asked.len() > 1 && asked[1..].iter().all(|p| p.ends_with("/tokenizer.json")),
        "{asked:?}"
    );
}

#[test]
fn a_complete_cache_is_not_written_to() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    resolve_model(REPO, &options).unwrap();
    let locks = options.cache_dir.as_ref().unwrap().join(".locks");
    fs::remove_dir_all(&locks).unwrap();
    resolve_model(REPO, &options).unwrap();
    assert!(!locks.exists());
}

#[test]
fn revisions_come_from_the_id_or_the_options() {
    let hub = single();
    hub.change(|state| drop(state.refs.insert("refs/pr/7".into(), COMMIT.into())));
    let (_dir, mut options) = setup(&hub);
    resolve_model(&format!("{REPO}@refs/pr/7"), &options).unwrap();
    assert!(
        hub.server.take_paths()[0].starts_with("/api/models/tests/tiny/revision/refs%2Fpr%2F7")
    );
    assert_eq!(fs::read_to_string(repo_dir(&options).join("refs/refs/pr/7")).unwrap(), COMMIT);
    options.revision = Some("refs/pr/7".into());
    resolve_model(REPO, &options).unwrap();
    let error = resolve_model(&format!("{REPO}@main"), &options).unwrap_err();
    assert!(matches!(error, HubError::TwoRevisions { .. }), "{error}");
    for bad in ["../../x", "a b", ""] {
        let error = resolve_model(&format!("{REPO}@{bad}"), &HubOptions::default()).unwrap_err();
        assert!(matches!(error, HubError::BadRevision { .. }), "{bad}: {error}");
    }
}

#[test]
fn files_are_asked_for_at_the_commit_of_the_listing() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    resolve_model(REPO, &options).unwrap();
    let prefix = format!("/{REPO}/resolve/{COMMIT}/");
    let asked = hub.server.take_paths();
    let data: Vec<_> = asked.iter().filter(|p| p.contains("/resolve/")).collect();
    assert!(data.len() >= 5 && data.iter().all(|p| p.starts_with(&prefix)), "{asked:?}");
}

// --- broken transfers

#[test]
fn a_cut_download_resumes_with_the_next_call() {
    let hub = single();
    hub.fault("model.safetensors", Fault::CutOnce(100_000));
    let (_dir, options) = setup(&hub);
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::Interrupted { expected: Some(300_000), .. }), "{error:?}");
    assert!(
        text.contains("broke off at 100000 of 300000 bytes") && text.contains("resumes"),
        "{text}"
    );
    assert!(!blobs(&options).contains(&blob_name("model.safetensors", &weights())));
    assert!(!repo_dir(&options).join("refs").exists());

    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(hub.starts("model.safetensors"), [0, 100_000]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    assert!(!repo_dir(&options).join(".incomplete").exists());
}

#[test]
fn a_cut_download_resumes_within_one_call_if_retries_are_left() {
    let hub = single();
    hub.fault("model.safetensors", Fault::CutOnce(70_000));
    let (_dir, mut options) = setup(&hub);
    options.retries = 1;
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(hub.starts("model.safetensors"), [0, 70_000]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn retries_end() {
    let hub = single();
    hub.fault("model.safetensors", Fault::CutAlways(1000));
    let (_dir, mut options) = setup(&hub);
    options.retries = 2;
    let (error, _) = error_of(&options);
    assert!(matches!(error, HubError::Interrupted { .. }), "{error:?}");
    assert_eq!(hub.starts("model.safetensors"), [0, 1000, 2000]);
}

#[test]
fn a_busy_server_is_asked_again() {
    let hub = single();
    hub.fault("config.json", Fault::StatusOnce("503 Busy"));
    let (_dir, mut options) = setup(&hub);
    options.retries = 1;
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), CONFIG.1);
}

/// Leaves the first 100000 bytes of the weights behind, then sets `fault`.
fn interrupted_then(fault: Option<Fault>) -> (Hub, TempDir, HubOptions) {
    let hub = single();
    hub.fault("model.safetensors", Fault::CutOnce(100_000));
    let (dir, options) = setup(&hub);
    error_of(&options);
    hub.change(|state| {
        state.faults.clear();
        state.faults.extend(fault.map(|f| ("model.safetensors".to_string(), f)));
    });
    (hub, dir, options)
}

#[test]
fn a_server_that_ignores_range_does_not_corrupt_the_file() {
    let (hub, _dir, options) = interrupted_then(Some(Fault::IgnoreRange));
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    assert_eq!(hub.starts("model.safetensors"), [0, 100_000, 0]);
}

#[test]
fn a_part_that_is_whole_or_too_long_is_started_anew() {
    for length in [300_000, 300_001] {
        let (hub, _dir, options) = interrupted_then(None);
        let staged = repo_dir(&options).join(".incomplete/models--tests--tiny/blobs");
        let part = staged.join(blob_name("model.safetensors", &weights())).with_extension("part");
        assert_eq!(fs::metadata(&part).unwrap().len(), 100_000);
        fs::write(&part, vec![b'x'; length]).unwrap();
        let dir = resolve_model(REPO, &options).unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
        assert_eq!(hub.starts("model.safetensors").last(), Some(&0));
    }
}

#[test]
fn a_server_that_lies_about_length_is_refused() {
    for (fault, received) in [(Fault::Short(10), 299_990), (Fault::Claim(5), 300_005)] {
        let hub = single();
        hub.fault("model.safetensors", fault);
        let (_dir, options) = setup(&hub);
        let (error, text) = error_of(&options);
        assert!(
            matches!(error, HubError::WrongLength { expected: 300_000, received: r, .. } if r == received),
            "{fault:?}: {error:?}"
        );
        assert!(
            text.contains("`model.safetensors` of `tests/tiny` should have 300000 bytes"),
            "{text}"
        );
        assert!(!blobs(&options).contains(&blob_name("model.safetensors", &weights())));
        assert!(!repo_dir(&options).join(".incomplete").exists());
    }
}

#[test]
fn a_server_that_never_stops_sending_is_refused() {
    let hub = single();
    hub.fault("model.safetensors", Fault::Endless);
    let (_dir, options) = setup(&hub);
    let (error, _) = error_of(&options);
    assert!(matches!(error, HubError::WrongLength { expected: 300_000, .. }), "{error:?}");
    assert!(!blobs(&options).contains(&blob_name("model.safetensors", &weights())));
}

#[test]
fn a_server_that_falls_silent_is_left_and_resumed_later() {
    let (hub, _dir, mut options) = interrupted_then(Some(Fault::Hang));
    options.stall_timeout = Duration::from_millis(300);
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::Stalled { .. }), "{error:?}");
    assert!(text.contains("stands still"), "{text}");
    hub.change(|state| state.faults.clear());
    options.stall_timeout = Duration::from_secs(60);
    let dir = resolve_model(REPO, &options).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    assert_eq!(hub.starts("model.safetensors"), [0, 100_000, 100_000]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let hub = single();
    let (dir, mut options) = setup(&hub);
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    options.cache_dir = Some(file.join("hub"));
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::Io { .. }), "{error:?}");
    assert!(text.contains(file.to_str().unwrap()), "{text}");
}

// --- refusals

#[test]
fn the_token_is_sent_and_needed() {
    let hub = single();
    hub.change(|state| state.token = Some("hf_good".into()));
    let (_dir, mut options) = setup(&hub);
    let (error, text) = error_of(&options);
    assert!(
        matches!(error, HubError::Unauthorized { status: 401, token_sent: false, .. }),
        "{error:?}"
    );
    assert!(text.contains("set HF_TOKEN") && text.contains(REPO), "{text}");
    options.token = Some("hf_bad".into());
    let (_, text) = error_of(&options);
    assert!(
        text.contains("the token that was sent is not accepted") && !text.contains("hf_bad"),
        "{text}"
    );
    options.token = Some("hf_good".into());
    hub.server.take_paths();
    resolve_model(REPO, &options).unwrap();
    for request in hub.server.requests().iter().filter(|r| !r.path.starts_with("/cdn/")) {
        assert_eq!(request.header("authorization"), Some("Bearer hf_good"), "{}", request.path);
    }
    assert!(!format!("{options:?}").contains("hf_good"));
}

#[test]
fn a_file_that_is_forbidden_or_gone_is_named() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    hub.fault("tokenizer.json", Fault::Status("403 No"));
    let (error, _) = error_of(&options);
    assert!(matches!(error, HubError::Unauthorized { status: 403, .. }), "{error:?}");
    hub.fault("tokenizer.json", Fault::Status("404 No"));
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::FileNotFound { .. }), "{error:?}");
    assert!(text.contains("tokenizer.json"), "{text}");
}

#[test]
fn unknown_repositories_and_revisions_are_told_apart() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    let error = resolve_model("tests/absent", &options).unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("no model `tests/absent`"), "{error}");
    let error = resolve_model(&format!("{REPO}@v9"), &options).unwrap_err();
    assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("`tests/tiny` has no revision `v9`"), "{error}");
    // A plain mirror does not say which of the two it misses.
    hub.change(|state| state.listing = Some(("404 Not Found", vec![], String::new())));
    let error = resolve_model(&format!("{REPO}@v9"), &options).unwrap_err();
    assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error:?}");
    let error = resolve_model(REPO, &options).unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { .. }), "{error:?}");
}

#[test]
fn missing_required_files_are_named_before_anything_is_downloaded() {
    for missing in ["config.json", "tokenizer.json", "model.safetensors"] {
        let hub = single();
        hub.change(|state| drop(state.files.remove(missing)));
        let (_dir, options) = setup(&hub);
        let (error, text) = error_of(&options);
        assert!(
            matches!(&error, HubError::MissingFile { file, .. } if file == missing),
            "{error:?}"
        );
        assert!(text.contains(missing) && text.contains(REPO), "{text}");
        assert_eq!(hub.server.take_paths().len(), 1);
    }
}

#[test]
fn a_shard_that_is_listed_but_absent_is_named() {
    let hub = sharded(&good_index());
    hub.change(|state| drop(state.files.remove(SHARDS[1])));
    let (_dir, options) = setup(&hub);
    let (error, text) = error_of(&options);
    assert!(matches!(&error, HubError::MissingFile { file, .. } if file == SHARDS[1]), "{error:?}");
    assert!(text.contains(SHARDS[1]), "{text}");
}

#[test]
fn hostile_and_broken_indices_are_refused() {
    for (index, reason) in [
        (r#"{"weight_map": {"a": "../../evil.safetensors"}}"#, "../../evil.safetensors"),
        (r#"{"weight_map": {"a": "/etc/evil.safetensors"}}"#, "/etc/evil.safetensors"),
        (r#"{"weight_map": {"a": "x.bin"}}"#, "x.bin"),
        (r#"{"weight_map": {}}"#, "empty"),
        (r#"{"weight_map": 3}"#, "invalid type"),
        ("not json", "expected"),
    ] {
        let hub = sharded(index);
        let (_dir, options) = setup(&hub);
        let (error, text) = error_of(&options);
        assert!(matches!(error, HubError::BadIndex { .. }), "{index}: {error:?}");
        assert!(text.contains(reason) && text.contains(INDEX), "{text}");
    }
}

#[test]
fn unusable_listings_are_refused() {
    let location = |to: &str| vec![("Location", to.to_string())];
    for (status, headers, body) in [
        ("200 OK", vec![], "<html>log in to the hotel's network</html>"),
        ("200 OK", vec![], r#"{"sha": "../../../x", "siblings": []}"#),
        ("200 OK", vec![], r#"{"siblings": []}"#),
        ("302 Found", location("file:///etc/passwd"), ""),
    ] {
        let hub = single();
        hub.change(|state| state.listing = Some((status, headers, body.to_string())));
        let (_dir, options) = setup(&hub);
        let (error, text) = error_of(&options);
        assert!(matches!(error, HubError::BadListing { .. }), "{body}: {error:?}");
        assert!(text.contains(&hub.server.url), "{text}");
    }
}

#[test]
fn an_empty_file_is_refused() {
    let hub = single();
    hub.change(|state| drop(state.files.insert("tokenizer.json".into(), Vec::new())));
    let (_dir, options) = setup(&hub);
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::BadListing { .. }), "{error:?}");
    assert!(text.contains("`tokenizer.json` as an empty file"), "{text}");
}

#[test]
fn endpoints_must_be_urls() {
    let hub = single();
    let (_dir, mut options) = setup(&hub);
    for bad in ["huggingface.co", "ftp://huggingface.co", "http://"] {
        options.endpoint = bad.into();
        let (error, text) = error_of(&options);
        assert!(matches!(error, HubError::BadEndpoint { .. }), "{error:?}");
        assert!(text.contains("HF_ENDPOINT"), "{text}");
    }
}

// --- offline

#[test]
fn offline_uses_the_cache_and_asks_nothing() {
    let hub = single();
    let (_dir, mut options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    hub.server.take_paths();
    options.offline = true;
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    let error = resolve_model(&format!("{REPO}@v2"), &options).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    assert!(hub.server.take_paths().is_empty());
}

#[test]
fn offline_names_what_is_missing() {
    let hub = sharded(&good_index());
    let (_dir, mut options) = setup(&hub);
    options.offline = true;
    let (error, text) = error_of(&options);
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    assert!(
        text.contains("nothing of it was ever downloaded") && text.contains("HF_HUB_OFFLINE"),
        "{text}"
    );
    options.offline = false;
    let dir = resolve_model(REPO, &options).unwrap();
    options.offline = true;
    for (file, reason) in [
        (SHARDS[1], SHARDS[1]),
        (INDEX, "neither model.safetensors nor"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("config.json", "config.json is missing"),
    ] {
        fs::remove_file(dir.join(file)).unwrap();
        let (_, text) = error_of(&options);
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn an_outage_does_not_stop_a_model_that_is_there() {
    let hub = single();
    let (_dir, mut options) = setup(&hub);
    let dir = resolve_model(REPO, &options).unwrap();
    hub.change(|state| state.listing = Some(("502 Bad Gateway", vec![], String::new())));
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    options.endpoint = "http://no-such-host.invalid".into();
    assert_eq!(resolve_model(REPO, &options).unwrap(), dir);
    let error = resolve_model("tests/other", &options).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot reach http://no-such-host.invalid"), "{error}");
}

#[test]
fn two_processes_may_ask_for_the_same_model() {
    let hub = single();
    let (_dir, options) = setup(&hub);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| resolve_model(REPO, &options).unwrap()));
        for thread in both {
            let dir = thread.join().unwrap();
            assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
        }
    });
    assert_eq!(hub.starts("model.safetensors"), [0]);
}

// --- the environment

fn options_from(vars: &[(&str, &str)]) -> HubOptions {
    let vars: BTreeMap<_, _> = vars.iter().copied().collect();
    HubOptions::from_vars(|name| vars.get(name).map(|v| v.to_string()))
}

#[test]
fn variables_are_those_of_the_python_tools() {
    let options = options_from(&[
        ("HF_ENDPOINT", "http://mirror:81/"),
        ("HF_TOKEN", " hf_x\n"),
        ("HUGGING_FACE_HUB_TOKEN", "hf_old"),
        ("HF_HOME", "/data/hf"),
        ("HF_HUB_OFFLINE", "true"),
    ]);
    assert_eq!(options.endpoint, "http://mirror:81");
    assert_eq!(options.token.as_deref(), Some("hf_x"));
    assert_eq!(options.cache_dir.as_deref(), Some(Path::new("/data/hf/hub")));
    assert!(options.offline && options.progress);
    let options = options_from(&[("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", "")]);
    assert_eq!(options.token.as_deref(), Some("hf_old"));
    assert_eq!(options.endpoint, "https://huggingface.co");
    assert!(!options.offline && options.cache_dir.is_none());
}

#[test]
fn cache_directories_follow_the_order_of_the_python_tools() {
    let cache = |vars: &[(&str, &str)]| options_from(vars).cache_dir.unwrap();
    let home = ("HOME", "/home/me");
    assert_eq!(cache(&[home]), Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), Path::new("/home/me/hf/hub"));
    assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/d")]), Path::new("/d"));
}

#[test]
fn the_token_file_is_read_where_no_variable_is_set() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "hf_file\n").unwrap();
    let path = home.path().to_str().unwrap();
    assert_eq!(options_from(&[("HF_HOME", path)]).token.as_deref(), Some("hf_file"));
    let both = options_from(&[("HF_HOME", path), ("HF_TOKEN", "hf_var")]);
    assert_eq!(both.token.as_deref(), Some("hf_var"));
}

#[test]
fn flags_are_true_in_the_words_of_the_python_tools() {
    for (value, expected) in
        [("1", true), ("on", true), ("YES", true), ("0", false), ("", false), ("no", false)]
    {
        assert_eq!(options_from(&[("HF_HUB_OFFLINE", value)]).offline, expected, "{value}");
        assert_eq!(
            options_from(&[("HF_HUB_DISABLE_PROGRESS_BARS", value)]).progress,
            !expected,
            "{value}"
        );
    }
}
