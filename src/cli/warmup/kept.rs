//! What is left of a warm-up for the next run.

use qwen3_vl::backends::{BackendKind, kernel_cache};
use serde_json::{Value, json};

use super::super::size::bytes;

/// What is kept of the kernels of a backend, and where.
pub fn kept(kind: BackendKind) -> Value {
    let kept = kind.kept();
    let path = kernel_cache::path().filter(|_| kept.any());
    let size = path.as_ref().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len());
    json!({
        "backend": kind.name(),
        "in_program": kind.is_cpu(),
        "tuning": kept.tuning,
        "compiled": kept.compiled,
        "path": path.map(|path| path.display().to_string()),
        "bytes": size,
    })
}

/// What became of a backend's kernels.
pub fn sentence(kernels: &Value) -> String {
    let name = kernels["backend"].as_str().unwrap_or_default();
    let what = match (kernels["tuning"] == true, kernels["compiled"] == true) {
        (true, true) => "results of tuning and compiled kernels",
        (true, false) => "results of tuning",
        (false, true) => "compiled kernels",
        (false, false) if kernels["in_program"] == true => {
            return format!("{name}: the kernels are in the program, nothing is kept");
        }
        (false, false) => {
            return format!(
                "{name}: nothing is kept; the driver compiles the kernels of each run, unless it keeps them itself"
            );
        }
    };
    let path = kernels["path"].as_str().unwrap_or_default();
    match kernels["bytes"].as_u64() {
        Some(size) => format!("{name}: {what} are kept in {path} ({})", bytes(size)),
        None => format!("{name}: {what} could not be kept in {path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_said_in_words() {
        let said = |tuning: bool, compiled: bool, cpu: bool, bytes: Option<u64>| {
            sentence(&json!({
                "backend": "cuda", "in_program": cpu, "tuning": tuning, "compiled": compiled,
                "path": "/cache/default.db", "bytes": bytes,
            }))
        };
        assert_eq!(
            said(true, true, false, Some(2048)),
            "cuda: results of tuning and compiled kernels are kept in /cache/default.db (2.00 KiB)"
        );
        assert!(said(false, true, false, None).contains("compiled kernels could not be kept"));
        assert!(said(false, false, true, None).contains("in the program"));
        assert!(said(false, false, false, None).contains("the driver compiles"));
    }
}
