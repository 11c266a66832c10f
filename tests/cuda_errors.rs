//! What is said where a CUDA card cannot be used. It needs the emulated driver, with which `scripts/test-cuda` runs it.

#![cfg(feature = "cuda")]

mod common;

/// What the program says, which must fail, on `device` with these variables; nothing where the driver is not emulated.
fn said(device: &str, variables: &[(&str, &str)]) -> Option<String> {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return None;
    }
    let model = common::fixtures().join("dense_tied");
    let mut program = common::program(device);
    program.arg("run").arg(&model).args(["-p", "hello", "--max-new-tokens", "2"]);
    let output = program.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    Some(said)
}

#[test]
fn what_stands_in_the_way_of_a_card_is_told() {
    for (device, variable, value, expected) in [
        ("cuda:7", "CUDA_EMULATOR_DEVICES", "1", "numbered from 0"),
        ("cuda:0", "CUDA_EMULATOR_DEVICES", "0", "the NVIDIA driver finds no GPU"),
        ("cuda:0", "CUDA_EMULATOR_DRIVER", "11040", "too old: it knows CUDA 11.4"),
        ("cuda:0", "LD_LIBRARY_PATH", "", "no NVIDIA driver was found"),
        ("cuda:0", "CUDA_PATH", "/nowhere", "libdevice.10.bc"),
    ] {
        let Some(said) = said(device, &[(variable, value)]) else { return };
        assert!(said.contains(expected), "{device} with {variable}={value}: {said}");
    }
}

#[test]
fn weights_without_room_are_refused_with_figures() {
    let Some(said) = said("cuda:0", &[("CUDA_EMULATOR_MEMORY", "1")]) else { return };
    let figures = said.contains("take") && said.contains("of its 1 MiB are free");
    assert!(figures && said.contains("--quant"), "{said}");
}
