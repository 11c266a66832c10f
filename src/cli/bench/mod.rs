//! `qwen3-vl bench`: how fast.

mod load;
mod serve;

use clap::{Args, Subcommand};

use super::Outcome;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Ask a running server from several clients at once, and tell latencies and throughput
    Serve(serve::ServeBenchArgs),
}

/// Runs the verb.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    match &args.what {
        What::Serve(args) => serve::run(args),
    }
}
