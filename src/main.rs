//! The `qwen3-vl` program.

#![recursion_limit = "256"]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
