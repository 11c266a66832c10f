//! The files for deployment: they are well formed, agree with one another, and name flags and variables that there are.
//! Neither Docker nor Kubernetes runs here.

#![cfg(feature = "server")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

fn text(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Whether the program takes these arguments. It reads all of them before it shows its help.
fn assert_taken(arguments: &[&str]) {
    let mut command = common::program(&common::cpu_devices()[0]);
    let output = command.args(arguments).arg("--help").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

fn help_of_serve() -> String {
    let mut command = common::program(&common::cpu_devices()[0]);
    let output = command.args(["serve", "--help"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The variables of the program that a text names.
fn variables(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("QWEN3_VL_")).collect()
}

#[test]
fn what_is_no_flag_is_found() {
    let mut command = common::program(&common::cpu_devices()[0]);
    let output = command.args(["serve", "--no-such-flag", "--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "the other tests would see nothing");
}

#[test]
fn variables_are_those_of_the_program() {
    let help = help_of_serve();
    for name in ["Dockerfile", "deploy/qwen3-vl.service", "deploy/kubernetes.yaml"] {
        let text = text(name);
        assert!(!variables(&text).is_empty(), "{name} names none");
        for variable in variables(&text) {
            assert!(help.contains(&format!("[env: {variable}")), "{name}: {variable}");
        }
    }
}

/// The lines of a unit's section as pairs.
fn section<'t>(unit: &'t str, name: &str) -> Vec<(&'t str, &'t str)> {
    let lines = unit.lines().map(str::trim).skip_while(|line| *line != format!("[{name}]"));
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_starts_the_program_and_waits_for_its_answers() {
    let unit = text("deploy/qwen3-vl.service");
    let service = section(&unit, "Service");
    let value = |key: &str| service.iter().find(|(name, _)| *name == key).unwrap().1;
    let words: Vec<&str> = value("ExecStart").split_whitespace().collect();
    assert_eq!(words[0], "/usr/local/bin/qwen3-vl");
    assert_taken(&words[1..]);
    let patience: u64 = value("TimeoutStopSec").parse().unwrap();
    assert!(patience > shutdown_timeout(), "answers are cut off after {patience} s");
    let state = value("StateDirectory");
    assert!(words.iter().any(|word| word.starts_with(&format!("/var/lib/{state}/"))));
    systemd_agrees(&unit);
}

fn shutdown_timeout() -> u64 {
    let help = help_of_serve();
    let after = help.split("--shutdown-timeout").nth(1).unwrap();
    let default = after.split("[default: ").nth(1).unwrap();
    default.split(']').next().unwrap().parse().unwrap()
}

/// Has systemd read the unit, with this build as the program.
fn systemd_agrees(unit: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("qwen3-vl.service");
    let program = assert_cmd::cargo::cargo_bin!("qwen3-vl");
    std::fs::write(&path, unit.replace("/usr/local/bin/qwen3-vl", program.to_str().unwrap()))
        .unwrap();
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        println!("systemd was not asked: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let about: Vec<&str> = said.lines().filter(|line| line.contains("qwen3-vl")).collect();
    assert!(about.is_empty(), "{said}");
}

/// What the Dockerfile's instructions of this kind say.
fn instructions<'t>(file: &'t str, kind: &str) -> Vec<&'t str> {
    let lines = file.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    lines.map(str::trim).collect()
}

#[test]
fn the_image_builds_features_that_there_are_and_starts_the_program() {
    let file = text("Dockerfile");
    let manifest = text("Cargo.toml");
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let known = |name: &str| features.lines().any(|line| line.starts_with(&format!("{name} =")));
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == ',');
    let lists = file.split("FEATURES=").skip(1).map(|rest| rest.split(ends).next().unwrap());
    let named: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
    assert!(named.len() >= 2 && named.iter().all(|feature| known(feature)), "{named:?}");
    assert_eq!(instructions(&file, "ENTRYPOINT"), [r#"["qwen3-vl"]"#]);
    assert_eq!(instructions(&file, "CMD"), [r#"["--help"]"#]);
    assert_taken(&["serve", "/model"]);
    // The compiler of the image is the one that the workspace wants.
    let compiler = format!("rust:{}-", rust_version(&manifest));
    assert!(instructions(&file, "FROM").iter().any(|image| image.starts_with(&compiler)));
    // Names are given only to stages that there are, and files come only from those.
    for copy in instructions(&file, "COPY") {
        if let Some(stage) = copy.strip_prefix("--from=") {
            let stage = stage.split_whitespace().next().unwrap();
            assert!(file.contains(&format!(" AS {stage}\n")), "{copy}");
        }
    }
}

fn rust_version(manifest: &str) -> &str {
    let line = manifest.lines().find(|line| line.starts_with("rust-version")).unwrap();
    line.split('"').nth(1).unwrap()
}

/// The only object of a kind.
fn object<'y>(objects: &'y [Yaml], kind: &str) -> &'y Yaml {
    let mut found = objects.iter().filter(|object| object["kind"].as_str() == Some(kind));
    found.next().unwrap_or_else(|| panic!("no {kind}"))
}

fn list(value: &Yaml) -> &[Yaml] {
    value.as_vec().unwrap_or_else(|| panic!("{value:?} is no list"))
}

#[test]
fn the_manifest_agrees_with_itself_and_with_the_program() {
    let objects = YamlLoader::load_from_str(&text("deploy/kubernetes.yaml")).unwrap();
    for object in &objects {
        assert!(object["apiVersion"].as_str().is_some(), "{object:?}");
        assert_eq!(object["metadata"]["name"].as_str(), Some("qwen3-vl"));
    }
    let (deployment, service) = (object(&objects, "Deployment"), object(&objects, "Service"));
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    let pod = &template["spec"];
    let [container] = list(&pod["containers"]) else { panic!("one container") };
    let arguments = list(&container["args"]).iter().map(|word| word.as_str().unwrap());
    assert_taken(&arguments.collect::<Vec<_>>());
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
    let [wait, seconds] = list(&container["lifecycle"]["preStop"]["exec"]["command"]) else {
        panic!("a pause before the end")
    };
    assert_eq!(wait.as_str(), Some("sleep"));
    let pause: u64 = seconds.as_str().unwrap().parse().unwrap();
    assert!(grace as u64 > pause + shutdown_timeout(), "answers are cut off after {grace} s");
    // The Service's links are named like the program's variables.
    assert_eq!(pod["enableServiceLinks"].as_bool(), Some(false));

    let port = &container["ports"][0]["containerPort"];
    assert_eq!(port.as_i64(), Some(8000));
    assert_eq!(&service["spec"]["ports"][0]["targetPort"], port);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let probe = &container[probe]["httpGet"];
        assert_eq!(&probe["port"], port);
        assert!(["/health", "/version"].contains(&probe["path"].as_str().unwrap()), "{probe:?}");
    }
    let volumes: Vec<_> = list(&pod["volumes"]).iter().map(|volume| &volume["name"]).collect();
    for mount in list(&container["volumeMounts"]) {
        assert!(volumes.contains(&&mount["name"]), "{mount:?}");
    }
    let secret = object(&objects, "Secret");
    for variable in list(&container["env"]) {
        let from = &variable["valueFrom"]["secretKeyRef"];
        assert_eq!(from["name"], secret["metadata"]["name"]);
        assert!(secret["stringData"][from["key"].as_str().unwrap()].as_str().is_some());
    }
}
