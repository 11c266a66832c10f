//! The tests of kernels with every set of instructions that the processor has: a process chooses one, once.

use std::process::Command;

use crate::cpu::{CPU_VARIABLE, Level};

#[test]
fn kernels_pass_their_tests_with_every_set_of_instructions() {
    // Where it is forced, by this test or by a person, that one alone is wanted.
    if std::env::var_os(CPU_VARIABLE).is_some() {
        return;
    }
    for level in Level::present().filter(|level| *level != Level::chosen()) {
        pass_with(level, None);
    }
    emulated();
}

/// Those of AMX where the processor has AVX-512 BF16, by which their operands are packed, but no AMX.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
fn emulated() {
    use crate::cpu::Tiles;
    match (Level::Amx.is_present(), Tiles::Pairs.is_present()) {
        (true, _) => {}
        (false, true) => pass_with(Level::Amx, Some(crate::cpu::emulated::VARIABLE)),
        (false, false) => eprintln!("AMX is skipped: the processor lacks AVX-512 BF16"),
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
fn emulated() {}

/// The tests in a process with that level, and with a variable set.
fn pass_with(level: Level, variable: Option<&str>) {
    let tests = Command::new(std::env::current_exe().unwrap())
        .args(["ops::flex", "ops::tests", "quant::", "--skip", "ops::cube"])
        .env(CPU_VARIABLE, level.name())
        .envs(variable.map(|name| (name, "1")))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tests.stdout);
    let name = level.name();
    let trouble = String::from_utf8_lossy(&tests.stderr);
    assert!(tests.status.success(), "with {name}: {said}{trouble}");
    // A filter that finds nothing would pass too.
    let passed = said.lines().filter(|line| line.ends_with(" ... ok")).count();
    assert!(passed > 40, "with {name} only {passed} tests were run: {said}");
}
