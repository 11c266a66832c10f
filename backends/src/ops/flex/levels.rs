//! The tests of kernels with every set of instructions that the processor has: a process chooses one, once.

use std::process::Command;

use crate::cpu::{CPU_VARIABLE, Level};

#[test]
fn kernels_pass_their_tests_with_every_set_of_instructions() {
    // Where it is forced, by this test or by a person, that one alone is wanted.
    if std::env::var_os(CPU_VARIABLE).is_some() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    for level in Level::present().filter(|level| *level != Level::chosen()) {
        let tests = Command::new(&program)
            .args(["ops::flex", "ops::tests", "quant::", "--skip", "ops::cube"])
            .env(CPU_VARIABLE, level.name())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&tests.stdout);
        assert!(tests.status.success(), "with {}: {said}", level.name());
        // A filter that finds nothing would pass too.
        let passed = said.lines().filter(|line| line.ends_with(" ... ok")).count();
        assert!(passed > 40, "with {} only {passed} tests were run: {said}", level.name());
    }
}
