//! `qwen3-vl bench`: how fast.

mod decode;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "server")]
mod results;
#[cfg(feature = "server")]
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
    /// Write tokens on the CPU, and tell how near that is to the speed of its memory
    Decode(decode::DecodeArgs),
    /// Ask a running server from several clients at once, and tell latencies and throughput
    #[cfg(feature = "server")]
    Serve(serve::ServeBenchArgs),
}

/// Runs the verb.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    match &args.what {
        What::Decode(args) => decode::run(args),
        #[cfg(feature = "server")]
        What::Serve(args) => serve::run(args),
    }
}
