//! `qwen3-vl bench`: how fast.

#[cfg(feature = "server")]
mod load;
mod measure;
mod picture;
mod report;
#[cfg(feature = "server")]
mod results;
mod rounds;
mod scope;
#[cfg(feature = "server")]
mod serve;
mod streams;
mod subject;
mod text;

use clap::Args;
pub use picture::Picture;
pub use rounds::ids;

use super::Outcome;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[cfg(feature = "server")]
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    measure: measure::MeasureArgs,
}

#[cfg(feature = "server")]
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Ask a running server from several clients at once, and tell latencies and throughput
    Serve(serve::ServeBenchArgs),
}

/// Runs the verb.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    #[cfg(feature = "server")]
    if let Some(What::Serve(args)) = &args.what {
        return serve::run(args);
    }
    measure::run(&args.measure)
}
